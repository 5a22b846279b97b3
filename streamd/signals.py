"""Signals, from the first moment of a service on: what ends it, and what makes it read its file."""

import signal
from collections import deque
from types import FrameType

from streamd.memory import Doorbell


class EndedEarly(BaseException):
    """SIGTERM or SIGINT came while there was nothing to stop yet."""


class Signals:
    """Takes SIGTERM, SIGINT and SIGHUP of the process, whose main thread makes it.

    Until `begin`, the former two raise EndedEarly wherever the main thread is, so that no wait for
    a server outlives them. `bell` rings with each signal.
    """

    def __init__(self) -> None:
        self.bell = Doorbell()
        self._numbers: deque[int] = deque()
        self._begun = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._take)

    def begin(self) -> None:
        """Somebody asks for them from now on."""
        self._begun = True

    def next(self) -> signal.Signals | None:
        """The oldest that was not asked for yet."""
        return signal.Signals(self._numbers.popleft()) if self._numbers else None

    def add(self, number: int) -> None:
        """As if it came; from any thread."""
        self._numbers.append(number)
        self.bell.ring()

    def _take(self, number: int, _: FrameType | None) -> None:
        if not self._begun and number != signal.SIGHUP:
            raise EndedEarly(signal.Signals(number).name)
        self.add(number)
