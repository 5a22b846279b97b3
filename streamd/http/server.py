"""Where HTTP listens, and connections that nobody can hold for ever."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from streamd.config import HttpConfig
from streamd.errors import SetupError
from streamd.http.doors import App, Doors
from streamd.logs import get_logger

REQUEST_WITHIN_S = 10.0
ANSWER_WITHIN_S = 30.0
KEEP_ALIVE_S = 15
CONNECTIONS = 256  # beyond it requests are answered by 503, beyond its double closed
CONNECTIONS_OF_CLIENT = 64
LONGEST_HEAD_BYTES = 16 * 1024


def bind(config: HttpConfig) -> socket.socket:
    """A listening socket. Raises SetupError where the address cannot be had."""
    where = f"http: {config.host}:{config.port}"
    if not config.is_local and config.token is None:  # the file was checked; others may call this
        raise SetupError(f"{where}: other machines could reach it: needs http.token")
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where TCP is named: without, each answer on a kept
    # connection took 45 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise SetupError(f"{where}: cannot listen: {error.strerror or error}") from None
    return listener


class HttpServer:
    """Serves the app that `build` gives, behind its doors, from a thread of its own.

    `listener` is a bound socket.
    """

    def __init__(
        self, build: Callable[[], App], listener: socket.socket, config: HttpConfig
    ) -> None:
        self._build = build
        self._listener = listener
        self._config = config
        self._server: uvicorn.Server | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    def start(self) -> None:
        """Starts building the app and serving it; who connects before waits."""
        logger = logging.getLogger("uvicorn.error")
        logger.handlers, logger.propagate = [_IntoOurLog()], False
        self._thread.start()

    def stop(self, within_s: float = 1.0) -> None:
        """Ends the thread and closes the socket."""
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(within_s)
        self._listener.close()

    def _serve(self) -> None:
        settings = uvicorn.Config(
            Doors(self._build(), self._config),
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            # Whoever connects could forge these, and so be another client for every request.
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            h11_max_incomplete_event_size=LONGEST_HEAD_BYTES,
        )
        self._server = uvicorn.Server(settings)
        self._server.should_exit = self._stopping.is_set()
        self._server.run(sockets=[self._listener])


class Connection(H11Protocol):
    """Ends where its request is not whole, or its answer not taken, in time.

    uvicorn itself has a time-out between two requests only: a byte a minute would hold it for ever.
    A client that opens too many loses its oldest, so that it cannot keep its neighbours out.
    """

    _since_s = 0.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol, which has any transport here; uvicorn narrowed it."""
        super().connection_made(transport)
        self._since_s = self.loop.time()
        self._within(REQUEST_WITHIN_S)
        # Of many that come at once, those that were closed for it are still among them.
        others: list[Connection] = [
            c
            for c in self.connections
            if isinstance(c, Connection) and not c.transport.is_closing()
        ]
        own = [c for c in others if c.client and self.client and c.client[0] == self.client[0]]
        if len(own) > CONNECTIONS_OF_CLIENT:
            min(own, key=lambda c: (c.answering, c._since_s)).transport.abort()
        elif len(others) > 2 * CONNECTIONS:
            transport.abort()

    @property
    def answering(self) -> bool:
        """True from a whole request to the end of its answer."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._cancel_deadline()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. The first bytes after an answer begin the next request."""
        if self._deadline is None:
            self._within(REQUEST_WITHIN_S)
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and self.answering:
            self._within(ANSWER_WITHIN_S)

    def on_response_complete(self) -> None:
        """See uvicorn. What was written may still lie in the transport's buffer."""
        super().on_response_complete()
        if self.answering:  # the next request came with this one
            self._within(ANSWER_WITHIN_S)
        elif not self.transport.get_write_buffer_size():
            self._cancel_deadline()

    def _within(self, seconds: float) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _IntoOurLog(logging.Handler):
    """What uvicorn has to say, as a line of the log."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        get_logger().error("http_failed", detail=record.getMessage(), exc_info=record.exc_info)
