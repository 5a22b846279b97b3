"""One client's connection to the RTSP server: its requests and the stream it plays."""

import contextlib
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from streamd.clock import SystemClock
from streamd.testing.rtp_stream import RtpStream
from streamd.testing.rtsp_message import (
    TRACK,
    Request,
    RequestReader,
    response,
    session_description,
)
from streamd.testing.rtsp_mount import Mount
from streamd.testing.rtsp_transport import Transport, negotiate

_METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER, SET_PARAMETER"
_IDLE_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What holds for all connections of a server."""

    tcp_only: bool
    session_timeout_s: int


class RtspSession:
    """A connection, run by one thread that both answers requests and sends pictures.

    A client that cannot take its pictures therefore gets no answers either, until it reads.
    """

    def __init__(
        self,
        connection: socket.socket,
        find_mount: Callable[[str], Mount | None],
        options: SessionOptions,
    ) -> None:
        self.playing = False
        self._connection = connection
        self._find_mount = find_mount
        self._options = options
        self._id = secrets.token_hex(8)
        self._mount: Mount | None = None
        self._transport: Transport | None = None
        self._stream: RtpStream | None = None
        self._heard_at = time.monotonic()

    def run(self) -> None:
        """Serve the client until it leaves, falls silent or is killed."""
        try:
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._serve()
        except OSError:
            pass  # the client is gone, which is its right
        finally:
            self._stop_playing()
            if self._mount is not None:
                self._mount.detach(self)
            self._connection.close()

    def kill(self) -> None:
        """Reset the connection. Called from other threads: it only wakes `run`, which closes."""
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)  # for zero seconds: close() sends a reset
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        reader = RequestReader()
        poller = select.poll()
        poller.register(self._connection, select.POLLIN)
        while time.monotonic() - self._heard_at < self._options.session_timeout_s:
            if poller.poll(self._wait_ms()):
                data = self._connection.recv(65536)
                if not data:
                    return
                self._heard_at = time.monotonic()
                try:
                    requests = reader.feed(data)
                except ValueError:
                    return
                for request in requests:
                    self._answer(request)
            if self._stream is not None:
                self._stream.send_due()

    def _wait_ms(self) -> float:
        wait_s = None if self._stream is None else self._stream.wait_s()
        return 1000 * (_IDLE_POLL_S if wait_s is None else min(wait_s, _IDLE_POLL_S))

    def _answer(self, request: Request) -> None:
        if request.method == "OPTIONS":
            self._reply(request, 200, {"Public": _METHODS})
            return
        mount = self._find_mount(request.path)
        if mount is None:
            self._reply(request, 404)
            return
        self._attach(mount, request)
        if mount.refuse:
            self._reply(request, 503)
        elif mount.silent and request.method == "DESCRIBE":
            return
        elif mount.access and not mount.access.admits(
            request.method, request.header("authorization")
        ):
            self._reply(request, 401, {"WWW-Authenticate": mount.access.challenge()})
        else:
            self._dispatch(mount, request)

    def _attach(self, mount: Mount, request: Request) -> None:
        if self._mount is mount:
            return
        if self._mount is not None:
            self._mount.detach(self)
        if request.method == "DESCRIBE":
            mount.attempts.append(time.monotonic())
        self._mount = mount
        mount.attach(self)

    def _dispatch(self, mount: Mount, request: Request) -> None:
        session = request.header("session")
        match request.method:
            case "DESCRIBE":
                self._describe(mount, request)
            case "SETUP":
                self._set_up(request)
            case "PLAY" | "TEARDOWN" | "GET_PARAMETER" | "SET_PARAMETER" if session and (
                session.partition(";")[0] != self._id
            ):
                self._reply(request, 454)
            case "PLAY":
                self._play(mount, request)
            case "TEARDOWN":
                self._stop_playing()
                self._reply(request, 200)
            case "GET_PARAMETER" | "SET_PARAMETER":  # keep a session alive, nothing else
                self._reply(request, 200)
            case _:
                self._reply(request, 501)

    def _describe(self, mount: Mount, request: Request) -> None:
        headers = {"Content-Base": mount.url + "/", "Content-Type": "application/sdp"}
        self._reply(request, 200, headers, session_description(mount.footage.clip))

    def _set_up(self, request: Request) -> None:
        self._stop_playing()
        offered = request.header("transport")
        self._transport = negotiate(offered, self._connection, tcp_only=self._options.tcp_only)
        if self._transport is None:
            self._reply(request, 461)
            return
        session = f"{self._id};timeout={self._options.session_timeout_s}"
        self._reply(request, 200, {"Transport": self._transport.header, "Session": session})

    def _play(self, mount: Mount, request: Request) -> None:
        if self._transport is None or self._stream is not None:
            self._reply(request, 455)
            return
        # Numbers and losses are random, but the same in every run of a test.
        random = Random(f"{mount.path} {len(mount.connects)}")
        stream = RtpStream(mount, self._transport, random, SystemClock())
        info = f"url={mount.url}/{TRACK};seq={stream.sequence};rtptime={stream.first_timestamp}"
        headers = {"Session": self._id, "Range": "npt=0.000-", "RTP-Info": info}
        self._reply(request, 200, headers)
        mount.connects.append(time.monotonic())
        self._stream = stream
        self.playing = True

    def _stop_playing(self) -> None:
        self.playing = False
        self._stream = None
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _reply(
        self, request: Request, code: int, headers: dict[str, str] | None = None, body: str = ""
    ) -> None:
        self._connection.sendall(response(request, code, headers, body))
