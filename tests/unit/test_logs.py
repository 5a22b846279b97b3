"""Lines that repeat."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import structlog

from streamd.logs import Repeats, configure_logging, get_logger
from streamd.messages import CameraState


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
    configure_logging("info", "json")
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
