import math
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamd.errors import SourceError
from streamd.ingest.decoder import DecodedFrame
from streamd.ingest.letterbox import PAD_VALUE, FastScaler, Scaler
from streamd.ingest.motion import MotionGate
from streamd.ingest.rate_cap import RateCap
from streamd.ingest.slot_writer import Begun, Capture, SlotRing, SlotWriter
from streamd.ingest.space import Space, Waiters
from streamd.ledger import Ledger
from streamd.slots import FrameMeta, Ring, SlotPool, TsSource

from .fakes import (
    SQUARE,
    FlatScaler,
    ImpatientCondition,
    WouldBlockError,
    capture,
    decoded_frame,
    frame_meta,
)

RING = Ring(1, 2)  # the second of two cameras


class ServedSpace(Space):
    """Whoever would wait here is served by a reader at once."""

    def __init__(self, serve: Callable[[], None]) -> None:
        super().__init__()
        self._serve = serve
        self.waits = 0

    def wait(self, ticket: int) -> bool:
        self.waits += 1
        self._serve()
        return True


class Rig:
    """A writer with a ring of two slots and what it writes to."""

    def __init__(
        self,
        fps: float | None = None,
        space: Space | None = None,
        motion: MotionGate | None = None,
        camera: int = 1,
        scaler: Scaler | None = None,
    ) -> None:
        self.pool = SlotPool(3, SQUARE)
        self.ledger = Ledger(max(2, camera + 1), 1)
        self.rings = 0
        self.space = space or ServedSpace(self.read_oldest)
        self.scaler = FlatScaler()
        self.successor = partial(
            SlotWriter,
            camera=camera,
            session=1_763_800_000,
            slots=SlotRing(self.pool, RING, (SQUARE,), self.ring_bell, self.space),
            ledger=self.ledger,
            scaler=scaler or self.scaler,
            fps=fps,
            motion=motion,
        )
        self.writer = self.successor()
        self.read: list[FrameMeta] = []

    def ring_bell(self) -> None:
        self.rings += 1

    def ready(self) -> list[int]:
        return self.pool.ready_slots(np.ones(3, np.bool_))

    def read_oldest(self) -> None:
        slot = self.ready()[0]
        self.read.append(self.pool.take(slot))
        self.pool.release(slot)

    def outcomes(self) -> dict[str, int]:
        counts = self.ledger.camera(1).as_dict()
        return {name: count for name, count in counts.items() if count}


def test_a_live_frame_beyond_the_rate_is_booked_as_capped_and_keeps_its_number() -> None:
    rig = Rig(fps=10)
    for media_s in (0.0, 0.03, 0.1):
        assert rig.writer.write(decoded_frame(), capture(media_s), 0)
    assert rig.outcomes() == {"captured": 3, "rate_capped": 1, "in_flight": 2}
    assert [rig.pool.take(slot).seq for slot in rig.ready()] == [0, 2]


def test_a_live_frame_is_dropped_and_never_waits_while_all_slots_are_unread() -> None:
    rig = Rig()
    for _ in range(5):
        assert rig.writer.write(decoded_frame(), capture(), 0)
    assert rig.outcomes() == {"captured": 5, "overwritten": 3, "in_flight": 2}
    assert rig.ledger.get(1, "ring_full") == 3
    assert isinstance(rig.space, ServedSpace)
    assert rig.space.waits == 0


def test_a_recording_goes_on_after_the_frames_that_came_whole_and_were_not_lost() -> None:
    rig = Rig(fps=10)
    assert rig.writer.begin_recording(5, 6) == Begun(5, 6, 0)
    rig.writer.count_decoding(0, damaged=2)
    for media_s in (0.0, 0.03, 0.1):
        rig.writer.write(decoded_frame(), capture(media_s, lossless=True), 0)
    rig.ledger.add(1, "captured")
    assert rig.ledger.close_ingest(1, rig.pool.submitted(RING)) == 1
    assert rig.ledger.lost(1) == 1
    again = rig.successor()
    assert again.begin_recording(7, 8) == Begun(5, 6, 3)
    assert rig.ledger.lost(1) == 0
    for media_s in (0.0, 0.03, 0.1):
        again.pass_over(media_s)
    for media_s in (0.13, 0.2):
        rig.read_oldest()
        again.write(decoded_frame(), capture(media_s, lossless=True), 0)
    (slot,) = rig.ready()
    assert rig.pool.take(slot).seq == 6  # two were damaged, and the one at 0.13 s is above the rate


