"""Cameras on the network that mean harm: an ingest worker's reader bears them all."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from streamd.demo.clips import write_clip
from streamd.ingest.allocation import bound_allocations
from streamd.scenes import Scene
from streamd.testing.http_server import HttpServer
from streamd.testing.rtsp_server import RtspServer

from .hostile import ROUNDS, SEED, Outcome, read_all
from .hostile_peers import (
    addresses,
    damaging,
    http_scripts,
    listening,
    rtsp_scripts,
)

# The reader's own time-outs are a second each; what it shares two cores with may be slow.
LONGEST_S = 15
MOST_RSS_MB = 900


def borne(outcome: Outcome, count: int) -> None:
    assert len(outcome.by_url) == count
    slowest = max(outcome.by_url.items(), key=lambda item: item[1]["seconds"])
    assert slowest[1]["seconds"] < LONGEST_S, slowest
    assert outcome.rss_mb < MOST_RSS_MB


def test_the_library_that_is_bounded_is_found() -> None:
    assert bound_allocations()


def test_rtsp_servers_that_mean_harm() -> None:
    with addresses("rtsp", rtsp_scripts(f"{SEED}")) as urls:
        outcome = read_all(urls, threads=len(urls), within_s=60)
    borne(outcome, len(urls))
    moved = [line for url, line in outcome.by_url.items() if "?moved" in url]
    assert [line["frames"] for line in moved] == [0, 0]


def test_http_servers_that_mean_harm() -> None:
    with addresses("http", http_scripts()) as urls:
        outcome = read_all(urls, threads=len(urls), within_s=60)
    borne(outcome, len(urls))
    assert {line["frames"] for line in outcome.by_url.values()} == {0}


@pytest.mark.parametrize(("scheme", "name"), [("rtsp", "fragments"), ("http", "huge-part")])
def test_a_picture_that_never_ends_takes_bounded_memory(scheme: str, name: str) -> None:
    """Without a bound two seconds of it took 4 GB and 2 GB; a camera may go on for ten."""
    scripts = rtsp_scripts("") if scheme == "rtsp" else http_scripts()
    with addresses(scheme, {name: scripts[name]}) as urls:
        assert read_all(urls, threads=1, timeout_s=2, within_s=60).rss_mb < MOST_RSS_MB


def read_through_damage(folder: Path, rounds: int, seed: str) -> tuple[Outcome, int]:
    """Good cameras of every kind, behind proxies that damage what they send."""
    clips = {
        codec: write_clip(folder / f"{codec}.{suffix}", Scene(2, 128, 96), 1.0, codec).path
        for codec, suffix in (("h264", "mp4"), ("hevc", "mp4"), ("mjpeg", "avi"))
    }
    with RtspServer() as rtsp, HttpServer() as web, ExitStack() as stack:
        for codec, clip in clips.items():
            rtsp.mount(f"/{codec}", clip)
        web.mjpeg("/mjpeg", clips["h264"])
        web.hls("/hls.m3u8", clips["h264"], live=False)
        web.file("/clip.mp4", clips["h264"])
        targets = [("rtsp", rtsp.port, f"/{codec}") for codec in clips]
        targets += [("http", web.port, path) for path in ("/mjpeg", "/hls.m3u8", "/clip.mp4")]
        urls = []
        for scheme, port, path in targets:
            for number in range(rounds):
                proxy = stack.enter_context(listening(damaging(port, f"{seed} {path} {number}")))
                urls.append(f"{scheme}://127.0.0.1:{proxy}{path}")
        return read_all(urls, threads=12, within_s=30 + 3 * len(urls)), len(urls)


def test_cameras_whose_network_damages_what_they_send(tmp_path: Path) -> None:
    outcome, count = read_through_damage(tmp_path, 2, f"{SEED}")
    borne(outcome, count)
    assert any(line["frames"] for line in outcome.by_url.values())


@pytest.mark.slow
def test_hundreds_of_cameras_whose_network_damages_what_they_send(tmp_path: Path) -> None:
    for number in range(max(1, (ROUNDS or 120) // 10)):
        outcome, count = read_through_damage(tmp_path, 10, f"{SEED} {number}")
        borne(outcome, count)
        with addresses("rtsp", rtsp_scripts(f"{SEED} {number}")) as urls:
            borne(read_all(urls, threads=len(urls), within_s=60), len(urls))
