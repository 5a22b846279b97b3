"""The drop ledger: every frame that a source yields ends in exactly one counted outcome.

Counters live in shared memory. Each column has one owner, who alone adds to it, and everybody may
read. The ingest thread of a camera owns the INGEST columns, its inference worker the INFERENCE
columns, the supervisor the SUPERVISOR columns. For each camera, at any moment:

    captured = rate_capped + overwritten + decode_error + shed + still + inferred
               + lost_ingest + lost_inference + in_flight,      in_flight >= 0
"""

from bisect import bisect_left
from dataclasses import dataclass, fields
from itertools import accumulate

import numpy as np

from streamd.linux.memory import SharedBlock

INGEST = (
    "captured",
    "rate_capped",
    "ring_full",  # live: no slot was free for the newest frame
    "decode_error",
    "decode_cpu_ns",
    "scale_cpu_ns",
    "copy_cpu_ns",
    "scaled",
    "last_frame_ns",
    "thread",  # threading.get_ident() of the reader, to tell who crashed
    "began_wall_ns",  # of a recording: when its first reader began, epoch
    "began_ns",  # and monotonic
    "read_again",  # frames that were booked as lost_ingest and then had another outcome
)
INFERENCE = (
    "inferred_event",  # the frame's event is with Redis, on disk, or lost and counted as that
    "inferred_quiet",  # the frame had none to publish
    "still",  # it showed what the last inferred one did, and has that one's result
    "unknown",  # of `still`: this worker is new, and has not seen what the frame repeats
    "superseded",
    "shed",  # too old for max_latency_ms
    "objects",
    "events",
    "events_lost",
    "last_inferred_ns",
    "drops_told",  # `dropped`, as the camera's last event told it
)
# What becomes of the frames that an inference worker takes out of slots.
_FATES_OF_TAKEN = ("inferred_event", "inferred_quiet", "still", "superseded", "shed")
SUPERVISOR = ("lost_ingest", "lost_inference")
WORKER = (
    "batch_slots",
    "batch_cpu_ns",
    "gather_cpu_ns",
    "postprocess_cpu_ns",
    "publish_cpu_ns",
    "redis_errors",
    "spool_events",
    "spool_bytes",
    "spool_oldest_ms",
)
_COLUMNS = {name: i for i, name in enumerate((*INGEST, *INFERENCE, *SUPERVISOR))}
_DROPPED = [
    _COLUMNS[name]
    for name in ("ring_full", "superseded", "decode_error", "shed", "lost_ingest", "lost_inference")
]
_WORKER_COLUMNS = {name: i for i, name in enumerate(WORKER)}

# Upper bounds in seconds: 1 ms to 45 s, each 1.25 times the last.
_SECONDS = tuple(0.001 * 1.25**step for step in range(49))
# What an inference worker observes, with the upper bounds of its buckets. The publisher owns those
# to Redis, the results thread the others.
HISTOGRAMS: dict[str, tuple[float, ...]] = {
    "batch_size": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256),
    "batch_wait_s": _SECONDS,
    "inference_s": _SECONDS,
    "postprocess_s": _SECONDS,
    "publish_s": _SECONDS,
    "slot_to_redis_s": _SECONDS,
    "capture_to_redis_s": _SECONDS,
}
_BUCKETS = sum(len(bounds) + 1 for bounds in HISTOGRAMS.values())
_FIRST_BUCKET = dict(
    zip(
        HISTOGRAMS,
        accumulate((len(bounds) + 1 for bounds in HISTOGRAMS.values()), initial=0),
        strict=False,
    )
)
_HISTOGRAM_INDEX = {name: index for index, name in enumerate(HISTOGRAMS)}


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations by bucket, one for each bound and one above them, and their sum."""

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float

    def __add__(self, other: "Histogram") -> "Histogram":
        pairs = zip(self.counts, other.counts, strict=True)
        return Histogram(self.bounds, [a + b for a, b in pairs], self.sum + other.sum)


@dataclass(frozen=True, slots=True)
class CameraLedger:
    """One camera's frames by outcome."""

    captured: int
    inferred: int
    rate_capped: int
    overwritten: int
    decode_error: int
    shed: int
    still: int
    lost_ingest: int
    lost_inference: int

    @property
    def in_flight(self) -> int:
        """Frames captured whose outcome is still open."""
        dropped = self.rate_capped + self.overwritten + self.decode_error + self.shed
        done = self.inferred + self.still
        return self.captured - done - dropped - self.lost_ingest - self.lost_inference

    def as_dict(self) -> dict[str, int]:
        """The outcomes by name, with `in_flight`."""
        counts = {field.name: int(getattr(self, field.name)) for field in fields(self)}
        return counts | {"in_flight": self.in_flight}


NO_FRAMES = CameraLedger(*[0] * len(fields(CameraLedger)))


