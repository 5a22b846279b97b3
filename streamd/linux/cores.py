"""How many CPU cores there are for this process: often fewer than the machine has."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_OWN = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def available_cores(own: Path = _OWN, groups: Path = _GROUPS) -> int:
    """By affinity (a cpuset, `taskset`, `CPUAffinity=`) and by quota, where a part counts as one.

    A quota is what `docker --cpus`, a limit of Kubernetes or `CPUQuota=` sets: `cpu.max` of
    cgroups(7) in version 2, `cpu.cfs_quota_us` in version 1, of this process' group or one above.
    """
    quotas = (math.ceil(quota) for quota in _quotas(own, groups))
    return max(1, min([len(os.sched_getaffinity(0)), *quotas]))


def _quotas(own: Path, groups: Path) -> Iterator[float]:
    """Cores, of each group that has a limit."""
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = groups / controllers
        # Seen from a container, its own group may be the topmost, whatever `path` says.
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts) + 1):
            yield from _quota_of(top.joinpath(*parts[:depth]))


def _quota_of(group: Path) -> Iterator[float]:
    limit = _text(group / "cpu.max").split() or [
        _text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    if len(limit) == 2 and all(number.isdecimal() for number in limit) and int(limit[1]):
        yield int(limit[0]) / int(limit[1])


def _text(path: Path) -> str:
    """What stands there; nothing where it cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeError):
        return ""
