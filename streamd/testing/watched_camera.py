"""A real Camera, in this process, whose frames and reports are remembered with their times."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import av

from streamd.clock import Backoff, SystemClock
from streamd.config import CameraConfig
from streamd.errors import Reason
from streamd.ingest.camera import Camera, CameraPlan
from streamd.ingest.decoder import DecodedFrame
from streamd.ingest.hwaccel import Accelerator
from streamd.ingest.rate_cap import RateCap
from streamd.ingest.slot_writer import Begun, Capture, SlotWriter
from streamd.ingest.source import source_for
from streamd.processes.messages import CameraReport, CameraState

T = TypeVar("T")
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class SeenFrame:
    """A frame that was to be written into a slot, at `at_s` of CLOCK_MONOTONIC."""

    at_s: float
    pts_s: float | None
    width: int
    height: int
    capture: Capture


@dataclass(frozen=True, slots=True)
class SeenReport:
    """A change of state, at `at_s` of CLOCK_MONOTONIC."""

    at_s: float
    report: CameraReport


class _Writer(SlotWriter):
    """Takes every frame, and fills no slot; `fps` is what the camera is asked for."""

    def __init__(self, look: Callable[[av.VideoFrame], None], fps: float | None) -> None:
        self._cap = RateCap(fps)
        self.frames: list[SeenFrame] = []
        self.damaged = 0
        self.skipped = 0
        self._look = look

    def begin_recording(self, wall_ns: int, monotonic_ns: int) -> Begun:
        return Begun(wall_ns, monotonic_ns, 0)

    # The arguments are those of SlotWriter.
    def count_decoding(self, cpu_ns: int, damaged: int) -> None:  # noqa: ARG002
        self.damaged += damaged

    def count_skipped(self, now_ns: int) -> None:  # noqa: ARG002
        self.skipped += 1

    def write(self, frame: DecodedFrame, capture: Capture, work_ns: int) -> bool:  # noqa: ARG002
        self._cap.admits(capture.media_s)
        self._look(frame.image)
        size = frame.image.width, frame.image.height
        self.frames.append(SeenFrame(time.monotonic(), frame.pts_s, *size, capture))
        return True


class WatchedCamera:
    """Reads `url` in a thread from entering the context to leaving it.

    `look` is shown each whole picture in the camera's thread. `settings` are keys of CameraConfig.
    """

    def __init__(
        self,
        url: str,
        backoff: Backoff | None = None,
        look: Callable[[av.VideoFrame], None] = lambda _: None,
        **settings: Any,
    ) -> None:
        config = CameraConfig(id="watched", url=url, decode="cpu", **settings)
        accelerator = Accelerator("cpu")
        fps = None if config.fps == "all" else config.fps
        self._writer = _Writer(look, fps)
        self.reports: list[SeenReport] = []
        self._camera = Camera(
            CameraPlan(
                config.id,
                fps=fps,
                stall_timeout_s=config.stall_timeout_s,
                max_clock_offset_s=config.max_clock_offset_s,
                loop=False,
                paced=False,
                give_up=False,
            ),
            source=source_for(config, accelerator),
            accelerator=accelerator,
            writer=self._writer,
            clock=SystemClock(),
            backoff=backoff or Backoff(rng=random.Random()),
            report=lambda report: self.reports.append(SeenReport(time.monotonic(), report)),
        )
        self._thread = threading.Thread(target=self._camera.run, name="watched", daemon=True)

    @property
    def frames(self) -> list[SeenFrame]:
        """All frames so far."""
        return list(self._writer.frames)

    @property
    def damaged(self) -> int:
        """How many frames were damaged so far."""
        return self._writer.damaged

    @property
    def skipped(self) -> int:
        """Packets that were not decoded, as nobody asked for so many frames."""
        return self._writer.skipped

    def said(self, state: CameraState, since_s: float = 0.0) -> list[SeenReport]:
        """The reports of `state` since the monotonic time `since_s`."""
        return [r for r in list(self.reports) if r.report.state is state and r.at_s >= since_s]

    def wait_offline(self, reason: Reason, since_s: float = 0.0) -> SeenReport:
        """The first report since `since_s` that the camera is offline for `reason`."""

        def look() -> SeenReport | None:
            offline = self.said(CameraState.OFFLINE, since_s)
            return next((seen for seen in offline if seen.report.reason is reason), None)

        return self._wait(look, f"offline, {reason}")

    def wait_frames(self, count: int = 1, since_s: float = 0.0) -> SeenFrame:
        """The frame number `count` since `since_s`."""

        def look() -> SeenFrame | None:
            frames = [frame for frame in self.frames if frame.at_s >= since_s]
            return frames[count - 1] if len(frames) >= count else None

        return self._wait(look, f"{count} frames")

    def _wait(self, look: Callable[[], T | None], what: str) -> T:
        deadline_s = time.monotonic() + _PATIENCE_S
        while (found := look()) is None:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"not within {_PATIENCE_S:.0f} s: {what}; {self.reports[-3:]}")
            time.sleep(0.005)
        return found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._camera.stop()
        self._thread.join(_PATIENCE_S)
