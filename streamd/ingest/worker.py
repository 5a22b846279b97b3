"""An ingest worker: a process that hosts several cameras, one thread each."""

import random
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Literal

from streamd.clock import Backoff, SystemClock
from streamd.config import CameraConfig
from streamd.ingest.camera import Camera, CameraPlan
from streamd.ingest.hwaccel import Accelerator
from streamd.ingest.letterbox import FastScaler, Scaler
from streamd.ingest.motion import MotionGate
from streamd.ingest.slot_writer import SlotRing, SlotWriter
from streamd.ingest.source import source_for
from streamd.ingest.space import Space, Waiters
from streamd.linux.prctl import set_process_name
from streamd.linux.scheduling import Scheduling
from streamd.processes.messages import LetCameraGo, ReadCameraToo, ToWorker
from streamd.processes.specs import CameraAssignment, IngestSpec
from streamd.processes.worker import SupervisorLink, run_worker
from streamd.slots import Ring

_STOP_WITHIN_S = 2.0
# What a recorder is asked at most, on average, when all of its channels come back from a drop.
_TRIES_A_SECOND = 4


def run_ingest(spec: IngestSpec, connection: Connection) -> None:
    """The whole of the process."""
    run_worker(spec.identity, connection, partial(_ingest, spec))


def _ingest(spec: IngestSpec, link: SupervisorLink) -> None:
    spec.crash.enable()
    readers = Readers(spec, link)
    for assignment in spec.cameras:
        readers.start(assignment)
    link.serve({spec.space: readers.space_released}, readers.order)
    readers.stop()


@dataclass(frozen=True, slots=True)
class _Reader:
    """A camera, its slots, the thread that reads it, and what wakes it when one was released."""

    config: CameraConfig
    camera: Camera
    ring: Ring
    thread: threading.Thread
    space: Space

    def stop(self) -> None:
        """Asks the thread to end."""
        self.camera.stop()
        self.space.close()


class Readers:
    """The cameras of this process, by their places."""

    def __init__(self, spec: IngestSpec, link: SupervisorLink) -> None:
        self._spec = spec
        self._link = link
        self._readers: dict[int, _Reader] = {}
        self._waiters = Waiters(spec.pool)
        self._scheduling = Scheduling()

    def order(self, message: ToWorker) -> None:
        """Does what the supervisor asks for."""
        match message:
            case ReadCameraToo(assignment):
                self.start(assignment)
            case LetCameraGo(index):
                reader = self._readers.pop(index)
                self._waiters.leave(reader.ring)
                reader.stop()
                self._schedule()
            case _:
                raise TypeError(f"{type(message).__name__} is not for an ingest worker")

    def start(self, assignment: CameraAssignment) -> None:
        """Begins to read a camera."""
        space = self._waiters.join(assignment.ring)
        camera = self._camera(assignment, space)
        thread = threading.Thread(
            target=self._run, args=(assignment, camera), name=assignment.config.id, daemon=True
        )
        ring = assignment.ring
        self._readers[assignment.index] = _Reader(assignment.config, camera, ring, thread, space)
        self._schedule()
        thread.start()

    def _schedule(self) -> None:
        self._scheduling.follow(reader.config for reader in self._readers.values())

    def space_released(self) -> None:
        """Wakes the files that wait for a slot."""
        self._waiters.released()

    def stop(self) -> None:
        """Ends all threads, as far as they end in time."""
        for reader in self._readers.values():
            reader.stop()
        deadline = time.monotonic() + _STOP_WITHIN_S
        for reader in self._readers.values():
            reader.thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, assignment: CameraAssignment, camera: Camera) -> None:
        """The thread of a camera; `top -H` shows its name."""
        set_process_name(f"cam:{assignment.config.id}")
        self._spec.ledger.set(assignment.index, "thread", threading.get_ident())
        try:
            camera.run()
        except BaseException:
            self._spec.crash.note()
            raise
        # A later thread may get the same identifier.
        self._spec.ledger.set(assignment.index, "thread", 0)

    def _camera(self, assignment: CameraAssignment, space: Space) -> Camera:
        config, spec = assignment.config, self._spec
        fps = None if config.fps == "all" else config.fps
        slots = SlotRing(
            spec.pool, assignment.ring, assignment.shapes, spec.ready[assignment.reader].ring, space
        )
        writer = SlotWriter(
            camera=assignment.index,
            session=assignment.session,
            slots=slots,
            ledger=spec.ledger,
            scaler=_scaler(spec.resample),
            fps=fps,
            motion=MotionGate(config.idle_interval_s) if config.motion == "auto" else None,
        )
        plan = CameraPlan(
            id=config.id,
            fps=fps,
            stall_timeout_s=config.stall_timeout_s,
            max_clock_offset_s=config.max_clock_offset_s,
            loop=config.loop,
            paced=config.paced,
            give_up=spec.give_up_files and config.is_local_file,
        )
        accelerator = Accelerator(config.decode)
        return Camera(
            plan,
            source=source_for(config, accelerator),
            accelerator=accelerator,
            writer=writer,
            clock=SystemClock(),
            backoff=backoff_of(assignment.channels),
            report=lambda report: self._link.send(replace(report, index=assignment.index)),
        )


def backoff_of(channels: int) -> Backoff:
    """The back-off of one of the `channels` of a host: a full second, or more for a recorder."""
    return Backoff(first_s=max(1.0, channels / _TRIES_A_SECOND), rng=random.Random())


def _scaler(resample: Literal["fast", "exact"]) -> Scaler:
    if resample == "fast":
        return FastScaler()
    # Imported only here: OpenCV costs each ingest process 30 MB that the fast way has no use for.
    from streamd.ingest.letterbox_exact import ExactScaler  # noqa: PLC0415

    return ExactScaler()
