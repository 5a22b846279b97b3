"""The status stream: the life of cameras and of the service, for subscribers."""

import time
from collections.abc import Callable, Sequence

from streamd.config import CameraConfig, RedisConfig
from streamd.events import SCHEMA_VERSION
from streamd.messages import CameraReport
from streamd.publisher import Entry, Publisher


class StatusStream:
    """Writes `redis.status_stream`. Delivery is that of events: in order, through absences."""

    def __init__(
        self, config: RedisConfig, on_reachable: Callable[[bool, str], None] = lambda *_: None
    ) -> None:
        self._stream = config.status_stream
        self._on_reachable = on_reachable
        self._publisher = Publisher(config, self)

    def start(self) -> None:
        """Starts sending."""
        self._publisher.start()

    def close(self, within_s: float) -> None:
        """Sends what is queued, for at most `within_s` seconds."""
        self._publisher.close(within_s)

    def camera(self, config: CameraConfig, report: CameraReport) -> None:
        """A camera came online, went offline, is done, or was stopped."""
        self._put("camera", config.id, report.state, report.reason or "", report.detail)

    def service(self, state: str, reason: str = "", detail: str = "") -> None:
        """The service started or is stopping."""
        self._put("service", "", state, reason, detail)

    def worker(self, name: str, state: str, reason: str, detail: str = "") -> None:
        """A worker process was lost or restarted."""
        self._put("worker", name, state, reason, detail)

    def _put(self, kind: str, name: str, state: str, reason: str, detail: str) -> None:
        fields = {
            "v": SCHEMA_VERSION,
            "ts": time.time_ns() // 1_000_000,
            "kind": kind,
            "name": name,
            "state": state,
            "reason": reason,
            "detail": detail,
        }
        self._publisher.put([Entry(self._stream, fields)])

    def sent(self, entries: Sequence[Entry]) -> None:
        """See publisher.Listener."""

    def lost(self, entries: Sequence[Entry], why: str) -> None:
        """See publisher.Listener. A lost status is told by the log as well."""

    def reachable(self, up: bool, error: str) -> None:
        """See publisher.Listener."""
        self._on_reachable(up, error)
