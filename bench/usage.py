"""What a daemon's processes use, seen from outside."""

import psutil

from streamd.testing.daemon_run import role_of


def memory_by_role(pid: int) -> dict[str, float]:
    """Proportional set size by role, MB: what is shared is divided."""
    found: dict[str, float] = {}
    for process, role in processes(pid):
        try:
            found[role] = found.get(role, 0.0) + process.memory_full_info().pss / 1e6
        except psutil.Error:
            continue
    return found


def processes(pid: int) -> list[tuple[psutil.Process, str]]:
    """The supervisor of that number and its workers, each with its role."""
    supervisor = psutil.Process(pid)
    found = [(supervisor, "supervisor")]
    for child in supervisor.children():
        try:
            name = child.name()
        except psutil.Error:
            continue
        if name.startswith("sd:"):
            found.append((child, role_of(name)))
    return found
