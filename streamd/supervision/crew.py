"""The worker processes of a layout: what each is told, which cameras it has, what it leaves."""

import time
from functools import partial
from typing import Any

from streamd.processes.crash_report import CrashReport
from streamd.processes.messages import LetCameraGo, ReadCameraToo, TakeCameraToo, UseModel
from streamd.processes.specs import (
    CameraAssignment,
    InferenceSpec,
    IngestSpec,
    ReadCamera,
    WorkerIdentity,
)
from streamd.supervision.fleet import Fleet
from streamd.supervision.layout import CameraPlace, Layout
from streamd.supervision.process import WorkerProcess
from streamd.supervision.worker_mains import inference_main, ingest_main

_QUARANTINED_AFTER = 3


class Crew:
    """All workers of `layout`. With `give_up_files` a file that fails is not tried again."""

    def __init__(
        self, layout: Layout, fleet: Fleet, *, supervisor_pid: int, give_up_files: bool
    ) -> None:
        self._layout = layout
        self._fleet = fleet
        self._pid = supervisor_pid
        self._give_up_files = give_up_files
        self._session = 0
        self._crashes: dict[int, CrashReport] = {}
        self.inference = [
            WorkerProcess(f"inference-{n}", "inference", n, partial(self._inference_body, n))
            for n in range(layout.inference_workers)
        ]
        self.ingest = [
            WorkerProcess(f"ingest-{n}", "ingest", n, partial(self._ingest_body, n))
            for n in range(layout.ingest_workers)
        ]

    def blame(self, worker: WorkerProcess) -> CameraPlace | None:
        """The camera whose thread crashed a dead ingest worker; None where none did.

        From its third crash on it has a worker of its own: its place is `quarantined`.
        """
        report = self._crashes.pop(worker.number, None) if worker.role == "ingest" else None
        thread = report.thread() if report else None
        ledger = self._layout.ledger
        for place in self.cameras_of(worker) if thread else ():
            if ledger.get(place.index, "thread") == thread and not place.leaving:
                place.crashes += 1
                if place.crashes == _QUARANTINED_AFTER:
                    self._quarantine(place)
                return place
        return None

    def _quarantine(self, place: CameraPlace) -> None:
        number = self._layout.quarantine(place)
        if all(worker.number != number for worker in self.ingest):
            body = partial(self._ingest_body, number)
            self.ingest.append(WorkerProcess(f"ingest-{number}", "ingest", number, body))
        self.begin(place)

    @property
    def workers(self) -> list[WorkerProcess]:
        """All of them, inference first: its engine takes longest to load."""
        return [*self.inference, *self.ingest]

    def wanted(self, worker: WorkerProcess) -> bool:
        """False for an ingest worker whose files are all read."""
        return worker.role == "inference" or bool(self.unsettled(worker))

    def unsettled(self, worker: WorkerProcess) -> list[CameraPlace]:
        """The cameras of a worker that are still to be read."""
        return [place for place in self.cameras_of(worker) if self.to_be_read(place)]

    def close_books(self, worker: WorkerProcess) -> int:
        """Books the frames that a dead worker held and gives back its slots; returns how many."""
        pool, ledger = self._layout.pool, self._layout.ledger
        lost = 0
        for place in self.cameras_of(worker):
            if worker.role == "ingest":
                lost += self.close_reading(place)
                # It may have died between handing over a frame and telling of it.
                self._layout.ready[place.reader].ring()
            else:
                lost += ledger.close_inference(place.index, pool.taken(place.ring))
                pool.reclaim(place.ring)
                self._layout.spaces[place.ingest].ring()
        return lost

    def close_reading(self, place: CameraPlace) -> int:
        """Books what the reader of a camera held when it ended; returns how many frames."""
        return self._layout.ledger.close_ingest(
            place.index, self._layout.pool.submitted(place.ring)
        )

    def cameras_of(self, worker: WorkerProcess) -> list[CameraPlace]:
        """The places that a worker has to do with, also of cameras that are leaving."""
        places = self._layout.places.values()
        if worker.role == "inference":
            return [place for place in places if place.reader == worker.number]
        return [place for place in places if place.ingest == worker.number]

    def reader_of(self, place: CameraPlace) -> WorkerProcess:
        """The ingest worker of a camera."""
        return next(worker for worker in self.ingest if worker.number == place.ingest)

    def begin(self, place: CameraPlace) -> None:
        """Lets the workers of a new place know; those that start later are told then."""
        self._tell_inference(place)
        reader = self.reader_of(place)
        if reader.alive:
            place.begun = True
            reader.send(ReadCameraToo(self._assignment(place, self._next_session())))

    def stop_reading(self, place: CameraPlace) -> bool:
        """Has a camera stopped. False where nobody reads it."""
        reader = self.reader_of(place)
        if reader.alive:
            reader.send(LetCameraGo(place.index))
        return reader.alive

    def forget(self, place: CameraPlace) -> bool:
        """Has inference forget a camera. False where no worker knows it."""
        if place.held:
            return False
        workers = [w for w in self.inference if w.alive and w.number == place.reader]
        for worker in workers:
            worker.send(LetCameraGo(place.index))
        return bool(workers)

    def _tell_inference(self, place: CameraPlace) -> None:
        for worker in self.inference:
            if worker.alive and worker.number == place.reader:
                worker.send(TakeCameraToo(_read_camera(place)))

    def use_model(self, order: UseModel) -> bool:
        """Has inference change its model. False where no worker is there to do it."""
        workers = [worker for worker in self.inference if worker.alive]
        for worker in workers:
            worker.send(order)
        return bool(workers)

    def to_be_read(self, place: CameraPlace) -> bool:
        """Whether a reader is to work on it now."""
        settled = self._fleet.settled(place.config.id, place.index)
        return not (place.leaving or place.held or settled)

    def _identity(self, name: str) -> WorkerIdentity:
        return WorkerIdentity(name, self._pid, self._layout.config.log)

    def _next_session(self) -> int:
        """A new one for every start of a reader, so that no event id comes twice.

        In milliseconds, so that a thousand starts at once are not ahead of the clock for long.
        """
        self._session = max(self._session + 1, int(time.time() * 1000))
        return self._session

    def _assignment(self, place: CameraPlace, session: int) -> CameraAssignment:
        host = place.config.host
        hosts = [p.config.host for p in self._layout.places.values() if host and not p.leaving]
        return CameraAssignment(
            place.config,
            place.index,
            place.ring,
            self._layout.model.shapes,
            session,
            place.reader,
            channels=max(1, hosts.count(host)),
        )

    def _ingest_body(self, number: int) -> tuple[Any, IngestSpec]:
        layout = self._layout
        session = self._next_session()
        places = [
            place
            for place in layout.places.values()
            if place.ingest == number and self.to_be_read(place)
        ]
        for place in places:
            place.begun = True
        crash = self._crashes[number] = CrashReport()
        cameras = tuple(self._assignment(place, session) for place in places)
        return ingest_main, IngestSpec(
            identity=self._identity(f"ingest-{number}"),
            cameras=cameras,
            pool=layout.pool,
            ledger=layout.ledger,
            ready=layout.ready,
            space=layout.spaces[number],
            crash=crash,
            resample=layout.config.model.resample,
            give_up_files=self._give_up_files,
        )

    def _inference_body(self, number: int) -> tuple[Any, InferenceSpec]:
        layout = self._layout
        # A held camera comes later, once nothing is left of the one before it.
        places = [p for p in layout.places.values() if p.reader == number and not p.held]
        return inference_main, InferenceSpec(
            identity=self._identity(f"inference-{number}"),
            number=number,
            cameras=tuple(_read_camera(place) for place in places),
            model=layout.model,
            model_config=layout.config.model,
            redis=layout.config.redis,
            publish=layout.config.publish,
            pool=layout.pool,
            ledger=layout.ledger,
            ready=layout.ready[number],
            spaces=layout.spaces,
        )


def _read_camera(place: CameraPlace) -> ReadCamera:
    return ReadCamera(place.config, place.index, place.ring, place.ingest)
