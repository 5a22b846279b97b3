"""Sends events to Redis: each once, in order, and through its absence.

    put ──> backlog (memory) ──────────────> Redis      while all is well
    put ──> spool (disk) ──> looked up ────> Redis      from a failure on, until the spool is empty

What was on its way when Redis failed may have arrived. Before it is sent again, the publisher
looks at the end of the stream and skips what is there.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from streamd.clock import Backoff
from streamd.config import RedisConfig
from streamd.logs import get_logger
from streamd.publishing.spooler import Entry, Spooler, SpoolListener, spool_folder
from streamd.redis_client import RedisStreams, Unreachable

_CHUNK = 512
_LOOK_EVERY_S = 5.0


class Listener(SpoolListener, Protocol):
    """Hears what became of entries; one call at a time, from any thread."""

    def sent(self, entries: Sequence[Entry], took_s: float) -> None:
        """Redis has these, and took so long. Those that were not `spooled` are kept thereby."""
        ...

    def reachable(self, up: bool, error: str) -> None:
        """Redis was reached again, or was lost."""
        ...


class Streams(Protocol):
    """The part of RedisStreams that is used here. All but `close` raise Unreachable."""

    def ping(self) -> None:
        """Asks whether it is there."""
        ...

    def add(self, entries: Sequence[tuple[str, dict[str, Any]]]) -> list[str | None]:
        """None for each that was added, or why it never will be."""
        ...

    def arrived(self, wanted: dict[str, set[str]]) -> set[str]:
        """Which of the ids, by stream, are there already."""
        ...

    def close(self) -> None:
        """Lets go of the connection."""
        ...


class Publisher:
    """A queue in memory, one on disk, and the one thread that empties them into Redis.

    `put` waits while the memory is half full and Redis answers, so that a slow Redis slows its
    producers. From a failure on entries go to disk and `put` never waits, nor does it once
    `closes_within` was called: what is not sent by the end goes to disk then. Where the disk fails
    too, the oldest entries beyond `backlog_events` are dropped and reported as lost.

    `owner` names the queue on disk; no two publishers of a machine may share one.
    """

    def __init__(
        self,
        config: RedisConfig,
        listener: Listener,
        owner: str,
        *,
        streams: Streams | None = None,
        backoff: Backoff | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = config.backlog_events
        self._listener = listener
        self._clock_s = clock_s
        self._streams = streams or RedisStreams(config)
        self._spool = Spooler(spool_folder(config, owner), config, listener, clock_s)
        self._backlog: deque[Entry] = deque()
        self._sending: list[Entry] = []
        # While entries go to disk; what is there comes before the backlog.
        self._spooling = self._spool.left_over()
        # Whether what is to be sent next may have been sent before.
        self._doubtful = self._spooling
        self._changed = threading.Condition()
        self._up: bool | None = None
        self._closing_at: float | None = None  # the latest time of the end, once it is near
        self._ending = False  # whether nothing more is put
        self._closed = False
        self._log = get_logger(worker=owner)
        self._fault = ""  # the one that was logged last, until something is sent
        self._backoff = backoff or Backoff(first_s=0.2, longest_s=5.0)
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Starts sending."""
        self._thread.start()

    def put(self, entries: Sequence[Entry]) -> None:
        """Queues entries behind all earlier ones."""
        with self._changed:
            self._changed.wait_for(self._takes_more)
            self._backlog.extend(entries)
            if self._spooling:
                self._store()
            self._changed.notify_all()

    def closes_within(self, seconds: float) -> None:
        """From now on `put` never waits, and `close` takes no longer than until then."""
        with self._changed:
            self._closing_at = self._clock_s() + seconds
            self._changed.notify_all()

    def close(self, within_s: float) -> int:
        """Sends what is queued, for at most `within_s` seconds, and ends the thread.

        Returns the number of entries that stay on disk, for the next start.
        """
        with self._changed:
            if self._spooling and not self._up and not self._backlog:
                within_s = 0.0  # all is safe where it is
            if self._closing_at is not None:
                within_s = max(0.0, min(within_s, self._closing_at - self._clock_s()))
            self._closing_at = self._clock_s() + within_s
            self._ending = True
            self._changed.notify_all()
        self._thread.join(within_s)
        with self._changed:
            self._closed = True
            self._take_back()
            self._store()
            if self._backlog:
                self._listener.lost(list(self._backlog), "stopped while Redis was away")
                self._backlog.clear()
            return self._spool.close()

    def _takes_more(self) -> bool:
        if self._spooling or not self._up or self._closing_at is not None:
            return True
        return len(self._backlog) <= self._limit // 2

    # The thread.

    def _run(self) -> None:
        while self._wait_for_work():
            if self._send_next():
                self._backoff.reset()
                self._fault = ""
            else:
                self._pause(self._backoff.next_delay_s())
        self._streams.close()

    def _send_next(self) -> bool:
        """Sends what is next; False where it has to be tried again later."""
        try:
            with self._changed:
                chunk = self._next_chunk()
                self._sending = chunk or []
            if chunk is not None:
                self._send(self._sending)
            return chunk is not None
        except Unreachable as error:
            self._failed(str(error))
        except Exception as error:  # a thread that is dead would hold up its producers for ever
            fault = f"{type(error).__name__}: {error}"
            if fault != self._fault:
                self._log.error("publish_failed", exc_info=error)
            self._fault = fault
            self._failed(fault)
        return False

    def _wait_for_work(self) -> bool:
        """Blocks until there is something to send; False once closing and done or out of time."""
        with self._changed:
            # An idle connection says nothing of Redis: look at first, and now and then.
            self._changed.wait_for(
                lambda: self._backlog or self._spooling or self._ending or self._up is None,
                timeout=_LOOK_EVERY_S,
            )
            self._spool.sync()
            if self._closing_at is None:
                return True
            # What is on disk is safe there: only a Redis that takes it now is worth the wait.
            busy = not self._ending or self._backlog or (self._spooling and self._up)
            return bool(busy) and self._clock_s() < self._closing_at

    def _next_chunk(self) -> list[Entry] | None:
        """What is next in order; None while it is on a disk that cannot be read."""
        if self._spooling:
            self._store()
            entries = self._spool.peek(_CHUNK)
            if entries is None or entries:
                return entries
        count = min(len(self._backlog), _CHUNK)
        return [self._backlog.popleft() for _ in range(count)]

    def _send(self, entries: Sequence[Entry]) -> None:
        """Sends what did not arrive before. Raises Unreachable: then all are to be sent again."""
        there: set[str] = set()
        if self._doubtful or not entries:
            # Its answer also says that Redis has read all that was sent before it.
            self._streams.ping()
        if self._doubtful:
            wanted: dict[str, set[str]] = {}
            for entry in entries:
                wanted.setdefault(entry.stream, set()).add(entry.id)
            there = self._streams.arrived(wanted)
        fresh = [entry for entry in entries if entry.id not in there]
        began_s = self._clock_s()
        refused = self._streams.add([(e.stream, e.fields) for e in fresh]) if fresh else []
        took_s = self._clock_s() - began_s
        hopeless = {e.id: why for e, why in zip(fresh, refused, strict=True) if why is not None}
        self._settle(entries, hopeless, took_s, some_were_there=bool(there))

    def _settle(
        self,
        entries: Sequence[Entry],
        refused: dict[str, str],
        took_s: float,
        *,
        some_were_there: bool,
    ) -> None:
        """Redis has answered: for each entry that it has, or will never take."""
        with self._changed:
            if self._closed:
                return
            self._sending = []
            # The disk may lag behind by more than one chunk: the next one may be there as well.
            self._doubtful = some_were_there
            self._set_up(True, "")
            for entry in entries:
                if entry.id in refused:
                    self._listener.lost([entry], refused[entry.id])
            if entries:
                taken = [entry for entry in entries if entry.id not in refused]
                self._listener.sent(taken, took_s)
            if entries and entries[0].spooled:
                self._spool.remove()
            self._spooling = len(self._spool) > 0
            self._changed.notify_all()

    def _failed(self, error: str) -> None:
        """From now on entries go to disk, the ones that were being sent first."""
        with self._changed:
            if self._closed:
                return
            self._doubtful = self._doubtful or bool(self._sending)
            self._spooling = True
            self._take_back()
            self._store()
            self._set_up(False, error)
            self._changed.notify_all()

    def _take_back(self) -> None:
        """What was being sent returns to where it came from."""
        unsent, self._sending = self._sending, []
        if unsent and unsent[0].spooled:
            self._spool.put_back()
        else:
            self._backlog.extendleft(reversed(unsent))

    def _store(self) -> None:
        """Moves the backlog to disk; where that fails, keeps as much of it as memory may hold."""
        # What is being sent from memory may come back: nothing newer may be on disk by then.
        comes_first = bool(self._sending) and not self._sending[0].spooled
        if self._backlog and not comes_first and self._spool.append(list(self._backlog)):
            self._backlog.clear()
        excess = [self._backlog.popleft() for _ in range(len(self._backlog) - self._limit)]
        if excess:
            self._listener.lost(excess, "backlog full")

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ending, timeout=seconds)

    def _set_up(self, up: bool, error: str) -> None:
        if self._up is not up:
            self._up = up
            self._listener.reachable(up, error)
