"""A daemon in a process of its own, seen from outside: its log, its HTTP, its CPU time."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from streamd.errors import SetupError

_TICKS_A_S = os.sysconf("SC_CLK_TCK")
_ENDS_WITHIN_S = 15.0


class DaemonRun:
    """`streamd run` on `settings`, which are written into the existing `folder`."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], *arguments: str) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(settings))
        path.chmod(0o600)
        self._lines: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "streamd", "run", str(path), *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self._process.pid

    @property
    def http(self) -> str:
        """Where its HTTP is."""
        return str(self.wait_for("starting", 30.0)["http"])

    def wait_for(self, event: str, within_s: float) -> dict[str, Any]:
        """The first log line of that event. Raises SetupError where it does not come."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found.extend(line for line in list(self._lines) if line.get("event") == event)
            return bool(found)

        self.wait_until(look, within_s, f"say {event!r}")
        return found[0]

    def wait_until(self, look: Callable[[], bool], within_s: float, what: str) -> None:
        """Until `look` gives True. Raises SetupError where it does not, or the daemon ends."""
        deadline_s = time.monotonic() + within_s
        while not look():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline_s:
                why = (
                    f"did not {what} within {within_s:.0f} s" if code is None else f"ended ({code})"
                )
                raise SetupError(f"the daemon {why}; its log ends with: {self._last_line()}")
            time.sleep(0.02)

    def cameras(self) -> list[dict[str, Any]]:
        """What the API says of each."""
        with urllib.request.urlopen(f"{self.http}/api/v1/cameras", timeout=10) as answer:
            cameras: list[dict[str, Any]] = json.load(answer)
        return cameras

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far by role: supervisor, ingest, inference."""
        return cpu_by_role(self.pid)

    def wait(self, within_s: float) -> int:
        """The exit code. Raises SetupError where it goes on for longer."""
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise SetupError(f"the daemon did not end within {within_s:.0f} s") from None
        self._reader.join(5)
        return code

    def close(self) -> None:
        """Ends it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._reader.join(5)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self) -> None:
        if self._process.stderr is None:
            return
        for line in self._process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": line.decode(errors="replace").strip()}
            self._lines.append(entry)

    def _last_line(self) -> str:
        if not self._lines:
            return "nothing"
        line = self._lines[-1]
        return " ".join(str(line[key]) for key in ("event", "reason", "detail") if key in line)


def cpu_by_role(pid: int) -> dict[str, float]:
    """CPU seconds of a supervisor and its workers that live, by role."""
    used: defaultdict[str, float] = defaultdict(float)
    todo = [pid]
    while todo:
        process = todo.pop()
        try:
            name, spent_s = _cpu_of(process)
            todo += _children_of(process)
        except OSError:
            continue  # it ended just now
        role = name.removeprefix("sd:").rpartition("-")[0] if name.startswith("sd:") else ""
        used[role or "supervisor"] += spent_s
    return used


def _cpu_of(pid: int) -> tuple[str, float]:
    """proc(5): the name, in brackets, and the user and system time, in ticks."""
    head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    fields = tail.split()
    return head.partition("(")[2], (int(fields[11]) + int(fields[12])) / _TICKS_A_S


def _children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]
