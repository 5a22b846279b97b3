"""Workers are killed, stopped, crashed: others do not notice, and nothing is lost unbooked."""

import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from streamd.demo.clips import Clip
from streamd.testing.redis_server import RedisServer

from .harness import Daemon, DaemonFactory, balanced, eventually

_TGKILL = {"x86_64": 234, "aarch64": 131}


def crash_thread_of(running: Daemon, camera: str) -> int:
    """Has the thread of a camera get SIGSEGV, as a broken decoder would; its process' id."""
    for worker in running.children("ingest"):
        for task in Path(f"/proc/{worker.pid}/task").iterdir():
            if (task / "comm").read_text().strip() == f"cam:{camera}":
                number = _TGKILL[platform.machine()]
                ctypes.CDLL(None).syscall(number, worker.pid, int(task.name), signal.SIGSEGV)
                return worker.pid
    raise AssertionError(f"no thread reads {camera}")


def wait_for_death(running: Daemon, worker: str, number: int) -> dict[str, Any]:
    """The log line of a worker's death; they count from 1."""
    eventually(lambda: len(running.logged("worker_died", worker=worker)) >= number)
    return running.logged("worker_died", worker=worker)[number - 1]


def looped(clip: Clip, *ids: str) -> str:
    lines = "".join(f"  - {{id: {i}, url: {clip.path}, loop: true, paced: true}}\n" for i in ids)
    return f"publish: all\ningest: {{workers: 1}}\ncameras:\n{lines}"


@pytest.mark.skipif(platform.machine() not in _TGKILL, reason="the number of tgkill is not known")
def test_a_camera_that_crashes_its_worker_three_times_gets_one_of_its_own(
    daemon: DaemonFactory, clip: Clip
) -> None:
    running = daemon(looped(clip, "good", "evil"))
    running.wait_ready()
    for count in range(1, 4):
        running.wait_state("evil", "online")
        pid = crash_thread_of(running, "evil")
        death = wait_for_death(running, "ingest-0", count)
        assert death["reason"] == "sigsegv"
        assert death["camera"] == "evil"
        assert not psutil.pid_exists(pid)
    quarantined = running.wait_for_log("camera_quarantined", camera="evil")
    assert quarantined["worker"] != "ingest-0"
    running.wait_state("evil", "online")
    running.wait_state("good", "online")
    crash_thread_of(running, "evil")
    running.wait_for_log("worker_died", worker=quarantined["worker"])
    before = len(running.events("good"))
    running.wait_events(before + 10, "good")
    assert len(running.logged("worker_died", worker="ingest-0")) == 3
    assert running.stop() == 0
    assert balanced(running.wait_for_log("stopped")["frames"])


def test_a_worker_that_hangs_is_killed_and_replaced(daemon: DaemonFactory, clip: Clip) -> None:
    running = daemon(looped(clip, "a"))
    running.wait_events(5)
    for worker in running.children():
        os.kill(worker.pid, signal.SIGSTOP)
    eventually(lambda: "engine" in running.get("/readyz").text)
    running.wait_for_log("worker_died", worker="ingest-0", reason="hung")
    running.wait_for_log("worker_died", worker="inference-0", reason="hung")
    running.wait_events(len(running.events()) + 20)
    eventually(lambda: running.get("/readyz").status_code == 200)
    assert running.stop() == 0
    assert balanced(running.wait_for_log("stopped")["frames"])


def test_a_log_that_nobody_reads_any_more_ends_nothing(
    clip: Clip, tmp_path: Path, redis_server: RedisServer
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"redis: {{url: '{redis_server.url}'}}\nhttp: {{port: 0}}\nlog: {{format: json}}\n"
        f"publish: all\ncameras: [{{id: a, url: {clip.path}, loop: true, paced: true}}]\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "streamd", "run", str(config)], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if json.loads(line)["event"] == "ready":
                break
        process.stderr.close()
        client: Any = redis.Redis.from_url(redis_server.url)
        eventually(lambda: client.xlen("streamd:detections"))
        session = _session(client.xrange("streamd:detections", count=1)[0])
        (ingest,) = _workers_of(process.pid, "sd:ingest")
        ingest.kill()  # there is something to say now
        eventually(lambda: _session(client.xrevrange("streamd:detections", count=1)[0]) != session)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()


def _workers_of(pid: int, name: str) -> list[psutil.Process]:
    return [p for p in psutil.Process(pid).children() if p.name().startswith(name)]


def _session(entry: Any) -> bytes:
    fields: dict[bytes, bytes] = entry[1]
    return fields[b"id"].split(b":")[1]
