"""A queue on disk for what cannot be delivered yet: bounded, in order, whole after any crash.

A folder of segments, `00000000000000000000.log` and so on, each a run of records, whose bytes are
the affair of spool_records.py. A segment is removed once all of it was taken; `cursor` says how far
the first one was, and names it by its file and its first bytes: a later one may have the same file
name. It is written behind the deliveries, so what was delivered just before a crash is given out
once more: the publisher has to know such records again. A record that a crash has torn is cut off.
"""

import errno
import fcntl
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamd.errors import SpoolError
from streamd.publishing.spool_records import HEADER, Scan, framed

Fsync = Literal["always", "every_second", "never"]

_SYNC_EVERY_S: dict[Fsync, float] = {"always": 0.0, "every_second": 1.0, "never": math.inf}
_SEGMENTS = 16  # the bound is kept by dropping whole segments: a sixteenth at a time
_SMALLEST_SEGMENT = 4096
_ROTTEN = (errno.EIO, errno.EUCLEAN, errno.EBADMSG)  # the disk has lost it: no try will be better
# What a disk that is in use must do to be believed so.
_ROTTEN_TRIES = 3
_ROTTEN_S = 5.0


@dataclass(slots=True)
class _Segment:
    """A file of the queue: its whole records, and bytes up to the end of the last of them."""

    path: Path
    records: int
    size: int


