"""Which frames of a camera are kept, where fewer are asked for than it sends."""

import math

# Its multiples, less whole numbers, lie evenly between 0 and 1, however many there are
# (Knuth, The Art of Computer Programming, volume 3, section 6.4).
_GOLDEN_RATIO = (1 + 5**0.5) / 2


class RateCap:
    """Keeps at most `fps` frames a second, evenly spaced (None: all).

    A frame may come a quarter of a period early: the jitter of a camera that delivers just `fps`
    must not cost it every other frame. The schedule, not the last frame, sets the next time, so
    the mean rate stays exact. It begins with its first frame and goes on at `phase` of the period
    (0 to 1) by the clock that all cameras share: where frames of many cameras come at once, those
    that are kept need not.
    """

    def __init__(self, fps: float | None, phase: float = 0.0) -> None:
        self._period_s = 1 / fps if fps else 0.0
        self._phase = phase
        self._due_s = -math.inf

    def admits(self, time_s: float, now_s: float | None = None) -> bool:
        """True if the frame of `time_s` is to be kept. Times that jump start a new schedule.

        It came at `now_s` of the shared clock; None: whenever it was read, and no phase is kept.
        """
        if not self._period_s:
            return True
        if not self.would_admit(time_s):
            return False
        if self._has_jumped(time_s):
            self._due_s = time_s + self._to_phase_s(now_s)
        else:
            self._due_s += self._period_s
        return True

    def would_admit(self, time_s: float) -> bool:
        """Whether the frame of `time_s`, the next one, is to be kept; nothing changes."""
        return time_s >= self._due_s - self._period_s / 4 or self._has_jumped(time_s)

    def _has_jumped(self, time_s: float) -> bool:
        return abs(time_s - self._due_s) > 2 * self._period_s

    def _to_phase_s(self, now_s: float | None) -> float:
        """From `now_s` to the next frame: a period, half of one more or less."""
        if now_s is None:
            return self._period_s
        until_s = (self._phase * self._period_s - now_s) % self._period_s
        return until_s if until_s > self._period_s / 2 else until_s + self._period_s


def phase_of(camera: int) -> float:
    """Where in the period the camera of this index has its frames, so that all spread evenly."""
    return camera * _GOLDEN_RATIO % 1
