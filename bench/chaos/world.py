"""What the faults are done to: cameras, their recorders, a Redis, and the daemon amid them."""

import signal
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import psutil

from streamd.demo.clips import write_clip
from streamd.scenes import Scene
from streamd.testing.clip import Clip
from streamd.testing.daemon_process import Daemon
from streamd.testing.redis_server import RedisServer
from streamd.testing.rtsp_server import Mount, RtspServer
from streamd.testing.tcp_proxy import TcpProxy

FPS = 10
_LOOK_EVERY_S = 0.2
_RECORDERS = 2
_FILE_EVERY = 4  # of so many cameras one is a file


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a daemon at a moment; `frames` are its cameras' ledgers by id."""

    at_s: float
    frames: dict[str, dict[str, int]]
    states: dict[str, str]

    def inferred(self, camera: str) -> int:
        """Frames of `camera` so far."""
        return self.frames.get(camera, {}).get("inferred", 0)


@dataclass(slots=True)
class Life:
    """A daemon from its start to its end, by wall clock; `code` is None where it was killed."""

    daemon: Daemon
    began: float
    ended: float = 0.0
    code: int | None = None
    last: Look | None = None
    processes: set[psutil.Process] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Recorder:
    """A server of several cameras behind a network of its own."""

    server: RtspServer
    network: TcpProxy


class World:
    """`cameras` cameras at `FPS`: three of four by RTSP from two recorders, the others files."""

    def __init__(self, folder: Path, cameras: int) -> None:
        self._folder = folder
        self._stack = ExitStack()
        clips = [
            write_clip(folder / f"{width}.mp4", Scene(7, width, width * 9 // 16, fps=FPS), 4.0).path
            for width in (320, 480)
        ]
        self.clips = [Clip.open(path) for path in clips]
        self.redis = self._stack.enter_context(RedisServer(durable=True))
        self.recorders = [self._recorder() for _ in range(_RECORDERS)]
        self.mounts: dict[str, Mount] = {}
        self.recorder_of: dict[str, int] = {}
        self.urls: dict[str, str] = {}
        for number in range(cameras):
            name = f"cam-{number}"
            self.urls[name] = str(clips[0])
            if number % _FILE_EVERY != _FILE_EVERY - 1:
                self._mount(name, number % _RECORDERS)
        self.fps = dict.fromkeys(self.urls, 5)
        self.lives: list[Life] = []
        self.start()
        self.daemon.wait_ready()
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._look_on, name="watch", daemon=True)
        self._watch.start()

    @property
    def life(self) -> Life:
        """The daemon that runs."""
        return self.lives[-1]

    @property
    def daemon(self) -> Daemon:
        """The daemon that runs."""
        return self.life.daemon

    def settings(self) -> str:
        """The configuration, without Redis and HTTP, as it should be now."""
        lines = [
            f"  - {{id: {name}, url: {url}, fps: {self.fps[name]}, open_timeout_s: 2, "
            f"stall_timeout_s: 2{'' if name in self.mounts else ', loop: true, paced: true'}}}"
            for name, url in self.urls.items()
        ]
        return (
            "publish: all\nmodel: {imgsz: 320, batch_size: 4}\n"
            f"ingest: {{workers: 2}}\ncameras:\n{chr(10).join(lines)}\n"
        )

    def start(self) -> None:
        """Starts a daemon; the peers may be away."""
        daemon = Daemon(
            self._folder / "config.yaml",
            self.settings(),
            self.redis,
            (),
            redis_settings="max_entries: 100000000, timeout_s: 2, "
            f"spool: {{path: {self._folder}/spool}}",
            http_settings="{port: 0, requests_per_s: 1000}",
        )
        self._stack.callback(daemon.close)
        self.lives.append(Life(daemon, time.time()))

    def kill(self) -> None:
        """The service dies at once, as of a power cut."""
        self.life.processes.update(self.processes())
        self.daemon.process.kill()
        self.daemon.process.wait()
        self.life.ended = time.time()

    def stop(self) -> None:
        """The service ends in its own time."""
        self.life.processes.update(self.processes())
        self.life.code = self.daemon.stop()
        self.life.ended = time.time()

    def reload(self, text: str) -> None:
        """Writes the configuration below Redis and HTTP, and has it read if the daemon is up."""
        path = self.daemon.config
        head = path.read_text().splitlines()[:2]
        path.write_text("\n".join([*head, text]))
        if self.daemon.logged("ready"):
            self.daemon.process.send_signal(signal.SIGHUP)

    def look(self) -> Look | None:
        """The newest look at the daemon that runs; None while there was none."""
        return self.life.last

    def processes(self) -> list[psutil.Process]:
        """The daemon and its workers."""
        try:
            supervisor = psutil.Process(self.daemon.process.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def workers(self, role: str) -> list[psutil.Process]:
        """The workers of a role that live."""
        return [p for p in self.processes()[1:] if _name(p).startswith(f"sd:{role}")]

    def close(self) -> None:
        """Ends the daemon and its surroundings."""
        self._closing.set()
        self._watch.join()
        self._stack.close()

    def _recorder(self) -> Recorder:
        server = self._stack.enter_context(RtspServer())
        return Recorder(server, self._stack.enter_context(TcpProxy(server.port)))

    def _mount(self, name: str, recorder: int) -> None:
        server, network = self.recorders[recorder].server, self.recorders[recorder].network
        self.mounts[name] = server.mount(f"/{name}", self.clips[0])
        self.recorder_of[name] = recorder
        self.urls[name] = f"rtsp://127.0.0.1:{network.port}/{name}"

    def _look_on(self) -> None:
        """Keeps the newest look of each life; what does not answer is looked at again."""
        while not self._closing.wait(_LOOK_EVERY_S):
            life = self.life
            if not life.daemon.logged("starting") or life.ended:
                continue
            life.processes.update(self.processes())
            try:
                answer = life.daemon.camera_states()
            except (OSError, HTTPException):
                continue
            frames = {camera["id"]: camera["frames"] for camera in answer}
            states = {camera["id"]: camera["state"] for camera in answer}
            life.last = Look(time.monotonic(), frames, states)


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""
