"""No password reaches anything that a daemon or a command emits; every one holds `q7`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import pytest
import redis

from streamd.demo.clips import Clip
from streamd.testing.http_server import HttpServer
from streamd.testing.redis_server import RedisServer
from streamd.testing.rtsp_server import RtspServer

from .harness import eventually
from .test_bad_input import streamd

NEEDLE = "q7"
TOKEN = "q7-token-0123456789"
REDIS_PASSWORD = "q7/redis@pass"


class Watched:
    """A daemon on a configuration, with its log."""

    def __init__(self, config: Path, log: Path) -> None:
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streamd", "run", str(config)], stdout=out, stderr=out
            )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        return [
            line
            for line in self.lines()
            if line["event"] == event and all(line.get(k) == v for k, v in fields.items())
        ]

    def get(self, path: str) -> httpx.Response:
        http = eventually(lambda: self.logged("starting"), what="starting")[0]["http"]
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.get(f"{http}{path}", headers=headers, timeout=10)

    def titles(self) -> str:
        """What `ps` shows of its processes and their threads, and what they are called."""
        parent = psutil.Process(self.process.pid)
        shown = []
        for process in (parent, *parent.children(recursive=True)):
            folder = Path(f"/proc/{process.pid}")
            shown += [(folder / "cmdline").read_bytes(), (folder / "comm").read_bytes()]
            shown += [path.read_bytes() for path in folder.glob("task/*/comm")]
        return b"\n".join(shown).decode(errors="replace")


@pytest.fixture
def servers() -> Iterator[tuple[RtspServer, HttpServer, RedisServer]]:
    with ExitStack() as stack:
        yield (
            stack.enter_context(RtspServer()),
            stack.enter_context(HttpServer(auth=("ann", "q7 web"))),
            stack.enter_context(RedisServer(password=REDIS_PASSWORD)),
        )


def urls_of(rtsp: RtspServer, web: HttpServer, clip: Clip) -> dict[str, str]:
    """Cameras that take the password, refuse it, do not exist or do not answer."""
    gate = rtsp.mount("/gate", clip.path, auth=("ann", "q7@p/ss"))
    rtsp.mount("/open", clip.path)
    silent = rtsp.mount("/silent", clip.path)
    silent.silent = True
    yard = web.mjpeg("/yard", clip.path)
    wrong = gate.url.replace("rtsp://", "rtsp://ann:q7wrong@")
    hidden = gate.url.replace("rtsp://", f"rtsp://ann:%71{quote('7%wrong', safe='')}@")
    return {
        "taken": gate.url_with_credentials(),
        "refused": wrong,
        "encoded": hidden,
        "query": gate.url.replace("/gate", "/open") + "?user=ann&password=q7query&channel=1",
        "gone": gate.url.replace("/gate", "/gone").replace("rtsp://", "rtsp://ann:q7gone@"),
        "silent": silent.url.replace("rtsp://", "rtsp://ann:q7silent@"),
        "nobody": "rtsp://ann:q7nobody@127.0.0.1:1/x?token=q7token",
        "nowhere": "https://ann:q7nowhere@camera.invalid/x?api_key=q7key",
        "basic": web.with_credentials(yard),
        "basic-refused": yard.replace("http://", "http://ann:q7basic@"),
        "basic-gone": web.with_credentials(yard).replace("/yard", "/none?pwd=q7pwd"),
    }


def written(path: Path, redis_url: str, urls: dict[str, str]) -> Path:
    cameras = "".join(
        f"  - {{id: {id_}, url: '{url}', open_timeout_s: 2, stall_timeout_s: 3}}\n"
        for id_, url in urls.items()
    )
    path.write_text(
        f"redis: {{url: '{redis_url}'}}\nhttp: {{port: 0, token: '{TOKEN}'}}\n"
        f"log: {{level: debug}}\npublish: all\ncameras:\n{cameras}"
    )
    return path


def emitted_by_the_daemon(config: Path, redis_server: RedisServer, log: Path) -> dict[str, str]:
    """All that a daemon says while cameras come and fail and Redis goes away and comes back."""
    daemon = Watched(config, log)
    try:
        for camera in ("taken", "query", "basic"):
            eventually(partial(daemon.logged, "camera_online", camera=camera), what=camera)
        for camera in ("refused", "encoded", "gone", "silent", "nobody", "nowhere"):
            eventually(partial(daemon.logged, "camera_offline", camera=camera), what=camera)
        eventually(lambda: daemon.get("/readyz").status_code == 200, what="ready")
        for stream in ("streamd:detections", "streamd:status"):
            eventually(partial(holds, redis_server, stream), what=stream)
        said = {"redis": held_by(redis_server)}
        redis_server.stop()
        eventually(lambda: daemon.logged("redis_lost"), what="Redis lost")
        for path in ("/readyz", "/metrics"):
            said[f"{path} without Redis"] = daemon.get(path).text
        redis_server.start()
        eventually(lambda: len(daemon.logged("redis_connected")) > 1, what="Redis back")
        paths = ("/metrics", "/api/v1/cameras", "/api/v1/cameras/refused", "/api/v1/cameras/none")
        said |= {path: daemon.get(path).text for path in (*paths, "/readyz", "/openapi.json")}
        assert all("***" in said[path] for path in paths[1:3])
        said["titles"] = daemon.titles()
        assert "sd:ingest" in said["titles"]
        said["redis again"] = held_by(redis_server)
    finally:
        daemon.process.terminate()
        daemon.process.wait(30)
    assert daemon.logged("secrets_readable")
    return {**said, "log": log.read_text()}


def holds(server: RedisServer, stream: str) -> bool:
    return f"'{stream}': [(" in held_by(server)


def held_by(server: RedisServer) -> str:
    """Every stream, and what Redis knows of its clients."""
    client: Any = redis.Redis.from_url(server.url, decode_responses=True)
    streams = {key: client.xrange(key) for key in client.keys("*")}
    told = f"{streams} {client.client_list()}"
    client.close()
    return told


def test_a_daemon_tells_no_password_to_anybody(
    servers: tuple[RtspServer, HttpServer, RedisServer], clip: Clip, tmp_path: Path
) -> None:
    rtsp, web, redis_server = servers
    urls = urls_of(rtsp, web, clip)
    config = written(tmp_path / "all.yaml", redis_server.url, urls)
    said = emitted_by_the_daemon(config, redis_server, tmp_path / "log")
    unescaped = {"x": urls["refused"].replace("q7wrong", "q7/un?esc#aped")}
    said["check"] = said_by(("check", str(written(tmp_path / "x.yaml", "redis://h", unescaped))))
    assert "cameras[0].url" in said["check"]
    assert {where for where, text in said.items() if NEEDLE in text} == set()


@pytest.mark.slow
def test_no_command_tells_a_password(
    servers: tuple[RtspServer, HttpServer, RedisServer], clip: Clip, tmp_path: Path
) -> None:
    rtsp, web, redis_server = servers
    urls = urls_of(rtsp, web, clip)
    wrong = f"redis://:q7wrong@127.0.0.1:{redis_server.port}/0"
    config = str(written(tmp_path / "all.yaml", wrong, urls))
    away = str(written(tmp_path / "away.yaml", "redis://:q7away@127.0.0.1:1/0", urls))
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        "redis: {url: 'redis://:q7/x@h'}\nhttp: {host: 0.0.0.0, token: q7}\n"
        "model: {imgsz: 'rtsp://a:q7@h', calibrate: 'rtsp://a:q7@h/x'}\n"
        "cameras:\n  - {id: 'rtsp://a:q7@h', url: 'rtmp://a:q7@h', fps: 'http://h/?token=q7'}\n"
    )
    commands = [
        ("check", config, "--connect"),
        ("check", str(broken)),
        ("run", config),
        *(("probe", urls[id_], "--seconds", "0.2") for id_ in ("taken", "refused")),
        ("probe", "rtmp://a:q7@h"),
        ("probe", urls["taken"], "--transport", "rtsp://a:q7@h"),
        ("build", str(tmp_path / "none.onnx"), "--calibrate", "rtsp://a:q7@h"),
    ]
    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(said_by, commands))
    assert [text for text in told if NEEDLE in text] == []
    assert all(told)
    assert tail_of(away)


def said_by(command: tuple[str, ...]) -> str:
    _, out, errors = streamd(*command)
    return out + "\n".join(errors)


def tail_of(config: str) -> str:
    """What `tail` says of a Redis that is away."""
    with subprocess.Popen(
        [sys.executable, "-m", "streamd", "tail", config], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        line = process.stderr.readline()
        process.kill()
    assert NEEDLE not in line
    return line


def test_ps_shows_no_password_of_a_probe(rtsp_server: RtspServer, clip: Clip) -> None:
    mount = rtsp_server.mount("/silent", clip.path, auth=("ann", "q7pass"))
    mount.silent = True
    command = [sys.executable, "-m", "streamd", "probe", mount.url_with_credentials()]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: mount.attempts, what="a try")
            shown = Path(f"/proc/{process.pid}/cmdline").read_text()
        finally:
            process.kill()
    assert "probe" in shown
    assert "rtsp://***@127.0.0.1:" in shown
    assert NEEDLE not in shown
