"""The status stream: the life of cameras and of the service, for subscribers."""

import time
from collections.abc import Callable, Sequence

from streamd.config import RedisConfig
from streamd.events import SCHEMA_VERSION
from streamd.logs import get_logger
from streamd.processes.messages import CameraReport, EventsLost
from streamd.publishing.publisher import Publisher
from streamd.publishing.spooler import Entry


class StatusStream:
    """Writes `redis.status_stream`. Delivery is that of events: in order, through absences."""

    def __init__(
        self, config: RedisConfig, on_reachable: Callable[[bool, str], None] = lambda *_: None
    ) -> None:
        self._stream = config.status_stream
        self._on_reachable = on_reachable
        self._publisher = Publisher(config, self, "status")
        self._session = time.time_ns() // 1_000_000
        self._count = 0
        self._log = get_logger(worker="status")

    def start(self) -> None:
        """Starts sending."""
        self._publisher.start()

    def close(self, within_s: float) -> None:
        """Sends what is queued, for at most `within_s` seconds."""
        self._publisher.close(within_s)

    def camera(self, report: CameraReport) -> None:
        """A camera came online, went offline, is done, or was stopped."""
        self._put("camera", report.camera, report.state, report.reason or "", report.detail)

    def service(self, state: str, reason: str = "", detail: str = "") -> None:
        """The service started or is stopping."""
        self._put("service", "", state, reason, detail)

    def worker(self, name: str, state: str, reason: str, detail: str = "") -> None:
        """A worker process was lost or restarted."""
        self._put("worker", name, state, reason, detail)

    def gap(self, gap: EventsLost) -> None:
        """Events of a camera will not come."""
        detail = f"{gap.count} events, {gap.first} to {gap.last}"
        self._put("gap", gap.camera, "lost", gap.why.replace(" ", "_"), detail)

    def _put(self, kind: str, name: str, state: str, reason: str, detail: str) -> None:
        self._count += 1
        fields = {
            "v": SCHEMA_VERSION,
            "id": f"status:{self._session}:{self._count}",
            "ts": time.time_ns() // 1_000_000,
            "kind": kind,
            "name": name,
            "state": state,
            "reason": reason,
            "detail": detail,
        }
        self._publisher.put([Entry(self._stream, fields)])

    def kept(self, entries: Sequence[Entry]) -> None:
        """See publisher.Listener."""

    def sent(self, entries: Sequence[Entry], took_s: float) -> None:
        """See publisher.Listener."""

    def lost(self, entries: Sequence[Entry], why: str) -> None:
        """See publisher.Listener. A lost status is told by the log as well."""

    def waiting(self, spooled: int, size_bytes: int, oldest_ms: int) -> None:
        """See publisher.Listener."""

    def spool_unusable(self, error: str) -> None:
        """See publisher.Listener."""
        self._log.warning("spool_unusable", reason=error, effect="the status waits in memory alone")

    def spool_damaged(self, what: str) -> None:
        """See publisher.Listener."""
        self._log.warning("spool_damaged", reason=what, effect="all else on disk is sent")

    def reachable(self, up: bool, error: str) -> None:
        """See publisher.Listener."""
        self._on_reachable(up, error)
