"""What a daemon's processes use, seen from outside."""

import psutil

from streamd.usage import role_of


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
