import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.inference.batch import BatchPolicy, Lineup, ReadyFrame, collect_batch
from streamd.ingest.slot_writer import SlotRing, SlotWriter
from streamd.ingest.space import Space
from streamd.ledger import HISTOGRAMS, CameraLedger, Ledger
from streamd.slots import FrameMeta, InputShape, SlotPool, lay_out_rings

from .fakes import SQUARE, FlatScaler, capture, decoded_frame

FPS = 10.0
RINGS = lay_out_rings([2, 3])
LOSSLESS = [False, True]


class KilledError(BaseException):
    """The process ends here, whatever would have caught an Exception."""


@dataclass
class Fuse:
    """Kills before the store after the next `stores` ones; None: never."""

    stores: int | None = None

    def store(self) -> None:
        if self.stores is None:
            return
        if self.stores == 0:
            raise KilledError
        self.stores -= 1


class FusedPool(SlotPool):
    def __init__(self, count: int, largest: InputShape, fuse: Fuse) -> None:
        super().__init__(count, largest)
        self._fuse = fuse

    def submit(self, slot: int, meta: FrameMeta) -> None:
        self._fuse.store()
        super().submit(slot, meta)

    def take(self, slot: int) -> FrameMeta:
        self._fuse.store()
        return super().take(slot)

    def release(self, slot: int) -> None:
        self._fuse.store()
        super().release(slot)


class FusedLedger(Ledger):
    def __init__(self, cameras: int, workers: int, fuse: Fuse) -> None:
        super().__init__(cameras, workers)
        self._fuse = fuse

    def add(self, camera: int, column: str, count: int = 1) -> None:
        self._fuse.store()
        super().add(camera, column, count)

    def set(self, camera: int, column: str, value: int) -> None:
        self._fuse.store()
        super().set(camera, column, value)


class Service:
    """Writers, a reader and the supervisor that books what they held when they are killed."""

    def __init__(self) -> None:
        self.fuse = Fuse()
        self.pool = FusedPool(sum(ring.count for ring in RINGS), SQUARE, self.fuse)
        self.ledger = FusedLedger(len(RINGS), 1, self.fuse)
        self.writers = [self.new_writer(camera) for camera in range(len(RINGS))]
        self.lineup = Lineup()
        self.inferring: list[tuple[ReadyFrame, ...]] = []
        self.media_s = 0.0

    def new_writer(self, camera: int) -> SlotWriter:
        slots = SlotRing(self.pool, RINGS[camera], (SQUARE,), lambda: None, Space())
        return SlotWriter(
            camera=camera, session=1, slots=slots, ledger=self.ledger, scaler=FlatScaler(), fps=FPS
        )

    def write(self, camera: int) -> None:
        self.media_s += 0.7 / FPS
        if LOSSLESS[camera] and self.pool.free_slot(RINGS[camera]) is None:
            return
        timing = capture(self.media_s, lossless=LOSSLESS[camera])
        self.writers[camera].write(decoded_frame(), timing, 0)

    def damage(self, camera: int) -> None:
        self.writers[camera].count_decoding(0, damaged=2)

    # The reader's stores, in the order of those of an inference worker.

    def admit(self, _: int) -> None:
        for slot in self.pool.ready_slots(np.ones(self.pool.count, np.bool_)):
            meta = self.pool.take(slot)
            replaced = self.lineup.admit(slot, meta)
            if replaced is not None:
                self.pool.release(replaced)
                self.ledger.add(meta.camera, "superseded")

    def infer(self, _: int) -> None:
        frames = collect_batch(self.lineup.lines, 0, BatchPolicy(2, 0), {}).frames
        self.lineup.remove(frames, 0)
        self.inferring.append(frames)
        for frame in frames:
            self.pool.release(frame.slot)

    def publish(self, _: int) -> None:
        for frames in self.inferring[:1]:
            for frame in frames:
                self.ledger.add(frame.meta.camera, "inferred_event")
            del self.inferring[0]

    def do(self, step: "Step", camera: int, dies_after: int | None) -> None:
        self.fuse.stores = dies_after
        try:
            step(self, camera)
        except KilledError:
            self.fuse.stores = None
            if step in (Service.write, Service.damage):
                self.bury_writer(camera)
            else:
                self.bury_reader()
        self.fuse.stores = None

    def bury_writer(self, camera: int) -> None:
        before = self.ledger.camera(camera).lost_ingest
        lost = self.ledger.close_ingest(camera, self.pool.submitted(RINGS[camera]))
        assert lost == self.ledger.camera(camera).lost_ingest - before >= 0
        self.writers[camera] = self.new_writer(camera)

    def bury_reader(self) -> None:
        for camera, ring in enumerate(RINGS):
            before = self.ledger.camera(camera).lost_inference
            lost = self.ledger.close_inference(camera, self.pool.taken(ring))
            assert lost == self.ledger.camera(camera).lost_inference - before >= 0
            self.pool.reclaim(ring)
        self.lineup, self.inferring = Lineup(), []

    def held_by_reader(self, camera: int) -> int:
        waiting = [frames for line in self.lineup.lines.values() for frames in line]
        held = [frame for frames in (*waiting, *self.inferring) for frame in frames]
        return sum(frame.meta.camera == camera for frame in held)

    def check(self) -> None:
        for camera, ring in enumerate(RINGS):
            in_slots = self.pool.submitted(ring) - self.pool.taken(ring)
            in_flight = in_slots + self.held_by_reader(camera)
            assert self.ledger.camera(camera).in_flight == in_flight

    def drain(self) -> None:
        self.admit(0)
        while len(self.lineup):
            self.infer(0)
        while self.inferring:
            self.publish(0)


