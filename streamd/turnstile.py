"""Lets the results of concurrent runners out in the order in which their batches left."""

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Turnstile(Generic[T]):
    """Numbered items go in as they get done and come out as 0, 1, 2, ...

    At most `room` items wait inside, so that a stuck consumer stops the producers.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._inside: dict[int, T] = {}
        self._next = 0
        self._end: int | None = None
        self._changed = threading.Condition()

    def enter(self, number: int, item: T) -> None:
        """Adds item `number`; waits while it is too far ahead of its turn."""
        with self._changed:
            self._changed.wait_for(lambda: number < self._next + self._room)
            self._inside[number] = item
            self._changed.notify_all()

    def leave(self) -> T | None:
        """The next item in order, once it is there; None after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._next in self._inside or self._next == self._end)
            if self._next == self._end:
                return None
            item = self._inside.pop(self._next)
            self._next += 1
            self._changed.notify_all()
            return item

    def close(self, count: int) -> None:
        """No more than `count` items will ever have been sent."""
        with self._changed:
            self._end = count
            self._changed.notify_all()