@pytest.mark.parametrize("lost", ["shed", "lost_inference", "unknown"])
def test_a_still_frame_takes_a_slot_without_an_image_until_a_result_was_lost(lost: str) -> None:
    rig, frame = Rig(motion=MotionGate(60)), decoded_frame()
    for n in range(4):
        if n == 3:
            rig.ledger.add(1, lost)
        rig.writer.write(frame, capture(n / 10), 0)
        rig.read_oldest()
    assert [meta.still for meta in rig.read] == [False, True, True, False]
    assert rig.ledger.get(1, "scaled") == 2


@pytest.mark.parametrize("motion", [None, MotionGate(60)])
def test_a_frame_that_cannot_be_scaled_is_booked_and_ends_its_source_only(
    motion: MotionGate | None,
) -> None:
    rig = Rig(motion=motion, scaler=FastScaler())
    odd = DecodedFrame(av.VideoFrame(64, 64, "gray32le"), 0.0, 0, 0)
    with pytest.raises(SourceError, match=r"codec_unsupported: has pictures of .* gray32le"):
        rig.writer.write(odd, capture(), 0)
    assert rig.outcomes() == {"captured": 1, "decode_error": 1}
    assert rig.writer.write(decoded_frame(), capture(1.0), 0)
    assert rig.outcomes() == {"captured": 2, "decode_error": 1, "in_flight": 1}


def test_a_frame_without_a_slot_is_nothing_that_others_could_repeat() -> None:
    rig, frame = Rig(motion=MotionGate(60)), decoded_frame()
    for seconds in (0, 100, 200, 200.1):
        rig.writer.write(frame, capture(seconds), 0)
    rig.read_oldest()
    rig.writer.write(frame, capture(200.2), 0)
    rig.read_oldest()
    rig.read_oldest()
    assert [meta.still for meta in rig.read] == [False, False, False]


def test_a_files_frame_waits_for_a_slot_and_none_is_lost() -> None:
    rig = Rig()
    for n in range(6):
        assert rig.writer.write(decoded_frame(pts_s=n / 10), capture(n / 10, lossless=True), 0)
    assert rig.outcomes() == {"captured": 6, "in_flight": 6}
    while rig.ready():
        rig.read_oldest()
    assert sorted(meta.seq for meta in rig.read) == [0, 1, 2, 3, 4, 5]


def test_a_waiting_writer_that_is_stopped_says_so_and_books_its_frame() -> None:
    space = Space()
    rig = Rig(space=space)
    for _ in range(2):
        rig.writer.write(decoded_frame(), capture(lossless=True), 0)
    space.close()
    assert not rig.writer.write(decoded_frame(), capture(lossless=True), 0)
    assert rig.outcomes() == {"captured": 3, "overwritten": 1, "in_flight": 2}


def test_damaged_frames_are_booked_and_leave_a_gap_in_the_numbers() -> None:
    rig = Rig()
    rig.writer.count_decoding(7, damaged=3)
    rig.writer.write(decoded_frame(), capture(), 0)
    assert rig.outcomes() == {"captured": 4, "decode_error": 3, "in_flight": 1}
    assert rig.pool.take(rig.ready()[0]).seq == 3


def test_the_reader_is_woken_for_each_frame_that_it_can_take() -> None:
    rig = Rig(fps=10)
    for media_s in (0.0, 0.02, 0.1, 0.2):
        rig.writer.write(decoded_frame(), capture(media_s), 0)
    assert rig.rings == 2


