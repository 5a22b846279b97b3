"""The supervisor: owns the memory, keeps the workers alive, ends everything in order.

It never decodes and never loads an engine: it must survive whatever does.
"""

import signal
import time
from collections import deque
from functools import partial
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

from streamd.fleet import Fleet
from streamd.inference import InferenceSpec, ReadCamera, inference_main
from streamd.ingest import CameraAssignment, IngestSpec, ingest_main
from streamd.layout import CameraPlace, Layout
from streamd.logs import get_logger
from streamd.memory import Doorbell
from streamd.messages import (
    CameraReport,
    CameraState,
    EngineReport,
    RedisReport,
    ToSupervisor,
    WorkerFailed,
)
from streamd.notify import notify
from streamd.process import WorkerProcess
from streamd.status import StatusStream
from streamd.worker import WorkerIdentity

_TICK_S = 0.5
# Together below the ten seconds after which a service manager loses patience.
_INGEST_STOPS_WITHIN_S = 2.5
_INFERENCE_STOPS_WITHIN_S = 5.5
_STATUS_WITHIN_S = 1.0
_HOPELESS_STARTS = 3


class Supervisor:
    """Runs a layout. `until_done` ends when every file was read and published.

    `fleet` is what HTTP and metrics show.
    """

    def __init__(self, layout: Layout, fleet: Fleet, *, supervisor_pid: int, until_done: bool):
        self._layout = layout
        self._fleet = fleet
        self._pid = supervisor_pid
        self._until_done = until_done
        self._log = get_logger()
        self._signals: deque[int] = deque()
        self._bell = Doorbell()
        self._ending = False
        self._failed = False
        self._ready = False
        self._sessions = 0
        self._sampled_s = 0.0
        self._status = StatusStream(layout.config.redis)
        self._inference = [
            WorkerProcess(f"inference-{n}", "inference", n, partial(self._inference_body, n))
            for n in range(layout.inference_workers)
        ]
        self._ingest = [
            WorkerProcess(f"ingest-{n}", "ingest", n, partial(self._ingest_body, n))
            for n in range(layout.ingest_workers)
        ]

    @property
    def workers(self) -> list[WorkerProcess]:
        """All worker processes, inference first."""
        return [*self._inference, *self._ingest]

    def run(self) -> int:
        """Until a signal or the end of all files; returns the exit code."""
        self._listen_to_signals()
        self._status.start()
        self._status.service("started")
        for worker in self.workers:
            worker.start()
        while not self._ending:
            self._wait(_TICK_S)
            self._tick()
        return self._terminate()

    def end(self) -> None:
        """Asks `run` to end, from another thread."""
        self._signals.append(signal.SIGTERM)
        self._bell.ring()

    def _listen_to_signals(self) -> None:
        def record(number: int, _: FrameType | None) -> None:
            self._signals.append(number)
            self._bell.ring()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, record)

    def _wait(self, timeout_s: float) -> None:
        """Until a worker says something or ends, a signal comes, or the time is over."""
        sources: list[Any] = [self._bell]
        for worker in self.workers:
            sources += [s for s in (worker.connection, worker.sentinel) if s is not None]
        wait(sources, timeout_s)
        self._bell.clear()

    def _tick(self) -> None:
        self._handle_signals()
        self._hear_workers()
        for worker in self.workers:
            worker.check()
            self._keep_alive(worker)
        if time.monotonic() - self._sampled_s >= 1.0:
            self._sampled_s = time.monotonic()
            self._fleet.sample()
        self._note_ready()
        if self._until_done and self._work_is_over():
            self._ending = True

    def _handle_signals(self) -> None:
        while self._signals:
            number = self._signals.popleft()
            if number == signal.SIGHUP:
                self._log.warning("reload_unsupported", reason="restart the service instead")
                continue
            self._log.info("stopping", reason=signal.Signals(number).name)
            self._ending = True

    def _hear_workers(self) -> None:
        for worker in self.workers:
            for message in worker.receive():
                self._hear(worker, message)

    def _hear(self, worker: WorkerProcess, message: ToSupervisor) -> None:
        match message:
            case CameraReport():
                self._hear_camera(message)
            case EngineReport():
                self._fleet.engines[worker.number] = message
                self._log.info(
                    "engine_ready",
                    worker=worker.name,
                    model=self._layout.model.path,
                    backend=message.backend,
                    device=message.device,
                    precision=message.precision,
                    shapes=list(message.shapes),
                    batch_sizes=list(message.ladder),
                    load_s=message.load_s,
                )
            case RedisReport(reachable, error):
                self._fleet.redis[worker.name] = None if reachable else error
                if reachable:
                    self._log.info("redis_connected", worker=worker.name)
                else:
                    self._log.warning("redis_lost", worker=worker.name, reason=error)
            case WorkerFailed(error):
                worker.last_words = error

    def _hear_camera(self, report: CameraReport) -> None:
        entry = self._fleet.cameras[report.camera]
        news = self._fleet.note(report)
        if report.state is CameraState.ONLINE:
            self._log.info(
                "camera_online",
                camera=report.camera,
                codec=report.codec,
                width=report.width,
                height=report.height,
                fps=round(report.fps, 2),
            )
        elif report.state in (CameraState.OFFLINE, CameraState.FAILED):
            self._log.warning(
                f"camera_{report.state}",
                camera=report.camera,
                reason=report.reason,
                detail=report.detail,
                retry_in_s=report.retry_in_s,
            )
        elif report.state is not CameraState.CONNECTING:
            self._log.info(f"camera_{report.state}", camera=report.camera)
        if news:
            self._status.camera(entry.config, report)

    def _keep_alive(self, worker: WorkerProcess) -> None:
        """Notices the end of a worker, books what it held, and starts the next one in time."""
        if worker.alive:
            self._notice_end(worker)
        elif self._wanted(worker) and time.monotonic() >= worker.start_at_s:
            worker.start()
            self._log.info("worker_restarted", worker=worker.name, starts=worker.starts)

    def _notice_end(self, worker: WorkerProcess) -> None:
        for message in worker.receive():
            self._hear(worker, message)
        death = worker.reap()
        if death is None:
            return
        lost = self._close_books(worker)
        for place in self._cameras_of(worker) if worker.role == "ingest" else ():
            if not self._settled(place):
                self._hear_camera(self._fleet.worker_lost(place.config.id))
        self._fleet.restarts[worker.role, death.reason] += 1
        detail = worker.last_words
        self._log.error(
            "worker_died",
            worker=worker.name,
            reason=death.reason,
            detail=detail,
            frames_lost=lost,
            restart_in_s=round(max(0.0, worker.start_at_s - time.monotonic()), 2),
        )
        self._status.worker(worker.name, "restarted", death.reason, detail)
        never_ready = worker.role == "inference" and not self._ready
        if self._until_done and never_ready and worker.starts >= _HOPELESS_STARTS:
            self._ending = self._failed = True

    def _close_books(self, worker: WorkerProcess) -> int:
        """Books the frames that a dead worker held, and gives back its slots."""
        pool, ledger, lost = self._layout.pool, self._layout.ledger, 0
        if worker.role == "inference":
            self._fleet.engines.pop(worker.number, None)
            self._fleet.redis.pop(worker.name, None)
            for place in self._cameras_of(worker):
                lost += ledger.close_inference(place.index, pool.taken(place.ring))
                pool.reclaim(place.ring)
            for space in self._layout.spaces:
                space.ring()
            return lost
        for place in self._cameras_of(worker):
            lost += ledger.close_ingest(place.index, pool.submitted(place.ring))
        return lost

    def _wanted(self, worker: WorkerProcess) -> bool:
        """False for an ingest worker whose files are all read."""
        if worker.role == "inference":
            return True
        return any(not self._settled(place) for place in self._cameras_of(worker))

    def _settled(self, place: CameraPlace) -> bool:
        return self._fleet.cameras[place.config.id].settled

    def _cameras_of(self, worker: WorkerProcess) -> list[CameraPlace]:
        if worker.role == "inference":
            return [p for p in self._layout.cameras if p.reader == worker.number]
        return [p for p in self._layout.cameras if p.ingest == worker.number]

    def _note_ready(self) -> None:
        missing = self._fleet.not_ready(self._layout.inference_workers)
        if self._ready or missing:
            return
        self._ready = True
        notify("READY=1")
        self._log.info("ready", cameras=len(self._fleet.cameras))

    def _work_is_over(self) -> bool:
        files = [e for e in self._fleet.cameras.values() if e.config.is_local_file]
        return all(entry.settled for entry in files)

    def _terminate(self) -> int:
        """Stops the readers, lets inference empty the slots, then ends; at most ten seconds."""
        notify("STOPPING=1")
        self._status.service("stopping")
        self._stop(self._ingest, _INGEST_STOPS_WITHIN_S)
        self._stop(self._inference, None if self._until_done else _INFERENCE_STOPS_WITHIN_S)
        failed = [e for e in self._fleet.cameras.values() if e.report.state is CameraState.FAILED]
        # A batch job that could not deliver has failed; a service is not ended for that.
        lost = self._until_done and any(
            self._layout.ledger.get(place.index, "events_lost") for place in self._layout.cameras
        )
        code = 1 if self._failed or failed or lost else 0
        self._status.service("stopped")
        self._status.close(_STATUS_WITHIN_S)
        self._log.info("stopped", exit_code=code, frames=self._fleet.totals())
        return code

    def _stop(self, workers: list[WorkerProcess], within_s: float | None) -> None:
        """Lets `workers` end by themselves, then kills. A second signal shortens the wait."""
        for worker in workers:
            worker.stop()
        deadline_s = None if within_s is None else time.monotonic() + within_s
        while any(worker.alive for worker in workers):
            self._wait(0.1)
            self._hear_workers()
            late = deadline_s is not None and time.monotonic() > deadline_s
            for worker in workers:
                if worker.alive and (late or self._signals):
                    self._log.warning("worker_killed", worker=worker.name, reason="did not stop")
                    worker.kill()
                self._reap_stopped(worker)

    def _reap_stopped(self, worker: WorkerProcess) -> None:
        death = worker.reap()
        if death is None:
            return
        lost = self._close_books(worker)
        if lost or death.reason != "exited":
            self._log.warning(
                "worker_ended", worker=worker.name, reason=death.reason, frames_lost=lost
            )

    def _identity(self, name: str) -> WorkerIdentity:
        return WorkerIdentity(name, self._pid, self._layout.config.log)

    def _ingest_body(self, number: int) -> tuple[Any, IngestSpec]:
        layout = self._layout
        # A new session for every start, so that no event id comes twice.
        self._sessions = max(self._sessions + 1, int(time.time()))
        cameras = tuple(
            CameraAssignment(
                place.config, place.index, place.ring, place.shape, self._sessions, place.reader
            )
            for place in layout.cameras
            if place.ingest == number and not self._settled(place)
        )
        return ingest_main, IngestSpec(
            identity=self._identity(f"ingest-{number}"),
            cameras=cameras,
            pool=layout.pool,
            ledger=layout.ledger,
            ready=layout.ready,
            space=layout.spaces[number],
            resample=layout.config.model.resample,
            give_up_files=self._until_done,
        )

    def _inference_body(self, number: int) -> tuple[Any, InferenceSpec]:
        layout = self._layout
        cameras = tuple(
            ReadCamera(place.config, place.index, place.ring, place.classes, place.ingest)
            for place in layout.cameras
            if place.reader == number
        )
        return inference_main, InferenceSpec(
            identity=self._identity(f"inference-{number}"),
            number=number,
            cameras=cameras,
            model=layout.model,
            model_config=layout.config.model,
            redis=layout.config.redis,
            publish=layout.config.publish,
            pool=layout.pool,
            ledger=layout.ledger,
            ready=layout.ready[number],
            spaces=layout.spaces,
        )
