"""A job in a process of its own: what it needs, and what may crash, ends with it.

The job reads its order as JSON from stdin, and writes JSON lines to the file descriptor that its
argument names: {"step": ...} as it goes, and at the end {"done": ...} or {"error": ...}. What
libraries print goes elsewhere, and is only shown if the job dies.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from streamd.errors import EngineError, StreamdError
from streamd.linux.prctl import die_with_parent, set_process_name

Tell = Callable[[str], None]


class Children:
    """The jobs that this process waits for, so that it can be ended before they are done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.ended = False

    @contextmanager
    def counting(self, process: "subprocess.Popen[bytes]") -> Iterator[None]:
        """While `process` is waited for."""
        with self._lock:
            self._running.add(process)
            if self.ended:
                process.kill()
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)

    def end(self) -> None:
        """Kills those that run, and from now on any other."""
        with self._lock:
            self.ended = True
            for process in self._running:
                process.kill()


children = Children()


def run_child(
    module: str,
    order: Mapping[str, Any],
    tell: Tell,
    *,
    about: str,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Runs `module` as a process on `order` and returns what it made; `tell` hears of each step.

    Raises EngineError, which begins with `about` if the process died.
    """
    listens, speaks = os.pipe()
    with tempfile.TemporaryFile("w+") as text, tempfile.TemporaryFile() as noise:
        json.dump(order, text)
        text.seek(0)
        with (
            subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(speaks)],
                stdin=text,
                stdout=noise,
                stderr=noise,
                pass_fds=(speaks,),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(environment or {})},
            ) as process,
            children.counting(process),
        ):
            os.close(speaks)
            try:
                last = _listen(listens, tell)
            except BaseException:  # a signal, say: whoever does not wait for it wants none of it
                process.kill()
                raise
        if "done" in last:
            done: dict[str, Any] = last["done"]
            return done
        noise.seek(0)
        raise EngineError(last.get("error") or _death(about, process.returncode, noise.read()))


def child_main(name: str, job: Callable[[dict[str, Any], Tell], dict[str, Any]]) -> None:
    """The other side: runs `job(order, tell)` in this process and says how it ended."""
    set_process_name(name)
    die_with_parent()
    with os.fdopen(int(sys.argv[1]), "w", buffering=1) as out:

        def say(**message: Any) -> None:
            out.write(json.dumps(message) + "\n")

        try:
            done = job(json.load(sys.stdin), lambda step: say(step=step))
        except StreamdError as error:
            say(error=str(error))
        else:
            say(done=done)


def _listen(listens: int, tell: Tell) -> dict[str, Any]:
    """Passes every step on; returns what came last."""
    message: dict[str, Any] = {}
    with os.fdopen(listens) as lines:
        for line in lines:
            message = json.loads(line)
            if "step" in message:
                tell(message["step"])
    return message


def _death(about: str, code: int, noise: bytes) -> str:
    said = noise.decode(errors="replace").strip().splitlines()
    last = f": {said[-1]}" if said else ""
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed ({code})"
    return f"{about} {how}{last}"
