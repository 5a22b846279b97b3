"""When a recording's frames count as captured."""

from streamd.clock import Clock


class FileTimeline:
    """Times of a file's frames, which go on over its loops.

    A file has no capture time of its own: its first frame counts as captured when it was first
    opened, and the others follow by their pts.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start_wall_ns: int | None = None
        self._start_ns = 0
        self._offset_s = 0.0
        self._last_s = 0.0
        self._step_s = 0.04

    def restart(self) -> None:
        """The file begins anew: what comes follows what came."""
        if self._start_wall_ns is None:
            self._start_wall_ns = self._clock.time_ns()
            self._start_ns = self._clock.monotonic_ns()
            return
        self._offset_s = self._last_s + self._step_s

    def place(self, pts_s: float | None) -> float:
        """Seconds since the first opening at which the frame of `pts_s` stands."""
        if pts_s is None:
            position_s = self._last_s + self._step_s
        else:
            position_s = self._offset_s + pts_s
            if 0 < position_s - self._last_s < 10:
                self._step_s = position_s - self._last_s
        self._last_s = position_s
        return position_s

    def wall_ns(self, position_s: float) -> int:
        """`position_s` as epoch time."""
        return (self._start_wall_ns or 0) + int(position_s * 1e9)

    def ahead_s(self, position_s: float) -> float:
        """Seconds until `position_s` is due in real time; negative where it is late."""
        return position_s - (self._clock.monotonic_ns() - self._start_ns) / 1e9
