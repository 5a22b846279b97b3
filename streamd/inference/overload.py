"""What gives way when there is more to infer than can be: batches get smaller, old frames go."""

from collections.abc import Sequence

_SMOOTHING = 0.2
# A machine that stands still for a moment makes one batch long, which says nothing of the next.
_MOST_TIMES_LONGER = 3.0
# What is not used is not learned anew. So it is forgotten: a size that was too slow after a while,
# and all as soon as nothing at all is inferred.
_FORGOTTEN_AFTER_NS = 60 * 10**9
_QUIET_NS = 10**9


class LatencyTarget:
    """Decides how large a batch may be and which frames are too old for it.

    A result is to be at most `limit_ns` old: capture to detections. While a batch runs the next one
    waits, so a batch may take half of that. Times of batches are learned, by rung of the `ladder`.
    """

    def __init__(self, limit_ns: int, ladder: Sequence[int]) -> None:
        self._limit_ns = limit_ns
        self._ladder = tuple(ladder)
        # Of each rung the mean time of a batch, and when the last one ended.
        self._known: dict[int, tuple[float, int]] = {}

    @property
    def reachable(self) -> bool:
        """False where even the smallest batch takes longer than the limit."""
        return self._known.get(self._ladder[0], (0.0, 0))[0] <= self._limit_ns

    def note(self, rung: int, batch_ns: int, now_ns: int) -> None:
        """A batch of the engine's size `rung` took `batch_ns`; from any thread."""
        average, _ = self._known.get(rung, (float(batch_ns), 0))
        counted_ns = min(batch_ns, _MOST_TIMES_LONGER * average)
        self._known[rung] = average + _SMOOTHING * (counted_ns - average), now_ns

    def batch_size(self, largest: int, now_ns: int) -> int:
        """The largest rung, up to `largest`, that is fast enough as far as is known."""
        self._forget(now_ns)
        fitting = [
            rung
            for rung in self._ladder
            if rung <= largest and self._expected_ns(rung) <= self._limit_ns / 2
        ]
        return fitting[-1] if fitting else min(self._ladder[0], largest)

    def captured_after_ns(self, now_ns: int, size: int) -> int:
        """Frames that were captured before this time would be too old when a batch is done.

        Where the limit cannot be met at all, the newest quarter of it is still tried.
        """
        left_ns = max(self._limit_ns - self._expected_ns(size), self._limit_ns / 4)
        return int(now_ns - left_ns)

    def _expected_ns(self, rung: int) -> float:
        """A rung that was never used takes at least as long as the next smaller one that was."""
        known = [ns for size, (ns, _) in self._known.copy().items() if size <= rung]
        return max(known, default=0.0)

    def _forget(self, now_ns: int) -> None:
        used_ns = {rung: at_ns for rung, (_, at_ns) in self._known.copy().items()}
        silent_ns = now_ns - max(used_ns.values(), default=now_ns)
        is_quiet = silent_ns > _QUIET_NS + 2 * self._expected_ns(self._ladder[-1])
        for rung, at_ns in used_ns.items():
            if is_quiet or now_ns - at_ns > _FORGOTTEN_AFTER_NS:
                self._known.pop(rung, None)
