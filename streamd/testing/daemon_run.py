"""A daemon in a process of its own, seen from outside: its log, its HTTP, its CPU time."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamd.errors import SetupError
from streamd.linux.prctl import dying_with_parent
from streamd.linux.usage import cpu_by_role

PATIENCE_S = 120.0
_ENDS_WITHIN_S = 15.0


class DaemonRun:
    """`streamd run` on the configuration at `path`, from its start to `close`."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.log: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            # A benchmark that is killed leaves none.
            dying_with_parent([sys.executable, "-m", "streamd", "run", str(path), *arguments]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, name="log", daemon=True)
        self._reader.start()

    @property
    def http(self) -> str:
        """Where its HTTP is."""
        return str(self.wait_for_log("starting")["http"])

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Log lines of `event` that hold `fields`."""
        return [
            line
            for line in list(self.log)
            if line["event"] == event and all(line.get(k) == v for k, v in fields.items())
        ]

    def wait_for_log(
        self, event: str, within_s: float = PATIENCE_S, **fields: Any
    ) -> dict[str, Any]:
        """The first log line of `event` that holds `fields`; see `wait_until`."""
        what = f"say {event!r} {fields}" if fields else f"say {event!r}"
        self.wait_until(lambda: bool(self.logged(event, **fields)), within_s, what)
        return self.logged(event, **fields)[0]

    def wait_until(self, look: Callable[[], bool], within_s: float, what: str) -> None:
        """Until `look` gives True. Raises SetupError where it does not, or the daemon ends."""
        deadline_s = time.monotonic() + within_s
        while not look():
            code = self.process.poll()
            if code is not None:
                self._reader.join(5)
                if look():  # at its last words
                    return
            if code is not None or time.monotonic() > deadline_s:
                late = f"did not {what} within {within_s:.0f} s"
                why = late if code is None else f"ended with {code} and did not {what}"
                raise SetupError(f"the daemon {why}; its log ends with: {self._last_line()}")
            time.sleep(0.02)

    def wait_online(self, within_s: float) -> None:
        """Until every camera is online; see `wait_until`."""

        def look() -> bool:
            return all(camera["state"] == "online" for camera in self.camera_states())

        self.wait_until(look, within_s, "get all cameras")

    def camera_states(self) -> list[dict[str, Any]]:
        """What the API says of each camera."""
        with urllib.request.urlopen(f"{self.http}/api/v1/cameras", timeout=10) as answer:
            cameras: list[dict[str, Any]] = json.load(answer)
        return cameras

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far by role: supervisor, ingest, inference."""
        return cpu_by_role(self.process.pid)

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """The exit code. Raises subprocess.TimeoutExpired where it goes on for longer."""
        code = self.process.wait(within_s)
        self._reader.join(5)
        return code

    def close(self) -> None:
        """Ends it, if it still runs, and lets go of it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reader.join(5)
        if self.process.stderr is not None:
            self.process.stderr.close()

    def kill(self) -> None:
        """Kills it and its workers, if it still runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _read_log(self) -> None:
        if self.process.stderr is None:
            return
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": "plain", "text": line.decode(errors="replace").strip()})

    def _last_line(self) -> str:
        line = self.log[-1] if self.log else {"event": "nothing"}
        return " ".join(str(line[k]) for k in ("event", "reason", "detail", "text") if k in line)


def write_settings(folder: Path, settings: Mapping[str, Any]) -> Path:
    """`settings` as a configuration in `folder`; the file."""
    path = folder / "config.json"
    path.write_text(json.dumps(settings))
    path.chmod(0o600)
    return path
