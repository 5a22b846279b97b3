"""A network that can be cut without a FIN: all still looks connected, and nothing passes."""

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_POLL_S = 0.02


class TcpProxy:
    """Listens on a free port of `host` and passes all on to `target` of 127.0.0.1.

    While `cut` is set, which may be done from any thread, no byte passes either way and no
    connection is closed; new ones are accepted, as by a kernel, and hear nothing.
    """

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self._target = target
        self._listener = socket.create_server((host, 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self.cut = False
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._start(self._accept)

    def close(self) -> None:
        """Ends all connections; no thread is left when this returns."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        for side in list(self._open):  # a thread may be sending to one that does not read
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while self.cut and not self._closed.is_set():
                self._closed.wait(_POLL_S)
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                self._open += [client, server]
                self._relay({client: server, server: client})

    def _relay(self, other: dict[socket.socket, socket.socket]) -> None:
        """Until either side ends, one thread for both ways."""
        while not self._closed.is_set():
            if self.cut:
                self._closed.wait(_POLL_S)
                continue
            for source in select.select(list(other), [], [], _POLL_S)[0]:
                data = source.recv(65536)
                if not data:
                    return
                other[source].sendall(data)
