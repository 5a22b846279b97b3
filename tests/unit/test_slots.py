import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamd.linux.memory import PAGE, Doorbell, SharedBlock
from streamd.slots import InputShape, Ring, SlotPool, aspect_shapes, lay_out_rings

from .fakes import SQUARE, WIDE, frame_meta

RINGS = lay_out_rings([2, 1, 3])


def everything(pool: SlotPool) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.ones(pool.count, np.bool_)


@pytest.mark.parametrize(
    ("side", "stride", "shapes"),
    [
        (640, 32, ["384x640", "480x640", "640x640", "640x384"]),
        (1280, 64, ["768x1280", "960x1280", "1280x1280", "1280x768"]),
        (320, 32, ["192x320", "256x320", "320x320", "320x192"]),
        (64, 64, ["64x64"]),
    ],
)
def test_a_square_input_has_narrower_ones_for_other_aspects(
    side: int, stride: int, shapes: list[str]
) -> None:
    assert [str(s) for s in aspect_shapes(InputShape(side, side), stride)] == shapes


def test_an_input_that_is_no_square_stays_alone() -> None:
    assert aspect_shapes(InputShape(480, 640), 32) == ()


class Model:
    """What the pool has to do, as one plain state a slot."""

    def __init__(self, pool: SlotPool) -> None:
        self.pool = pool
        self.state = ["free"] * pool.count
        self.seq_of: dict[int, int] = {}
        self.submitted = dict.fromkeys(RINGS, 0)
        self.taken = dict.fromkeys(RINGS, 0)

    def slots(self, ring: Ring, state: str) -> list[int]:
        return [s for s in range(ring.first, ring.first + ring.count) if self.state[s] == state]

    def write(self, ring: Ring) -> None:
        slot = self.pool.free_slot(ring)
        assert (slot is None) == (not self.slots(ring, "free"))
        if slot is None:
            return
        assert self.state[slot] == "free"
        seq = sum(self.submitted.values())
        self.pool.image(slot, SQUARE)[...] = seq % 256
        self.pool.submit(slot, frame_meta(seq=seq))
        self.state[slot], self.seq_of[slot] = "ready", seq
        self.submitted[ring] += 1

    def take(self, ring: Ring) -> None:
        for slot in self.slots(ring, "ready")[:1]:
            assert self.pool.take(slot) == frame_meta(seq=self.seq_of[slot])
            self.state[slot] = "taken"
            self.taken[ring] += 1

    def release(self, ring: Ring) -> None:
        for slot in self.slots(ring, "taken")[:1]:
            assert (self.pool.image(slot, SQUARE) == self.seq_of[slot] % 256).all()
            self.pool.release(slot)
            self.state[slot] = "free"

    def reclaim(self, ring: Ring) -> None:
        self.pool.reclaim(ring)
        for slot in self.slots(ring, "taken"):
            self.state[slot] = "free"


steps = st.lists(
    st.tuples(
        st.sampled_from([Model.write, Model.write, Model.take, Model.release, Model.reclaim]),
        st.sampled_from(RINGS),
    ),
    max_size=40,
)


@given(steps)
@settings(max_examples=60, deadline=None)
def test_a_slot_goes_free_ready_taken_free_and_a_dead_readers_slots_come_back(
    history: list[tuple[object, Ring]],
) -> None:
    model = Model(SlotPool(6, SQUARE))
    for step, ring in history:
        assert callable(step)
        step(model, ring)
        ready = [slot for ring in RINGS for slot in model.slots(ring, "ready")]
        assert model.pool.ready_slots(everything(model.pool)) == ready
        for other in RINGS:
            assert model.pool.submitted(other) == model.submitted[other]
            assert model.pool.taken(other) == model.taken[other]


def test_a_reader_sees_only_the_slots_that_are_its_own() -> None:
    pool = SlotPool(4, SQUARE)
    for slot in range(4):
        pool.submit(slot, frame_meta(seq=slot))
    assert pool.ready_slots(np.array([False, True, False, True])) == [1, 3]


