"""A daemon as its users meet it: a process, a configuration file, a log, HTTP and Redis."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import redis

from streamd.events import Event, parse_event
from streamd.testing.daemon_run import PATIENCE_S, DaemonRun
from streamd.testing.redis_server import RedisServer

STREAM = "streamd:detections"
STATUS = "streamd:status"


T = TypeVar("T")


def eventually(look: Callable[[], T], within_s: float = PATIENCE_S, what: str = "") -> T:
    """The first true value that `look` gives; a failure says what was seen last."""
    deadline_s = time.monotonic() + within_s
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {within_s:.0f} s: {what or look}; last seen {seen!r}")
        time.sleep(0.05)


class Daemon(DaemonRun):
    """`streamd run` on a configuration whose `settings` are YAML without redis and http."""

    def __init__(
        self,
        path: Path,
        settings: str,
        server: RedisServer,
        arguments: tuple[str, ...],
        redis_settings: str = "",
        http_settings: str = "{port: 0}",
    ) -> None:
        more = f", {redis_settings}" if redis_settings else ""
        path.write_text(f'redis: {{url: "{server.url}"{more}}}\nhttp: {http_settings}\n{settings}')
        self.config = path
        self._redis: Any = redis.Redis.from_url(server.url, decode_responses=True)
        super().__init__(path, *arguments)

    def wait_ready(self) -> None:
        """Until it has said so."""
        self.wait_for_log("ready")

    def get(self, path: str) -> Any:
        """The answer to a GET."""
        return httpx.get(f"{self.http}{path}", timeout=10)

    def cameras(self) -> dict[str, Any]:
        """The API's cameras by id."""
        return {camera["id"]: camera for camera in self.camera_states()}

    def wait_state(self, camera: str, state: str, reason: str | None = None) -> Any:
        """What the API says of `camera` once it is in `state`, for `reason` if given."""

        def look() -> Any:
            seen = self.cameras()[camera]
            fits = seen["state"] == state and (reason is None or seen["reason"] == reason)
            return seen if fits else None

        return eventually(look, what=f"{camera} {state} {reason}")

    def events(self, camera: str | None = None) -> list[Event]:
        """What Redis holds, in its order."""
        entries = self._redis.xrange(STREAM) or []
        events = [parse_event(fields) for _, fields in entries]
        return [event for event in events if camera in (None, event.camera)]

    def wait_events(self, count: int, camera: str | None = None) -> list[Event]:
        """What Redis holds once it is at least `count` events."""
        eventually(lambda: len(self.events(camera)) >= count, what=f"{count} events of {camera}")
        return self.events(camera)

    def status(self) -> list[tuple[str, str, str]]:
        """Name, state and reason of every camera entry in the status stream."""
        entries = [fields for _, fields in self._redis.xrange(STATUS) or []]
        return [(e["name"], e["state"], e["reason"]) for e in entries if e["kind"] == "camera"]

    def status_entries(self, kind: str) -> list[dict[str, str]]:
        """The fields of the status stream's entries of `kind`."""
        entries = [fields for _, fields in self._redis.xrange(STATUS) or []]
        return [fields for fields in entries if fields["kind"] == kind]

    def children(self, name: str = "") -> list[psutil.Process]:
        """The worker processes, by their names."""
        workers = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in workers if p.name().startswith(f"sd:{name}")]

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        """Kills it and its workers, if it still runs, and lets go of all."""
        self.kill()
        super().close()
        self._redis.close()


def balanced(frames: dict[str, int]) -> bool:
    """The promise of the ledger, for one camera of the API."""
    outcomes = sum(count for name, count in frames.items() if name != "captured")
    return frames["captured"] == outcomes and frames["in_flight"] >= 0
