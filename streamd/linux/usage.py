"""What the processes of a daemon use, by role, as proc(5) tells it."""

import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

_TICKS_A_S = os.sysconf("SC_CLK_TCK")


def role_of(process_name: str) -> str:
    """The role of a daemon's process: `sd:ingest-0` is ingest, and what has no such name leads."""
    worker = process_name.removeprefix("sd:")
    return worker.rpartition("-")[0] if worker != process_name else "supervisor"


def processes(pid: int) -> Iterator[tuple[int, str]]:
    """The supervisor and all that it has started, with their roles."""
    todo = [pid]
    while todo:
        process = todo.pop()
        folder = Path(f"/proc/{process}")
        try:
            name = (folder / "comm").read_text().strip()
            for task in (folder / "task").iterdir():
                todo += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it ended just now
        yield process, role_of(name)


def cpu_by_role(pid: int) -> dict[str, float]:
    """CPU seconds of a supervisor and its workers that live."""
    used: defaultdict[str, float] = defaultdict(float)
    for _, role, used_s in _cpu_of_each(pid):
        used[role] += used_s
    return dict(used)


def _cpu_of_each(pid: int) -> Iterator[tuple[int, str, float]]:
    for process, role in processes(pid):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended just now
        yield process, role, (int(fields[11]) + int(fields[12])) / _TICKS_A_S


class CpuMeter:
    """CPU seconds by role of all processes that a supervisor has had, as far as they were seen.

    Those of a process that has ended stay counted: a sum that goes down looks like a restart.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen: dict[int, float] = {}
        self._used: defaultdict[str, float] = defaultdict(float)
        self._reading = threading.Lock()

    def read(self) -> dict[str, float]:
        """The sums by now; any thread may ask."""
        with self._reading:
            before, self._seen = self._seen, {}
            for process, role, used_s in _cpu_of_each(self._pid):
                self._seen[process] = used_s
                # A number that comes again is another process.
                known_s = before.get(process, 0.0)
                self._used[role] += used_s - known_s if used_s >= known_s else used_s
            return dict(self._used)


def memory_by_role(pid: int) -> dict[str, int]:
    """Bytes of memory of a supervisor and its workers (PSS: what is shared is divided)."""
    used: defaultdict[str, int] = defaultdict(int)
    for process, role in processes(pid):
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        used[role] += 1024 * sum(
            int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")
        )
    return dict(used)
