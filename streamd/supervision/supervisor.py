"""The supervisor: keeps the workers alive, ends everything in order.

It never decodes and never loads an engine: it must survive whatever does.
"""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

from streamd.logs import get_logger
from streamd.processes.messages import CameraState
from streamd.processes.signals import Signals
from streamd.publishing.status import StatusStream
from streamd.supervision.control import Control
from streamd.supervision.crew import Crew
from streamd.supervision.fleet import Fleet
from streamd.supervision.layout import Layout
from streamd.supervision.model_swap import ModelSwap
from streamd.supervision.notify import notify
from streamd.supervision.process import Death, WorkerProcess
from streamd.supervision.reload import Reloaded
from streamd.supervision.reports import Reports
from streamd.supervision.roster import Roster
from streamd.supervision.watchdog import Watchdog

_TICK_S = 0.5
# Together below the ten seconds after which a service manager loses patience.
_INGEST_STOPS_WITHIN_S = 2.5
_INFERENCE_STOPS_WITHIN_S = 5.5
_STATUS_WITHIN_S = 1.0
# `timeout` and other wrappers pass a signal on to a process that has got it already.
_SAME_SIGNAL_S = 0.5
# A batch job takes what it takes, as long as frames get their outcomes.
_STANDS_STILL_S = 120.0
_HOPELESS_STARTS = 3
_START_GOES_ON_S = 60