def test_a_slot_tells_all_that_is_known_of_its_frame() -> None:
    rig = Rig()
    timing = Capture(7.0, 1_763_800_123_000_000_000, 42, TsSource.ARRIVAL, lossless=False)
    rig.writer.write(decoded_frame(320, 160, pts_s=None), timing, work_ns=1000)
    meta = rig.pool.take(rig.ready()[0])
    assert math.isnan(meta.pts_s)
    assert (meta.camera, meta.session, meta.seq) == (1, 1_763_800_000, 0)
    assert (meta.capture_wall_ns, meta.capture_ns) == (1_763_800_123_000_000_000, 42)
    assert (meta.ts_source, meta.lossless) == (TsSource.ARRIVAL, False)
    assert (meta.width, meta.height, meta.shape) == (320, 160, SQUARE)
    assert (meta.scale, meta.pad_x, meta.pad_y) == (0.2, 0, 16)
    assert meta.work_ns > 1000
    assert rig.ledger.get(1, "last_frame_ns") == 42


def expected_image(width: int, height: int, value: int) -> NDArray[np.uint8]:
    """A picture of one value in the middle of 64 x 64, for sides that divide evenly."""
    image = np.full((64, 64, 3), PAD_VALUE, np.uint8)
    top, left = (64 - height) // 2, (64 - width) // 2
    image[top : top + height, left : left + width] = value
    return image


def test_the_padding_is_painted_anew_when_the_resolution_changes() -> None:
    rig = Rig()
    sizes = [(640, 320, 64, 32), (320, 640, 32, 64), (640, 320, 64, 32), (100, 100, 64, 64)] * 2
    for value, (width, height, inner_width, inner_height) in enumerate(sizes):
        rig.scaler.value = value
        rig.writer.write(decoded_frame(width, height), capture(), 0)
        slot = rig.ready()[0]
        expected = expected_image(inner_width, inner_height, value)
        assert (rig.pool.image(slot, SQUARE) == expected).all()
        rig.read_oldest()


def test_a_picture_leaves_the_slots_of_its_neighbours_alone() -> None:
    rig = Rig()
    rig.writer.write(decoded_frame(), capture(), 0)
    rig.writer.write(decoded_frame(), capture(), 0)
    assert rig.ready() == [1, 2]
    assert not rig.pool.image(0, SQUARE).any()


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Space:
    monkeypatch.setattr(threading, "Condition", ImpatientCondition)
    return Space()


def test_space_blocks_until_slots_are_released(space: Space) -> None:
    with pytest.raises(WouldBlockError):
        space.wait(space.ticket())


def test_a_release_between_the_look_and_the_wait_is_not_missed(space: Space) -> None:
    ticket = space.ticket()
    space.released()
    assert space.wait(ticket)


def test_only_cameras_that_wait_and_have_a_free_slot_are_woken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threading, "Condition", ImpatientCondition)
    pool = SlotPool(3, SQUARE)
    waiters = Waiters(pool)
    spaces = [waiters.join(Ring(slot, 1)) for slot in range(3)]
    tickets = [space.ticket() for space in spaces[:2]]  # the third is live and never looks
    pool.submit(0, frame_meta())
    waiters.released()
    with pytest.raises(WouldBlockError):
        spaces[0].wait(tickets[0])
    assert spaces[1].wait(tickets[1])
    pool.take(0)
    pool.release(0)
    waiters.released()
    assert spaces[0].wait(tickets[0])
    waiters.leave(Ring(1, 1))
    tickets[1] = spaces[1].ticket()
    waiters.released()
    with pytest.raises(WouldBlockError):
        spaces[1].wait(tickets[1])


def test_a_closed_space_ends_every_wait(space: Space) -> None:
    space.close()
    assert not space.wait(space.ticket())


