"""Whether the runners of a model come back: a device that hangs says nothing.

A worker whose runner hangs still answers its supervisor's pings, since another thread does that. So
it stops answering, and is ended as one that hangs.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# No batch takes as long; what is compiled for its first one may take some seconds.
_HANGS_AFTER_S = 60.0


class Pulse:
    """Knows since when each thread that runs a batch is at it; `clock_s` is any steady clock."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._since_s: dict[int, float] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the calling thread runs a batch."""
        thread = threading.get_ident()
        self._since_s[thread] = self._clock_s()
        try:
            yield
        finally:
            del self._since_s[thread]

    def hangs(self) -> bool:
        """Whether a batch has been running for longer than any can take."""
        now_s = self._clock_s()
        return any(now_s - since_s > _HANGS_AFTER_S for since_s in tuple(self._since_s.values()))
