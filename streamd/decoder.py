"""From packets to whole frames, on the thread of the camera."""

import time
from collections import OrderedDict
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
from av.video.stream import VideoStream

from streamd.clock import Clock

_REMEMBERED_PACKETS = 64


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A whole frame, and when its packet came.

    `pts_s` is the position in the stream in seconds, None where the stream tells none.
    `arrival_wall_ns` is epoch time, `arrival_ns` monotonic.
    """

    image: av.VideoFrame
    pts_s: float | None
    arrival_wall_ns: int
    arrival_ns: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one packet gave: frames in the order of display, and frames that were damaged."""

    frames: tuple[DecodedFrame, ...]
    damaged: int
    cpu_ns: int


class Decoder:
    """Decodes one stream on the calling thread.

    One thread a camera suits many cameras, and slice threads would hide damage: FFmpeg marks a
    frame as corrupt only without them.
    """

    def __init__(self, stream: VideoStream, clock: Clock) -> None:
        self._context = stream.codec_context
        self._context.thread_type = "NONE"
        self._context.thread_count = 1
        self._clock = clock
        self._start_s = _seconds(stream.start_time, stream.time_base) or 0.0
        self._arrivals: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def decode(self, packet: "av.Packet[VideoStream]") -> Decoded:
        """The frames that `packet` completes; the last, empty packet gives the delayed ones."""
        arrival = (self._clock.time_ns(), self._clock.monotonic_ns())
        self._remember(packet, arrival)
        began = time.thread_time_ns()
        try:
            images = self._context.decode(packet)
        except av.error.EOFError:
            images = []
        except (av.error.FFmpegError, OSError):
            return Decoded((), 1, time.thread_time_ns() - began)
        cpu_ns = time.thread_time_ns() - began
        whole = [image for image in images if not image.is_corrupt]
        frames = tuple(self._dated(image, arrival) for image in whole)
        return Decoded(frames, len(images) - len(whole), cpu_ns)

    def _remember(self, packet: "av.Packet[VideoStream]", arrival: tuple[int, int]) -> None:
        """Keeps a packet's arrival by its pts, since frames leave the decoder reordered."""
        if packet.pts is None:
            return
        self._arrivals[packet.pts] = arrival
        if len(self._arrivals) > _REMEMBERED_PACKETS:
            self._arrivals.popitem(last=False)

    def _dated(self, image: av.VideoFrame, latest: tuple[int, int]) -> DecodedFrame:
        wall_ns, monotonic_ns = latest
        if image.pts is not None:
            wall_ns, monotonic_ns = self._arrivals.pop(image.pts, latest)
        pts_s = _seconds(image.pts, image.time_base)
        position_s = None if pts_s is None else pts_s - self._start_s
        return DecodedFrame(image, position_s, wall_ns, monotonic_ns)


def _seconds(ticks: int | None, time_base: Fraction | None) -> float | None:
    return None if ticks is None or time_base is None else float(ticks * time_base)
