"""A small HTTP camera server for tests and for the demo, on the loopback interface only:

with HttpServer() as server:
    play(server.mjpeg("/cam", "clip.mp4"))
    play(server.hls("/live.m3u8", "clip.mp4"))
    play(server.file("/clip.mp4", "clip.mp4"))
"""

import contextlib
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

from streamd.testing.auth import Access
from streamd.testing.http_media import HlsSegments, JpegImages

_HOST = "127.0.0.1"
_STALL_POLL_S = 0.02
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

Route = Callable[["_Handler"], None]


class HttpServer:
    """Serves what has been put under its paths, one thread a connection.

    `auth`, a user and a password, protects all of it by Basic authentication.
    """

    def __init__(self, port: int = 0, *, auth: tuple[str, str] | None = None) -> None:
        self.access = Access(*auth, scheme="basic") if auth else None
        self.stall = False
        """MJPEG streams stay open and nothing is sent; settable from any thread."""
        self._routes: dict[str, Route] = {}
        self._listener = _Listener(port, self)
        self.port: int = self._listener.server_address[1]
        self._thread = threading.Thread(
            target=self._listener.serve_forever,
            kwargs={"poll_interval": 0.05},
            name=f"http-{self.port}",
            daemon=True,
        )

    def mjpeg(self, path: str, clip: str | Path) -> str:
        """Serve a clip without end as multipart/x-mixed-replace JPEG images; return the URL.

        Each client is started at the first picture and paced at the clip's rate.
        """
        images = JpegImages.of(clip)
        return self._put(path, lambda handler: handler.send_images(images))

    def hls(self, path: str, clip: str | Path, *, live: bool = True, segment_s: float = 1.0) -> str:
        """Serve a clip's segments (RFC 8216) beside the playlist at `path`; return its URL.

        `live` repeats the clip for ever, one clock for all clients; otherwise it is a recording.
        """
        media = HlsSegments.of(clip, segment_s)
        folder = path.rpartition("/")[0]
        started = time.monotonic()

        def send_playlist(handler: "_Handler") -> None:
            text = media.live(time.monotonic() - started) if live else media.recording()
            handler.send_bytes(text.encode(), "application/vnd.apple.mpegurl")

        def send_segment(handler: "_Handler") -> None:
            number = int(Path(handler.path).stem)
            handler.send_bytes(media.segments[number % len(media.segments)], "video/mp2t")

        self._put(f"{folder}/*.ts", send_segment)
        return self._put(path, send_playlist)

    def file(self, path: str, file: str | Path) -> str:
        """Serve a file's bytes, in parts where a client asks for them; return the URL."""
        data = Path(file).read_bytes()
        return self._put(path, lambda handler: handler.send_bytes(data, "application/octet-stream"))

    def redirect(self, path: str, target: str) -> str:
        """Send whoever asks for `path` to `target`; return the URL."""
        return self._put(path, lambda handler: handler.send_elsewhere(target))

    def with_credentials(self, url: str) -> str:
        """Return one of this server's URLs with user and password, percent-encoded."""
        return self.access.inserted_into(url) if self.access else url

    def kill_clients(self) -> None:
        """Shut all current connections down."""
        self._listener.kill_clients()

    def start(self) -> None:
        """Accept clients."""
        self._thread.start()

    def close(self) -> None:
        """Stop; no thread of the server is left when this returns."""
        if self._thread.is_alive():
            self._listener.shutdown()
            self._thread.join()
        self._listener.server_close()
        self._listener.end_clients()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def route(self, path: str) -> Route | None:
        """Return what answers a request for `path`."""
        folder, _, name = path.rpartition("/")
        fallback = self._routes.get(f"{folder}/*.ts") if re.fullmatch(r"\d+\.ts", name) else None
        return self._routes.get(path, fallback)

    def _put(self, path: str, route: Route) -> str:
        self._routes[path] = route
        return f"http://{_HOST}:{self.port}{quote(path)}"


class _Listener(socketserver.ThreadingTCPServer):
    """Accepts connections and keeps hold of their threads."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, server: HttpServer) -> None:
        super().__init__((_HOST, port), _Handler)
        self.http = server
        self._clients: dict[threading.Thread, socket.socket] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own."""
        self._clients = {thread: at for thread, at in self._clients.items() if thread.is_alive()}
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name=f"http-{self.server_address[1]}-client",
            daemon=True,
        )
        self._clients[thread] = request
        thread.start()

    def kill_clients(self) -> None:
        """Shut all connections down, which ends their threads soon."""
        for connection in list(self._clients.values()):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def end_clients(self) -> None:
        """Shut all connections down and wait for their threads."""
        self.kill_clients()
        for thread in list(self._clients):
            thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent about clients that went away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def do_GET(self) -> None:
        http = self.server.http
        if http.access and not http.access.admits("GET", self.headers.get("Authorization", "")):
            headers = {"WWW-Authenticate": http.access.challenge()}
            self._respond(HTTPStatus.UNAUTHORIZED, headers, b"")
            return
        self.path = unquote(urlsplit(self.path).path)
        route = http.route(self.path)
        if route is None:
            self._respond(HTTPStatus.NOT_FOUND, {}, b"")
        else:
            route(self)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def send_bytes(self, data: bytes, kind: str) -> None:
        """Answer with `data`, or with the range of it that the client asks for (RFC 9110)."""
        headers = {"Content-Type": kind, "Accept-Ranges": "bytes"}
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked is None or asked[0] == "bytes=-":
            self._respond(HTTPStatus.OK, headers, data)
            return
        first = int(asked[1]) if asked[1] else max(0, len(data) - int(asked[2]))
        last = min(int(asked[2]), len(data) - 1) if asked[1] and asked[2] else len(data) - 1
        if first > last:
            headers["Content-Range"] = f"bytes */{len(data)}"
            self._respond(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers, b"")
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._respond(HTTPStatus.PARTIAL_CONTENT, headers, data[first : last + 1])

    def send_elsewhere(self, target: str) -> None:
        """Answer with the address of something else."""
        self._respond(HTTPStatus.FOUND, {"Location": target}, b"")

    def send_images(self, media: JpegImages) -> None:
        """Answer with images without end, until the client goes away."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=image")
        self.send_header("Connection", "close")
        self.end_headers()
        due = time.monotonic()
        count = 0
        while self.command == "GET":
            image = media.images[count % len(media.images)]
            head = f"--image\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
            self.wfile.write(head.encode() + image + b"\r\n")
            count += 1
            due = max(due + 1 / media.fps, time.monotonic() - 1)  # no burst after a long wait
            time.sleep(max(0.0, due - time.monotonic()))
            while self.server.http.stall and not self._is_gone():
                time.sleep(_STALL_POLL_S)

    def _is_gone(self) -> bool:
        self.connection.setblocking(False)
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        finally:
            self.connection.setblocking(True)

    def _respond(self, status: HTTPStatus, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:  # the client asked for it; FFmpeg wants to be told, too
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
