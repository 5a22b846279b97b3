"""What the integration tests have in common."""

from typing import Protocol

from streamd.detections import Detection
from streamd.events import Event, EventData, Latency
from streamd.testing.daemon_process import STREAM, Daemon, balanced, eventually
from streamd.testing.redis_server import RedisServer

__all__ = ["STREAM", "Daemon", "DaemonFactory", "balanced", "event", "eventually"]


class DaemonFactory(Protocol):
    def __call__(
        self,
        settings: str,
        *arguments: str,
        server: RedisServer | None = None,
        redis_settings: str = "",
        http_settings: str = "{port: 0}",
    ) -> Daemon: ...


def event(seq: int, camera: str = "gate", *labels: str, ts: int | None = None) -> Event:
    """An event as a daemon would publish it, with an object for each of `labels`."""
    objects = tuple(Detection(label, 0, 0.9, (1.0, 2.0, 3.0, 4.0)) for label in labels)
    data = EventData(1.0, 640, 360, "m", 0, Latency(1.0, 2.0, 3.0, 6.0), objects)
    when = 1000 + seq if ts is None else ts
    return Event(1, f"{camera}:1:{seq}", camera, seq, when, "arrival", len(objects), data)