Step = Callable[[Service, int], None]
histories = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *[Service.write] * 4,
                Service.damage,
                Service.admit,
                Service.infer,
                Service.publish,
            ]
        ),
        st.integers(0, len(RINGS) - 1),
        st.none() | st.integers(0, 12),
    ),
    max_size=40,
)


@given(histories)
@settings(max_examples=80, deadline=None)
def test_captured_frames_are_in_flight_or_counted_once_whoever_is_killed_between_any_two_stores(
    history: list[tuple[Step, int, int | None]],
) -> None:
    service = Service()
    for step, camera, dies_after in history:
        service.do(step, camera, dies_after)
        service.check()
    service.drain()
    for camera in range(len(RINGS)):
        counts = service.ledger.camera(camera)
        outcomes = counts.as_dict()
        captured, in_flight = outcomes.pop("captured"), outcomes.pop("in_flight")
        assert (captured, in_flight) == (sum(outcomes.values()), 0)


def test_what_a_dead_writer_held_is_lost_in_ingest_and_what_is_in_slots_is_not() -> None:
    service = Service()
    service.write(0)
    service.media_s += 1
    service.do(Service.write, 0, dies_after=5)  # the frame is scaled, not yet submitted
    assert service.ledger.camera(0).lost_ingest == 1
    assert service.ledger.camera(0).in_flight == 1


def test_what_a_dead_reader_had_taken_is_lost_in_inference_and_what_was_ready_is_not() -> None:
    service = Service()
    for _ in range(2):
        service.write(1)
        service.media_s += 1
    service.admit(1)
    service.infer(1)
    service.write(1)
    service.do(Service.publish, 1, dies_after=1)
    assert service.ledger.camera(1).inferred == 1
    assert service.ledger.camera(1).lost_inference == 1
    assert service.ledger.camera(1).in_flight == 1


def test_dropped_counts_the_frames_that_were_to_be_inferred_and_were_not() -> None:
    ledger = Ledger(2, 1)
    columns = ("captured", "rate_capped", "ring_full", "superseded", "decode_error")
    for power, column in enumerate((*columns, "inferred_quiet", "lost_ingest", "lost_inference")):
        ledger.add(1, column, 2**power)
    assert ledger.dropped(1) == 4 + 8 + 16 + 64 + 128
    ledger.add(1, "shed", 256)
    assert ledger.dropped(1) == 4 + 8 + 16 + 64 + 128 + 256
    assert ledger.dropped(0) == 0


def test_the_outcomes_of_a_camera_are_told_by_name() -> None:
    counts = CameraLedger(
        captured=100,
        inferred=50,
        rate_capped=20,
        overwritten=10,
        decode_error=5,
        shed=1,
        still=2,
        lost_ingest=4,
        lost_inference=3,
    )
    assert counts.as_dict()["in_flight"] == 5


@given(st.sampled_from(sorted(HISTOGRAMS)), st.floats(0, 300))
@settings(max_examples=60, deadline=None)
def test_a_value_is_counted_in_the_first_bucket_whose_bound_holds_it(
    name: str, value: float
) -> None:
    ledger = Ledger(1, 2)
    ledger.observe(1, name, value)
    seen = ledger.histogram(1, name)
    bounds = [0.0, *seen.bounds, math.inf]
    bucket = seen.counts.index(1)
    assert value == 0 or bounds[bucket] < value <= bounds[bucket + 1]
    assert (sum(seen.counts), seen.sum) == (1, value)
    assert len(seen.counts) == len(HISTOGRAMS[name]) + 1
    others = [ledger.histogram(1, other) for other in HISTOGRAMS if other != name]
    assert not any(any(other.counts) or other.sum for other in [*others, ledger.histogram(0, name)])
    both = seen + seen
    assert (sum(both.counts), both.sum) == (2, 2 * value)


def test_worker_counters_do_not_run_into_the_cameras_or_the_histograms() -> None:
    ledger = Ledger(2, 2)
    ledger.add(1, "lost_inference", 3)
    ledger.add_worker(0, "batch_slots", 5)
    ledger.add_worker(1, "redis_errors", 7)
    ledger.observe(0, "batch_size", 0)
    ledger.observe(1, "capture_to_redis_s", 1000.0)
    assert ledger.get(1, "lost_inference") == 3
    assert (ledger.get_worker(0, "batch_slots"), ledger.get_worker(1, "redis_errors")) == (5, 7)
    assert ledger.histogram(0, "batch_size").counts[0] == 1
    assert ledger.histogram(1, "capture_to_redis_s").counts[-1] == 1