def test_every_value_of_a_frames_metadata_comes_out_as_it_went_in() -> None:
    meta = frame_meta(
        WIDE,
        camera=3,
        session=2**40,
        seq=2**41,
        pts_s=1.25,
        capture_wall_ns=2**62,
        capture_ns=5,
        ready_ns=6,
        work_ns=7,
        ts_source=2,
        lossless=True,
        width=1920,
        height=1080,
        scale=1 / 3,
        pad_x=12,
        pad_y=140,
    )
    pool = SlotPool(1, SQUARE)
    pool.submit(0, meta)
    assert pool.take(0) == meta


def test_the_images_of_neighbouring_slots_do_not_touch() -> None:
    largest = InputShape(50, 30)
    pool = SlotPool(3, largest)
    for slot in range(3):
        pool.image(slot, largest)[...] = slot + 1
    pool.submit(1, frame_meta(seq=9))
    assert [set(pool.image(slot, largest).flat) for slot in range(3)] == [{1}, {2}, {3}]


def test_a_smaller_shape_lies_at_the_start_of_the_same_slot() -> None:
    pool = SlotPool(2, SQUARE)
    pool.image(1, WIDE)[...] = 9
    flat = pool.image(1, SQUARE).reshape(-1)
    assert (flat[: WIDE.height * WIDE.width * 3] == 9).all()
    assert not flat[WIDE.height * WIDE.width * 3 :].any()


def test_rings_lie_one_after_the_other() -> None:
    assert lay_out_rings([4, 2, 5]) == [Ring(0, 4), Ring(4, 2), Ring(6, 5)]


def test_shared_memory_is_zeroed_and_whole_pages() -> None:
    block = SharedBlock("test", PAGE + 1)
    assert block.size == 2 * PAGE
    assert not block.array(0, (block.size,), np.uint8).any()


def test_with_a_frame_come_all_that_its_camera_submitted_before_it() -> None:
    """While the reader looks, frame 1 comes into a slot behind it and 2 into one before it."""
    pool, looks = SlotPool(4, SQUARE), 0
    look = pool._ready

    def looking(readable: NDArray[np.bool_]) -> list[int]:
        nonlocal looks
        looks += 1
        if looks == 1:
            pool.submit(2, frame_meta(seq=2))
            seen = look(readable)
            pool.submit(0, frame_meta(seq=1))
            pool.submit(3, frame_meta(seq=3))
            return seen
        return look(readable)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "_ready", looking)
        assert sorted(pool.ready_slots(everything(pool))) == [0, 2]
    for slot in (0, 2):
        pool.take(slot)
    assert pool.ready_slots(everything(pool)) == [3]


def write_in_another_process(pool: SlotPool, asked: Doorbell, answered: Doorbell) -> None:
    """The child of the test below: waits to be asked, then fills a slot."""
    if asked.wait(30):
        slot = pool.free_slot(Ring(1, 1))
        if slot is not None:
            pool.image(slot, SQUARE)[...] = 77
            pool.submit(slot, frame_meta(seq=5))
        answered.ring()


def test_a_spawned_process_shares_the_slots_and_the_bells(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where the child is to look for this module.
    monkeypatch.syspath_prepend(Path(__file__).parents[__name__.count(".")])
    pool, asked, answered = SlotPool(2, SQUARE), Doorbell(), Doorbell()
    child = multiprocessing.get_context("spawn").Process(
        target=write_in_another_process, args=(pool, asked, answered)
    )
    child.start()
    asked.ring()
    assert answered.wait(30)
    child.join()
    child.close()
    assert pool.ready_slots(everything(pool)) == [1]
    assert pool.take(1) == frame_meta(seq=5)
    assert (pool.image(1, SQUARE) == 77).all()
    assert pool.free_slot(Ring(1, 1)) is None


def test_a_bell_wakes_once_for_however_many_rings() -> None:
    bell = Doorbell()
    assert not bell.wait(0)
    bell.ring()
    bell.ring()
    assert bell.wait(0)
    assert not bell.wait(0)


def test_a_cleared_bell_does_not_wake() -> None:
    bell = Doorbell()
    assert not bell.clear()
    bell.ring()
    assert bell.clear()
    assert not bell.wait(-1.0)


def test_shared_memory_and_bells_take_their_descriptors_with_them() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    kept = SharedBlock("kept", PAGE), Doorbell()
    before = descriptors()
    for _ in range(10):
        SharedBlock("gone", PAGE)
        Doorbell()
    assert descriptors() == before
    kept[1].ring()
    assert kept[1].wait(0)
