"""Which packets of a live camera need no decoding, because nobody asked for so many frames."""

import math
from collections import deque

_INTERVALS = 3  # known before anything is skipped
_MEAN_OF = 10
_TOLERANCE = 1.1
_OVERDUE = 2.0
_MOST_SKIPPED = 600  # packets that are kept in memory until the next keyframe


class KeyframeGate:
    """Lets only keyframes through while they alone give `fps` frames a second (None: all pass).

    Of these only those that are wanted: a camera that sends nothing but keyframes, as with JPEG,
    has more than enough. What it skips is to be kept until the next keyframe: should that not come
    when it is due, as with encoders that stretch their groups of pictures, the pictures in between
    are needed after all. Keyframes as far apart as `too_far_s` seconds never suffice.
    """

    def __init__(self, fps: float | None, too_far_s: float = math.inf) -> None:
        self._period_s = 1 / fps if fps else 0.0
        self._too_far_s = too_far_s
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)
        self._came_s: deque[float] = deque(maxlen=1 + _MEAN_OF)  # the last keyframes
        self._last_media_s: float | None = None
        self._skipped = 0

    @property
    def thins(self) -> bool:
        """Whether it may skip anything at all."""
        return self._period_s > 0

    def skips(
        self, keyframe: bool, time_s: float, *, media_s: float | None = None, wanted: bool
    ) -> bool:
        """Whether a packet, which came at `time_s` by any steady clock, need not be decoded.

        `media_s` is its time in the stream, where that is known: packets of a busy line or machine
        come late and in bursts, while keyframes are as frequent as ever. It is not believed for
        long, since the clock of a camera may run at any speed. `wanted`: the packet's picture would
        not be dropped for being one too many.
        """
        if not self.thins:
            return False
        if keyframe:
            if self._came_s:
                self._intervals.append(self._since_keyframe_s(time_s, media_s))
            self._came_s.append(time_s)
            self._last_media_s, self._skipped = media_s, 0
            return not wanted and self._keyframes_suffice()
        if not self._keyframes_suffice():
            return False
        is_overdue = self._since_keyframe_s(time_s, media_s) > _OVERDUE * max(self._intervals)
        if is_overdue or self._skipped >= _MOST_SKIPPED:
            self._intervals.clear()
            return False
        self._skipped += 1
        return True

    def _since_keyframe_s(self, time_s: float, media_s: float | None) -> float:
        """By the stream's time where that is less: what else there is was a delay."""
        since_s = time_s - self._came_s[-1]
        if media_s is None or self._last_media_s is None or media_s < self._last_media_s:
            return since_s
        return min(since_s, media_s - self._last_media_s)

    def _keyframes_suffice(self) -> bool:
        if len(self._intervals) < _INTERVALS:
            return False
        mean_s = (self._came_s[-1] - self._came_s[0]) / (len(self._came_s) - 1)
        longest_s = max(*self._intervals, mean_s)
        return longest_s <= self._period_s * _TOLERANCE and longest_s < self._too_far_s
