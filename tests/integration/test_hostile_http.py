"""The API against requests drawn from its own OpenAPI document, and against others."""

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from urllib.parse import quote

import httpx
import pytest

from streamd.config import CameraConfig, HttpConfig
from streamd.errors import SetupError
from streamd.http.api import build_app
from streamd.http.server import HttpServer, bind
from streamd.ledger import Ledger
from streamd.supervision.fleet import Fleet

from .hostile import ROUNDS, SEED

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
PIECES = ("gate", "..", "%", "%00", "%2e%2e", "é", "'\"<>", "{x}", "*", "a" * 300, "-1", "\ud7ff")
BODIES = (b"", b"{}", b"[]", b"null", b'{"id": "\\u0000"}', b"[" * 5000, b"\xff\xfe", b"9" * 5000)
HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"Content-Type": "application/json"},
    {"Content-Type": "text/plain", "Accept": "x/y"},
    {"Authorization": "Bearer x"},
    {"Range": "bytes=9-1"},
    {"Expect": "100-continue"},
)


class NoControl:
    """Takes no camera."""

    def put_camera(self, camera: CameraConfig) -> str:
        raise SetupError(f"{camera.id}: no room for another camera")

    def delete_camera(self, camera: str) -> str:
        raise KeyError(camera)


SCRAPER = "import sys, urllib.request as r\nwhile True: r.urlopen(sys.argv[1]).read()"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(1) as address:
        yield address


@contextmanager
def served(cameras: int) -> Iterator[str]:
    """The routes as the daemon serves them, over a fleet that is not fed."""
    fleet = Fleet(Ledger(cameras, 1))
    fleet.add(CameraConfig(id="gate", url="rtsp://ann:s3cret@h/s"), 0)
    for number in range(1, cameras):
        fleet.add(CameraConfig(id=f"gate-{number}", url="rtsp://h/s"), number)
    config = HttpConfig(port=0, requests_per_s=10_000)
    listener = bind(config)
    server = HttpServer(lambda: build_app(fleet, 1, config, NoControl()), listener, config)
    server.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.stop()


def one_request(client: httpx.Client, paths: list[str], rng: random.Random) -> httpx.Response:
    path = rng.choice(paths)
    while "{" in path:
        name = path[path.index("{") : path.index("}") + 1]
        path = path.replace(name, quote(rng.choice(PIECES)))
    if rng.random() < 0.3:
        path += f"/{quote(rng.choice(PIECES))}"
    if rng.random() < 0.4:
        path += f"?{quote(rng.choice(PIECES))}={quote(rng.choice(PIECES))}"
    return client.request(
        rng.choice(METHODS), path, content=rng.choice(BODIES), headers=rng.choice(HEADERS)
    )


def bear(address: str, rounds: int) -> None:
    with httpx.Client(base_url=address, timeout=10) as client:
        paths = list(client.get("/openapi.json").json()["paths"])
        assert "/api/v1/cameras/{camera_id}" in paths
        for number in range(rounds):
            try:
                answer = one_request(client, paths, random.Random(f"{SEED} {number}"))
            except httpx.RemoteProtocolError:  # a nonsense request may lose its connection
                continue
            allowed = answer.status_code < 500 or answer.request.url.path == "/readyz"
            assert allowed, f"{number}: {answer.request} {answer.request.content!r} {answer.text}"
            assert "s3cret" not in answer.text
        assert client.get("/healthz").status_code == 200
        assert client.get("/api/v1/cameras/gate").json()["url"] == "rtsp://***@h/s"


def test_requests_after_the_openapi_document(address: str) -> None:
    bear(address, 300)


@pytest.mark.slow
def test_thousands_of_requests_after_the_openapi_document(address: str) -> None:
    bear(address, ROUNDS or 20_000)


def test_what_a_path_takes_and_refuses_is_what_the_document_says(address: str) -> None:
    with httpx.Client(base_url=address, timeout=10) as client:
        path = "/api/v1/cameras/{camera_id}"
        documented = client.get("/openapi.json").json()["paths"][path]
        answer = client.options("/api/v1/cameras/gate")
        assert answer.status_code == 405
        assert answer.headers["Allow"].split(", ") == sorted(map(str.upper, documented))
        assert client.head("/healthz").status_code == 200  # as many watchers of services ask
        (name,) = documented["put"]["parameters"]
        assert re.fullmatch(name["schema"]["pattern"], "gate")
        assert not re.fullmatch(name["schema"]["pattern"], "*")
        no_text = client.put("/api/v1/cameras/gate", content=b"\xff", headers=HEADERS[1])
        assert str(no_text.status_code) in documented["put"]["responses"]


def test_thousands_of_cameras_scraped_by_many_do_not_delay_the_health() -> None:
    with served(2000) as address, httpx.Client(base_url=address, timeout=60) as client:
        alone_s = min(client.get("/metrics").elapsed.total_seconds() for _ in range(3))
        command = [sys.executable, "-c", SCRAPER, f"{address}/metrics"]
        with ExitStack() as stack:
            for _ in range(8):
                scraper = stack.enter_context(subprocess.Popen(command))
                stack.callback(scraper.kill)
            client.get("/metrics")  # behind theirs
            answers_s = [client.get("/healthz").elapsed.total_seconds() for _ in range(9)]
    assert median(answers_s) < alone_s / 2
