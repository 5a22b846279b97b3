"""The examples, as users start them, on a real Redis."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import redis

from streamd.testing.redis_server import RedisServer

from .harness import STREAM, event, eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
MINUTE_MS = 60_000


@pytest.fixture
def published(redis_server: RedisServer) -> RedisServer:
    """Two minutes of two cameras."""
    with redis.Redis.from_url(redis_server.url) as client:
        for each in (
            event(1, "gate", "person", ts=10 * MINUTE_MS),
            event(2, "gate", "person", "person", "car", ts=10 * MINUTE_MS + 1000),
            event(1, "yard", "car", ts=10 * MINUTE_MS + 2000),
            event(3, "gate", "person", ts=11 * MINUTE_MS),
            event(4, "gate", ts=12 * MINUTE_MS),
        ):
            client.xadd(STREAM, each.fields())
    return redis_server


@contextmanager
def running(name: str, server: RedisServer, *arguments: str) -> Iterator[list[str]]:
    """The example in a process of its own; the lines that it prints, as they come."""
    command = [sys.executable, str(EXAMPLES / name), "--redis", server.url, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        output = process.stdout

        def read() -> None:
            for line in output:
                lines.append(line.strip())  # one at a time, as they come

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield lines
        finally:
            process.kill()
            reader.join()


def test_an_alert_is_told_once_in_a_while(published: RedisServer) -> None:
    with running("alert.py", published, "--label", "person", "--start", "0") as lines:
        eventually(lambda: len(lines) >= 2, what="two lines")
    assert [line.split(" ", 1)[1] for line in lines] == ["gate: person"] * 2


def test_minutes_are_counted(published: RedisServer) -> None:
    with running("per_minute.py", published, "--start", "0") as lines:
        eventually(lambda: len(lines) >= 3, what="three lines")
    assert [line.split(" ", 1)[1] for line in lines] == [
        "gate 2 person 1 car",
        "yard 1 car",
        "gate 1 person",
    ]


def test_sqlite_has_every_object_once(published: RedisServer, tmp_path: Path) -> None:
    file = str(tmp_path / "events.db")

    def rows() -> list[tuple[str, int]]:
        with sqlite3.connect(file) as database:
            if not list(database.execute("SELECT 1 FROM sqlite_master WHERE name = 'objects'")):
                return []  # the file is there before its table
            query = "SELECT camera, count(*) FROM objects GROUP BY camera ORDER BY camera"
            return list(database.execute(query))

    for _ in range(2):  # it goes on where it was killed
        with running("to_sqlite.py", published, file):
            eventually(
                lambda: Path(file).exists() and rows() == [("gate", 5), ("yard", 1)],
                what="all objects",
            )


def test_a_webhook_gets_what_it_refused_at_first(published: RedisServer) -> None:
    taken: list[dict[str, object]] = []
    refusals = iter([503, None, 200])

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = next(refusals, 200)
            if status is None:
                return  # the connection ends without an answer
            if status == 200:
                taken.append(json.loads(body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/hook"
        with running("webhook.py", published, url, "--label", "car") as lines:
            eventually(lambda: len(taken) == 2, what="both events with a car")
        server.shutdown()
    assert [each["id"] for each in taken] == ["gate:1:2", "yard:1:1"]
    assert len(lines) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["alert.py", "--label", "person", "--start", "0"],
        ["per_minute.py", "--start", "0"],
        ["to_sqlite.py", "events.db"],
        ["webhook.py", "http://127.0.0.1:1/"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_ctrl_c_ends_an_example_without_a_traceback(
    published: RedisServer, tmp_path: Path, arguments: list[str]
) -> None:
    name, *rest = arguments
    command = [sys.executable, str(EXAMPLES / name), "--redis", published.url, *rest]
    with (
        redis.Redis.from_url(published.url, decode_responses=True) as client,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        ) as process,
    ):
        eventually(lambda: any("xread" in each["cmd"] for each in client.client_list()))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
