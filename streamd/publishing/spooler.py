"""Entries on disk: what the publisher asks of its spool, with a disk that may fail."""

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import msgspec

from streamd.config import RedisConfig
from streamd.errors import SpoolError
from streamd.publishing.spool import Spool, is_abandoned, segments_of

_AGAIN_AFTER_S = 1.0
_OPENED_WITHIN_S = 60.0


class Entry(msgspec.Struct, frozen=True):
    """One stream entry to be sent; its field `id` tells it from all others.

    `ready_ns` and `capture_ns` go back to the listener. A `spooled` entry was on disk, perhaps
    since an earlier process. A `still` one is of a frame that was not inferred. `place` is its
    camera's number; None where only the fields are known.
    """

    stream: str
    fields: dict[str, Any]
    ready_ns: int = 0
    capture_ns: int = 0
    spooled: bool = False
    still: bool = False
    place: int | None = None

    @property
    def id(self) -> str:
        """The same for an entry that is sent twice."""
        return str(self.fields["id"])


class SpoolListener(Protocol):
    """Hears what becomes of entries on disk; one call at a time."""

    def kept(self, entries: Sequence[Entry]) -> None:
        """The disk has these now: a crash of this process does not lose them."""
        ...

    def lost(self, entries: Sequence[Entry], why: str) -> None:
        """These will not be sent any more."""
        ...

    def waiting(self, spooled: int, size_bytes: int, oldest_ms: int) -> None:
        """So many entries are on disk; the oldest since `oldest_ms` (epoch), 0 where none is."""
        ...

    def spool_unusable(self, error: str) -> None:
        """The disk fails: entries wait in memory alone. Called once until it works again."""
        ...

    def spool_damaged(self, what: str) -> None:
        """Entries that were on disk are gone; the others are there."""
        ...


