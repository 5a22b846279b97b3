"""Lines that repeat."""

import errno
import json
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from streamd import logs
from streamd.config import LogConfig
from streamd.journal import JournalRenderer, is_journal
from streamd.logs import Repeats, SteadyStream, configure_logging, get_logger
from streamd.processes.messages import CameraState


class Log:
    """A processor's surroundings, with a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._repeats = Repeats(lambda: self.now_s)

    def says(self, event: str, **fields: Any) -> dict[str, Any] | None:
        """The line that is written; None where it is left out."""
        try:
            return dict(self._repeats(None, "info", {"event": event, **fields}))
        except structlog.DropEvent:
            return None


def test_ten_pass_at_once_then_one_a_minute_that_says_how_many_were_left_out() -> None:
    log = Log()
    lines = [log.says("camera_offline", camera="gate", reason="refused") for _ in range(30)]
    assert all(lines[:10])
    assert not any(lines[10:])
    log.now_s = 60.0
    line = log.says("camera_offline", camera="gate", reason="refused")
    assert line is not None
    assert line["left_out"] == 20
    assert log.says("camera_offline", camera="gate", reason="refused") is None
    log.now_s = 120.0
    line = log.says("camera_offline", camera="gate", reason="refused")
    assert line is not None
    assert line["left_out"] == 1


@pytest.mark.parametrize(
    "other",
    [
        {"camera": "yard", "reason": "refused"},
        {"camera": "gate", "reason": "timeout"},
        {"worker": "ingest-0", "reason": "refused"},
    ],
)
def test_one_line_that_repeats_does_not_hide_another(other: dict[str, str]) -> None:
    log = Log()
    for _ in range(30):
        log.says("camera_offline", camera="gate", reason="refused")
    assert log.says("camera_offline", **other)
    assert log.says("camera_online", camera="gate", reason="refused")


def test_lines_that_cannot_be_written_are_counted_and_end_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    full, write = [True], os.write

    def write_to_disk(descriptor: int, data: bytes) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:7])  # a pipe may take less than it is given

    monkeypatch.setattr(os, "write", write_to_disk)
    configure_logging(LogConfig(format="json"))
    log = get_logger()
    for number in range(3):
        log.info("stopping", number=number)
    full[0] = False
    log.info("stopped")
    log.info("stopped")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["event"], line.get("lines_lost")) for line in lines] == [
        ("stopped", 3),
        ("stopped", None),
    ]


def test_a_pipe_that_nobody_reads_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_WRITABLE_WITHIN_S", 0.01)
    reader, writer = os.pipe()
    stream = SteadyStream(lambda: writer)
    line = "x" * 200_000 + "\n"  # more than a pipe holds
    done = threading.Thread(target=lambda: stream.write(line), daemon=True)
    done.start()
    done.join(10)
    held_up = done.is_alive()
    os.close(writer)
    os.close(reader)
    assert not held_up


def test_every_event_of_the_log_is_in_the_documents_and_no_other() -> None:
    root = Path(__file__).parents[2]
    said = {f"camera_{state}" for state in CameraState if state is not CameraState.CONNECTING}
    for path in (root / "streamd").rglob("*.py"):
        said |= set(re.findall(r"log(?:ger\(.*?\))?\.\w+\(\s*\"([a-z_]+)\"", path.read_text()))
    operations = (root / "docs" / "operations.md").read_text()
    table = operations[operations.index("## Log events") : operations.index("## Reload")]
    told = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert said == {name for cell in told for name in re.findall(r"`([a-z_]+)`", cell)}


def test_what_is_of_the_whole_service_always_passes() -> None:
    log = Log()
    assert all(log.says("reload_failed", reason="the same") for _ in range(100))


def test_a_quiet_time_gives_all_ten_back() -> None:
    log = Log()
    for _ in range(30):
        log.says("camera_offline", camera="gate")
    log.now_s = 700.0
    assert sum(bool(log.says("camera_offline", camera="gate")) for _ in range(30)) == 10


def test_what_it_remembers_is_bounded() -> None:
    log = Log()
    for number in range(10_000):
        assert log.says("camera_offline", camera=f"c{number}")
    assert len(log._repeats._left) <= 4096


@dataclass(frozen=True)
class Journal:
    """journald's socket: what it receives, as fields."""

    path: Path
    socket: socket.socket

    def entry(self) -> dict[str, str]:
        data, fields = self.socket.recv(65536), {}
        while data:
            name, _, rest = data.partition(b"\n")
            (size,) = struct.unpack("<Q", rest[:8])
            fields[name.decode()] = rest[8 : 8 + size].decode()
            assert rest[8 + size : 9 + size] == b"\n"
            data = rest[9 + size :]
        return fields


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "socket"))
        receiver.setblocking(False)
        yield Journal(tmp_path / "socket", receiver)


def test_the_journal_gets_priority_and_fields(journal: Journal) -> None:
    renderer = JournalRenderer(str(journal.path))
    event = {"level": "warning", "event": "camera_offline", "camera": "gate", "retry-in": 1.5}
    with pytest.raises(structlog.DropEvent):
        renderer(None, "warning", {**event, "reason": "two\nlines", "shapes": ["384x640"]})
    entry = journal.entry()
    assert json.loads(entry.pop("MESSAGE"))["reason"] == "two\nlines"
    assert entry == {
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "streamd",
        "STREAMD_LEVEL": "warning",
        "STREAMD_EVENT": "camera_offline",
        "STREAMD_CAMERA": "gate",
        "STREAMD_RETRY_IN": "1.5",
        "STREAMD_REASON": "two\nlines",
        "STREAMD_SHAPES": '["384x640"]',
    }


def test_a_journal_that_stands_still_holds_nothing_up(journal: Journal) -> None:
    renderer = JournalRenderer(str(journal.path))
    event = {"level": "info", "event": "ready"}
    done: list[str] = []

    def until_it_is_full() -> None:
        while not done:
            with suppress(structlog.DropEvent):
                done.append(renderer(None, "info", event))

    sender = threading.Thread(target=until_it_is_full, daemon=True)
    sender.start()
    sender.join(10)
    assert done
    assert done[0].startswith("<6>")


def test_auto_is_the_journal_where_stderr_goes_there(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.logs.is_journal", lambda: True)
    monkeypatch.setattr("streamd.logs.JournalRenderer", lambda: JournalRenderer(str(journal.path)))
    configure_logging(LogConfig())
    get_logger(camera="gate").error("camera_offline", reason="rtsp://u:geheim@h/ refused")
    entry = journal.entry()
    assert (entry["PRIORITY"], entry["STREAMD_CAMERA"]) == ("3", "gate")
    assert entry["STREAMD_REASON"] == "rtsp://***@h/ refused"


def test_without_a_journal_the_line_is_written_with_its_priority(tmp_path: Path) -> None:
    renderer = JournalRenderer(str(tmp_path / "nobody"))
    line = renderer(None, "error", {"level": "error", "event": "engine_failed"})
    assert line.startswith("<3>")
    assert json.loads(line[3:])["event"] == "engine_failed"


def test_only_what_is_connected_to_the_journal_is_taken_for_it(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("wb") as ours, (tmp_path / "other").open("wb") as other:
        status = os.fstat(ours.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_journal(ours.fileno(), environ)
        assert not is_journal(other.fileno(), environ)
        assert not is_journal(ours.fileno(), {})
    assert not is_journal(9999, environ)