@given(
    cap=st.floats(0.5, 60),
    ratio=st.floats(1, 8),
    jitter=st.floats(0, 0.45),
    seed=st.integers(0, 2**32),
    start_s=st.floats(0, 1e6),
)
@settings(max_examples=60, deadline=None)
def test_the_rate_cap_keeps_its_mean_rate_exactly_whatever_the_jitter(
    cap: float, ratio: float, jitter: float, seed: int, start_s: float
) -> None:
    period_s, rng = 1 / (cap * ratio), random.Random(seed)
    times = [start_s + (n + rng.uniform(-jitter, jitter)) * period_s for n in range(400)]
    limiter = RateCap(cap)
    kept = sum(limiter.admits(time_s) for time_s in times)
    assert kept == pytest.approx((times[-1] - times[0]) * cap + 1, abs=2)


@given(fps=st.floats(0.5, 60), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_a_camera_that_delivers_just_the_cap_loses_nothing_to_its_jitter(
    fps: float, seed: int
) -> None:
    limiter, rng = RateCap(fps), random.Random(seed)
    times = [(n + rng.uniform(-0.12, 0.12)) / fps for n in range(200)]
    assert all(limiter.admits(time_s) for time_s in times)


@given(
    fps=st.floats(0.5, 60),
    phase=st.floats(0, 1),
    start_s=st.floats(0, 1e5),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_a_phase_costs_a_camera_that_delivers_just_the_cap_one_frame_at_most(
    fps: float, phase: float, start_s: float, seed: int
) -> None:
    limiter, rng = RateCap(fps, phase), random.Random(seed)
    times = [start_s + (n + rng.uniform(-0.12, 0.12)) / fps for n in range(200)]
    assert sum(not limiter.admits(time_s, time_s) for time_s in times) <= 1


def test_of_frames_that_come_at_once_those_are_kept_that_spread_evenly() -> None:
    cameras, fps, sent_fps, seconds = 15, 5, 15, 20
    kept: list[float] = []
    for camera in range(cameras):
        rig = Rig(fps=fps, camera=camera)
        for n in range(seconds * sent_fps):
            # Of all cameras within 5 ms, media time by a clock of its own.
            came_s = 1000 + n / sent_fps + camera * 0.0003
            taken = replace(capture(n / sent_fps), monotonic_ns=round(came_s * 1e9))
            rig.writer.write(decoded_frame(), taken, 0)
            for slot in rig.ready():
                rig.pool.take(slot)
                rig.pool.release(slot)
                kept.append(came_s)
    at_once = Counter(int(came_s * sent_fps + 1e-6) for came_s in kept)
    assert len(kept) == pytest.approx(cameras * fps * seconds, abs=cameras)
    assert max(list(at_once.values())[3:]) <= cameras * fps / sent_fps + 1


@given(st.lists(st.floats(0, 3), max_size=200), st.floats(0.5, 60))
@settings(max_examples=60, deadline=None)
def test_no_burst_passes_more_than_three_frames_above_the_rate(
    gaps: list[float], cap: float
) -> None:
    limiter = RateCap(cap)
    time_s, kept = 0.0, []
    for gap in gaps:
        time_s += gap / cap
        if limiter.admits(time_s):
            kept.append(time_s)
    for first, start_s in enumerate(kept):
        for last, end_s in enumerate(kept[first:], first):
            assert last - first + 1 <= (end_s - start_s) * cap + 4


@pytest.mark.parametrize("jump_s", [-3600.0, -0.3, 0.4, 86400.0])
def test_a_jump_in_time_starts_a_new_schedule_at_once(jump_s: float) -> None:
    limiter = RateCap(10)
    assert [limiter.admits(n * 0.05) for n in range(5)] == [True, False, True, False, True]
    after = [limiter.admits(0.2 + jump_s + n * 0.05) for n in range(5)]
    assert after == [True, False, True, False, True]


def test_without_a_cap_every_frame_is_kept() -> None:
    limiter = RateCap(None)
    assert all(limiter.admits(0.0) for _ in range(5))