class Spooler:
    """A queue of entries in `folder` (None: no spool, nothing is ever stored).

    The spool is opened at its first use, so a service that never loses Redis needs no disk. No
    method raises: where the disk fails, nothing was done and the listener is told.
    """

    def __init__(
        self,
        folder: Path | None,
        config: RedisConfig,
        listener: SpoolListener,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._config = config.spool
        self._listener = listener
        self._clock_s = clock_s
        self._spool: Spool | None = None
        self._failed_s: float | None = None
        self._unopened_since_s: float | None = None
        self._oldest_ms = 0

    def __len__(self) -> int:
        return len(self._spool) if self._spool is not None else 0

    def left_over(self) -> bool:
        """Whether an earlier process may have left entries."""
        return self._folder is not None and bool(segments_of(self._folder))

    def append(self, entries: Sequence[Entry]) -> bool:
        """Stores `entries` behind all others. False where it cannot."""
        now_ms = time.time_ns() // 1_000_000
        dropped: list[bytes] = []

        def store(spool: Spool) -> None:
            records = [msgspec.msgpack.encode((now_ms, e.stream, e.fields)) for e in entries]
            if not len(spool):
                self._oldest_ms = now_ms
            dropped.extend(spool.append(records))

        if not self._on_disk(store):
            return False
        self._failed_s = None  # nothing less says that it works: a full disk can be read
        self._listener.kept(entries)
        self._tell_dropped(dropped)
        return True

    def peek(self, count: int) -> list[Entry] | None:
        """Up to `count` of the oldest; they stay until they are removed or put back.

        None where there are some, and the disk does not let itself be read.
        """
        records: list[bytes] = []
        read = self._on_disk(lambda spool: records.extend(spool.peek(count)), at_once=True)
        if not read and (len(self) or self._is_left_unopened()):
            return None
        self._oldest_ms = msgspec.msgpack.decode(records[0])[0] if records else 0
        self._tell()
        return [_entry(record) for record in records]

    def put_back(self) -> None:
        """What the last `peek` gave was not delivered."""
        dropped: list[bytes] = []
        self._on_disk(lambda spool: dropped.extend(spool.put_back()), at_once=True)
        self._tell_dropped(dropped)

    def remove(self) -> None:
        """Takes off what the last `peek` gave."""
        self._on_disk(Spool.remove, at_once=True)
        self._tell()

    def sync(self) -> None:
        """See Spool.sync."""
        if self._spool is not None:
            self._on_disk(Spool.sync)

    def close(self) -> int:
        """Lets others open it; returns how many entries stay on disk."""
        left = len(self)
        if self._spool is not None:
            self._spool.close()
        self._spool = self._folder = None
        return left

    def _on_disk(self, work: Callable[[Spool], Any], *, at_once: bool = False) -> bool:
        """Does `work`. A disk that failed is left alone for a second, unless it is needed at once.

        What is on it has its place in the order of entries: it cannot be passed over.
        """
        if self._folder is None:
            return False
        failed_s = self._failed_s
        rests = failed_s is not None and self._clock_s() - failed_s < _AGAIN_AFTER_S
        if rests and not at_once:
            return False
        try:
            work(self._opened(self._folder))
        except SpoolError as error:
            if self._failed_s is None:
                self._listener.spool_unusable(str(error))
            self._failed_s = self._clock_s()
            return False
        finally:
            self._tell_gone()
        return True

    def _opened(self, folder: Path) -> Spool:
        if self._spool is None:
            config = self._config
            spool = Spool(
                folder,
                max_bytes=int(config.max_mb * 1e6),
                fsync=config.fsync,
                clock_s=self._clock_s,
            )
            self._spool = spool
            self._failed_s = None
            for path in spool.put_aside:
                self._listener.spool_damaged(f"{path}: so named now, since it cannot be read")
            if spool.damaged:
                text = f"{folder}: at least {spool.damaged} damaged events were passed over"
                self._listener.spool_damaged(text)
        return self._spool

    def _tell_gone(self) -> None:
        while self._spool is not None and self._spool.gone:
            path, count = self._spool.gone.pop(0)
            self._listener.spool_damaged(f"{path}: {count} events cannot be read from it any more")

    def _is_left_unopened(self) -> bool:
        """Whether entries of an earlier process wait, and no other process sends them.

        Not for ever: on a disk that stays read-only, say, what is new goes first after a while.
        """
        if self._spool is not None or self._folder is None or not is_abandoned(self._folder):
            return False
        now_s = self._clock_s()
        if self._unopened_since_s is None:
            self._unopened_since_s = now_s
        return now_s - self._unopened_since_s < _OPENED_WITHIN_S

    def _tell_dropped(self, dropped: list[bytes]) -> None:
        if dropped:
            self._listener.lost([_entry(record) for record in dropped], "spool full")
        self._tell()

    def _tell(self) -> None:
        size_bytes = self._spool.size_bytes if self._spool is not None else 0
        self._listener.waiting(len(self), size_bytes, self._oldest_ms if len(self) else 0)


def spool_folder(config: RedisConfig, owner: str) -> Path | None:
    """Where `owner` keeps what is meant for the Redis and stream of `config`.

    A name of the place without its login: a password that changes orphans nothing. Entries never
    go to another Redis, nor to another of its databases, than the one they were meant for.
    """
    if config.spool.path is None:
        return None
    return Path(config.spool.path) / f"{_place(config)}-{owner}"


def waiting_for_another(config: RedisConfig) -> list[Path]:
    """Folders of entries for another Redis or stream than `config`'s, which no process has open."""
    if config.spool.path is None:
        return []
    return sorted(
        folder
        for folder in Path(config.spool.path).glob("????????-*")
        if not folder.name.startswith(_place(config)) and is_abandoned(folder)
    )


def _place(config: RedisConfig) -> str:
    parts = urlsplit(config.url)
    database = "".join(f"?db={db}" for db in parse_qs(parts.query).get("db", [])[:1])
    where = f"{parts.netloc.rpartition('@')[2]}{parts.path}{database}"
    place = f"{where} {config.stream} {config.status_stream}"
    return hashlib.sha256(place.encode()).hexdigest()[:8]


def _entry(record: bytes) -> Entry:
    _, stream, fields = msgspec.msgpack.decode(record)
    return Entry(stream, fields, spooled=True)
