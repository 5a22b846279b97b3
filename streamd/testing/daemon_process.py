"""A daemon as its users meet it: a process, a configuration file, a log, HTTP and Redis."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import redis

from streamd.events import Event, parse_event
from streamd.testing.redis_server import RedisServer

PATIENCE_S = 60.0
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


class Daemon:
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
        self.log: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamd", "run", str(path), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": "plain", "text": line.decode(errors="replace").strip()})

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Log lines of `event` that hold `fields`."""
        return [
            line
            for line in list(self.log)
            if line["event"] == event and all(line.get(k) == v for k, v in fields.items())
        ]

    def wait_for_log(self, event: str, within_s: float = PATIENCE_S, **fields: Any) -> Any:
        """The first log line of `event` that holds `fields`."""
        return eventually(
            lambda: self.logged(event, **fields), within_s, f"log line {event} {fields}"
        )[0]

    def wait_ready(self) -> None:
        """Until it has said so; one that ended instead is a failure that shows its log."""

        def is_ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"it ended with {self.process.returncode}: {self.log[-5:]}")
            return bool(self.logged("ready"))

        eventually(is_ready, what="ready")

    @property
    def http(self) -> str:
        """Where HTTP is."""
        return str(self.wait_for_log("starting")["http"])

    def get(self, path: str) -> Any:
        """The answer to a GET."""
        return httpx.get(f"{self.http}{path}", timeout=10)

    def cameras(self) -> dict[str, Any]:
        """The API's cameras by id."""
        return {camera["id"]: camera for camera in self.get("/api/v1/cameras").json()}

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

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """The exit code."""
        code = self.process.wait(within_s)
        self._reader.join(5)
        return code

    def close(self) -> None:
        """Kills it and its workers, if it still runs, and lets go of all."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self._redis.close()


def balanced(frames: dict[str, int]) -> bool:
    """The promise of the ledger, for one camera of the API."""
    outcomes = sum(count for name, count in frames.items() if name != "captured")
    return frames["captured"] == outcomes and frames["in_flight"] >= 0
