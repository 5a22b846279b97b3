"""The log's own file: what is appended by several processes, put aside, moved away."""

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

from streamd.log_file import LogFile
from streamd.logs import SteadyStream


def write(file: LogFile, text: str) -> None:
    os.write(file.descriptor(), f"{text}\n".encode())


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_a_large_file_is_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "streamd.jsonl"
    file = LogFile(path, max_bytes=10, kept=2)
    for number in range(8):
        write(file, f"line {number}")  # seven bytes: a file is large after two
    assert lines(path) == ["line 6", "line 7"]
    assert lines(Path(f"{path}.1")) == ["line 4", "line 5"]
    assert lines(Path(f"{path}.2")) == ["line 2", "line 3"]
    assert len(list(path.parent.iterdir())) == 3


def test_what_was_there_before_a_start_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "streamd.jsonl"
    for text in ("before", "after"):
        write(LogFile(path, max_bytes=1000, kept=1), text)
    assert lines(path) == ["before", "after"]
    assert path.stat().st_mode & 0o007 == 0


def test_a_file_that_somebody_moves_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "streamd.jsonl"
    file = LogFile(path, max_bytes=1000, kept=1)
    write(file, "first")
    path.rename(tmp_path / "rotated")
    write(file, "second")
    assert (lines(tmp_path / "rotated"), lines(path)) == (["first"], ["second"])
    shutil.rmtree(path.parent)
    write(file, "third")
    assert lines(path) == ["third"]


def test_many_writers_put_it_aside_without_losing_a_line(tmp_path: Path) -> None:
    path = tmp_path / "streamd.jsonl"

    def writer(name: int) -> None:
        file = LogFile(path, max_bytes=500, kept=50)
        for number in range(300):
            write(file, f"{name} {number}")

    writers = [threading.Thread(target=writer, args=(name,)) for name in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    files = list(tmp_path.iterdir())
    assert len(files) > 2
    written = [line for file in files for line in lines(file)]
    assert sorted(written) == sorted(f"{name} {n}" for name in range(4) for n in range(300))


def test_a_file_that_cannot_be_renamed_takes_every_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "streamd.jsonl"
    one, other = (LogFile(path, max_bytes=10, kept=3) for _ in range(2))
    for number in range(6):
        write(one, f"line {number}")
    replace = Path.replace

    def mounted(source: Path, target: Path) -> Path:
        if source == path:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", mounted)
        for number in range(6, 20, 2):
            write(one, f"line {number}")
            write(other, f"line {number + 1}")
    assert lines(path) == [f"line {number}" for number in range(4, 20)]
    assert lines(Path(f"{path}.2")) == ["line 2", "line 3"]
    assert lines(Path(f"{path}.3")) == ["line 0", "line 1"]
    write(one, "last")
    assert lines(path) == ["last"]


def test_it_comes_back_once_its_place_can_be_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.write_text("in the way")
    file = LogFile(folder / "streamd.jsonl", max_bytes=1000, kept=1)
    for _ in range(2):
        with pytest.raises(OSError, match="logs"):
            file.descriptor()
    folder.unlink()
    write(file, "at last")
    assert lines(folder / "streamd.jsonl") == ["at last"]


def test_threads_of_one_process_put_it_aside_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "streamd.jsonl"
    file = LogFile(path, max_bytes=200, kept=1000)
    stream = SteadyStream(file.descriptor)
    failed: list[BaseException] = []

    def log(thread: int) -> None:
        try:
            for number in range(500):
                stream.write(f"{thread} {number}\n")
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=log, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    written = [line for part in tmp_path.iterdir() for line in lines(part)]
    assert sorted(written) == sorted(f"{t} {n}" for t in range(4) for n in range(500))


def test_a_named_pipe_is_waited_for_by_nobody(tmp_path: Path) -> None:
    path = tmp_path / "log"
    os.mkfifo(path)
    file = LogFile(path, 1000, 2)
    with pytest.raises(OSError, match="No such device or address"):
        file.descriptor()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    stream = SteadyStream(file.descriptor)
    for number in range(5000):  # more than it holds
        stream.write(f"{number:0100}\n")
    assert os.read(reader, 101) == b"0" * 100 + b"\n"
    os.close(reader)