class Supervisor:
    """Runs a layout. `until_done` ends when every file was read and published.

    `load` reads the configuration file again, for SIGHUP. One of `signals` to end lets all finish
    in time, another one later ends them at once.
    """

    def __init__(
        self,
        layout: Layout,
        fleet: Fleet,
        *,
        supervisor_pid: int,
        until_done: bool,
        signals: Signals,
        load: Callable[[], Reloaded],
    ) -> None:
        self._layout = layout
        self._fleet = fleet
        self._until_done = until_done
        self._log = get_logger()
        self._signals = signals
        self._bell = signals.bell
        self._told_to_end = 0
        self._told_s = 0.0
        self._ending = False
        self._failed = False
        self._ready = False
        self._watchdog = Watchdog.of(os.environ, os.getpid())
        self._sampled_s = 0.0
        self._status = StatusStream(layout.config.redis)
        self._crew = Crew(layout, fleet, supervisor_pid=supervisor_pid, give_up_files=until_done)
        self._roster = Roster(layout, fleet, self._crew, self._camera_stopped)
        self._swap = ModelSwap(layout, self._crew)
        self._reports = Reports(fleet, self._status, self._roster.heard, self._swap.heard)
        self.control = Control(layout, fleet, self._roster, self._swap, load, self._bell)

    def run(self) -> int:
        """Until a signal or the end of all files; returns the exit code."""
        self._signals.begin()
        try:
            self._status.start()
            self._status.service("started")
            self._tick()
            while not self._ending:
                self._wait(_TICK_S)
                self._tick()
            return self._terminate()
        except BaseException:
            # The interpreter would wait for them, and nobody would be there to start them anew.
            for worker in self._crew.workers:
                worker.kill()
            raise

    def end(self) -> None:
        """Asks `run` to end, from another thread."""
        self._signals.add(signal.SIGTERM)

    def _camera_stopped(self, camera: str) -> None:
        self._reports.stopped(camera)

    def _wait(self, timeout_s: float) -> None:
        """Until a worker says something or ends, a signal comes, or the time is over."""
        sources: list[Any] = [self._bell]
        for worker in self._crew.workers:
            sources += [s for s in (worker.connection, worker.sentinel) if s is not None]
        wait(sources, timeout_s)
        self._bell.clear()

    def _tick(self) -> None:
        self._handle_signals()
        self.control.tick()
        self._roster.tick()
        for worker in self._crew.workers:
            self._reports.hear(worker)
            worker.check()
            self._keep_alive(worker)
        if time.monotonic() - self._sampled_s >= 1.0:
            self._sampled_s = time.monotonic()
            self._fleet.sample()
            self._tell_service_manager()
        self._note_ready()
        if self._until_done and self._work_is_over():
            self._ending = True

    def _handle_signals(self) -> None:
        while (number := self._signals.next()) is not None:
            if number != signal.SIGHUP:
                self._note_end(number)
            elif not self._ending:
                self.control.reload()

    def _note_end(self, number: signal.Signals) -> None:
        now_s = time.monotonic()
        if self._told_to_end and now_s - self._told_s < _SAME_SIGNAL_S:
            return
        self._log.info("stopping", reason=number.name)
        self._told_to_end += 1
        self._told_s = now_s
        self._ending = True

    def _keep_alive(self, worker: WorkerProcess) -> None:
        """Notices the end of a worker, and starts the next one in time."""
        if worker.alive:
            death = self._reap(worker)
            if death is not None:
                self._note_death(worker, death)
        elif self._crew.wanted(worker) and time.monotonic() >= worker.start_at_s:
            self._start(worker)

    def _start(self, worker: WorkerProcess) -> None:
        try:
            worker.start()
        except OSError as error:  # no memory, process or descriptor left: perhaps for a moment
            retry_in_s = round(worker.start_at_s - time.monotonic(), 2)
            reason = error.strerror or str(error)
            self._log.error(
                "worker_not_started", worker=worker.name, reason=reason, retry_in_s=retry_in_s
            )
            return
        if worker.starts > 1:
            self._log.info("worker_restarted", worker=worker.name, starts=worker.starts)

    def _reap(self, worker: WorkerProcess) -> Death | None:
        """Takes leave of a worker that has ended, after its last words; None while it lives."""
        ended = worker.ended
        self._reports.hear(worker)
        return worker.reap() if ended else None

    def _note_death(self, worker: WorkerProcess, death: Death) -> None:
        restart_in_s = max(0.0, worker.start_at_s - time.monotonic())
        lost = self._crew.close_books(worker)
        places = self._crew.cameras_of(worker)
        self._roster.worker_died(places, worker.role)
        guilty = self._crew.blame(worker)
        self._reports.worker_died(worker, death, lost, restart_in_s, guilty)
        if worker.role == "inference":
            self._swap.worker_died()
        else:
            for place in places:
                if self._crew.to_be_read(place):
                    self._reports.reader_lost(place.config.id, place.index)
        never_ready = worker.role == "inference" and not self._ready
        if self._until_done and never_ready and worker.starts >= _HOPELESS_STARTS:
            self._ending = self._failed = True

    def _note_ready(self) -> None:
        if self._ready or self._fleet.not_ready(self._layout.inference_workers):
            return
        self._ready = True
        notify("READY=1")
        engine = next(iter(self._fleet.engines.values()))
        self._log.info(
            "ready",
            cameras=len(self._fleet.cameras),
            engine=f"{engine.backend} {engine.precision}",
            device=engine.device,
        )

    def _tell_service_manager(self) -> None:
        if not self._ready:
            # A large engine is built, or Redis is waited for: no reason to begin anew.
            notify(f"EXTEND_TIMEOUT_USEC={_START_GOES_ON_S * 1_000_000}")
        if self._watchdog is None:
            return
        totals, last_ns = self._fleet.totals(), self._fleet.last_inferred_ns()
        if self._watchdog.is_due(time.monotonic(), totals, last_ns):
            notify("WATCHDOG=1")

    def _work_is_over(self) -> bool:
        files = [e for e in self._fleet.cameras.values() if e.config.is_local_file]
        if not all(entry.settled for entry in files):
            return False
        # A worker that is about to come back infers what waits.
        alive = all(worker.alive for worker in self._crew.inference)
        return alive or not self._fleet.totals()["in_flight"]

    def _terminate(self) -> int:
        """Stops the readers, lets inference empty the slots, then ends; at most ten seconds."""
        notify("STOPPING=1")
        self._status.service("stopping")
        self._stop(self._crew.ingest, _INGEST_STOPS_WITHIN_S)
        self._stop(self._crew.inference, None if self._until_done else _INFERENCE_STOPS_WITHIN_S)
        code = self._exit_code()
        self._roster.close()
        self._status.service("stopped")
        self._status.close(_STATUS_WITHIN_S)
        self._log.info("stopped", exit_code=code, frames=self._fleet.totals())
        return code

    def _exit_code(self) -> int:
        states = [entry.report.state for entry in self._fleet.cameras.values()]
        # A batch job that could not deliver has failed; a service is not ended for that.
        ledger, places = self._layout.ledger, self._layout.places.values()
        undelivered = self._until_done and (
            self._fleet.totals()["in_flight"] > 0
            or any(ledger.lost(place.index) for place in places)
            or any(ledger.get(place.index, "events_lost") for place in places)
            or any(
                ledger.get_worker(worker.number, "spool_events") for worker in self._crew.inference
            )
        )
        return int(self._failed or CameraState.FAILED in states or undelivered)

    def _stop(self, workers: list[WorkerProcess], within_s: float | None) -> None:
        """Lets `workers` end by themselves, then kills them.

        Without `within_s` they have as long as frames get their outcomes, or until a signal comes.
        """
        for worker in workers:
            worker.stop()
        deadline_s = None if within_s is None else time.monotonic() + within_s
        totals, moved_s = self._fleet.totals(), time.monotonic()
        killed: set[str] = set()
        while any(worker.alive for worker in workers):
            self._wait(0.1)
            self._handle_signals()
            now_s = time.monotonic()
            before, totals = totals, self._fleet.totals()
            if totals != before:
                moved_s = now_s
            if deadline_s is None and self._told_to_end:
                deadline_s = now_s + _INFERENCE_STOPS_WITHIN_S
            ends_s = moved_s + _STANDS_STILL_S if deadline_s is None else deadline_s
            for worker in workers:
                if (now_s > ends_s or self._told_to_end > 1) and worker.name not in killed:
                    killed.add(worker.name)
                    self._kill(worker)
                self._reap_stopped(worker)

    def _kill(self, worker: WorkerProcess) -> None:
        if worker.alive:
            self._log.warning("worker_killed", worker=worker.name, reason="did not stop")
            worker.kill()

    def _reap_stopped(self, worker: WorkerProcess) -> None:
        death = self._reap(worker)
        if death is None:
            return
        lost = self._crew.close_books(worker)
        if lost or death.reason != "exited":
            self._failed = self._failed or self._until_done
            self._log.warning(
                "worker_ended", worker=worker.name, reason=death.reason, frames_lost=lost
            )
