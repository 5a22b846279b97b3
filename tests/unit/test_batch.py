import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamd.inference.batch import (
    IDLE_AFTER_NS,
    MAX_WAIT_NS,
    MIN_WAIT_NS,
    BatchPolicy,
    Decision,
    Lineup,
    ReadyFrame,
    collect_batch,
    shared_size,
)
from streamd.slots import FrameMeta, InputShape

from .fakes import SQUARE, WIDE, frame_meta

MS = 1_000_000
US = 1_000


def waiting(lineup: Lineup) -> list[Sequence[ReadyFrame]]:
    return [frames for line in lineup.lines.values() for frames in line]


def test_still_frames_go_with_the_latest_that_waits_of_their_camera() -> None:
    lineup = Lineup()
    assert not lineup.awaits(1)
    for slot in (0, 1):
        lineup.admit(slot, frame_meta(camera=1, seq=slot * 10, lossless=True))
    still = [frame_meta(camera=1, seq=seq, lossless=True, still=True) for seq in (11, 12)]
    for meta in still:
        lineup.follow(meta)
    assert (lineup.awaits(1), lineup.awaits(2)) == (True, False)
    ((first, second),) = waiting(lineup)
    assert (first.followers, second.followers) == ((), tuple(still))
    lineup.remove([first], now_ns=7)
    ((second,),) = waiting(lineup)
    assert second.followers == tuple(still)


@dataclass(frozen=True)
class SimulatedCamera:
    """Frames by the time since the one before, and the shape of each."""

    lossless: bool
    frames: list[tuple[int, InputShape]]

    def metas(self, index: int) -> Iterator[FrameMeta]:
        ready_ns = 0
        for seq, (gap_ns, shape) in enumerate(self.frames):
            ready_ns += gap_ns
            yield frame_meta(
                shape, camera=index, seq=seq, ready_ns=ready_ns, lossless=self.lossless
            )


@dataclass(frozen=True)
class Sent:
    """A batch, and what its cameras had waiting when it left."""

    frames: tuple[ReadyFrame, ...]
    newest_seq: dict[int, int]


@dataclass(frozen=True)
class Scenario:
    cameras: list[SimulatedCamera]
    policy: BatchPolicy
    runners: int
    batch_ns: int

    def run(self) -> "Simulation":
        simulation = Simulation(self.policy)
        simulation.run(self)
        return simulation


@dataclass
class Simulation:
    """The loop of an inference worker over simulated time, with its own books of who waits."""

    policy: BatchPolicy
    lineup: Lineup = field(default_factory=Lineup)
    now_ns: int = 0
    sent: list[Sent] = field(default_factory=list)
    replaced_slots: list[int] = field(default_factory=list)
    slots: dict[int, FrameMeta] = field(default_factory=dict)
    waiting_since_ns: dict[int, int] = field(default_factory=dict)
    passed_over: Counter[int] = field(default_factory=Counter)
    most_passed_over: int = 0
    latest_ns: int = 0

    def run(self, scenario: Scenario) -> None:
        arrivals = [
            (meta.ready_ns, index, meta.seq, meta)
            for index, camera in enumerate(scenario.cameras)
            for meta in camera.metas(index)
        ]
        heapq.heapify(arrivals)
        busy: list[int] = []
        wake_ns: int | None = None
        while arrivals or busy or len(self.lineup):
            times = [arrivals[0][0]] if arrivals else []
            times += [busy[0]] if busy else []
            times += [wake_ns] if wake_ns is not None else []
            assert times, "frames wait, and nothing is there to wake the loop"
            self.now_ns = max(self.now_ns, min(times))
            if len(busy) < scenario.runners:
                self._note_overdue()
            while busy and busy[0] <= self.now_ns:
                heapq.heappop(busy)
            while arrivals and arrivals[0][0] <= self.now_ns:
                self._admit(heapq.heappop(arrivals)[-1])
            wake_ns = None
            while len(busy) < scenario.runners:
                self.now_ns += 1  # a clock goes on between two looks at it
                decision = self._decide()
                if not decision.frames:
                    wake_ns = decision.wake_at_ns
                    break
                self._send(decision.frames)
                heapq.heappush(busy, self.now_ns + scenario.batch_ns)

    def _note_overdue(self) -> None:
        for since_ns in self.waiting_since_ns.values():
            self.latest_ns = max(self.latest_ns, self.now_ns - since_ns - self.policy.max_wait_ns)

    def _admit(self, meta: FrameMeta) -> None:
        slot = len(self.slots)
        self.slots[slot] = meta
        self.waiting_since_ns.setdefault(meta.camera, self.now_ns)
        replaced = self.lineup.admit(slot, meta)
        if replaced is not None:
            self.replaced_slots.append(replaced)

    def _decide(self) -> Decision:
        active = self.lineup.active_cameras(self.now_ns)
        return collect_batch(self.lineup.lines, self.now_ns, self.policy, active)

    def _send(self, frames: tuple[ReadyFrame, ...]) -> None:
        newest = {queue[-1].meta.camera: queue[-1].meta.seq for queue in waiting(self.lineup)}
        self.sent.append(Sent(frames, newest))
        self.lineup.remove(frames, self.now_ns)
        served = {frame.meta.camera for frame in frames}
        left = {queue[0].meta.camera: queue[0].meta.shape for queue in waiting(self.lineup)}
        for camera, since_ns in list(self.waiting_since_ns.items()):
            if camera not in served:
                overdue = self.now_ns - since_ns >= self.policy.max_wait_ns
                if left[camera] != frames[0].meta.shape and not overdue:
                    continue  # it waits for more of its shape
                self.passed_over[camera] += 1
                self.most_passed_over = max(self.most_passed_over, self.passed_over[camera])
                continue
            self.passed_over[camera] = 0
            del self.waiting_since_ns[camera]
            if camera in left:
                self.waiting_since_ns[camera] = self.now_ns

    def inferred(self, camera: int) -> list[int]:
        return [f.meta.seq for sent in self.sent for f in sent.frames if f.meta.camera == camera]


