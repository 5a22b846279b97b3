"""When frames count as captured: of a recording, of segments, of a camera with a clock."""

from collections.abc import Callable

from streamd.clock import Clock

# A longer gap between two frames is taken for a pts that jumped, unless the next is as long: then
# it is the pace of the file (a time lapse).
_LONGEST_STEP_S = 60.0
# Less is what rounding leaves of a pts that came twice: a tick of 90 kHz is 11 microseconds.
_SHORTEST_STEP_S = 1e-6
_TOLD_AGAIN_NS = 600_000_000_000
# Segments are played so much faster than they were taken: what is read stays at the stream's end,
# whatever its clock does and however far before that the first one began. Not by more: at the end
# the next segment is waited for, up to half of one, since a playlist is read now and then only.
_PLAYING_SPEED = 1.005
_LONGEST_WAIT_S = 5.0  # for one picture: where more is asked for, the times of the stream jumped
_LATE_S = 0.05


class FileTimeline:
    """Times of a file's frames, which go on over its loops and over jumps of its pts.

    A file has no capture time of its own: its first frame counts as captured when it was first
    opened, and the others follow by their pts. Times always increase. Where the pts is missing,
    goes back, or jumps ahead by more than a minute, a frame follows its predecessor at the last
    known step.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start_wall_ns: int | None = None
        self._start_ns = 0
        self._step_s = 0.04
        self._last_s = -self._step_s
        self._gap_s = 0.0
        self._last_pts_s: float | None = None
        # What to add to a pts: now, and before the last jump, which a single bad pts ends at once.
        self._offset_s = self._former_offset_s = 0.0

    def restart(self, began_ns: tuple[int, int] | None = None) -> None:
        """The file begins anew: what comes follows what came.

        `began_ns` is when it did so for the first time, if not now (epoch, monotonic).
        """
        if self._start_wall_ns is None:
            now_ns = self._clock.time_ns(), self._clock.monotonic_ns()
            self._start_wall_ns, self._start_ns = began_ns or now_ns
            return
        self._offset_s = self._former_offset_s = self._last_s + self._step_s
        self._last_pts_s = None

    def place(self, pts_s: float | None) -> float:
        """Seconds since the first opening at which the frame of `pts_s` stands."""
        step_s = self._step_s if pts_s is None else self._follow(pts_s)
        self._last_s += step_s
        return self._last_s

    def wall_ns(self, position_s: float) -> int:
        """`position_s` as epoch time."""
        return (self._start_wall_ns or 0) + int(position_s * 1e9)

    def ahead_s(self, position_s: float) -> float:
        """Seconds until `position_s` is due in real time; negative where it is late."""
        return position_s - (self._clock.monotonic_ns() - self._start_ns) / 1e9

    def _follow(self, pts_s: float) -> float:
        """Seconds from the frame before to that of `pts_s`."""
        longest_s = self._longest_step_s(pts_s)
        ways = {o + pts_s - self._last_s: o for o in (self._former_offset_s, self._offset_s)}
        step_s = min((step for step in ways if _SHORTEST_STEP_S < step <= longest_s), default=None)
        if step_s is None:
            self._former_offset_s = self._offset_s
            self._offset_s = self._last_s + self._step_s - pts_s
            return self._step_s
        self._offset_s = ways[step_s]
        if step_s < 10:  # more is a hole in the recording, not the time between frames
            self._step_s = step_s
        return step_s

    def _longest_step_s(self, pts_s: float) -> float:
        """Seconds that the frame of `pts_s` may be after the one before it."""
        gap_s = 0.0 if self._last_pts_s is None else pts_s - self._last_pts_s
        is_pace = abs(gap_s - self._gap_s) <= 0.1 * self._gap_s
        self._last_pts_s, self._gap_s = pts_s, gap_s
        return max(_LONGEST_STEP_S, 1.1 * gap_s if is_pace else 0.0)


class SegmentPace:
    """When pictures are due of a live stream that comes in segments, each all at once (HLS).

    They are played as they were taken. Where the next segment is late, what is in it is later, too.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stream_s = self._since_s = 0.0  # a moment of the stream, and when it was played
        self._plays = False

    def ahead_s(self, decoding_s: float | None) -> float:
        """Seconds until the picture of that time in the stream is due; 0 where it tells none."""
        if decoding_s is None:
            return 0.0
        now_s = self._clock.monotonic_ns() / 1e9
        due_s = self._since_s + (decoding_s - self._stream_s) / _PLAYING_SPEED
        if self._plays and -_LATE_S <= due_s - now_s <= _LONGEST_WAIT_S:
            return max(0.0, due_s - now_s)
        self._stream_s, self._since_s, self._plays = decoding_s, now_s, True
        return 0.0


class CameraClock:
    """Decides whether a camera's clock is believed.

    It is while it differs from this host's by at most `limit_s` seconds, and once it was not, only
    when it has come to half of that. `tell(believed, offset_s)` hears of a change of mind, but
    not of every one of a clock that keeps jumping.
    """

    def __init__(self, limit_s: float, tell: Callable[[bool, float], None]) -> None:
        self._limit_s = limit_s
        self._tell = tell
        self._believed = True
        self._doubt_told = False
        self._told_ns: int | None = None

    def believes(self, camera_ns: int, wall_ns: int, monotonic_ns: int) -> bool:
        """Whether `camera_ns` is to be taken, for a packet that came at `wall_ns` (both epoch)."""
        if not self._limit_s:
            return False
        offset_s = (camera_ns - wall_ns) / 1e9
        believed = abs(offset_s) <= self._limit_s / (1 if self._believed else 2)
        if believed != self._believed:
            self._believed = believed
            self._change_mind(offset_s, monotonic_ns)
        return believed

    def _change_mind(self, offset_s: float, now_ns: int) -> None:
        if self._believed:
            if self._doubt_told:
                self._tell(True, offset_s)
            self._doubt_told = False
        elif self._told_ns is None or now_ns - self._told_ns >= _TOLD_AGAIN_NS:
            self._tell(False, offset_s)
            self._told_ns, self._doubt_told = now_ns, True
