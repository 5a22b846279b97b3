"""A scriptable RTSP camera server for tests and for the demo.

It speaks RTSP 1.0 (RFC 2326) and sends RTP and RTCP (RFC 3550) with H.264 (RFC 6184), H.265
(RFC 7798) or JPEG (RFC 2435) pictures, over the RTSP connection or by UDP, on the loopback
interface only:

    with RtspServer() as server:
        mount = server.mount("/gate", "clip.mp4", auth=("user", "p@ss"))
        play(mount.url_with_credentials())
        mount.stall = True
"""

import errno
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from streamd.testing.auth import Access, Scheme
from streamd.testing.clip import Clip
from streamd.testing.rtsp_mount import Mount
from streamd.testing.rtsp_session import RtspSession, SessionOptions
from streamd.testing.rtsp_transport import HOST

__all__ = ["Clip", "Mount", "RtspServer"]


class RtspServer:
    """A server of clips as if they were live, one thread a client.

    Each client is started at a clip's first picture. `port` 0 takes a free one. With `tcp_only`
    UDP is answered by 461. Clients not heard of for `session_timeout_s` are disconnected.
    """

    def __init__(
        self, port: int = 0, *, tcp_only: bool = False, session_timeout_s: int = 60
    ) -> None:
        self._socket = _bound_socket(port)
        self.port: int = self._socket.getsockname()[1]
        self._options = SessionOptions(tcp_only, session_timeout_s)
        self._mounts: dict[str, Mount] = {}
        self._sessions: dict[RtspSession, threading.Thread] = {}
        self._lock = threading.Lock()
        self._acceptor: threading.Thread | None = None

    def mount(
        self,
        path: str,
        clip: str | Path | Clip,
        *,
        auth: tuple[str, str] | None = None,
        auth_scheme: Scheme = "digest",
        loop: bool = True,
    ) -> Mount:
        """Serve a clip under `path`; without `loop` a client's stream ends with an RTCP BYE.

        `auth` is user and password. Many mounts may share one opened Clip. Raises ValueError for
        a path without its slash and for clips which cannot be served.
        """
        if not path.startswith("/") or path.endswith("/"):
            raise ValueError(f"a mount's path looks like /name, not {path!r}")
        clip = clip if isinstance(clip, Clip) else Clip.open(clip)
        access = Access(*auth, scheme=auth_scheme) if auth else None
        mount = Mount(f"{HOST}:{self.port}", path, clip, access, loop=loop)
        self._mounts[path] = mount
        return mount

    def unmount(self, path: str) -> None:
        """Take a mount away: its clients are reset, further ones get 404."""
        self._mounts.pop(path).kill_clients()

    def start(self) -> None:
        """Accept clients; no effect while running."""
        if self._acceptor is not None:
            return
        self._socket.listen(128)
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._socket,), name=f"rtsp-{self.port}", daemon=True
        )
        self._acceptor.start()

    def stop(self) -> None:
        """Reset all clients and refuse new ones, as a camera without power; mounts remain.

        No thread of the server is left when this returns. `start` brings it back.
        """
        if self._acceptor is None:
            return
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the acceptor
        self._acceptor.join()
        self._acceptor = None
        self._socket.close()
        # Bound but not listening: refuses clients and keeps the port from others.
        self._socket = _bound_socket(self.port)
        with self._lock:
            sessions = list(self._sessions.items())
        for session, _ in sessions:
            session.kill()
        for _, thread in sessions:
            thread.join()

    def close(self) -> None:
        """Stop for good and give the port back."""
        self.stop()
        self._socket.close()

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

    def _accept(self, listener: socket.socket) -> None:
        try:
            while True:
                self._serve(listener.accept()[0])
        except OSError as error:
            if error.errno != errno.EINVAL:  # which says that `stop` has shut the socket down
                raise

    def _serve(self, connection: socket.socket) -> None:
        session = RtspSession(connection, self._mounts.get, self._options)
        name = f"rtsp-{self.port}-client"
        thread = threading.Thread(target=self._run, args=(session,), name=name, daemon=True)
        with self._lock:
            self._sessions[session] = thread
        thread.start()

    def _run(self, session: RtspSession) -> None:
        try:
            session.run()
        finally:
            with self._lock:
                del self._sessions[session]


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((HOST, port))
    return bound
