"""A worker process as its supervisor sees it."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from streamd.clock import Backoff, Clock, SystemClock
from streamd.processes.messages import Ping, Pong, Stop, ToSupervisor, ToWorker
from streamd.processes.signals import held_back

_SPAWN = multiprocessing.get_context("spawn")
_PING_EVERY_S = 1.0
# Silence is counted in pings, not in seconds: a host that stood still asked nobody.
_HUNG_AFTER_PINGS = 15


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended."""

    reason: str
    lived_s: float


class WorkerProcess:
    """One worker: started, pinged, killed when it hangs, and started anew after a back-off.

    `start_body(connection)` gives the process' target and its arguments, afresh for every start.
    """

    def __init__(
        self,
        name: str,
        role: str,
        number: int,
        start_body: Callable[[], tuple[Callable[..., None], Any]],
        clock: Clock = SystemClock(),  # noqa: B008  # it has no state
    ) -> None:
        self.name = name
        self.role = role
        self.number = number
        self.starts = 0
        self.last_words = ""
        self._start_body = start_body
        self._clock = clock
        self._backoff = Backoff(first_s=1.0, longest_s=30.0, stable_s=30.0)
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._started_s = 0.0
        self._pinged_s = 0.0
        self._pings = 0
        self._unanswered = 0
        self._hung = False
        self.start_at_s = 0.0

    @property
    def alive(self) -> bool:
        """True from its start until its end was noticed."""
        return self._process is not None

    @property
    def ended(self) -> bool:
        """True once the process has ended and `reap` is due; what it said can still be heard."""
        return self._process is not None and not self._process.is_alive()

    @property
    def connection(self) -> Connection | None:
        """The supervisor's end of the pipe."""
        return self._connection

    @property
    def sentinel(self) -> int | None:
        """Ready once the process has ended."""
        return self._process.sentinel if self._process else None

    def start(self) -> None:
        """Starts the process.

        Raises OSError where the machine has no room for one, which is to be tried again.
        """
        try:
            self._process, self._connection = self._spawn()
        except OSError:
            self.start_at_s = self._now_s() + self._backoff.next_delay_s()
            raise
        self.starts += 1
        self.last_words = ""
        self._hung = False
        self._unanswered = 0
        self._started_s = self._pinged_s = self._now_s()

    def _spawn(self) -> tuple[SpawnProcess, Connection]:
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            try:
                target, spec = self._start_body()
                process = _SPAWN.Process(target=target, args=(spec, theirs), name=self.name)
                with held_back():
                    process.start()
            except BaseException:
                ours.close()
                raise
        return process, ours

    def send(self, message: ToWorker) -> None:
        """Tells the worker, if it still listens."""
        if self._connection is None:
            return
        with suppress(OSError):  # its death is noticed by its sentinel
            self._connection.send(message)

    def receive(self) -> list[ToSupervisor]:
        """What the worker has said since the last call; pongs are taken note of here."""
        messages: list[ToSupervisor] = []
        try:
            while self._connection is not None and self._connection.poll():
                message = self._connection.recv()
                if isinstance(message, Pong):
                    self._unanswered = 0
                else:
                    messages.append(message)
        except (EOFError, OSError):
            pass  # its death is noticed by its sentinel
        return messages

    def check(self) -> None:
        """Pings it, at most once a second, and kills it if it has not answered for long."""
        now_s = self._now_s()
        if not self.alive or now_s - self._pinged_s < _PING_EVERY_S:
            return
        if self._unanswered >= _HUNG_AFTER_PINGS:
            self._hung = True
            self.kill()
            return
        self._pings += 1
        self._unanswered += 1
        self._pinged_s = now_s
        self.send(Ping(self._pings))

    def stop(self) -> None:
        """Asks it to end."""
        self.send(Stop())

    def kill(self) -> None:
        """Ends it at once; nothing is left but to notice."""
        if self._process is not None and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGKILL)

    def reap(self) -> Death | None:
        """Notices that the process has ended; None while it lives."""
        if self._process is None or self._process.is_alive():
            return None
        status = self._process.exitcode or 0
        self._process.join()
        self._process.close()
        self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        lived_s = self._now_s() - self._started_s
        if lived_s > self._backoff.stable_s:
            self._backoff.reset()
        self.start_at_s = self._now_s() + self._backoff.next_delay_s()
        return Death(self._reason(status), lived_s)

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def _reason(self, status: int) -> str:
        if self._hung:
            return "hung"
        if status < 0:
            return signal.Signals(-status).name.lower()
        return "failed" if status else "exited"
