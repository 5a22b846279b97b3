"""The queue on disk: order, bounds, crashes at any byte."""

import errno
import os
import shutil
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.errors import SpoolError
from streamd.publishing.spool import Fsync, Spool


def opened(folder: Path, max_bytes: int = 1_000_000, fsync: Fsync = "never") -> Spool:
    return Spool(folder, max_bytes=max_bytes, fsync=fsync)


def drained(spool: Spool, step: int = 7) -> list[bytes]:
    records: list[bytes] = []
    while chunk := spool.peek(step):
        records += chunk
        spool.remove()
    return records


def numbered(count: int, size: int = 100) -> list[bytes]:
    return [str(i).encode().ljust(size, b".") for i in range(count)]


def crashed(folder: Path, to: Path) -> Path:
    """What a process that is killed now leaves behind."""
    shutil.copytree(folder, to)
    return to


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


def test_what_goes_in_first_comes_out_first(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for record in numbered(300):
        assert spool.append([record]) == []
    assert len(spool) == 300
    assert drained(spool) == numbered(300)
    assert len(spool) == 0


def test_how_far_one_segment_was_taken_says_nothing_of_a_later_one(tmp_path: Path) -> None:
    first = tmp_path / "first"
    spool = opened(first)
    spool.append(numbered(10))
    spool.peek(5)
    spool.remove()  # the cursor stands within the first segment
    drained(spool)
    spool = opened(crashed(first, tmp_path / "second"))
    spool.append(numbered(20)[10:])
    spool = opened(crashed(tmp_path / "second", tmp_path / "third"))
    assert drained(spool) == numbered(20)[10:]


def test_it_goes_on_after_it_was_closed(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(numbered(20))
    spool.peek(5)
    spool.remove()
    spool.close()
    spool = opened(tmp_path)
    assert len(spool) == 15
    spool.append([b"last"])
    assert drained(spool) == [*numbered(20)[5:], b"last"]


def test_an_empty_one_leaves_no_segment(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(numbered(3))
    drained(spool)
    spool.close()
    assert not segments(tmp_path)


def test_what_was_put_back_comes_again(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(numbered(4))
    assert spool.peek(2) == numbered(4)[:2]
    spool.put_back()
    assert spool.peek(3) == numbered(4)[:3]


def test_the_oldest_make_room(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=16 * 4096)
    dropped: list[bytes] = []
    for record in numbered(2000):
        dropped += spool.append([record])
        assert spool.size_bytes <= 16 * 4096 + 200
    left = drained(spool)
    assert dropped + left == numbered(2000)
    assert len(left) > 400


def test_what_is_being_delivered_is_not_dropped(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=16 * 4096)
    spool.append(numbered(100))
    assert spool.peek(10) == numbered(100)[:10]
    for record in numbered(1000):
        assert spool.append([record]) == []
    spool.remove()
    dropped = spool.append([b"more"])
    assert dropped[0] == numbered(100)[10]


def test_a_record_torn_at_any_byte_costs_only_itself(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool")
    spool.append(numbered(3, size=40))
    (segment,) = segments(tmp_path / "spool")
    whole = segment.stat().st_size
    for cut in range(1, 48):
        folder = crashed(tmp_path / "spool", tmp_path / f"cut-{cut}")
        os.truncate(segments(folder)[0], whole - cut)
        recovered = opened(folder)
        recovered.append([b"next"])
        assert drained(recovered) == [*numbered(3, size=40)[:2], b"next"], cut


def test_a_flipped_bit_costs_one_record_and_is_told(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool")
    spool.append(numbered(5, size=40))
    for record in range(4):
        folder = crashed(tmp_path / "spool", tmp_path / f"flip-{record}")
        segment = segments(folder)[0]
        data = bytearray(segment.read_bytes())
        data[48 * record + 20] ^= 4
        segment.write_bytes(data)
        recovered = opened(folder)
        assert recovered.damaged == 1
        expected = numbered(5, size=40)
        del expected[record]
        assert drained(recovered, step=2) == expected


@pytest.mark.parametrize("bit", range(64))
def test_a_flipped_bit_of_a_header_costs_one_record_and_is_told(tmp_path: Path, bit: int) -> None:
    spool = opened(tmp_path, max_bytes=16 * 4096)
    spool.append(numbered(200, size=60))
    spool.append([b"in another segment"])
    spool.close()
    segment = segments(tmp_path)[0]
    data = bytearray(segment.read_bytes())
    data[68 * 100 + bit // 8] ^= 1 << bit % 8
    segment.write_bytes(data)
    spool = opened(tmp_path)
    assert spool.damaged == 1
    expected = numbered(200, size=60)
    del expected[100]
    assert drained(spool) == [*expected, b"in another segment"]


def test_what_is_too_large_for_a_torn_record_is_told(tmp_path: Path) -> None:
    for number, start in enumerate([numbered(2), []]):
        spool = opened(tmp_path)
        spool.append(start or [b"x"])
        (*_, segment) = segments(tmp_path)
        spool.close()
        segment.write_bytes((segment.read_bytes() if start else b"") + b"\0" * (2 << 20))
        spool = opened(tmp_path)
        assert spool.damaged == 1
        assert len(spool.put_aside) == number
        assert drained(spool) == start
        spool.close()


@pytest.mark.parametrize("junk", [b"", b"\0" * 100, b"\xff" * 100, b"junk"])
def test_what_is_no_segment_is_passed_over(tmp_path: Path, junk: bytes) -> None:
    spool = opened(tmp_path)
    spool.append(numbered(2))
    spool.close()
    (tmp_path / "00000000000000000007.log").write_bytes(junk)
    (tmp_path / "cursor").write_bytes(junk)
    assert drained(opened(tmp_path)) == numbered(2)


def test_two_processes_do_not_share_one(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    with pytest.raises(SpoolError, match=f"{tmp_path}: is in use by another process"):
        opened(tmp_path)
    spool.close()
    opened(tmp_path).close()


def test_a_full_disk_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path)
    spool.append(numbered(3))
    write, room = os.write, 150

    def full(fd: int, data: bytes) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(fd, bytes(data)[:room])
        room -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(SpoolError, match=f"{tmp_path}: No space left on device"):
            spool.append([b"x" * 200, b"y" * 200])
    assert len(spool) == 3
    spool.append([b"later"])
    assert drained(opened(crashed(tmp_path, tmp_path.with_name("copy")))) == [
        *numbered(3),
        b"later",
    ]


class FailingDisk:
    """Calls that fail once: the next one of each that is in `next_fails`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.next_fails: set[str] = set()
        for name in ("open", "write", "fsync", "ftruncate"):
            patch.setattr(os, name, self._failing(name, getattr(os, name)))
        for name in ("unlink", "read_bytes", "write_bytes"):
            patch.setattr(Path, name, self._failing(name, getattr(Path, name)))

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name in self.next_fails:
                self.next_fails.remove(name)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments, **options)

        return call


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FailingDisk:
    return FailingDisk(monkeypatch)


@pytest.mark.parametrize("policy", ["always", "every_second"])
@pytest.mark.parametrize("fails", [{"fsync"}, {"fsync", "ftruncate"}])
def test_what_did_not_reach_the_disk_itself_was_not_appended(
    tmp_path: Path, disk: FailingDisk, policy: Fsync, fails: set[str]
) -> None:
    now_s = 0.0
    spool = Spool(tmp_path / "spool", max_bytes=10**6, fsync=policy, clock_s=lambda: now_s)
    spool.append([b"first"])
    now_s = 2.0
    disk.next_fails = set(fails)
    with pytest.raises(SpoolError, match="Input/output error"):
        spool.append([b"second"])
    assert len(spool) == 1
    spool.append([b"second"])
    assert len(spool) == 2
    again = opened(crashed(tmp_path / "spool", tmp_path / "copy"))
    assert drained(again) == drained(spool) == [b"first", b"second"]


@pytest.mark.parametrize("count", [2, 60])  # 60 fill a segment
def test_what_was_taken_stays_taken_where_no_new_segment_can_be_made(
    tmp_path: Path, disk: FailingDisk, count: int
) -> None:
    spool = opened(tmp_path / "spool", max_bytes=16 * 4096)
    spool.append(numbered(count))
    assert spool.peek(count) == numbered(count)
    disk.next_fails = {"open"}
    with pytest.raises(SpoolError):
        spool.remove()
    assert (len(spool), spool.peek(9)) == (0, [])
    spool.append([b"later"])
    assert drained(spool) == [b"later"]
    assert (len(spool), spool.peek(9)) == (0, [])
    spool.close()
    assert not segments(tmp_path / "spool")


def test_room_that_cannot_be_made_bounds_it_all_the_same(tmp_path: Path, disk: FailingDisk) -> None:
    spool = opened(tmp_path, max_bytes=16 * 4096)
    records = numbered(600)  # 108 bytes each on disk
    for record in records:
        assert spool.append([record]) == []
    disk.next_fails = {"read_bytes"}
    assert spool.append([b"stored".ljust(1000)]) == []
    disk.next_fails = {"read_bytes"}
    with pytest.raises(SpoolError):
        spool.append([b"not stored"])
    dropped = spool.append([b"last"])
    assert dropped + drained(spool) == [*records, b"stored".ljust(1000), b"last"]
    assert dropped


def test_a_segment_that_cannot_be_read_is_put_aside(tmp_path: Path, disk: FailingDisk) -> None:
    spool = opened(tmp_path, max_bytes=16 * 4096)
    spool.append(numbered(60))  # they fill a segment
    spool.append([b"later"])
    first = segments(tmp_path)[0]
    spool.close()
    disk.next_fails = {"read_bytes"}
    spool = opened(tmp_path)
    assert spool.put_aside == [first.with_suffix(".unreadable")]
    assert spool.put_aside[0].stat().st_size > 4096
    assert drained(spool) == [b"later"]


def test_a_segment_that_is_gone_is_given_up_at_once(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=16 * 4096)
    spool.append(numbered(60))  # they fill a segment
    spool.append([b"later"])
    first = segments(tmp_path)[0]
    first.unlink()
    assert spool.peek(9) == [b"later"]
    assert spool.gone == [(first, 60)]
    assert len(spool) == 1
    assert drained(spool) == [b"later"]


@pytest.mark.parametrize("removed", [False, True])
def test_what_comes_after_the_only_segment_is_gone_is_kept(tmp_path: Path, removed: bool) -> None:
    folder = tmp_path / "spool"
    spool = opened(folder)
    spool.append(numbered(3))
    if removed:
        shutil.rmtree(folder)
    else:
        segments(folder)[0].unlink()
    assert (spool.peek(9), len(spool)) == ([], 0)
    assert [count for _, count in spool.gone] == [3]
    spool.append([b"later"])
    assert drained(opened(crashed(folder, tmp_path / "copy"))) == drained(spool) == [b"later"]


def test_what_was_read_before_its_segment_was_gone_is_not_lost(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=2 * 4096)
    spool.append(numbered(60))
    spool.append([b"later"])
    assert len(spool.peek(9)) == 9
    spool.put_back()
    segments(tmp_path)[0].unlink()
    assert spool.peek(9) == numbered(9)
    spool.remove()
    assert spool.append([b"x" * 3000]) == numbered(60)[9:]
    assert not spool.gone


@pytest.mark.parametrize("by", ["peek", "append"])
def test_a_segment_that_stays_unreadable_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    now_s = 0.0
    spool = Spool(tmp_path, max_bytes=3 * 4096, fsync="never", clock_s=lambda: now_s)
    spool.append(numbered(60))
    spool.append([b"more".ljust(3000)])
    first, read = segments(tmp_path)[0], Path.read_bytes

    def rotten(path: Path) -> bytes:
        if path == first:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", rotten)
    spool.append([b"too large".ljust(3500)])
    for later_s in (0.0, 1.0, 3.0):
        now_s += later_s
        with pytest.raises(SpoolError, match="Input/output error"):
            spool.peek(9) if by == "peek" else spool.append([b"not stored"])
    now_s = 6.0
    if by == "peek":
        assert spool.peek(1) == [b"more".ljust(3000)]
    else:
        assert spool.append([b"stored"]) == []
    assert spool.gone == [(first, 60)]
    assert first.with_suffix(".unreadable").stat().st_size > 6000
    expected = [b"more".ljust(3000), b"too large".ljust(3500), b"stored"]
    assert drained(spool) == expected[: len(expected) - (by == "peek")]
    assert len(spool) == 0


def test_records_that_rot_in_a_running_one_are_counted(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(numbered(3))
    (segment,) = segments(tmp_path)
    data = bytearray(segment.read_bytes())
    data[20] ^= 4
    segment.write_bytes(data)
    assert spool.peek(9) == numbered(3)[1:]
    assert spool.gone == [(segment, 1)]
    spool.append([b"later"])
    assert drained(spool) == [*numbered(3)[1:], b"later"]
    assert len(spool) == 0


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match=r"file/spool: Not a directory"):
        opened(tmp_path / "file" / "spool")


@pytest.mark.parametrize(("policy", "synced"), [("always", 30), ("every_second", 3), ("never", 0)])
def test_fsync_follows_its_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Fsync, synced: int
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    now_s = 0.0
    spool = Spool(tmp_path, max_bytes=1_000_000, fsync=policy, clock_s=lambda: now_s)
    for record in numbered(30):
        now_s += 0.1
        spool.append([record])
    assert len(calls) == pytest.approx(synced, abs=1 if synced == 3 else 0)


def test_a_segment_is_on_the_disk_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    spool = Spool(tmp_path, max_bytes=16 * 4096, fsync="every_second", clock_s=lambda: 0.0)
    spool.append(numbered(60))  # they fill a segment
    assert not synced
    spool.append([b"next"])
    assert synced == [segments(tmp_path)[0].stat().st_size]


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 40)),
        st.tuples(st.just("take"), st.integers(1, 30)),
        st.tuples(st.just("put_back"), st.integers(1, 30)),
        st.tuples(st.just("crash"), st.just(0)),
        st.tuples(st.just("close"), st.just(0)),
    ),
    max_size=40,
)


@given(steps=_STEPS)
@settings(max_examples=60, deadline=None)
def test_it_is_a_queue_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    root = tmp_path_factory.mktemp("spool")
    folder, crashes = root / "0", 0
    spool, model, number = opened(folder), deque[bytes](), 0
    for step, count in steps:
        if step == "append":
            records = [str(number + i).encode().ljust(60) for i in range(count)]
            number += count
            model.extend(records)
            for gone in spool.append(records):
                assert gone == model.popleft()
        elif step == "take":
            for record in spool.peek(count):
                assert record == model.popleft()
            spool.remove()
        elif step == "put_back":
            spool.peek(count)
            spool.put_back()
        elif step == "close":
            spool.close()
            spool = opened(folder)
        else:
            crashes += 1
            folder = crashed(folder, root / str(crashes))
            spool = opened(folder)
        assert len(spool) == len(model)
    assert drained(spool) == list(model)


_FAILS = st.sampled_from(
    ["open", "write", "fsync", "ftruncate", "unlink", "read_bytes", "write_bytes"]
)


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 8), st.sets(_FAILS)),
            st.tuples(st.just("take"), st.integers(1, 8), st.sets(_FAILS)),
            st.tuples(st.just("put_back"), st.integers(1, 8), st.sets(_FAILS)),
        ),
        max_size=60,
    )
)
@settings(max_examples=60, deadline=None)
def test_it_is_a_queue_on_a_disk_that_fails_now_and_then(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, set[str]]]
) -> None:
    spool = opened(tmp_path_factory.mktemp("spool"), max_bytes=2 * 4096, fsync="always")
    model, number = deque[bytes](), 0
    with pytest.MonkeyPatch.context() as patch:
        disk = FailingDisk(patch)
        for step, count, fails in steps:
            with suppress(SpoolError):
                if step == "append":
                    records = [str(number + i).encode().ljust(900) for i in range(count)]
                    number += count
                    disk.next_fails = set(fails)
                    gone = spool.append(records)
                    model.extend(records)
                    assert gone == [model.popleft() for _ in gone]
                else:
                    disk.next_fails = fails & {"read_bytes"}
                    taken = spool.peek(count)
                    disk.next_fails = set(fails)
                    if step == "put_back":
                        gone = spool.put_back()
                        assert gone == [model.popleft() for _ in gone]
                    else:
                        assert taken == [model.popleft() for _ in taken]
                        spool.remove()
            disk.next_fails = set()
            assert len(spool) == len(model)
        disk.next_fails = set()
        assert drained(spool) == list(model)
