"""Time, passed in wherever it is needed, so that tests need not wait."""

import random
import threading
import time
from dataclasses import dataclass, field
from typing import Protocol


class Clock(Protocol):
    """What the daemon asks of time."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back; the same for all processes of a host."""
        ...

    def time_ns(self) -> int:
        """Nanoseconds since the epoch, as this host believes."""
        ...

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Sleeps for `timeout_s` seconds or until `event` is set. True if it is set."""
        ...


class SystemClock:
    """The real time."""

    def monotonic_ns(self) -> int:
        """See Clock."""
        return time.monotonic_ns()

    def time_ns(self) -> int:
        """See Clock."""
        return time.time_ns()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """See Clock."""
        return event.wait(timeout_s)


@dataclass(slots=True)
class Backoff:
    """Exponential back-off with full jitter: a delay is drawn from 0 to a step that doubles.

    `first_s` doubles up to `longest_s`. Only `reset()` starts over, and whoever calls it waits for
    `stable_s` of good work first, so that a flapping peer is not asked every second.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    first_s: float = 1.0
    longest_s: float = 60.0
    stable_s: float = 30.0
    rng: random.Random = field(default_factory=random.Random)
    _step_s: float = 0.0

    def next_delay_s(self) -> float:
        """The seconds to wait before the next try."""
        self._step_s = min(self.longest_s, self._step_s * 2 or self.first_s)
        return self.rng.uniform(0, self._step_s)

    def longest_delay_s(self) -> float:
        """A delay for a peer that must not be asked often: half to all of the longest step."""
        self._step_s = self.longest_s
        return self.rng.uniform(self.longest_s / 2, self.longest_s)

    def reset(self) -> None:
        """Starts over at the first step."""
        self._step_s = 0.0
