"""What the integration tests have in common."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import redis

from streamd.detections import Detection
from streamd.events import Event, EventData, Latency
from streamd.testing.daemon_process import STREAM, Daemon, balanced, eventually
from streamd.testing.redis_server import RedisServer

__all__ = [
    "STREAM",
    "Daemon",
    "DaemonFactory",
    "Metronome",
    "a_cluster",
    "balanced",
    "event",
    "eventually",
]


class DaemonFactory(Protocol):
    def __call__(
        self,
        settings: str,
        *arguments: str,
        server: RedisServer | None = None,
        redis_settings: str = "",
        http_settings: str = "{port: 0}",
    ) -> Daemon: ...


class Metronome:
    """Sums up by how much a thread woke far too late: for so long the machine stood still.

    What is promised within a time is promised within that time and `late_s`.
    """

    _PERIOD_S = 0.01
    _FAR_TOO_LATE_S = 0.05

    def __init__(self) -> None:
        self.late_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metronome", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        due_s = time.monotonic() + self._PERIOD_S
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):
            now_s = time.monotonic()
            if now_s - due_s > self._FAR_TOO_LATE_S:
                self.late_s += now_s - due_s
            due_s = now_s + self._PERIOD_S

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def a_cluster() -> Iterator[str]:
    """The URL of a Cluster of one."""
    with RedisServer(settings={"cluster-enabled": "yes"}) as server:
        node: Any = redis.Redis.from_url(server.url)
        node.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        eventually(lambda: b"cluster_state:ok" in node.execute_command("CLUSTER", "INFO"))
        node.close()
        yield server.url.replace("redis://", "redis+cluster://").removesuffix("/0")


def event(seq: int, camera: str = "gate", *labels: str, ts: int | None = None) -> Event:
    """An event as a daemon would publish it, with an object for each of `labels`."""
    objects = tuple(Detection(label, 0, 0.9, (1.0, 2.0, 3.0, 4.0)) for label in labels)
    data = EventData(1.0, 640, 360, "m", 0, Latency(1.0, 2.0, 3.0, 6.0), objects)
    when = 1000 + seq if ts is None else ts
    return Event(1, f"{camera}:1:{seq}", camera, seq, when, "arrival", len(objects), data)
