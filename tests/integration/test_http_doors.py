"""The HTTP side against clients that are slow, greedy or talk nonsense; real sockets."""

import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response

from streamd.config import HttpConfig, LogConfig
from streamd.errors import SetupError
from streamd.http import server as http_server
from streamd.http.server import CONNECTIONS, CONNECTIONS_OF_CLIENT, HttpServer, bind
from streamd.logs import configure_logging

from .harness import eventually

LARGE = 20_000_000


def small_app() -> FastAPI:
    app = FastAPI()

    @app.get("/healthz")
    def healthz() -> str:
        return "ok"

    @app.get("/large")
    def large() -> Response:
        return Response(b"x" * LARGE)

    @app.get("/busy")
    async def busy() -> None:
        time.sleep(0.5)  # meanwhile all other connections wait to be accepted

    @app.get("/broken")
    def broken() -> None:
        raise ValueError("rtsp://ann:s3cret@h/s")

    return app


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server whose patience is half a second."""
    monkeypatch.setattr(http_server, "REQUEST_WITHIN_S", 0.5)
    monkeypatch.setattr(http_server, "ANSWER_WITHIN_S", 0.5)
    config = HttpConfig(port=0)
    listener = bind(config)
    server = HttpServer(small_app, listener, config)
    server.start()
    yield listener.getsockname()[1]
    server.stop()


def healthy(port: int) -> bool:
    return bool(httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200)


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def seconds_to_the_end(client: socket.socket) -> float:
    began_s = time.monotonic()
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - began_s


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /heal",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ",
        b"PUT /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
    ],
)
def test_a_request_that_is_never_whole_loses_its_connection(port: int, begun: bytes) -> None:
    with connected(port) as client:
        client.sendall(begun)
        assert seconds_to_the_end(client) < 3


def test_an_answer_that_nobody_takes_is_given_up(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        time.sleep(1.5)
        taken = 0
        try:
            while data := client.recv(1 << 20):
                taken += len(data)
        except ConnectionResetError:
            pass
        assert taken < 3 * LARGE


def test_a_client_with_hundreds_of_slow_connections_keeps_nobody_out(port: int) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(port)) for _ in range(3 * CONNECTIONS_OF_CLIENT)]
        for client in slow:
            client.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        assert all(healthy(port) for _ in range(5))


def test_a_client_that_opens_hundreds_of_connections_at_once_keeps_nobody_out(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "REQUEST_WITHIN_S", 30.0)
    with ExitStack() as stack:
        first = stack.enter_context(connected(port))
        first.sendall(b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.1)
        for _ in range(CONNECTIONS + 50):
            stack.enter_context(connected(port))
        first.recv(1)
        eventually(lambda: healthy(port), 5)


def test_a_connection_serves_many_requests_with_pauses(port: int) -> None:
    with httpx.Client(timeout=5) as client:
        for pause_s in (0.0, 0.7, 0.7):
            time.sleep(pause_s)
            assert client.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    with connected(port) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        time.sleep(0.2)
        assert raw.recv(65536).count(b"200 OK") == 3


def test_an_answer_on_a_kept_connection_waits_for_no_acknowledgement(port: int) -> None:
    """45 ms where Nagle's algorithm meets delayed acknowledgements; the best of many counts."""
    with httpx.Client(timeout=5) as client:
        took_s = []
        for _ in range(20):
            began_s = time.monotonic()
            client.get(f"http://127.0.0.1:{port}/healthz")
            took_s.append(time.monotonic() - began_s)
    assert min(took_s[1:]) < 0.03


def test_a_head_without_end_is_refused(port: int) -> None:
    with connected(port) as client:
        try:
            client.sendall(b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 50_000)
        except (BrokenPipeError, ConnectionResetError):
            return
        try:
            answer = client.recv(65536)
        except ConnectionResetError:
            return
        assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_fault_of_ours_is_one_line_of_the_log_without_a_password(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LogConfig(format="json"))
    assert httpx.get(f"http://127.0.0.1:{port}/broken", timeout=5).status_code == 500
    # It is written once the answer is out.
    written = eventually(lambda: capfd.readouterr().err, what="a line of the log")
    (line,) = [json.loads(text) for text in written.splitlines()]
    assert line["event"] == "http_failed"
    assert "ValueError" in line["exception"]
    assert "s3cret" not in written


def test_nonsense_leaves_no_line_in_the_log_and_does_no_harm(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(1)
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    for _ in range(60):
        data = bytearray(request if rng.random() < 0.7 else rng.randbytes(200))
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with connected(port) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            seconds_to_the_end(client)
    assert healthy(port)
    assert not capfd.readouterr().err


def test_other_machines_need_a_token_also_without_a_file() -> None:
    with pytest.raises(SetupError, match=r"needs http\.token"):
        bind(HttpConfig(host="0.0.0.0", port=0))
    settings: Any = {"host": "0.0.0.0", "port": 0, "token": "0123456789abcdef"}
    bind(HttpConfig(**settings)).close()
