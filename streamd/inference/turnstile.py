"""Lets the results of concurrent runners out, each camera's in the order of its frames."""

import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Turnstile(Generic[T]):
    """Items are announced in order, with the lanes they are in; go in once done, and come out.

    In each of its lanes an item comes out after those announced before it; items that share no lane
    do not wait for each other. None gets further ahead of the oldest than `room`, so that a stuck
    consumer stops the producers.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._announced = 0
        self._closed = False
        self._lanes_of: dict[int, tuple[int, ...]] = {}  # of each that is not out, oldest first
        self._lanes: dict[int, deque[int]] = {}
        self._inside: dict[int, T] = {}
        self._changed = threading.Condition()

    def announce(self, lanes: Iterable[int]) -> int:
        """The number of another item, which is in all of `lanes`."""
        with self._changed:
            number = self._announced
            self._announced += 1
            self._lanes_of[number] = tuple(set(lanes))
            for lane in self._lanes_of[number]:
                self._lanes.setdefault(lane, deque()).append(number)
            return number

    def enter(self, number: int, item: T, room: int | None = None) -> None:
        """Adds the item announced as `number`; waits while it is too far ahead.

        An item that is small may be `room` ahead instead of the turnstile's own.
        """
        most = room or self._room
        with self._changed:
            self._changed.wait_for(lambda: number < next(iter(self._lanes_of)) + most)
            self._inside[number] = item
            self._changed.notify_all()

    def leave(self) -> T | None:
        """The next item, once there is one whose turn it is; None after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn() is not None or self._is_over())
            number = self._turn()
            if number is None:
                return None
            for lane in self._lanes_of.pop(number):
                self._lanes[lane].popleft()
                if not self._lanes[lane]:
                    del self._lanes[lane]
            self._changed.notify_all()
            return self._inside.pop(number)

    def close(self) -> None:
        """No more items will be announced."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _turn(self) -> int | None:
        """The item that went in first of those that may come out."""
        for number in self._inside:
            if all(self._lanes[lane][0] == number for lane in self._lanes_of[number]):
                return number
        return None

    def _is_over(self) -> bool:
        return self._closed and not self._lanes_of
