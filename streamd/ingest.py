"""An ingest worker: a process that hosts several cameras, one thread each."""

import random
import threading
import time
from functools import partial
from multiprocessing.connection import Connection
from typing import Literal

from streamd.camera import Camera, CameraPlan
from streamd.clock import Backoff, SystemClock
from streamd.hwaccel import Accelerator
from streamd.letterbox import FastScaler, Scaler
from streamd.slot_writer import SlotRing, SlotWriter, Space
from streamd.source import source_for
from streamd.specs import CameraAssignment, IngestSpec
from streamd.worker import SupervisorLink, run_worker

_STOP_WITHIN_S = 2.0
# What a recorder is asked at most, on average, when all of its channels come back from a drop.
_TRIES_A_SECOND = 4


def ingest_main(spec: IngestSpec, connection: Connection) -> None:
    """The process' entry."""
    run_worker(spec.identity, connection, partial(_ingest, spec))


def _ingest(spec: IngestSpec, link: SupervisorLink) -> None:
    space = Space()
    cameras = [_camera(spec, assignment, space, link) for assignment in spec.cameras]
    threads = [
        threading.Thread(target=camera.run, name=assignment.config.id, daemon=True)
        for camera, assignment in zip(cameras, spec.cameras, strict=True)
    ]
    for thread in threads:
        thread.start()
    link.serve({spec.space: space.released})
    for camera in cameras:
        camera.stop()
    space.close()
    deadline = time.monotonic() + _STOP_WITHIN_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _camera(
    spec: IngestSpec, assignment: CameraAssignment, space: Space, link: SupervisorLink
) -> Camera:
    config = assignment.config
    slots = SlotRing(
        spec.pool, assignment.ring, assignment.shape, spec.ready[assignment.reader].ring, space
    )
    writer = SlotWriter(
        camera=assignment.index,
        session=assignment.session,
        slots=slots,
        ledger=spec.ledger,
        scaler=_scaler(spec.resample),
        fps=None if config.fps == "all" else config.fps,
    )
    plan = CameraPlan(
        id=config.id,
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
        report=link.send,
    )


def backoff_of(channels: int) -> Backoff:
    """The back-off of one of the `channels` of a host: a full second, or more for a recorder."""
    return Backoff(first_s=max(1.0, channels / _TRIES_A_SECOND), rng=random.Random())


def _scaler(resample: Literal["fast", "exact"]) -> Scaler:
    if resample == "fast":
        return FastScaler()
    # Imported only here: OpenCV costs each ingest process 30 MB that the fast way has no use for.
    from streamd.letterbox_exact import ExactScaler  # noqa: PLC0415

    return ExactScaler()
