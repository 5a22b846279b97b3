"""The log as systemd's journal keeps it: each line with its priority and its fields.

The protocol is that of https://systemd.io/JOURNAL_NATIVE_PROTOCOL/.
"""

import json
import os
import re
import socket
import struct
from collections.abc import Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

_SOCKET = "/run/systemd/journal/socket"
_WITHIN_S = 0.2  # a journal that stands still is no reason to do the same
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def is_journal(descriptor: int = 2, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written to `descriptor` goes to the journal (systemd.exec(5))."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalRenderer:
    """Sends lines to the journal; the last of structlog's processors.

    MESSAGE is the line as JSON, PRIORITY its level, STREAMD_CAMERA its `camera`, and so on. What
    the journal does not take goes on as text to be written, its priority in front (sd-daemon(3)).
    """

    def __init__(self, address: str = _SOCKET) -> None:
        self._address = address
        self._render = structlog.processors.JSONRenderer()

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> str:
        """Sends the line, and drops it; returns it where it could not be sent."""
        line = str(self._render(logger, name, event))
        priority = _PRIORITIES.get(str(event.get("level")), 6)
        fields = {"MESSAGE": line, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": "streamd"}
        fields |= {_field(key): _text(value) for key, value in event.items()}
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        try:
            with socket.socket(socket.AF_UNIX, kind) as sender:
                sender.settimeout(_WITHIN_S)
                sender.sendto(b"".join(_encoded(*pair) for pair in fields.items()), self._address)
        except OSError:
            return f"<{priority}>{line}"
        raise structlog.DropEvent


def _field(key: str) -> str:
    return "STREAMD_" + re.sub(r"[^A-Z0-9_]", "_", key.upper())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _encoded(field: str, value: str) -> bytes:
    """The form for values of any bytes, lines among them."""
    data = value.encode(errors="backslashreplace")
    return field.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
