"""Signals, from the first moment of a service on: what ends it, and what makes it read its file."""

import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

from streamd.linux.memory import Doorbell

# A terminal and systemd send them to the whole group.
_TAKEN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
        for number in _TAKEN:
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
            _ignore_all()  # a wrapper may pass it on once more, into whatever ends now
            raise EndedEarly(signal.Signals(number).name)
        self.add(number)


@contextmanager
def held_back() -> Iterator[None]:
    """A process that is started within gets no signal until it says `leave_to_supervisor`.

    Those of this process come afterwards.
    """
    resource_tracker.ensure_running()  # multiprocessing's own: its start would let them through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_supervisor() -> None:
    """For a worker: only its supervisor decides when it ends."""
    _ignore_all()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TAKEN)


def _ignore_all() -> None:
    for number in _TAKEN:
        signal.signal(number, signal.SIG_IGN)