class Spool:
    """First in, first out. One process may have it open; one thread at a time may use it.

    Every method raises SpoolError where the disk fails; an `append` that failed has left nothing,
    and what `remove` took off stays off.
    `damaged` counts the places where the records of a segment were no records when the spool was
    opened: what stood there is gone.
    `put_aside` has the segments that could not be read at all then, by their new names; `gone` has
    each that could not be read any more later, and how many of its records are gone. Such a file is
    named as those are, where it is still there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        fsync: Fsync = "every_second",
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._segment_bytes = max(_SMALLEST_SEGMENT, max_bytes // _SEGMENTS)
        self._max_bytes = max_bytes
        self._fsync = fsync
        self._clock_s = clock_s
        self._synced_s = clock_s()
        self._waiting: deque[bytes] = deque()  # the first segment's, read and not yet taken
        self._taken_bytes = 0  # of the first segment
        self._peeked = 0  # records that somebody is delivering: they are not dropped
        self._tail_fd = -1
        self._torn = False  # whether the tail's file holds more than the tail
        self.damaged = 0
        self.put_aside: list[Path] = []
        self.gone: list[tuple[Path, int]] = []
        self._unread_tries = 0  # of the first segment, in a row
        self._unread_since_s = 0.0
        self._lock_fd = self._lock()
        try:
            self._segments = deque(self._recover())
            self._open_tail()
            self._count = sum(segment.records for segment in self._segments)
            self._skip_taken()
        except OSError as error:
            os.close(self._lock_fd)
            raise self._failure(error) from None

    def __len__(self) -> int:
        """Records that wait."""
        return self._count

    @property
    def size_bytes(self) -> int:
        """What it takes on disk."""
        return sum(segment.size for segment in self._segments)

    def append(self, records: Sequence[bytes]) -> list[bytes]:
        """Puts records at the end; returns the oldest ones if they had to make room.

        Those of the last `peek` stay until they are removed or put back.
        """
        try:
            if self._is_too_large():
                self._left_of_first()  # while it cannot be read, nothing more is taken
            self._cut_back()
            if self._segments[-1].size >= self._segment_bytes:
                if self._fsync == "every_second":  # nobody comes back to this one
                    os.fsync(self._tail_fd)
                self._open_tail()
            self._write(records)
        except OSError as error:
            raise self._failure(error) from None
        return self._make_room()

    def peek(self, count: int) -> list[bytes]:
        """Up to `count` of the oldest records; they stay, and are safe from `append`."""
        try:
            while self._count and not self._waiting:
                if self._segments[0].records:
                    self._waiting.extend(self._left_of_first())
                else:
                    self._remove_first()
        except OSError as error:
            raise self._failure(error) from None
        self._peeked = min(count, len(self._waiting))
        return [self._waiting[i] for i in range(self._peeked)]

    def put_back(self) -> list[bytes]:
        """What the last `peek` gave was not delivered. Returns what had to make room by now."""
        self._peeked = 0
        return self._make_room()

    def remove(self) -> None:
        """Takes off what the last `peek` gave."""
        count, self._peeked = self._peeked, 0
        for _ in range(count):
            self._taken_bytes += HEADER.size + len(self._waiting.popleft())
        self._count -= count
        first = self._segments[0]
        first.records -= count
        try:
            if first.records == 0:
                self._remove_first()
            else:
                self._write_cursor()
        except FileNotFoundError:  # the segment's file is gone: nothing will be read twice
            return
        except OSError as error:
            raise self._failure(error) from None

    def sync(self) -> None:
        """Brings what was appended to the disk itself, if the policy says that it is time."""
        if self._fsync != "every_second":
            return
        try:
            self._sync_if_due()
        except OSError as error:
            raise self._failure(error) from None

    def close(self) -> None:
        """Lets others open it; an empty one leaves no file but its lock."""
        with suppress(OSError):
            if self._fsync != "never":
                os.fsync(self._tail_fd)
            if not self._count:
                for segment in self._segments:
                    segment.path.unlink(missing_ok=True)
        os.close(self._tail_fd)
        os.close(self._lock_fd)

    def _lock(self) -> int:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failure(error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise SpoolError(f"{self._folder}: is in use by another process") from None
        return lock

    def _write(self, records: Sequence[bytes]) -> None:
        """All of `records`, or none: what is not on the disk in the end is taken back."""
        data = framed(records)
        tail = self._segments[-1]
        try:
            written = 0
            while written < len(data):
                written += os.write(self._tail_fd, memoryview(data)[written:])
            self._sync_if_due()
        except OSError:
            self._torn = True
            with suppress(OSError):
                self._cut_back()
            raise
        tail.size += len(data)
        tail.records += len(records)
        self._count += len(records)

    def _cut_back(self) -> None:
        if self._torn:
            os.ftruncate(self._tail_fd, self._segments[-1].size)
            self._torn = False

    def _sync_if_due(self) -> None:
        now_s = self._clock_s()
        if now_s - self._synced_s >= _SYNC_EVERY_S[self._fsync]:
            self._synced_s = now_s
            os.fsync(self._tail_fd)

    def _make_room(self) -> list[bytes]:
        """The oldest records, dropped. Where the disk fails, it stays too large for now."""
        dropped: list[bytes] = []
        with suppress(OSError):
            while self._is_too_large():
                left = self._left_of_first()
                self._count -= len(left)
                dropped += left
                self._remove_first()
        return dropped

    def _is_too_large(self) -> bool:
        return self.size_bytes > self._max_bytes and len(self._segments) > 1 and not self._peeked

    def _recover(self) -> Iterator[_Segment]:
        """Every segment with what is whole of it; what was torn is cut off."""
        for path in segments_of(self._folder):
            try:
                scan = Scan(path.read_bytes())
            except OSError as error:
                if error.errno not in _ROTTEN:
                    raise
                self.put_aside.append(path.replace(path.with_suffix(".unreadable")))
                continue
            whole = list(scan)
            self.damaged += scan.damaged
            if not whole and scan.damaged:
                self.put_aside.append(path.replace(path.with_suffix(".unreadable")))
                continue
            if not whole:
                path.unlink()
                continue
            if scan.damaged:
                self._replace(path, framed(whole))
            os.truncate(path, len(framed(whole)))
            yield _Segment(path, len(whole), path.stat().st_size)

    def _open_tail(self) -> None:
        """A new segment: records never go behind old ones that may have been torn."""
        number = int(self._segments[-1].path.stem) + 1 if self._segments else 0
        path = self._folder / f"{number:020}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        tail_fd = os.open(path, flags, 0o600)
        old_fd, self._tail_fd = self._tail_fd, tail_fd
        self._segments.append(_Segment(path, 0, 0))
        if old_fd >= 0:
            os.close(old_fd)

    def _skip_taken(self) -> None:
        """Goes on where the cursor stands, if it is of the first segment."""
        first = self._segments[0]
        try:
            name, head, taken = (self._folder / "cursor").read_text().split()
            taken_bytes = int(taken)
            data = first.path.read_bytes()
        except (OSError, ValueError):
            return
        if (name, head) != _identity(first.path, data) or taken_bytes > first.size:
            return
        left = sum(1 for _ in Scan(data[taken_bytes:]))
        self._count -= first.records - left
        first.records, self._taken_bytes = left, taken_bytes
        if not left and len(self._segments) > 1:
            self._remove_first()

    def _left_of_first(self) -> list[bytes]:
        """The first segment's records that were not taken; none where it is given up."""
        first = self._segments[0]
        if len(self._waiting) == first.records:
            return list(self._waiting)
        try:
            data = first.path.read_bytes()
        except OSError as error:
            if not self._is_hopeless(error):
                raise
            self._put_first_aside()
            return []
        self._unread_tries = 0
        left = list(Scan(data[self._taken_bytes : first.size]))
        if len(left) < first.records:
            self._lose_of_first(first.records - len(left))
        return left

    def _is_hopeless(self, error: OSError) -> bool:
        """Whether a segment that cannot be read will not be read by a later try either."""
        if error.errno not in _ROTTEN:
            return error.errno == errno.ENOENT
        if not self._unread_tries:
            self._unread_since_s = self._clock_s()
        self._unread_tries += 1
        lasts_s = self._clock_s() - self._unread_since_s
        return self._unread_tries >= _ROTTEN_TRIES and lasts_s >= _ROTTEN_S

    def _put_first_aside(self) -> None:
        first = self._segments[0]
        self._folder.mkdir(parents=True, exist_ok=True)  # it may have been removed with all in it
        self._lose_of_first(first.records)
        self._waiting.clear()
        self._unread_tries = first.size = 0
        with suppress(OSError):
            first.path.replace(first.path.with_suffix(".unreadable"))

    def _lose_of_first(self, count: int) -> None:
        """So many records of the first segment are gone; no more are put behind the others."""
        if len(self._segments) == 1:
            self._open_tail()
        first = self._segments[0]
        first.records -= count
        self._count -= count
        self.gone.append((first.path, count))

    def _remove_first(self) -> None:
        """Goes on to the next segment; where none can be made, nothing changes."""
        if len(self._segments) == 1:
            self._open_tail()
        gone = self._segments.popleft()
        self._waiting.clear()
        self._taken_bytes = 0
        gone.path.unlink(missing_ok=True)

    def _write_cursor(self) -> None:
        path = self._segments[0].path
        with path.open("rb") as file:
            name, head = _identity(path, file.read(HEADER.size))
        text = f"{name} {head} {self._taken_bytes}\n"
        self._replace(self._folder / "cursor", text.encode())

    def _replace(self, path: Path, data: bytes) -> None:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(data)
        fresh.replace(path)

    def _failure(self, error: OSError) -> SpoolError:
        return SpoolError(f"{self._folder}: {error.strerror or error}")


def segments_of(folder: Path) -> list[Path]:
    """The files of a spool, oldest first; none where there is no spool."""
    return sorted(folder.glob("*.log"))


def is_abandoned(folder: Path) -> bool:
    """Whether records wait in `folder` and no process has the spool open."""
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return any(segment.stat().st_size for segment in segments_of(folder))
    except OSError:  # somebody has it, or it is none of this user's
        return False


def _identity(path: Path, data: bytes) -> tuple[str, str]:
    """What tells a segment, which begins with `data`, from an earlier one of the same name."""
    return path.name, data[: HEADER.size].hex()
