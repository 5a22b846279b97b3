"""More frames than can be inferred: what gives way, and what does not."""

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pytest

from streamd.inference.batch import BatchPolicy, Lineup, collect_batch
from streamd.inference.overload import LatencyTarget

from .fakes import frame_meta

MS = 1_000_000


@dataclass
class Run:
    """A minute of live cameras before one runner, in simulated time."""

    fps: list[float]
    priorities: list[int]
    limit_ms: float | None
    frame_ms: float = 25.0
    seconds: float = 60.0
    age_ms: float = 0.0
    hiccup_s: float = 60.0
    hiccup_ms: float = 0.0
    inferred: Counter[int] = field(default_factory=Counter)
    captured: Counter[int] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    ages_ms: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    sizes: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        ladder = (1, 2, 4, 8)
        lineup = Lineup()
        target = LatencyTarget(int(self.limit_ms * MS), ladder) if self.limit_ms else None
        for camera, priority in enumerate(self.priorities):
            lineup.rank(camera, priority)
        arrivals = self._arrivals()
        now_ns = slot = 0
        while arrivals:
            while arrivals and arrivals[0][0] <= now_ns:
                capture_ns, camera = heapq.heappop(arrivals)
                slot += 1
                meta = frame_meta(
                    camera=camera,
                    seq=slot,
                    capture_ns=capture_ns - int(self.age_ms * MS),
                    ready_ns=capture_ns,
                )
                self.captured[camera] += 1
                self.dropped["overwritten"] += lineup.admit(slot, meta) is not None
            size = target.batch_size(8, now_ns) if target else 8
            if target:
                self.dropped["shed"] += len(lineup.shed(target.captured_after_ns(now_ns, size)))
            frames = collect_batch(lineup.lines, now_ns, BatchPolicy(size, 0), {}).frames
            if not frames:
                now_ns = arrivals[0][0] if arrivals else now_ns
                continue
            lineup.remove(frames, now_ns)
            rung = next(r for r in ladder if r >= len(frames))
            took_ns = int(rung * self.frame_ms * MS)
            if now_ns >= self.hiccup_s * 1e9:
                took_ns, self.hiccup_s = int(self.hiccup_ms * MS), self.seconds
            now_ns += took_ns
            self.sizes[rung] += 1
            if target:
                target.note(rung, took_ns, now_ns)
            for frame in frames:
                self.inferred[frame.meta.camera] += 1
                self.ages_ms[frame.meta.camera].append((now_ns - frame.meta.capture_ns) / MS)
        self.left = len(lineup)

    def _arrivals(self) -> list[tuple[int, int]]:
        arrivals = []
        for camera, fps in enumerate(self.fps):
            offset_ns = int(camera / len(self.fps) / fps * 1e9)
            count = int(self.seconds * fps)
            arrivals += [(offset_ns + int(i / fps * 1e9), camera) for i in range(count)]
        heapq.heapify(arrivals)
        return arrivals

    @property
    def oldest_ms(self) -> float:
        return max(max(ages) for ages in self.ages_ms.values())


def test_under_overload_the_highest_priority_is_served_and_the_rest_shares_evenly() -> None:
    # 40 frames a second can be inferred, 120 come.
    run = Run(fps=[10.0] * 12, priorities=[5, 5, *[0] * 10], limit_ms=300)
    assert min(run.inferred[0], run.inferred[1]) >= 0.97 * run.captured[0]
    rest = [run.inferred[camera] for camera in range(2, 12)]
    assert min(rest) > 0
    assert min(rest) >= 0.85 * max(rest)


def test_latency_stays_within_the_target_however_slow_the_cameras_are() -> None:
    slow = {"fps": [1.0] * 120, "priorities": [0] * 120}
    without = Run(**slow, limit_ms=None)  # type: ignore[arg-type]  # one dict for two kinds
    assert without.oldest_ms > 800
    run = Run(**slow, limit_ms=300)  # type: ignore[arg-type]  # as above
    settled = [age for ages in run.ages_ms.values() for age in ages[5:]]
    assert max(settled) <= 300
    assert run.dropped["shed"] > 0
    assert sum(run.inferred.values()) >= 0.85 * sum(without.inferred.values())
    assert min(run.inferred.values()) >= 0.5 * max(run.inferred.values())


def test_every_frame_has_one_outcome() -> None:
    run = Run(fps=[3.0, 10.0, 25.0] * 6, priorities=[0, 1, 2] * 6, limit_ms=200)
    outcomes = sum(run.inferred.values()) + sum(run.dropped.values()) + run.left
    assert sum(run.captured.values()) == outcomes


def test_nothing_is_shed_where_all_can_be_inferred() -> None:
    run = Run(fps=[5.0] * 4, priorities=[0, 1, 2, 3], limit_ms=300)
    assert run.dropped["shed"] == run.dropped["overwritten"] == 0


def test_batches_get_smaller_where_large_ones_would_take_too_long() -> None:
    run = Run(fps=[10.0] * 12, priorities=[0] * 12, limit_ms=120)
    assert run.sizes[8] + run.sizes[4] <= 4  # until their times were learned
    assert run.sizes[2] > 100


@pytest.mark.parametrize("limit_ms", [5.0, 20.0])
def test_a_target_that_cannot_be_met_does_not_stop_the_work(limit_ms: float) -> None:
    run = Run(fps=[10.0] * 12, priorities=[0] * 12, limit_ms=limit_ms)
    assert sum(run.inferred.values()) > 0.5 * run.seconds * 1000 / run.frame_ms
    target = LatencyTarget(int(limit_ms * MS), (1, 2, 4, 8))
    assert target.reachable
    target.note(1, 25 * MS, 0)
    assert not target.reachable


@pytest.mark.parametrize("at_s", [0.0, 10.0])
def test_a_batch_that_took_long_once_does_not_stop_the_work_for_good(at_s: float) -> None:
    camera = {"fps": [20.0], "priorities": [0], "limit_ms": 100.0, "frame_ms": 20.0, "age_ms": 30.0}
    undisturbed = Run(**camera)  # type: ignore[arg-type]  # one dict for all kinds
    run = Run(**camera, hiccup_s=at_s, hiccup_ms=400.0)  # type: ignore[arg-type]  # as above
    assert undisturbed.dropped["shed"] == 0
    assert run.inferred[0] > 0.9 * undisturbed.inferred[0]


def test_a_size_that_was_slow_once_is_tried_again() -> None:
    target = LatencyTarget(100 * MS, (1, 2, 4, 8))
    target.note(2, 900 * MS, 0)
    now_ns = 0
    sizes = []
    while now_ns < 100 * 10**9:
        now_ns += 20 * MS
        sizes.append(target.batch_size(8, now_ns))
        target.note(sizes[-1], 20 * MS, now_ns)
    assert sizes[0] == 1
    assert sizes[-1] == 8
