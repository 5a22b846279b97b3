"""A service manager that does not listen is no reason to end, or to wait."""

import socket
from pathlib import Path

from streamd.supervision.notify import notify


def test_what_is_said_arrives(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(100) == b"READY=1"


def test_one_that_is_gone_or_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    notify("READY=1", environ)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(environ["NOTIFY_SOCKET"])
        for _ in range(1000):
            notify("WATCHDOG=1", environ)
