"""Real peers, on free ports of 127.0.0.1."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamd.demo.clips import Clip, write_clip
from streamd.scenes import Scene
from streamd.testing.redis_server import RedisServer
from streamd.testing.rtsp_server import RtspServer

from .harness import Daemon, DaemonFactory, Metronome


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def durable_redis() -> Iterator[RedisServer]:
    """It still has what it answered for after it was killed."""
    with RedisServer(durable=True) as server:
        yield server


@pytest.fixture
def rtsp_server() -> Iterator[RtspServer]:
    with RtspServer() as server:
        yield server


@pytest.fixture
def metronome() -> Iterator[Metronome]:
    """Runs during the test."""
    running = Metronome()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Four seconds of a scene with something in nearly every frame."""
    return write_clip(tmp_path_factory.mktemp("clips") / "scene.mp4", Scene(seed=2), 4.0)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes run. Engines are kept for all of pytest's workers: built only once."""
    home, kept = tmp_path_factory.mktemp("home"), tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        kept = kept.parent
    (kept / "engines").mkdir(exist_ok=True)
    (home / "engines").symlink_to(kept / "engines")
    return home


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes start in `home`."""
    monkeypatch.chdir(home)


@pytest.fixture
def daemon(tmp_path: Path, redis_server: RedisServer) -> Iterator[DaemonFactory]:
    """Starts daemons on `redis_server`; none outlives the test."""
    started: list[Daemon] = []

    def start(
        settings: str,
        *arguments: str,
        server: RedisServer | None = None,
        redis_settings: str = "",
        http_settings: str = "{port: 0}",
    ) -> Daemon:
        path = tmp_path / f"config-{len(started)}.yaml"
        daemon = Daemon(
            path, settings, server or redis_server, arguments, redis_settings, http_settings
        )
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        daemon.close()