@st.composite
def cameras(draw: st.DrawFn) -> SimulatedCamera:
    period_ns = draw(st.sampled_from([1, 5, 33, 40, 200, 1000])) * MS
    count = draw(st.integers(0, 15))
    shapes = draw(st.sampled_from([[SQUARE], [WIDE], [SQUARE, WIDE]]))
    gaps = st.integers(1, 2 * period_ns // US).map(lambda us: us * US)
    frame = st.tuples(gaps, st.sampled_from(shapes))
    return SimulatedCamera(
        draw(st.booleans()), draw(st.lists(frame, min_size=count, max_size=count))
    )


scenarios = st.builds(
    Scenario,
    cameras=st.lists(cameras(), min_size=1, max_size=5),
    policy=st.builds(
        BatchPolicy,
        max_size=st.integers(1, 6),
        max_wait_ns=st.integers(0, 100).map(lambda ms: ms * MS),
    ),
    runners=st.integers(1, 3),
    batch_ns=st.integers(1, 80).map(lambda ms: ms * MS),
)


@given(scenarios)
@settings(max_examples=50, deadline=None)
def test_every_frame_is_inferred_once_and_in_order_or_replaced_once_if_it_is_live(
    scenario: Scenario,
) -> None:
    run = scenario.run()
    sent_slots = [frame.slot for sent in run.sent for frame in sent.frames]
    assert sorted(sent_slots + run.replaced_slots) == sorted(run.slots)
    assert not [slot for slot in run.replaced_slots if run.slots[slot].lossless]
    for index in range(len(scenario.cameras)):
        seqs = run.inferred(index)
        assert seqs == sorted(seqs)


@given(scenarios)
@settings(max_examples=50, deadline=None)
def test_a_batch_holds_one_shape_at_most_max_size_frames_and_only_the_newest_of_a_live_camera(
    scenario: Scenario,
) -> None:
    run = scenario.run()
    for sent in run.sent:
        assert len({frame.meta.shape for frame in sent.frames}) == 1
        assert 1 <= len(sent.frames) <= run.policy.max_size
        live = [frame.meta for frame in sent.frames if not frame.meta.lossless]
        assert [meta.seq for meta in live] == [sent.newest_seq[meta.camera] for meta in live]


FAST_BESIDE_SILENT = Scenario(
    cameras=[
        SimulatedCamera(lossless=False, frames=[(5 * MS, SQUARE)] * 60),
        SimulatedCamera(lossless=False, frames=[(1 * MS, SQUARE), (900 * MS, SQUARE)]),
    ],
    policy=BatchPolicy(max_size=8, max_wait_ns=50 * MS),
    runners=1,
    batch_ns=1 * MS,
)


@given(scenarios)
@example(FAST_BESIDE_SILENT)
@settings(max_examples=50, deadline=None)
def test_with_a_runner_free_no_camera_waits_longer_than_max_wait(scenario: Scenario) -> None:
    run = scenario.run()
    assert run.latest_ns <= 1 * US


@given(scenarios)
@settings(max_examples=50, deadline=None)
def test_a_waiting_camera_is_passed_over_at_most_once_for_each_other_camera(
    scenario: Scenario,
) -> None:
    run = scenario.run()
    assert run.most_passed_over <= len(scenario.cameras) - 1


def lines_of(*queues: list[ReadyFrame]) -> dict[InputShape, list[list[ReadyFrame]]]:
    lines: dict[InputShape, list[list[ReadyFrame]]] = {}
    for queue in queues:
        lines.setdefault(queue[0].meta.shape, []).append(queue)
    return lines


def queue_of(camera: int, count: int = 1, since_ns: int = 0, **meta: Any) -> list[ReadyFrame]:
    return [
        ReadyFrame(
            0,
            since_ns,
            100 * camera + n,
            frame_meta(camera=camera, seq=n, ready_ns=since_ns, **meta),
        )
        for n in range(count)
    ]


def test_every_camera_gets_a_frame_before_a_flooding_file_gets_a_second() -> None:
    flood = queue_of(0, count=9, lossless=True)
    late = [queue_of(camera, since_ns=camera) for camera in (1, 2)]
    decision = collect_batch(
        lines_of(flood, *late), 10, BatchPolicy(4, 0), active_cameras={SQUARE: 3}
    )
    assert [frame.meta.camera for frame in decision.frames] == [0, 1, 2, 0]


def test_a_batch_leaves_at_once_when_every_active_camera_is_in_it() -> None:
    ready = lines_of(queue_of(0), queue_of(1))
    decision = collect_batch(ready, 0, BatchPolicy(8, 50 * MS), active_cameras={SQUARE: 2})
    assert len(decision.frames) == 2


def test_a_partial_batch_is_held_until_its_oldest_frame_has_waited_max_wait() -> None:
    ready = lines_of(queue_of(0, since_ns=7 * MS), queue_of(1, since_ns=3 * MS))
    policy = BatchPolicy(8, 50 * MS)
    held = collect_batch(ready, 52 * MS, policy, active_cameras={SQUARE: 3})
    assert held == Decision(wake_at_ns=53 * MS)
    assert len(collect_batch(ready, 53 * MS, policy, active_cameras={SQUARE: 3}).frames) == 2


def test_a_batch_does_not_wait_for_cameras_of_another_shape() -> None:
    ready = lines_of(queue_of(0), queue_of(1, shape=WIDE))
    active = {SQUARE: 1, WIDE: 3}
    decision = collect_batch(ready, 0, BatchPolicy(8, 50 * MS), active)
    assert [frame.meta.camera for frame in decision.frames] == [0]


def test_a_shape_that_waits_for_more_does_not_hold_up_a_full_batch_of_another() -> None:
    older, full = queue_of(0), queue_of(1, count=2, since_ns=MS, lossless=True, shape=WIDE)
    active = {SQUARE: 2, WIDE: 1}
    policy = BatchPolicy(2, 50 * MS)
    first = collect_batch(lines_of(older, full), 2 * MS, policy, active)
    assert [frame.meta.camera for frame in first.frames] == [1, 1]
    assert collect_batch(lines_of(older), 2 * MS, policy, active) == Decision(wake_at_ns=50 * MS)


def test_a_shape_whose_time_has_come_goes_before_a_full_batch_that_came_later() -> None:
    older, full = queue_of(0), queue_of(1, count=9, since_ns=MS, lossless=True, shape=WIDE)
    decision = collect_batch(
        lines_of(older, full), 50 * MS, BatchPolicy(2, 50 * MS), {SQUARE: 2, WIDE: 1}
    )
    assert [frame.meta.camera for frame in decision.frames] == [0]


def test_with_nothing_ready_there_is_nothing_to_wake_for() -> None:
    assert collect_batch({}, 0, BatchPolicy(8, 0), active_cameras={SQUARE: 3}) == Decision()


@pytest.mark.parametrize(
    ("waiting", "size"), [(0, 1), (1, 1), (8, 1), (9, 2), (32, 4), (64, 8), (1000, 8)]
)
def test_where_batching_gains_little_only_a_backlog_makes_batches_large(
    waiting: int, size: int
) -> None:
    assert shared_size(waiting, runners=2, largest=8) == size


def test_a_lineup_counts_what_waits_and_what_of_it_is_live() -> None:
    lineup = Lineup()
    for seq in range(3):
        lineup.admit(seq, frame_meta(camera=0, seq=seq, lossless=True))
        lineup.admit(10 + seq, frame_meta(camera=1, seq=seq, capture_ns=5))
        lineup.admit(20 + seq, frame_meta(camera=2, seq=seq, capture_ns=50))
    assert (len(lineup), lineup.live) == (5, 2)
    assert len(lineup.shed(captured_after_ns=10)) == 1
    assert (len(lineup), lineup.live) == (4, 1)
    lineup.remove([frames[0] for frames in waiting(lineup)], now_ns=0)
    assert (len(lineup), lineup.live) == (2, 0)


def test_a_replaced_frame_keeps_its_place_so_that_replacing_does_not_postpone_the_batch() -> None:
    lineup = Lineup()
    for seq in range(12):
        lineup.admit(seq, frame_meta(seq=seq, ready_ns=seq * 5 * MS))
    decision = collect_batch(
        lineup.lines, 55 * MS, BatchPolicy(8, 50 * MS), active_cameras={SQUARE: 2}
    )
    assert [frame.meta.seq for frame in decision.frames] == [11]


def test_a_camera_that_delivered_nothing_for_two_seconds_is_not_waited_for() -> None:
    lineup = Lineup()
    lineup.admit(0, frame_meta(camera=0, ready_ns=0))
    lineup.admit(1, frame_meta(camera=1, ready_ns=IDLE_AFTER_NS))
    assert lineup.active_cameras(IDLE_AFTER_NS - 1) == {SQUARE: 2}
    assert lineup.active_cameras(IDLE_AFTER_NS) == {SQUARE: 1}


def test_a_frame_can_only_be_removed_in_its_turn() -> None:
    lineup = Lineup()
    for seq in range(2):
        lineup.admit(seq, frame_meta(seq=seq, lossless=True))
    second = waiting(lineup)[0][1]
    with pytest.raises(ValueError, match="slot 1 is not the next one"):
        lineup.remove([second], now_ns=0)


def lineup_of_steady(periods_ns: list[int], until_ns: int, *, lossless: bool = False) -> Lineup:
    lineup = Lineup()
    for camera, period_ns in enumerate(periods_ns):
        for seq in range(5):
            ready_ns = until_ns - (4 - seq) * period_ns
            meta = frame_meta(camera=camera, seq=seq, ready_ns=ready_ns, lossless=lossless)
            lineup.admit(seq, meta)
    return lineup


@given(st.lists(st.integers(1 * MS, 400 * MS), min_size=1, max_size=4), st.floats(0, 300 * MS))
@settings(max_examples=50, deadline=None)
def test_the_adaptive_wait_is_the_shortest_period_less_a_batch_within_2_and_100_ms(
    periods_ns: list[int], batch_ns: float
) -> None:
    lineup = lineup_of_steady(periods_ns, until_ns=1000 * MS)
    expected = min(max(min(periods_ns) - batch_ns, MIN_WAIT_NS), MAX_WAIT_NS)
    assert lineup.adaptive_wait_ns(1000 * MS, batch_ns) == pytest.approx(expected, abs=1 * US)


def test_the_adaptive_wait_ignores_files_and_cameras_that_went_idle() -> None:
    assert lineup_of_steady([80 * MS], 1000 * MS).adaptive_wait_ns(1000 * MS, 0) == 80 * MS
    idle = lineup_of_steady([80 * MS], 1000 * MS)
    assert idle.adaptive_wait_ns(1000 * MS + IDLE_AFTER_NS, 0) == MIN_WAIT_NS
    files = lineup_of_steady([80 * MS], 1000 * MS, lossless=True)
    assert files.adaptive_wait_ns(1000 * MS, 0) == MIN_WAIT_NS
