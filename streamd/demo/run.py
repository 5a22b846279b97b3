"""Puts the demo together: cameras that draw, a Redis, the daemon, and a board that subscribes."""

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live

from streamd.client.subscription import streams_of, subscribe
from streamd.config import (
    CameraConfig,
    Config,
    HttpConfig,
    LogConfig,
    ModelConfig,
    Publish,
    RedisConfig,
    mask_url,
)
from streamd.daemon import run_daemon
from streamd.demo.board import Board, totals, troubles
from streamd.demo.clips import Clip, write_clip
from streamd.demo.score import Score
from streamd.events import Event
from streamd.logs import configure_logging
from streamd.models.configured_model import check_model
from streamd.scenes import Scene
from streamd.supervision.fleet import Fleet
from streamd.supervision.supervisor import Supervisor
from streamd.testing.redis_server import RedisServer
from streamd.testing.rtsp_server import RtspServer

_CLIP_S = 10.0
_CONFIDENCE = 0.4
_FIRST_EVENT_WITHIN_S = 60.0
_STREAM = "streamd:demo"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the user asked for. Without `seconds` it runs until it is interrupted."""

    cameras: int = 4
    seconds: float | None = None
    sources: tuple[CameraConfig, ...] = ()
    model: str | None = None
    redis: RedisConfig | None = None


@dataclass(slots=True)
class Demo:
    """One run: what is drawn, and what is seen of it."""

    options: DemoOptions
    console: Console
    clips: dict[str, Clip] = field(default_factory=dict)
    board: Board = field(default_factory=Board)
    score: Score = field(default_factory=Score)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> int:
        """Runs the daemon with its surroundings; returns the exit code."""
        log = LogConfig(level="error", format="console")
        configure_logging(log)
        model = self._model()
        check_model(model.path)  # before anything is drawn
        with ExitStack() as stack:
            named = self.options.redis
            redis = named or RedisConfig(url=stack.enter_context(RedisServer()).url)
            cameras = self.options.sources or self._synthetic_cameras(stack)
            streams = {"stream": _STREAM, "status_stream": f"{_STREAM}:status"}
            config = Config(
                redis=redis.model_copy(update=streams),
                model=model,
                http=HttpConfig(port=0),
                log=log,
                publish=Publish.ALL,
                cameras=cameras,
            )
            what = f"{_cameras(len(cameras))}, Redis at {mask_url(redis.url)}"
            self.console.print(f"Starting {what} ...", soft_wrap=True)
            code = run_daemon(config, on_start=self._watch(config))
            self.ended.set()
        self._summarise()
        return code if self.board.events or self.options.seconds is None else 1

    def _model(self) -> ModelConfig:
        if self.options.model:
            return ModelConfig(path=self.options.model, confidence=_CONFIDENCE)
        return ModelConfig(confidence=_CONFIDENCE)

    def _synthetic_cameras(self, stack: ExitStack) -> tuple[CameraConfig, ...]:
        """Looped files in real time, and the first over RTSP from a server of our own."""
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamd-demo-")))
        server = stack.enter_context(RtspServer())
        cameras = []
        for number in range(1, self.options.cameras + 1):
            self.console.print(f"Drawing camera {number} of {self.options.cameras} ...")
            id_ = f"camera-{number}"
            clip = write_clip(folder / f"{id_}.mp4", Scene(seed=number), _CLIP_S)
            self.clips[id_] = clip
            if number == 1:
                mount = server.mount(f"/{id_}", clip.path)
                mount.catch_up = True  # the truth goes by the clip's time
                cameras.append(CameraConfig(id=id_, url=mount.url))
            else:
                cameras.append(CameraConfig(id=id_, url=str(clip.path), loop=True, paced=True))
        return tuple(cameras)

    def _watch(self, config: Config) -> Callable[[Supervisor, Fleet, int], None]:
        def start(supervisor: Supervisor, fleet: Fleet, port: int) -> None:
            for target, arguments in (
                (self._subscribe, (config,)),
                (self._show, (supervisor, fleet, f"http://127.0.0.1:{port}/metrics")),
            ):
                threading.Thread(target=target, args=arguments, daemon=True).start()

        return start

    def _subscribe(self, config: Config) -> None:
        """Feeds the board; it ends with the demo."""
        streams = streams_of(config)
        for event in subscribe(config.redis, streams, on_away=self._tell_of_redis):
            self._take(event)

    def _tell_of_redis(self, why: str) -> None:
        if not self.ended.is_set():
            self.console.print(f"redis: {why}; trying again", soft_wrap=True)

    def _take(self, event: Event) -> None:
        self.board.add(event)
        clip = self.clips.get(event.camera)
        if clip:
            self.score.add(event, clip)

    def _show(self, supervisor: Supervisor, fleet: Fleet, http: str) -> None:
        """Draws until the time is over, then ends the daemon."""
        try:
            self._draw(fleet, http)
        finally:
            supervisor.end()

    def _draw(self, fleet: Fleet, http: str) -> None:
        began_s = time.monotonic()
        if self.console.is_terminal:
            with Live(console=self.console, refresh_per_second=4, screen=False) as live:
                while not self._is_over(began_s):
                    live.update(self.board.draw(fleet, http))
                    time.sleep(0.25)
        else:
            told: list[str] = []
            while not self._is_over(began_s):
                time.sleep(2.0 if self.options.seconds is None else min(2.0, self.options.seconds))
                now = troubles(fleet)
                lines = [line for line in now if line not in told]
                told = now
                lines.append(f"{self.board.events} events; {totals(fleet)}")
                self.console.print("\n".join(lines), soft_wrap=True)

    def _is_over(self, began_s: float) -> bool:
        now_s, first_s = time.monotonic(), self.board.first_s
        if self.ended.is_set() or self.options.seconds is None:
            return self.ended.is_set()
        if first_s is None:
            return now_s - began_s > _FIRST_EVENT_WITHIN_S + self.options.seconds
        return now_s - first_s >= self.options.seconds

    def _summarise(self) -> None:
        console, score = self.console, self.score
        console.print(f"{self.board.events} events from {_cameras(len(self.board.latest))}.")
        if score.frames:
            console.print(
                f"Against the known truth of {score.frames} frames: "
                f"precision {score.precision:.3f}, recall {score.recall:.3f}."
            )
        console.print(
            "Your own camera:  streamd demo --source rtsp://USER:PASSWORD@HOST/PATH "
            "--model yolo11n.onnx\n"
            "As a service:     write config.yaml (config/streamd.yaml shows every key), then\n"
            "                  streamd check config.yaml --connect && streamd run config.yaml",
            soft_wrap=True,
            highlight=False,
        )


def _cameras(count: int) -> str:
    return "1 camera" if count == 1 else f"{count} cameras"


def run_demo(options: DemoOptions) -> int:
    """Runs the demo in this process; returns the exit code. Raises StreamdError."""
    return Demo(options, Console(file=sys.stdout, highlight=False)).run()
