"""Who does what: cameras to workers, slots to cameras, and the memory they share."""

import math
import os
from dataclasses import dataclass

from streamd.config import CameraConfig, Config
from streamd.engines import ModelInfo
from streamd.errors import ConfigError
from streamd.ledger import Ledger
from streamd.memory import Doorbell
from streamd.slots import InputShape, Ring, SlotPool, lay_out_rings

_LIVE_SLOTS = 4  # one being written, one ready, and one for each of two batches being loaded
_CAMERAS_PER_WORKER = 4


@dataclass(frozen=True, slots=True)
class CameraPlace:
    """A camera's number, its slots, the shape it is scaled to, and its two workers."""

    config: CameraConfig
    index: int
    ring: Ring
    shape: InputShape
    ingest: int
    reader: int
    classes: frozenset[int] | None


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole of a running configuration; made by the supervisor, which owns the memory."""

    config: Config
    model: ModelInfo
    cameras: tuple[CameraPlace, ...]
    ingest_workers: int
    inference_workers: int
    pool: SlotPool
    ledger: Ledger
    ready: tuple[Doorbell, ...]
    spaces: tuple[Doorbell, ...]


def lay_out(config: Config, model: ModelInfo) -> Layout:
    """Deals cameras to workers, round robin. Raises ConfigError for labels the model lacks."""
    cameras = config.enabled_cameras
    ingest = _ingest_workers(config, len(cameras))
    rings = lay_out_rings(_slot_counts(config, cameras))
    places = tuple(
        CameraPlace(
            config=camera,
            index=index,
            ring=ring,
            shape=model.shape,
            ingest=index % ingest,
            reader=0,
            classes=_class_ids(config, camera, model),
        )
        for index, (camera, ring) in enumerate(zip(cameras, rings, strict=True))
    )
    return Layout(
        config=config,
        model=model,
        cameras=places,
        ingest_workers=ingest,
        inference_workers=1,
        pool=SlotPool(sum(ring.count for ring in rings), model.shape),
        ledger=Ledger(len(cameras), 1),
        ready=(Doorbell(),),
        spaces=tuple(Doorbell() for _ in range(ingest)),
    )


def _ingest_workers(config: Config, cameras: int) -> int:
    if config.ingest.workers != "auto":
        return min(config.ingest.workers, cameras)
    return min(math.ceil(cameras / _CAMERAS_PER_WORKER), os.cpu_count() or 1)


def _slot_counts(config: Config, cameras: tuple[CameraConfig, ...]) -> list[int]:
    """Slots by camera; all files together hold two batches, so that the engine never waits."""
    if config.ingest.slots_per_camera != "auto":
        return [config.ingest.slots_per_camera] * len(cameras)
    files = sum(camera.is_local_file for camera in cameras)
    file_slots = max(_LIVE_SLOTS, math.ceil(2 * config.model.batch_size / max(1, files)) + 1)
    return [file_slots if camera.is_local_file else _LIVE_SLOTS for camera in cameras]


def _class_ids(config: Config, camera: CameraConfig, model: ModelInfo) -> frozenset[int] | None:
    if camera.classes is None:
        return None
    unknown = [label for label in camera.classes if label not in model.labels]
    if unknown:
        some = ", ".join(model.labels[:8]) + (", ..." if len(model.labels) > 8 else "")
        what = f"{unknown[0]!r} is no label of {model.path}; it has {some}"
        location = ("cameras", config.cameras.index(camera), "classes")
        raise ConfigError([config.fault(location, what)])
    return frozenset(model.labels.index(label) for label in camera.classes)
