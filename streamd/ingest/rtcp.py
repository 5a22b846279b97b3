"""The camera's own clock, as its RTCP sender reports (RFC 3550) tell it."""

import struct
from fractions import Fraction

import av
from av.video.stream import VideoStream

# A report binds the RTP clock to the camera's time of day, and the RTP clock of a cheap camera runs
# wrong by what it pleases: without a new report the bond is not trusted for longer than this.
_REPORT_HOLDS_NS = 60_000_000_000
# Delays only ever make a frame late. One that is early by this much has a timestamp that jumped;
# so has one that is later than a live stream can be.
_EARLY_NS = 1_000_000_000
_LATE_NS = 10_000_000_000
_ROUNDING_NS = 20_000


def camera_clock_ns(packet: "av.Packet[VideoStream]") -> int | None:
    """Epoch nanoseconds of the packet's capture, as the camera believes; None if it tells none.

    FFmpeg reckons it from the last report and the RTP timestamp, which may jump meanwhile.
    """
    reference = packet.get_sidedata("prft")
    if not reference:
        return None
    # AVProducerReferenceTime: microseconds since the epoch come first, in native byte order.
    return int(struct.unpack_from("=q", reference)[0]) * 1000


class SenderReports:
    """Follows the packets of one connection and says what can be believed of their times.

    Between two reports a time is an RTP timestamp's distance from the last one. RTP timestamps
    that jump are noticed against CLOCK_MONOTONIC, and nothing is believed until the next report.
    Only what comes by RTSP has reports; other formats attach times of other origin. `time_base` is
    the unit of the packets' timestamps in seconds.
    """

    def __init__(self, *, rtsp: bool, time_base: Fraction | None) -> None:
        self._rtsp = rtsp
        # In whole numbers: products of fractions take microseconds.
        self._tick = (time_base or Fraction(0)).as_integer_ratio()
        self._reported_ns: int | None = None
        self._lead_ns: int | None = None
        self._last: tuple[int, int] | None = None  # the camera's clock and the pts, nanoseconds
        self._steady = True
        self._holds_from_next = False

    def capture_ns(
        self, packet: "av.Packet[VideoStream]", monotonic_ns: int, *, reported_after: bool = False
    ) -> int | None:
        """Epoch nanoseconds of capture by the camera's clock, None where it is not known.

        `monotonic_ns` is when the packet came. To be asked of every packet that begins a picture,
        in order. `reported_after`: there was a report before the picture's end; its times are
        those of the next one on.
        """
        reported, self._holds_from_next = self._holds_from_next, reported_after
        camera_ns = camera_clock_ns(packet) if self._rtsp else None
        if camera_ns is None:
            return None
        if reported or packet.has_sidedata("rtcp_sr"):
            self._reported_ns = monotonic_ns
        pts_ns = None
        if packet.pts is not None:
            numerator, denominator = self._tick
            pts_ns = packet.pts * 10**9 * numerator // denominator
        self._follow(camera_ns, monotonic_ns, pts_ns, attached=self._reported_ns == monotonic_ns)
        # FFmpeg attaches no report to JPEG packets, so there nothing tells how old it is.
        age_ns = 0 if self._reported_ns is None else monotonic_ns - self._reported_ns
        return camera_ns if self._steady and age_ns <= _REPORT_HOLDS_NS else None

    def _follow(
        self, camera_ns: int, monotonic_ns: int, pts_ns: int | None, *, attached: bool
    ) -> None:
        reported, backwards = attached, False
        if pts_ns is not None:
            if self._last is not None:
                step_ns = pts_ns - self._last[1]
                backwards = step_ns < -_EARLY_NS  # more than reordered pictures make up
                # Within one report both go on alike, also when they jump.
                reported = reported or abs(camera_ns - self._last[0] - step_ns) > _ROUNDING_NS
            self._last = camera_ns, pts_ns
        lead_ns = camera_ns - monotonic_ns
        gain_ns = 0 if self._lead_ns is None else lead_ns - self._lead_ns
        jumped = backwards or not -_LATE_NS <= gain_ns <= _EARLY_NS
        self._steady = reported or (self._steady and not jumped)
        if self._steady and (jumped or self._lead_ns is None or gain_ns > 0):
            self._lead_ns = lead_ns
