"""The test camera's HTTP side, as FFmpeg and a plain client see it."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from streamd.testing.http_server import HttpServer

from .peers import FPS, write_pattern

FRAMES = 40


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_pattern(path, "libx264", FRAMES)
    return path


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as running:
        yield running


def get(server: HttpServer, path: str, asked: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=3)
    connection.request("GET", path, headers={"Range": asked})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response, data


def decoded(url: str, count: int) -> list[tuple[int, int]]:
    with av.open(url, timeout=3) as container:
        frames = zip(container.decode(video=0), range(count), strict=False)
        return [(frame.width, frame.height) for frame, _ in frames]


def test_mjpeg_repeats_the_clip_at_its_pace(server: HttpServer, clip: Path) -> None:
    url = server.mjpeg("/cam", clip)
    started = time.monotonic()
    assert decoded(url, FRAMES + 5) == [(160, 120)] * (FRAMES + 5)
    assert time.monotonic() - started >= (FRAMES + 4) / FPS


def test_mjpeg_stalls_and_comes_back(server: HttpServer, clip: Path) -> None:
    url = server.mjpeg("/cam", clip)
    with av.open(url, timeout=(3, 0.3)) as container:
        next(container.decode(video=0))
        server.stall = True
        with pytest.raises(av.error.ExitError):
            for _ in container.demux():
                pass
    server.stall = False
    assert decoded(url, 1)


def test_hls_as_a_recording(server: HttpServer, clip: Path) -> None:
    url = server.hls("/recorded/list.m3u8", clip, live=False, segment_s=0.5)
    assert decoded(url, FRAMES + 1) == [(160, 120)] * FRAMES


def test_hls_live_goes_on_over_the_clips_end(server: HttpServer, clip: Path) -> None:
    url = server.hls("/live.m3u8", clip, segment_s=0.5)
    assert decoded(url, 2 * FRAMES) == [(160, 120)] * 2 * FRAMES


def test_files_are_served_whole_and_in_ranges(server: HttpServer, clip: Path) -> None:
    data = clip.read_bytes()
    url = server.file("/a clip.mp4", clip)
    assert url.endswith("/a%20clip.mp4")
    assert decoded(url, FRAMES + 1) == [(160, 120)] * FRAMES
    for asked, expected in (
        ("", data),
        ("bytes=0-9", data[:10]),
        ("bytes=10-", data[10:]),
        ("bytes=-10", data[-10:]),
        (f"bytes=5-{len(data) + 9}", data[5:]),
    ):
        response, body = get(server, "/a%20clip.mp4", asked)
        assert response.status == (206 if asked else 200)
        assert body == expected
    response, _ = get(server, "/a%20clip.mp4", f"bytes={len(data)}-")
    assert response.status == 416


def test_credentials_are_asked_for(clip: Path) -> None:
    with HttpServer(auth=("user", "p@ss")) as server:
        url = server.hls("/list.m3u8", clip, live=False)
        assert decoded(server.with_credentials(url), 1)
        with pytest.raises(av.error.HTTPUnauthorizedError):
            av.open(url, timeout=3)


def test_unknown_paths_are_not_found(server: HttpServer) -> None:
    with pytest.raises(av.error.HTTPNotFoundError):
        av.open(f"http://127.0.0.1:{server.port}/nothing", timeout=3)


def test_no_thread_is_left_and_no_client_in_the_dark(clip: Path) -> None:
    with HttpServer() as server:
        url = server.mjpeg("/cam", clip)
        with (
            av.open(url, timeout=3) as container,
            socket.create_connection(("127.0.0.1", server.port), timeout=3) as idle,
        ):
            next(container.decode(video=0))
            server.close()
            assert not [thread for thread in threading.enumerate() if "http" in thread.name]
            with contextlib.suppress(ConnectionResetError):  # if it was not accepted yet
                assert idle.recv(1) == b""
            with pytest.raises(av.error.OSError):
                for _ in container.demux():
                    pass
