"""What workers say: into the fleet's state, the log and the status stream."""

from collections.abc import Callable
from typing import Any

from streamd.errors import Reason
from streamd.logs import get_logger
from streamd.processes.messages import (
    CameraGone,
    CameraReport,
    CameraState,
    EngineReport,
    EventsLost,
    ModelRefused,
    ObjectsSeen,
    RedisReport,
    ToSupervisor,
    WorkerFailed,
)
from streamd.publishing.status import StatusStream
from streamd.supervision.fleet import Fleet
from streamd.supervision.layout import CameraPlace
from streamd.supervision.process import Death, WorkerProcess


class Reports:
    """Passes on what is news."""

    def __init__(
        self,
        fleet: Fleet,
        status: StatusStream,
        heard_of_leaving: Callable[[CameraReport | CameraGone], bool],
        heard_of_model: Callable[[EngineReport | ModelRefused], None],
    ) -> None:
        self._fleet = fleet
        self._status = status
        self._heard_of_leaving = heard_of_leaving
        self._heard_of_model = heard_of_model
        self._log = get_logger()
        self._decode_notes: dict[str, str] = {}

    def hear(self, worker: WorkerProcess) -> None:
        """Takes in all that `worker` has said since the last time."""
        for message in worker.receive():
            self._take(worker, message)

    def reader_lost(self, camera: str, index: int) -> None:
        """The process that read `camera` died."""
        self._camera(CameraReport(camera, CameraState.OFFLINE, Reason.WORKER_DIED, index=index))

    def stopped(self, camera: str) -> None:
        """`camera` was asked to stop, and nobody reads it any more."""
        self._log.info("camera_stopped", camera=camera)
        self._status.camera(CameraReport(camera, CameraState.STOPPED))
        if camera not in self._fleet.cameras:
            self._decode_notes.pop(camera, None)

    def worker_died(
        self,
        worker: WorkerProcess,
        death: Death,
        frames_lost: int,
        restart_in_s: float,
        guilty: CameraPlace | None,
    ) -> None:
        """A worker ended that should not have; `guilty` is the camera that was the cause."""
        if worker.role == "inference":
            self._fleet.engines.pop(worker.number, None)
            self._fleet.redis.pop(worker.name, None)
        self._fleet.restarts[worker.role, death.reason] += 1
        self._log.error(
            "worker_died",
            worker=worker.name,
            reason=death.reason,
            detail=worker.last_words,
            frames_lost=frames_lost,
            restart_in_s=round(restart_in_s, 2),
            **({"camera": guilty.config.id} if guilty else {}),
        )
        self._status.worker(worker.name, "restarted", death.reason, worker.last_words)
        if guilty is not None and guilty.quarantined:
            self._log.error(
                "camera_quarantined",
                camera=guilty.config.id,
                crashes=guilty.crashes,
                worker=f"ingest-{guilty.ingest}",
            )

    def _take(self, worker: WorkerProcess, message: ToSupervisor) -> None:
        match message:
            case CameraReport() | CameraGone() if self._heard_of_leaving(message):
                pass
            case CameraReport():
                self._camera(message)
            case EngineReport():
                self._engine(worker, message)
                self._heard_of_model(message)
            case ModelRefused():
                self._heard_of_model(message)
            case RedisReport(reachable, error):
                self._fleet.redis[worker.name] = None if reachable else error
                if reachable:
                    self._log.info("redis_connected", worker=worker.name)
                else:
                    self._log.warning("redis_lost", worker=worker.name, reason=error)
            case EventsLost():
                self._status.gap(message)
            case ObjectsSeen(counts):
                self._fleet.saw(counts)
            case WorkerFailed(error):
                worker.last_words = error

    def _engine(self, worker: WorkerProcess, report: EngineReport) -> None:
        self._fleet.engines[worker.number] = report
        self._log.info(
            "engine_ready",
            worker=worker.name,
            model=report.model,
            backend=report.backend,
            why=report.why,
            device=report.device,
            precision=report.precision,
            shapes=list(report.shapes),
            batch_sizes=list(report.ladder),
            cached=report.cached,
            agreement=report.agreement,
            load_s=report.load_s,
        )

    def _camera(self, report: CameraReport) -> None:
        entry = self._fleet.cameras.get(report.camera)
        if entry is None or entry.index != report.index:
            return  # the last words of a place that is free by now
        news = self._fleet.note(report)
        if report.state is not CameraState.CONNECTING:
            bad = report.state in (CameraState.OFFLINE, CameraState.FAILED)
            log = self._log.warning if bad else self._log.info
            log(f"camera_{report.state}", camera=report.camera, **_facts(report))
        if news:
            self._status.camera(report)
        if report.decode_note and report.decode_note != self._decode_notes.get(report.camera):
            self._decode_notes[report.camera] = report.decode_note
            self._log.warning("decode_on_cpu", camera=report.camera, reason=report.decode_note)


def _facts(report: CameraReport) -> dict[str, Any]:
    if report.state is CameraState.ONLINE:
        return {
            "codec": report.codec,
            "width": report.width,
            "height": report.height,
            "fps": round(report.fps, 2),
            "decode": report.decode,
        }
    if report.state in (CameraState.OFFLINE, CameraState.FAILED):
        return {
            "reason": report.reason,
            "detail": report.detail,
            "retry_in_s": report.retry_in_s,
        }
    return {}
