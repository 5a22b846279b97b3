"""Each event once and in order, whatever Redis, the disk and this process do."""

import itertools
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from streamd.clock import Backoff
from streamd.config import RedisConfig
from streamd.errors import SpoolError
from streamd.publishing.publisher import Publisher
from streamd.publishing.spool import Spool
from streamd.publishing.spooler import Entry, Spooler, spool_folder, waiting_for_another
from streamd.redis_client import Unreachable

PATIENCE_S = 30.0


class FakeStreams:
    """A Redis whose next answers are as `faults` says: "ok", "before" or "after" it took them.

    "odd" is what no Redis should do.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []
        self.faults: list[str] = []
        self.down = False
        self.refuse: str | None = None
        self.looks = 0
        self.changed = threading.Condition()

    def ping(self) -> None:
        if self.down:
            raise Unreachable("is down")

    def add(self, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str | None]:
        self.ping()
        fault = self.faults.pop(0) if self.faults else "ok"
        if fault == "before":
            raise Unreachable("was cut off before")
        if fault == "odd":
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        with self.changed:
            taken = [(s, str(fields["id"])) for s, fields in entries if s != self.refuse]
            self.entries += taken
            self.changed.notify_all()
        if fault == "after":
            raise Unreachable("was cut off after")
        return ["WRONGTYPE" if stream == self.refuse else None for stream, _ in entries]

    def arrived(self, wanted: Mapping[str, set[str]]) -> set[str]:
        self.looks += 1
        self.ping()
        return {id_ for stream, id_ in self.entries if id_ in wanted.get(stream, set())}

    def close(self) -> None:
        pass

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.entries) >= count, PATIENCE_S)

    def wait_for_id(self, id_: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.ids[-1:] == [id_], PATIENCE_S)

    @property
    def ids(self) -> list[str]:
        return [id_ for _, id_ in self.entries]


class Books:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.kept_ids: list[str] = []
        self.sent_ids: list[str] = []
        self.losses: list[tuple[str, str]] = []
        self.states: list[bool] = []
        self.unusable: list[str] = []
        self.damaged: list[str] = []
        self.on_disk = 0
        self.changed = threading.Condition()

    def kept(self, entries: Sequence[Entry]) -> None:
        self.kept_ids += [entry.id for entry in entries]

    def sent(self, entries: Sequence[Entry], took_s: float) -> None:
        self.kept_ids += [entry.id for entry in entries if not entry.spooled]
        self.sent_ids += [entry.id for entry in entries]

    def lost(self, entries: Sequence[Entry], why: str) -> None:
        self.losses += [(entry.id, why) for entry in entries]

    def waiting(self, spooled: int, size_bytes: int, oldest_ms: int) -> None:
        assert (spooled > 0) == (size_bytes > 0) == (oldest_ms > 0)
        self.on_disk = spooled

    def spool_damaged(self, what: str) -> None:
        self.damaged.append(what)

    def spool_unusable(self, error: str) -> None:
        self.unusable.append(error)

    def reachable(self, up: bool, error: str) -> None:
        with self.changed:
            self.states.append(up)
            self.changed.notify_all()

    def wait_until(self, up: bool) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.states[-1:] == [up], PATIENCE_S)


def entries(start: int, stop: int, stream: str = "s") -> list[Entry]:
    return [
        Entry(stream, {"id": f"gate:1:{n}", "camera": "gate", "data": b"{}"}, ready_ns=n)
        for n in range(start, stop)
    ]


def ids(start: int, stop: int) -> list[str]:
    return [entry.id for entry in entries(start, stop)]


def config_at(folder: Path | None, max_mb: float = 10.0, **settings: Any) -> RedisConfig:
    spool = {"path": None if folder is None else str(folder), "max_mb": max_mb, "fsync": "never"}
    return RedisConfig.model_validate({"spool": spool, **settings})


def publisher(config: RedisConfig, books: Books, streams: FakeStreams) -> Publisher:
    made = Publisher(
        config, books, "test", streams=streams, backoff=Backoff(first_s=0.0, longest_s=0.0)
    )
    made.start()
    return made


def leave_behind(folder: Path, streams: FakeStreams, count: int) -> None:
    """What a process leaves on disk that ended while `streams` was away; it is back now."""
    streams.down, books = True, Books()
    out = publisher(config_at(folder), books, streams)
    out.put(entries(0, count))
    books.wait_until(up=False)
    assert out.close(PATIENCE_S) == count
    streams.down = False


def filled(folder: Path, streams: FakeStreams, books: Books, count: int) -> Publisher:
    """A publisher with a small disk, onto which `count` went one by one: `streams` is away."""
    streams.down = True
    out = publisher(config_at(folder, max_mb=0.1), books, streams)
    out.put(entries(0, 1))
    books.wait_until(up=False)
    for n in range(1, count):
        out.put(entries(n, n + 1))
    return out


@pytest.fixture
def streams() -> FakeStreams:
    return FakeStreams()


@pytest.fixture
def books() -> Books:
    return Books()


def test_while_all_is_well_nothing_touches_the_disk(
    tmp_path: Path, streams: FakeStreams, books: Books
) -> None:
    out = publisher(config_at(tmp_path / "spool"), books, streams)
    out.put(entries(0, 1000))
    streams.wait_for(1000)
    assert out.close(PATIENCE_S) == 0
    assert streams.ids == books.sent_ids == books.kept_ids == ids(0, 1000)
    assert not (tmp_path / "spool").exists()
    assert streams.looks == 0


def test_what_arrived_before_the_answer_was_lost_is_not_sent_twice(
    tmp_path: Path, streams: FakeStreams, books: Books
) -> None:
    streams.faults = ["ok", "after", "before", "after"]
    out = publisher(config_at(tmp_path), books, streams)
    for n in range(10):
        out.put(entries(10 * n, 10 * n + 10))
    streams.wait_for(100)
    assert out.close(PATIENCE_S) == 0
    assert streams.ids == books.sent_ids == ids(0, 100)
    assert sorted(books.kept_ids) == sorted(ids(0, 100))


def test_what_nobody_expected_is_a_failure_and_one_line(
    tmp_path: Path, streams: FakeStreams, books: Books
) -> None:
    streams.faults = ["odd"] * 3
    with capture_logs() as lines:
        out = publisher(config_at(tmp_path), books, streams)
        books.wait_until(up=True)
        out.put(entries(0, 10))
        streams.wait_for(10)
        out.put(entries(10, 20))
        streams.wait_for(20)
        out.close(PATIENCE_S)
    assert streams.ids == ids(0, 20)
    assert books.states == [True, False, True]
    assert [line["event"] for line in lines] == ["publish_failed"]


def test_an_absence_is_bridged_in_order(tmp_path: Path, streams: FakeStreams, books: Books) -> None:
    out = publisher(config_at(tmp_path), books, streams)
    out.put(entries(0, 5))
    streams.wait_for(5)
    streams.down = True
    out.put(entries(5, 10))
    books.wait_until(up=False)
    out.put(entries(10, 800))
    assert books.kept_ids == ids(0, 800)  # on disk before put returned
    streams.down = False
    out.put(entries(800, 810))
    streams.wait_for(810)
    assert out.close(PATIENCE_S) == 0
    assert streams.ids == ids(0, 810)
    assert books.states == [True, False, True]
    assert books.on_disk == 0


def test_what_stays_on_disk_is_sent_by_the_next_process_first(
    tmp_path: Path, streams: FakeStreams, books: Books
) -> None:
    leave_behind(tmp_path, streams, 20)
    later = Books()
    out = publisher(config_at(tmp_path), later, streams)
    out.put(entries(20, 25))
    streams.wait_for(25)
    assert out.close(PATIENCE_S) == 0
    assert streams.ids == ids(0, 25)
    assert later.kept_ids == ids(20, 25)  # the others were, by the first
    assert not books.losses


def test_what_an_earlier_process_left_comes_first_also_where_the_disk_fails_at_the_start(
    tmp_path: Path, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_behind(tmp_path, streams, 20)
    lock, tries = Spool._lock, threading.Semaphore(0)

    def full(spool: Spool) -> int:
        tries.release()
        raise SpoolError("No space left on device")

    monkeypatch.setattr(Spool, "_lock", full)
    out = publisher(config_at(tmp_path), Books(), streams)
    out.put(entries(20, 25))
    for _ in range(5):
        assert tries.acquire(timeout=PATIENCE_S)
    assert not streams.ids
    monkeypatch.setattr(Spool, "_lock", lock)
    streams.wait_for(25)
    assert out.close(PATIENCE_S) == 0
    assert streams.ids == ids(0, 25)


def test_a_disk_that_stays_closed_does_not_hold_up_what_is_new_for_ever(
    tmp_path: Path, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_behind(tmp_path, streams, 20)

    def read_only(spool: Spool) -> int:
        raise SpoolError("Read-only file system")

    monkeypatch.setattr(Spool, "_lock", read_only)
    times = itertools.count(1.0, 10.0)
    out = Publisher(
        config_at(tmp_path),
        Books(),
        "test",
        streams=streams,
        backoff=Backoff(first_s=0.0, longest_s=0.0),
        clock_s=lambda: next(times),
    )
    out.start()
    out.put(entries(20, 25))
    streams.wait_for(5)
    out.close(PATIENCE_S)
    assert streams.ids == ids(20, 25)


def test_what_another_process_sends_is_not_waited_for(
    tmp_path: Path, streams: FakeStreams, books: Books
) -> None:
    away = FakeStreams()
    away.down = True
    other = publisher(config_at(tmp_path), books, away)
    other.put(entries(0, 20))
    books.wait_until(up=False)
    out = publisher(config_at(tmp_path), Books(), streams)
    out.put(entries(20, 25))
    streams.wait_for(5)
    out.close(PATIENCE_S)
    other.close(0.0)
    assert streams.ids == ids(20, 25)


def test_a_killed_process_loses_nothing_that_it_had_kept_and_repeats_nothing(
    tmp_path: Path, streams: FakeStreams, books: Books
) -> None:
    streams.down = True
    config = config_at(tmp_path / "first")
    out = publisher(config, books, streams)
    out.put(entries(0, 600))
    books.wait_until(up=False)
    # Killed after Redis took a chunk and before the disk knew of it.
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    again = FakeStreams()
    again.entries += [("s", id_) for id_ in ids(0, 300)]
    successor = publisher(config_at(tmp_path / "second"), Books(), again)
    again.wait_for(600)
    successor.close(PATIENCE_S)
    out.close(0.0)
    assert again.ids == ids(0, 600)


def test_a_disk_far_behind_the_deliveries_repeats_nothing(
    tmp_path: Path, streams: FakeStreams
) -> None:
    leave_behind(tmp_path, streams, 2000)
    streams.entries += [("s", id_) for id_ in ids(0, 1500)]
    out = publisher(config_at(tmp_path), Books(), streams)
    streams.wait_for_id("gate:1:1999")
    out.close(PATIENCE_S)
    assert streams.ids == ids(0, 2000)


def test_a_full_spool_gives_up_the_oldest(
    tmp_path: Path, streams: FakeStreams, books: Books
) -> None:
    out = filled(tmp_path, streams, books, 3000)
    streams.down = False
    out.put(entries(3000, 3001))
    streams.wait_for_id("gate:1:3000")
    out.close(PATIENCE_S)
    assert {why for _, why in books.losses} == {"spool full"}
    assert [id_ for id_, _ in books.losses] + streams.ids == ids(0, 3001)


def test_what_a_full_disk_leaves_in_memory_stays_behind_what_is_on_it(
    tmp_path: Path, streams: FakeStreams, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams.down = True
    out = Publisher(
        config_at(tmp_path),
        books,
        "test",
        streams=streams,
        backoff=Backoff(first_s=0.0, longest_s=0.0),
        clock_s=lambda: 0.0,  # the disk is left alone for good
    )
    out.start()
    out.put(entries(0, 10))
    books.wait_until(up=False)

    def full(self: Spool, records: Sequence[bytes]) -> list[bytes]:
        raise SpoolError("No space left on device")

    monkeypatch.setattr(Spool, "append", full)
    out.put(entries(10, 20))
    streams.down = False
    streams.wait_for(20)
    assert out.close(0.0) == 0
    assert streams.ids == ids(0, 20)
    assert books.unusable == ["No space left on device"]


class HeldStreams(FakeStreams):
    """A Redis that lets the next `add` wait, and then fails it."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = False
        self.held, self.release = threading.Event(), threading.Event()

    def add(self, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str | None]:
        self.ping()
        if self.hold:
            self.hold = False
            self.held.set()
            self.release.wait(PATIENCE_S)
            raise Unreachable("timed out")
        return super().add(entries)


