"""Which packets of a live camera need no decoding, because nobody asked for so many frames."""

import math
from collections import deque

_INTERVALS = 3  # known before anything is skipped
_TOLERANCE = 1.1
_OVERDUE = 2.0
_MOST_SKIPPED = 600  # packets that are kept in memory until the next keyframe


class KeyframeGate:
    """Lets only keyframes through while they alone give `fps` frames a second (None: all pass).

    Of these only those that are wanted: a camera that sends nothing but keyframes, as with JPEG,
    has more than enough. What it skips is to be kept until the next keyframe: should that not come
    when it is due, as with encoders that stretch their groups of pictures, the pictures in between
    are needed after all.
    """

    def __init__(self, fps: float | None) -> None:
        self._period_s = 1 / fps if fps else 0.0
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)
        self._last_s = -math.inf
        self._skipped = 0

    def skips(self, keyframe: bool, time_s: float, *, wanted: bool) -> bool:
        """Whether a packet, which came at `time_s` by any steady clock, need not be decoded.

        `wanted`: its picture would not be dropped for being one too many.
        """
        if not self._period_s:
            return False
        since_s = time_s - self._last_s
        if keyframe:
            if math.isfinite(since_s):
                self._intervals.append(since_s)
            self._last_s, self._skipped = time_s, 0
            return not wanted and self._keyframes_suffice()
        if not self._keyframes_suffice():
            return False
        longest_s = max(self._intervals)
        if since_s > _OVERDUE * longest_s or self._skipped >= _MOST_SKIPPED:
            self._intervals.clear()
            return False
        self._skipped += 1
        return True

    def _keyframes_suffice(self) -> bool:
        longest_s = max(self._intervals, default=math.inf)
        return len(self._intervals) == _INTERVALS and longest_s <= self._period_s * _TOLERANCE
