"""Looks at one source for a while: what it is, what it delivers, or why it fails."""

import time
from dataclasses import dataclass

from streamd.clock import SystemClock
from streamd.config import CameraConfig
from streamd.errors import SourceError
from streamd.ingest.decoder import DecodedFrame, Decoder
from streamd.ingest.feed import Feed
from streamd.ingest.hwaccel import Accelerator, DecodePath
from streamd.ingest.letterbox import display_size
from streamd.ingest.source import source_for


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What was seen of a source.

    `delivered_fps` is None for recordings, which come as fast as they are read.
    `keyframe_interval_s` is None where fewer than two keyframes were seen. `clock` is where capture
    times come from: `rtcp` (the camera's, believed), `arrival` or `pts`.
    """

    url: str
    codec: str
    width: int
    height: int
    live: bool
    declared_fps: float | None
    delivered_fps: float | None
    frames: int
    damaged: int
    keyframe_interval_s: float | None
    clock: str
    camera_clock_offset_s: float | None
    decode: str
    open_s: float


def probe(camera: CameraConfig, url_shown: str, seconds: float) -> ProbeResult:
    """Reads `camera` for about `seconds` seconds. Raises SourceError with the reason it fails."""
    began_s = time.monotonic()
    accelerator = Accelerator(camera.decode)
    feed = source_for(camera, accelerator).open()
    open_s = time.monotonic() - began_s
    try:
        watch = _Watch(feed, accelerator, camera.max_clock_offset_s)
        watch.read(time.monotonic() + seconds)
    finally:
        feed.close()
    return watch.result(url_shown, open_s)


class _Watch:
    """Counts what a feed delivers."""

    def __init__(self, feed: Feed, accelerator: Accelerator, max_clock_offset_s: float) -> None:
        self._feed = feed
        self._accelerator = accelerator
        self._path: DecodePath = "cpu"
        self._decoder = Decoder(feed.stream, SystemClock())
        self._size = (0, 0)
        self._frames = 0
        self._damaged = 0
        self._keyframes_s: list[float] = []
        self._offset_s: float | None = None
        self._max_offset_s = max_clock_offset_s
        self._first_s = self._last_s = 0.0

    def read(self, until_s: float) -> None:
        """Reads until the monotonic time `until_s` or the end."""
        try:
            for picture in self._feed.pictures():
                media_s = self._decoder.media_s(picture)
                if picture.is_keyframe and media_s is not None:
                    self._keyframes_s.append(media_s)
                decoded = self._decoder.decode(picture)
                self._damaged += decoded.damaged
                for frame in decoded.frames:
                    self._note(frame)
                if time.monotonic() >= until_s:
                    return
        except SourceError:
            if not self._frames:
                raise

    def _note(self, frame: DecodedFrame) -> None:
        self._size = display_size(frame.image)
        self._path = self._accelerator.path_of(self._feed.stream, frame.image)
        self._last_s = time.monotonic()
        self._first_s = self._first_s or self._last_s
        self._frames += 1
        if self._offset_s is None and frame.camera_ns is not None:
            self._offset_s = (frame.camera_ns - frame.arrival_wall_ns) / 1e9

    def _clock(self) -> str:
        if not self._feed.info.live:
            return "pts"
        off_s = self._offset_s
        return "arrival" if off_s is None or abs(off_s) > self._max_offset_s else "rtcp"

    def result(self, url: str, open_s: float) -> ProbeResult:
        info = self._feed.info
        span_s = self._last_s - self._first_s
        gaps = len(self._keyframes_s) - 1
        interval_s = (self._keyframes_s[-1] - self._keyframes_s[0]) / gaps if gaps > 0 else None
        delivered = (self._frames - 1) / span_s if info.live and span_s > 0 else None
        return ProbeResult(
            url=url,
            codec=info.codec,
            width=self._size[0],
            height=self._size[1],
            live=info.live,
            declared_fps=round(info.fps, 3) or None,
            delivered_fps=None if delivered is None else round(delivered, 2),
            frames=self._frames,
            damaged=self._damaged,
            keyframe_interval_s=None if interval_s is None else round(interval_s, 3),
            clock=self._clock(),
            camera_clock_offset_s=None if self._offset_s is None else round(self._offset_s, 3),
            decode=self._path,
            open_s=round(open_s, 3),
        )
