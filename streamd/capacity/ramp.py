"""The search for the largest number of cameras that still meets a target."""

from collections.abc import Mapping

_PRECISION = 0.05


def next_count(met: Mapping[int, bool], most: int) -> int | None:
    """The number of cameras to try next; None once the largest that meets the target is known.

    `met` says of each number tried whether it met the target; `most` is the largest to be tried.
    Doubled until one fails, then halved between the two to a twentieth.
    """
    best = max((count for count, ok in met.items() if ok), default=0)
    worst = min((count for count, ok in met.items() if not ok), default=None)
    if worst is None:
        return None if best == most else min(most, max(1, 2 * best))
    if worst - best <= max(1, int(best * _PRECISION)):
        return None
    return (best + worst) // 2
