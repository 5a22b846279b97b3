"""What an RTSP server serves under one path, and the faults it shows while doing so."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from streamd.testing.auth import Access
from streamd.testing.clip import Clip
from streamd.testing.rtp import payloads


class Client(Protocol):
    """A connection, as the mount that it plays sees it."""

    playing: bool

    def kill(self) -> None:
        """Break the connection off; callable from any thread."""


class Footage:
    """A clip with the RTP payloads of its access units, cut once for all clients."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.payloads = tuple(payloads(clip.codec, unit.nals) for unit in clip.units)


class Mount:
    """A camera's address: its footage, its clients and its faults.

    The public attributes below may be set at any time from any thread; what is being played
    follows at once.
    """

    def __init__(self, address: str, path: str, clip: Clip, access: Access | None, *, loop: bool):
        self.path = path
        self.access = access
        self.loop = loop
        self.footage = Footage(clip)
        self._address = address
        self._lock = threading.Lock()
        self._attached: set[Client] = set()

        self.stall = False
        """Connections stay open, nothing is sent, pictures wait; RTP time goes on."""
        self.catch_up = False
        """Pictures that are late are sent at once; else all that follow are late by as much."""
        self.silent = False
        """DESCRIBE is never answered."""
        self.refuse = False
        """Requests are answered by 503 Service Unavailable."""
        self.drop = 0.0
        """Share of the RTP packets that get lost, 0 to 1."""
        self.corrupt = 0.0
        """Share of the RTP packets that have bits of their payload flipped, 0 to 1."""
        self.sender_reports = True
        """Whether RTCP sender reports are sent, the first ahead of the first picture."""
        self.clock_offset_s = 0.0
        """By how much the camera's clock, as its sender reports show it, is ahead of ours."""
        self.timestamp_jump_s = 0.0
        """By how much RTP timestamps are ahead of what they would be; reports follow, later."""
        self.timestamp_rate = 1.0
        """How fast RTP timestamps run: 25 / 21 for a camera that declares 25 fps, delivers 21."""
        self.on_frame: Callable[[int, float], None] | None = None
        """Called after each picture sent with the client's picture count since its PLAY, from 0,
        and the Unix time of its capture, which its RTP timestamp stands for. Runs in the
        client's thread."""

        self.attempts: list[float] = []
        """Monotonic times of the connections' first DESCRIBE, answered or not."""
        self.connects: list[float] = []
        """Monotonic times of the PLAYs."""

    @property
    def url(self) -> str:
        """The RTSP address without credentials."""
        return f"rtsp://{self._address}{quote(self.path)}"

    def url_with_credentials(self) -> str:
        """Return the RTSP address with user and password, percent-encoded."""
        return self.access.inserted_into(self.url) if self.access else self.url

    @property
    def clients(self) -> int:
        """How many clients are playing."""
        with self._lock:
            return sum(client.playing for client in self._attached)

    def replace(self, clip: str | Path | Clip) -> None:
        """Go on with another clip, from its first picture; its size may differ.

        Raises ValueError if its codec differs from the one that clients were told.
        """
        clip = clip if isinstance(clip, Clip) else Clip.open(clip)
        if clip.codec != self.footage.clip.codec:
            raise ValueError(f"{self.path} serves {self.footage.clip.codec}, not {clip.codec}")
        self.footage = Footage(clip)

    def kill_clients(self) -> None:
        """Reset the connections of all current clients, playing or not."""
        with self._lock:
            clients = list(self._attached)
        for client in clients:
            client.kill()

    def attach(self, client: Client) -> None:
        """Count a connection in that has addressed this mount."""
        with self._lock:
            self._attached.add(client)

    def detach(self, client: Client) -> None:
        """Count a connection out; one that is not attached is no error."""
        with self._lock:
            self._attached.discard(client)
