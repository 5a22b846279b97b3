"""The worker processes of a layout: what each is told, which cameras it has, what it leaves."""

import time
from functools import partial
from typing import Any

from streamd.fleet import Fleet
from streamd.inference import inference_main
from streamd.ingest import ingest_main
from streamd.layout import CameraPlace, Layout
from streamd.process import WorkerProcess
from streamd.specs import (
    CameraAssignment,
    InferenceSpec,
    IngestSpec,
    ReadCamera,
    WorkerIdentity,
)


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
        self.inference = [
            WorkerProcess(f"inference-{n}", "inference", n, partial(self._inference_body, n))
            for n in range(layout.inference_workers)
        ]
        self.ingest = [
            WorkerProcess(f"ingest-{n}", "ingest", n, partial(self._ingest_body, n))
            for n in range(layout.ingest_workers)
        ]

    @property
    def workers(self) -> list[WorkerProcess]:
        """All of them, inference first: its engine takes longest to load."""
        return [*self.inference, *self.ingest]

    def wanted(self, worker: WorkerProcess) -> bool:
        """False for an ingest worker whose files are all read."""
        return worker.role == "inference" or bool(self.unsettled(worker))

    def unsettled(self, worker: WorkerProcess) -> list[CameraPlace]:
        """The cameras of a worker that are still to be read."""
        return [place for place in self._cameras_of(worker) if not self._settled(place)]

    def close_books(self, worker: WorkerProcess) -> int:
        """Books the frames that a dead worker held and gives back its slots; returns how many."""
        pool, ledger = self._layout.pool, self._layout.ledger
        lost = 0
        for place in self._cameras_of(worker):
            if worker.role == "ingest":
                lost += ledger.close_ingest(place.index, pool.submitted(place.ring))
            else:
                lost += ledger.close_inference(place.index, pool.taken(place.ring))
                pool.reclaim(place.ring)
                self._layout.spaces[place.ingest].ring()
        return lost

    def _settled(self, place: CameraPlace) -> bool:
        return self._fleet.cameras[place.config.id].settled

    def _cameras_of(self, worker: WorkerProcess) -> list[CameraPlace]:
        if worker.role == "inference":
            return [p for p in self._layout.cameras if p.reader == worker.number]
        return [p for p in self._layout.cameras if p.ingest == worker.number]

    def _identity(self, name: str) -> WorkerIdentity:
        return WorkerIdentity(name, self._pid, self._layout.config.log)

    def _ingest_body(self, number: int) -> tuple[Any, IngestSpec]:
        layout = self._layout
        # A new session for every start, so that no event id comes twice.
        self._session = max(self._session + 1, int(time.time()))
        hosts = [place.config.host for place in layout.cameras]
        cameras = tuple(
            CameraAssignment(
                place.config,
                place.index,
                place.ring,
                place.shape,
                self._session,
                place.reader,
                channels=hosts.count(place.config.host),
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
            give_up_files=self._give_up_files,
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
