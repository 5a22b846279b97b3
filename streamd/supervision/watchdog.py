"""When to tell a service manager that all is well: while frames that came are inferred.

A process that merely lives is of no use to anybody. So the sign is withheld while frames come in
and none comes out; where no camera delivers there is nothing to infer, and a restart would not
help.
"""

from collections.abc import Mapping

_NOT_TO_BE_INFERRED = ("rate_capped", "decode_error", "still")


class Watchdog:
    """Says at which looks the service manager is to be told; `interval_s` is its patience."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._told_s = 0.0
        self._wanted = 0
        self._last_ns = 0

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int) -> "Watchdog | None":
        """As sd_watchdog_enabled(3) has it; None where nobody watches this process."""
        microseconds = environ.get("WATCHDOG_USEC", "")
        if not microseconds.isdecimal() or int(microseconds) <= 0:
            return None
        if environ.get("WATCHDOG_PID") not in (None, str(pid)):
            return None
        return cls(int(microseconds) / 1e6)

    def is_due(self, now_s: float, frames: Mapping[str, int], last_inferred_ns: int) -> bool:
        """Whether to say so now; `frames` are those of all cameras by outcome, in total.

        `last_inferred_ns` is when the model last gave a result, whatever became of that: a Redis
        that is away is no reason for a restart. Asked at least four times within the interval;
        `now_s` is of any steady clock.
        """
        if now_s - self._told_s < self._interval_s / 4:
            return False
        asked_for = frames["captured"] - sum(frames[name] for name in _NOT_TO_BE_INFERRED)
        if asked_for > self._wanted and last_inferred_ns == self._last_ns:
            return False
        self._told_s, self._wanted, self._last_ns = now_s, asked_for, last_inferred_ns
        return True
