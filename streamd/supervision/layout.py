"""Who does what: cameras to workers, slots to cameras, and the memory they share."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from streamd.config import CameraConfig, Config
from streamd.engines import ModelInfo
from streamd.errors import ConfigError, SetupError
from streamd.ledger import Ledger
from streamd.linux.cores import available_cores
from streamd.linux.memory import Doorbell
from streamd.slots import Ring, SlotPool

_LIVE_SLOTS = 4  # one being written, one ready, and one for each of two batches being loaded
_CAMERAS_PER_WORKER = 4
# A crash report names one of a hundred threads: of more, the camera to blame might not be found.
_MOST_CAMERAS_PER_WORKER = 90
_SPARE_CAMERAS = 16  # room for a reload; a slot takes no memory before it is used
_QUARANTINE = 8


@dataclass(slots=True)
class CameraPlace:
    """A camera's number, its slots, and its two workers.

    Once it has `begun`, its reader was told of it; one that is `held` must not begin yet. A place
    that is `leaving` is read no more; its number and slots are in use until its last frame has been
    inferred. `crashes` counts the workers that its bitstream has cost.
    """

    config: CameraConfig
    index: int
    ring: Ring
    ingest: int
    reader: int
    begun: bool = False
    held: bool = False
    leaving: bool = False
    crashes: int = 0
    quarantined: bool = False


class Layout:
    """The whole of a running configuration; made by the supervisor, which owns the memory.

    `places` holds the cameras by number. There may be as many as `ingest_workers`; those from there
    on are for cameras that crash theirs. Raises SetupError where the memory cannot be had.
    """

    def __init__(self, config: Config, model: ModelInfo) -> None:
        cameras = config.enabled_cameras
        self.config = config
        self.model = model
        auto = config.ingest.workers == "auto"
        self._per_worker = _CAMERAS_PER_WORKER if auto else 1
        self.inference_workers = 1
        self.places: dict[int, CameraPlace] = {}
        capacity = len(cameras) + max(_SPARE_CAMERAS, len(cameras) // 4)
        least = max(available_cores(), math.ceil(capacity / _MOST_CAMERAS_PER_WORKER))
        workers = least if auto else int(config.ingest.workers)
        self.ingest_workers = min(workers, capacity)
        spare = _LIVE_SLOTS * (capacity - len(cameras))
        counts = [_slot_count(config, camera) for camera in cameras]
        self.pool = _pool(sum(counts) + spare, model)
        self.ledger = Ledger(capacity, self.inference_workers)
        self.ready = tuple(Doorbell() for _ in range(self.inference_workers))
        self.spaces = tuple(Doorbell() for _ in range(self.ingest_workers + _QUARANTINE))
        self._numbers = list(range(capacity - 1, -1, -1))
        self._free = [Ring(0, self.pool.count)]
        for camera in cameras:
            self.admit(camera)

    def admit(self, camera: CameraConfig) -> CameraPlace:
        """Gives a camera its place, on the ingest worker with the fewest.

        Raises SetupError where there is no room.
        """
        wanted = _slot_count(self.config, camera)
        rings = (self._take_ring(count) for count in (wanted, _LIVE_SLOTS) if self._numbers)
        ring = next(filter(None, rings), None)
        if ring is None:
            raise SetupError(f"{camera.id}: no room for another camera; restart the service")
        place = CameraPlace(
            config=camera,
            index=self._numbers.pop(),
            ring=ring,
            ingest=self._least_loaded(),
            reader=0,
        )
        self.places[place.index] = place
        return place

    def quarantine(self, place: CameraPlace) -> int:
        """Moves a camera to a worker of its own, as long as there are some; gives its number."""
        first = self.ingest_workers
        place.ingest = min(range(first, first + _QUARANTINE), key=self._cameras_on)
        place.quarantined = True
        return place.ingest

    def free(self, place: CameraPlace) -> None:
        """Takes a place back that no worker uses any more."""
        del self.places[place.index]
        self.pool.reset(place.ring)
        self.ledger.reset(place.index)
        self._numbers.append(place.index)
        self._free = _joined([*self._free, place.ring])

    def _take_ring(self, count: int) -> Ring | None:
        for at, ring in enumerate(self._free):
            if ring.count >= count:
                self._free[at] = Ring(ring.first + count, ring.count - count)
                return Ring(ring.first, count)
        return None

    def _least_loaded(self) -> int:
        """An ingest worker for one more camera: no more of them than the cameras need."""
        cameras = 1 + sum(not place.leaving for place in self.places.values())
        workers = min(math.ceil(cameras / self._per_worker), self.ingest_workers)
        return min(range(workers), key=self._cameras_on)

    def _cameras_on(self, worker: int) -> int:
        return sum(place.ingest == worker and not place.leaving for place in self.places.values())


def _pool(count: int, model: ModelInfo) -> SlotPool:
    try:
        return SlotPool(count, model.shape)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise SetupError(
            f"no shared memory for {count} slots of {model.shape} pixels: {why}"
        ) from None


def _joined(rings: list[Ring]) -> list[Ring]:
    """Neighbours become one, empty ones vanish."""
    joined: list[Ring] = []
    for ring in sorted((r for r in rings if r.count), key=lambda r: r.first):
        if joined and joined[-1].first + joined[-1].count == ring.first:
            joined[-1] = Ring(joined[-1].first, joined[-1].count + ring.count)
        else:
            joined.append(ring)
    return joined


def _slot_count(config: Config, camera: CameraConfig) -> int:
    """A camera's slots; all files together hold two batches, so that the engine never waits."""
    if config.ingest.slots_per_camera != "auto":
        return config.ingest.slots_per_camera
    if not camera.is_local_file:
        return _LIVE_SLOTS
    files = sum(other.is_local_file for other in config.enabled_cameras)
    return max(_LIVE_SLOTS, math.ceil(2 * config.model.batch_size / max(1, files)) + 1)


def check_classes(config: Config, cameras: Iterable[CameraConfig], model: ModelInfo) -> None:
    """Raises ConfigError where one of `cameras` wants labels that `model` lacks."""
    faults = []
    for camera in cameras:
        unknown = [label for label in camera.classes or () if label not in model.labels]
        if unknown:
            some = ", ".join(model.labels[:8]) + (", ..." if len(model.labels) > 8 else "")
            what = f"{unknown[0]!r} is no label of {model.path}; it has {some}"
            faults.append(config.camera_fault(camera, "classes", what))
    if faults:
        raise ConfigError(faults)