def test_a_disk_that_recovers_during_a_send_does_not_change_the_order(
    tmp_path: Path, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = HeldStreams()
    append, is_full = Spool.append, True

    def maybe_full(spool: Spool, records: Sequence[bytes]) -> list[bytes]:
        if is_full:
            raise SpoolError("No space left on device")
        return append(spool, records)

    monkeypatch.setattr(Spool, "append", maybe_full)
    now_s = 0.0
    out = Publisher(
        config_at(tmp_path),
        books,
        "test",
        streams=streams,
        backoff=Backoff(first_s=0.0, longest_s=0.0),
        clock_s=lambda: now_s,
    )
    out.start()
    streams.down = True
    out.put(entries(0, 3))
    books.wait_until(up=False)
    streams.hold, streams.down = True, False
    assert streams.held.wait(PATIENCE_S)  # they are being sent from memory
    now_s, is_full = 2.0, False
    out.put(entries(3, 6))
    streams.release.set()
    streams.wait_for(6)
    out.close(PATIENCE_S)
    assert streams.ids == ids(0, 6)


def test_a_disk_that_stays_full_is_told_once(
    tmp_path: Path, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    spool = Spooler(tmp_path / "spool", config_at(tmp_path), books, clock_s=lambda: now_s)
    assert spool.append(entries(0, 1))

    def full(self: Spool, records: Sequence[bytes]) -> list[bytes]:
        raise SpoolError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "append", full)
        for _ in range(5):
            now_s += 2.0
            spool.sync()
            assert not spool.append(entries(1, 2))
    assert books.unusable == ["No space left on device"]
    now_s += 2.0
    assert spool.append(entries(1, 2))
    monkeypatch.setattr(Spool, "append", full)
    assert not spool.append(entries(2, 3))
    assert len(books.unusable) == 2
    spool.close()


@pytest.mark.parametrize("folder", [None, "file/spool"])
def test_without_a_disk_memory_keeps_the_newest(
    tmp_path: Path, streams: FakeStreams, books: Books, folder: str | None
) -> None:
    (tmp_path / "file").touch()
    streams.down = True
    config = config_at(tmp_path / folder if folder else None, backlog_events=100)
    out = publisher(config, books, streams)
    out.put(entries(0, 10))
    books.wait_until(up=False)
    for n in range(10, 300):
        out.put(entries(n, n + 1))
    streams.down = False
    streams.wait_for_id("gate:1:299")
    out.close(PATIENCE_S)
    assert sorted([id_ for id_, _ in books.losses] + streams.ids) == sorted(ids(0, 300))
    assert [id_ for id_ in ids(0, 300) if id_ in streams.ids] == streams.ids
    assert streams.ids[-40:] == ids(260, 300)
    assert 100 <= len(streams.ids) < 200  # what was being tried comes on top
    assert len(books.unusable) == (folder is not None)


def test_what_redis_will_never_take_is_lost_alone(
    tmp_path: Path, streams: FakeStreams, books: Books
) -> None:
    streams.refuse = "bad"
    out = publisher(config_at(tmp_path), books, streams)
    out.put([*entries(0, 2), *entries(2, 3, stream="bad"), *entries(3, 5)])
    streams.wait_for(4)
    out.close(PATIENCE_S)
    assert books.losses == [("gate:1:2", "WRONGTYPE")]
    assert streams.ids == [*ids(0, 2), *ids(3, 5)]


def test_one_that_cannot_be_sent_at_the_end_is_lost_without_a_disk(
    streams: FakeStreams, books: Books
) -> None:
    streams.down = True
    out = publisher(config_at(None), books, streams)
    out.put(entries(0, 3))
    books.wait_until(up=False)
    assert out.close(0.0) == 0
    assert books.losses == [(id_, "stopped while Redis was away") for id_ in ids(0, 3)]


def test_the_end_does_not_wait_for_a_slow_redis_where_there_is_a_disk(
    tmp_path: Path, books: Books
) -> None:
    streams = HeldStreams()
    out = publisher(config_at(tmp_path, backlog_events=10), books, streams)
    books.wait_until(up=True)
    streams.hold = True
    out.put(entries(0, 5))
    assert streams.held.wait(PATIENCE_S)
    out.put(entries(5, 20))  # more than half of what memory may hold
    blocked = threading.Thread(target=out.put, args=(entries(20, 30),))
    blocked.start()
    blocked.join(0.1)
    assert blocked.is_alive()
    out.closes_within(0.0)
    blocked.join(PATIENCE_S)
    out.put(entries(30, 40))
    assert out.close(PATIENCE_S) == 40
    streams.release.set()
    assert books.kept_ids == ids(0, 40)
    assert not books.losses
    out = publisher(config_at(tmp_path), Books(), streams)
    streams.wait_for(40)
    out.close(PATIENCE_S)
    assert streams.ids == ids(0, 40)


def test_all_that_is_put_near_the_end_is_sent_in_time(streams: FakeStreams, books: Books) -> None:
    out = publisher(config_at(None), books, streams)
    out.closes_within(PATIENCE_S)
    for n in range(5):
        out.put(entries(n, n + 1))
        streams.wait_for(n + 1)
    assert out.close(PATIENCE_S) == 0
    assert streams.ids == ids(0, 5)
    assert not books.losses


def test_another_redis_has_another_folder_and_a_new_password_has_not(tmp_path: Path) -> None:
    def folder(url: str, **settings: Any) -> Path | None:
        return spool_folder(config_at(tmp_path, url=url, **settings), "inference-0")

    here = folder("redis://user:old@host:6379/0")
    assert here == folder("redis://user:new@host:6379/0")
    assert here is not None
    assert here.name.endswith("-inference-0")
    others = [
        folder("redis://host:6380/0"),
        folder("redis://host:6379/1"),
        folder("redis://host:6379/0", stream="other"),
        folder("redis://host:6379?db=1"),
        folder("redis://host:6379?db=2"),
        folder("redis://host:6379/1?db=2"),
        folder("unix:///redis.sock?db=1"),
        folder("unix:///redis.sock?db=2"),
    ]
    assert len({here, *others}) == 9
    with_login = folder("redis://host:6379?db=1&username=u&password=old")
    assert with_login == folder("redis://host:6379?db=1&password=new") == others[3]


def test_what_is_damaged_on_disk_is_told_and_the_rest_is_sent(
    tmp_path: Path, streams: FakeStreams
) -> None:
    leave_behind(tmp_path, streams, 3)
    (segment,) = tmp_path.rglob("*.log")
    data = bytearray(segment.read_bytes())
    data[20] ^= 4
    segment.write_bytes(data)
    later = Books()
    out = publisher(config_at(tmp_path), later, streams)
    streams.wait_for(2)
    out.close(PATIENCE_S)
    assert streams.ids == ids(1, 3)
    assert later.damaged == [f"{segment.parent}: at least 1 damaged events were passed over"]


def test_a_file_that_is_gone_from_the_disk_is_told_and_the_rest_is_sent(
    tmp_path: Path, streams: FakeStreams, books: Books
) -> None:
    out = filled(tmp_path, streams, books, 300)
    gone = sorted(tmp_path.rglob("*.log"))[1]
    gone.unlink()
    streams.down = False
    streams.wait_for_id("gate:1:299")
    assert out.close(PATIENCE_S) == 0
    count = 300 - len(streams.ids)
    assert count > 0
    assert books.damaged == [f"{gone}: {count} events cannot be read from it any more"]
    assert [id_ for id_ in ids(0, 300) if id_ in streams.ids] == streams.ids
    assert books.on_disk == 0
    assert not books.losses


def test_what_waits_for_another_redis_is_found(tmp_path: Path, streams: FakeStreams) -> None:
    streams.down = True
    ours, theirs = (config_at(tmp_path, url=f"redis://{host}") for host in "ab")
    books = Books()
    out = publisher(theirs, books, streams)
    out.put(entries(0, 3))
    books.wait_until(up=False)
    assert waiting_for_another(ours) == []  # somebody has it
    out.close(0.0)
    assert waiting_for_another(ours) == [spool_folder(theirs, "test")]
    assert waiting_for_another(theirs) == []
    streams.down = False
    out = publisher(theirs, Books(), streams)
    streams.wait_for(3)
    out.close(PATIENCE_S)
    assert waiting_for_another(ours) == waiting_for_another(config_at(None)) == []


@given(
    faults=st.lists(st.sampled_from(["ok", "before", "after", "odd"]), max_size=30),
    puts=st.lists(st.integers(1, 400), min_size=1, max_size=12),
)
@settings(max_examples=25, deadline=None)
def test_each_once_and_in_order_whatever_fails(
    tmp_path_factory: pytest.TempPathFactory, faults: list[str], puts: list[int]
) -> None:
    streams, books = FakeStreams(), Books()
    streams.faults = faults
    config = config_at(tmp_path_factory.mktemp("spool"), backlog_events=200)
    out = publisher(config, books, streams)
    number = 0
    for count in puts:
        out.put(entries(number, number + count))
        number += count
    streams.wait_for(number)
    out.close(PATIENCE_S)
    assert streams.ids == ids(0, number)
    assert sorted(books.kept_ids) == sorted(ids(0, number))
    assert not books.losses
