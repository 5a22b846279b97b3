"""Tells systemd how the service is doing (sd_notify(3))."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Sends `state`, such as "READY=1"; does nothing where no service manager listens.

    One that is too busy to listen, or gone, is not waited for.
    """
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_UNIX, kind) as sender, suppress(OSError):
        sender.sendto(state.encode(), address)