class Ledger:
    """The counters of `cameras` cameras and `workers` inference workers."""

    def __init__(self, cameras: int, workers: int) -> None:
        self.cameras = cameras
        self.workers = workers
        words = cameras * len(_COLUMNS) + workers * (len(WORKER) + _BUCKETS + len(HISTOGRAMS))
        self._block = SharedBlock("ledger", words * 8)
        self._map()

    def _map(self) -> None:
        size = self.cameras * len(_COLUMNS) * 8
        self._counts = self._block.array(0, (self.cameras, len(_COLUMNS)), np.int64)
        self._worker = self._block.array(size, (self.workers, len(WORKER)), np.int64)
        size += self.workers * len(WORKER) * 8
        self._buckets = self._block.array(size, (self.workers, _BUCKETS), np.int64)
        size += self.workers * _BUCKETS * 8
        self._sums = self._block.array(size, (self.workers, len(HISTOGRAMS)), np.float64)

    def add(self, camera: int, column: str, count: int = 1) -> None:
        """Adds to a counter; only its owner may."""
        self._counts[camera, _COLUMNS[column]] += count

    def set(self, camera: int, column: str, value: int) -> None:
        """Stores a value such as a time; only its owner may."""
        self._counts[camera, _COLUMNS[column]] = value

    def get(self, camera: int, column: str) -> int:
        """One counter of one camera."""
        return int(self._counts[camera, _COLUMNS[column]])

    def inferred(self, camera: int) -> int:
        """Frames of one camera that were inferred."""
        return self.get(camera, "inferred_event") + self.get(camera, "inferred_quiet")

    def add_worker(self, worker: int, column: str, count: int) -> None:
        """Adds to a counter of an inference worker; only one thread of it may."""
        self._worker[worker, _WORKER_COLUMNS[column]] += count

    def set_worker(self, worker: int, column: str, value: int) -> None:
        """Stores a value of an inference worker; only one thread of it may."""
        self._worker[worker, _WORKER_COLUMNS[column]] = value

    def get_worker(self, worker: int, column: str) -> int:
        """One counter of one inference worker."""
        return int(self._worker[worker, _WORKER_COLUMNS[column]])

    def observe(self, worker: int, histogram: str, value: float) -> None:
        """Counts one observation of HISTOGRAMS; only its owner may."""
        bucket = _FIRST_BUCKET[histogram] + bisect_left(HISTOGRAMS[histogram], value)
        self._buckets[worker, bucket] += 1
        self._sums[worker, _HISTOGRAM_INDEX[histogram]] += value

    def histogram(self, worker: int, name: str) -> Histogram:
        """What was observed so far."""
        first, bounds = _FIRST_BUCKET[name], HISTOGRAMS[name]
        counts = self._buckets[worker, first : first + len(bounds) + 1].tolist()
        return Histogram(bounds, counts, float(self._sums[worker, _HISTOGRAM_INDEX[name]]))

    def camera(self, camera: int) -> CameraLedger:
        """A reading of one camera in which in_flight is never negative."""
        outcomes = self._counts[camera].copy()
        # Read last: a frame is counted as captured before it gets an outcome.
        captured = self.get(camera, "captured")

        def get(column: str) -> int:
            return int(outcomes[_COLUMNS[column]])

        return CameraLedger(
            captured=captured,
            inferred=get("inferred_event") + get("inferred_quiet"),
            rate_capped=get("rate_capped"),
            overwritten=get("ring_full") + get("superseded"),
            decode_error=get("decode_error"),
            shed=get("shed"),
            still=get("still"),
            lost_ingest=get("lost_ingest"),
            lost_inference=get("lost_inference"),
        )

    def reset(self, camera: int) -> None:
        """Begins anew, for another camera; nobody may be counting there."""
        self._counts[camera] = 0

    def lost(self, camera: int) -> int:
        """Frames that were captured, with no other outcome than to be lost with a worker."""
        lost = self.get(camera, "lost_ingest") + self.get(camera, "lost_inference")
        return lost - self.get(camera, "read_again")

    def dropped(self, camera: int) -> int:
        """Frames of a camera that were to be inferred and were not."""
        counts: list[int] = self._counts[camera].tolist()
        return sum(counts[column] for column in _DROPPED)

    def close_ingest(self, camera: int, submitted: int) -> int:
        """Books what a dead ingest worker held of a camera as lost; returns how many frames.

        `submitted` frames of it went into slots since the ledger began.
        """
        held = self.get(camera, "captured") - submitted
        for outcome in ("rate_capped", "ring_full", "decode_error", "lost_ingest"):
            held -= self.get(camera, outcome)
        self.add(camera, "lost_ingest", held)
        return held

    def close_inference(self, camera: int, taken: int) -> int:
        """Books what a dead inference worker held of a camera as lost; returns how many frames.

        `taken` frames of it were taken out of slots since the ledger began.
        """
        held = taken
        for outcome in (*_FATES_OF_TAKEN, "lost_inference"):
            held -= self.get(camera, outcome)
        self.add(camera, "lost_inference", held)
        return held

    def __getstate__(self) -> tuple[int, int, SharedBlock]:
        return self.cameras, self.workers, self._block

    def __setstate__(self, state: tuple[int, int, SharedBlock]) -> None:
        self.cameras, self.workers, self._block = state
        self._map()
