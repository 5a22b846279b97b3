"""How the cameras of a process wait for free slots: files, that is, since live ones never do."""

import threading
from collections.abc import Callable
from functools import partial

import numpy as np

from streamd.slots import Ring, SlotPool


class Space:
    """Lets a camera wait until the reader has released slots of it.

    `on_use` is called once, before the first look for a slot that may be waited for.
    """

    def __init__(self, on_use: Callable[[], None] = lambda: None) -> None:
        self._on_use = on_use
        self._used = False
        self._changed = threading.Condition()
        self._releases = 0
        self._closed = False

    def ticket(self) -> int:
        """To be drawn before one looks for a free slot, so that no release is missed."""
        if not self._used:
            self._used = True
            self._on_use()
        return self._releases

    def wait(self, ticket: int) -> bool:
        """Blocks until slots were released after `ticket` was drawn. False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._releases != ticket)
            return not self._closed

    def released(self) -> None:
        """Slots were released."""
        with self._changed:
            self._releases += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Ends all waiting, for good."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Waiters:
    """The cameras of a process that wait for slots; only those with a free one are woken.

    Which ones wait shows at their first frame: files do, and so do recordings on a web server.
    """

    def __init__(self, pool: SlotPool) -> None:
        self._pool = pool
        self._spaces: dict[int, Space] = {}
        self._slots = np.zeros(pool.count, np.bool_)

    def join(self, ring: Ring) -> Space:
        """Where the camera of `ring` waits."""
        space = Space(on_use=partial(self._mark, ring, waits=True))
        self._spaces.update(dict.fromkeys(range(ring.first, ring.first + ring.count), space))
        return space

    def leave(self, ring: Ring) -> None:
        """The camera of `ring` is read no more."""
        self._mark(ring, waits=False)

    def released(self) -> None:
        """Some slots were released."""
        for space in {self._spaces[slot] for slot in self._pool.free_slots(self._slots)}:
            space.released()

    def _mark(self, ring: Ring, *, waits: bool) -> None:
        self._slots[ring.first : ring.first + ring.count] = waits
