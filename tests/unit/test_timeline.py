import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.ingest.timeline import CameraClock, FileTimeline, SegmentPace

from .fakes import FakeClock


def opened(clock: FakeClock) -> FileTimeline:
    timeline = FileTimeline(clock)
    timeline.restart()
    return timeline


@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.floats(0.001, 2), min_size=1, max_size=8)),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=60, deadline=None)
def test_times_go_on_over_loops_whether_or_not_the_frames_tell_a_pts(
    loops: list[tuple[bool, list[float]]],
) -> None:
    timeline = FileTimeline(FakeClock())
    places = []
    for tells_pts, gaps in loops:
        timeline.restart()
        for pts_s in itertools.accumulate(gaps, initial=0.0):
            places.append(timeline.place(pts_s if tells_pts else None))
    assert all(before < after for before, after in itertools.pairwise(places))


def test_a_loop_begins_one_frame_after_the_end_of_the_last() -> None:
    timeline = opened(FakeClock())
    first = [timeline.place(n * 0.1) for n in range(3)]
    timeline.restart()
    again = [timeline.place(n * 0.1) for n in range(2)]
    assert first + again == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_frames_without_a_pts_follow_at_the_last_known_step() -> None:
    timeline = opened(FakeClock())
    timeline.place(0.0)
    timeline.place(0.5)
    assert timeline.place(None) == pytest.approx(1.0)


PTS_WRAP_S = 2**33 / 90_000


@pytest.mark.parametrize(
    "pts_s",
    [
        pytest.param([0.0, 0.1, 7200.2, 7200.3, 7200.4], id="ahead by hours"),
        pytest.param([50.0, 50.1, 0.0, 0.1, 0.2], id="back to the start"),
        pytest.param([0.0, 0.1, 0.1, 0.2, 0.3], id="twice the same"),
        pytest.param([0.0, 0.1, None, None, 0.4], id="missing"),
        pytest.param([None, None, None, None, None], id="never there"),
        pytest.param([None, 32769.0, 32769.0, -139429.0, 0.0], id="twice the same, rounded"),
        pytest.param([0.0, 0.1, -9e9, 0.3, 0.4], id="one absurd"),
        pytest.param([0.0, 0.1, 7200.0, 0.3, 0.4], id="one far ahead"),
        pytest.param([PTS_WRAP_S - 0.2, PTS_WRAP_S - 0.1, 0.0, 0.1, 0.2], id="33 bits wrap"),
    ],
)
def test_times_go_on_at_the_known_step_whatever_a_pts_does(pts_s: list[float | None]) -> None:
    timeline = opened(FakeClock())
    places = [timeline.place(at) for at in pts_s]
    steps = [after - before for before, after in itertools.pairwise(places)]
    known_s = 0.04 if pts_s[0] is None else 0.1
    assert steps == pytest.approx([known_s] * 4)


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_times_increase_whatever_the_pts_are(
    pts_s: list[float | None],
) -> None:
    timeline = opened(FakeClock())
    places = [timeline.place(at) for at in pts_s]
    assert all(before < after for before, after in itertools.pairwise(places))


def test_a_hole_of_up_to_a_minute_is_kept_and_is_not_the_time_between_frames() -> None:
    timeline = opened(FakeClock())
    assert [timeline.place(at) for at in (0.0, 0.1, 45.0, 45.1)] == pytest.approx(
        [0.0, 0.1, 45.0, 45.1]
    )
    timeline.restart()
    assert timeline.place(0.0) == pytest.approx(45.2)


def test_a_time_lapse_keeps_its_pace_from_the_second_step_on() -> None:
    timeline = opened(FakeClock())
    places = [timeline.place(n * 300.0) for n in range(5)]
    steps = [after - before for before, after in itertools.pairwise(places)]
    assert steps == pytest.approx([0.04, 300, 300, 300])


def test_a_frame_counts_as_captured_when_the_file_was_first_opened_plus_its_position() -> None:
    clock = FakeClock()
    timeline = opened(clock)
    start_ns = clock.time_ns()
    clock.advance(100)
    timeline.restart()
    assert timeline.wall_ns(2.5) == start_ns + 2_500_000_000


def test_a_frame_is_ahead_by_what_is_left_until_it_is_due() -> None:
    clock = FakeClock()
    timeline = opened(clock)
    assert timeline.ahead_s(2.0) == pytest.approx(2.0)
    clock.advance(5)
    assert timeline.ahead_s(2.0) == pytest.approx(-3.0)


class Judge:
    """A camera's clock that is off by what a test says, and what was told of it."""

    def __init__(self, limit_s: float = 1800.0) -> None:
        self.told: list[tuple[bool, float]] = []
        self.clock = CameraClock(limit_s, lambda *what: self.told.append(what))
        self.now_s = 0.0

    def believes(self, offset_s: float, after_s: float = 1.0) -> bool:
        self.now_s += after_s
        wall_ns = 1_763_800_000_000_000_000
        return self.clock.believes(
            wall_ns + round(offset_s * 1e9), wall_ns, round(self.now_s * 1e9)
        )


@pytest.mark.parametrize("offset_s", [0.0, -0.3, 100.0, -1799.0])
def test_a_camera_clock_that_is_a_little_off_is_the_cameras_affair(offset_s: float) -> None:
    judge = Judge()
    assert judge.believes(offset_s)
    assert not judge.told


@pytest.mark.parametrize("offset_s", [3600.0, -7200.0, -1.7e9, 2e9])
def test_a_time_zone_or_1970_is_not_believed_and_told_once(offset_s: float) -> None:
    judge = Judge()
    assert not any(judge.believes(offset_s) for _ in range(1000))
    assert judge.told == [(False, offset_s)]


def test_a_clock_that_was_put_right_is_believed_again() -> None:
    judge = Judge()
    seen = [judge.believes(offset_s) for offset_s in (3600.0, 1700.0, 2.0, 1700.0)]
    assert seen == [False, False, True, True]
    assert judge.told == [(False, 3600.0), (True, 2.0)]


def test_a_clock_that_keeps_jumping_does_not_fill_the_log() -> None:
    judge = Judge()
    for _ in range(500):
        judge.believes(3600.0)
        judge.believes(0.0)
    assert [believed for believed, _ in judge.told] == [False, True] * 2


def test_without_a_limit_no_camera_clock_is_used() -> None:
    judge = Judge(0.0)
    assert not judge.believes(0.0)
    assert not judge.told


def played(clock: FakeClock, *segments: tuple[float, list[float | None]]) -> list[float]:
    """When each picture is shown: of segments that are there at a time, and the times in them."""
    pace, shown = SegmentPace(clock), []
    for there_s, decoding_s in segments:
        clock.advance(max(0.0, there_s - clock.monotonic_ns() / 1e9))
        for each in decoding_s:
            clock.advance(pace.ahead_s(each))
            shown.append(clock.monotonic_ns() / 1e9)
    return shown


def seconds(first: float, count: int, period_s: float = 0.1) -> list[float | None]:
    return [first + period_s * at for at in range(count)]


def test_segments_are_played_as_they_were_taken() -> None:
    clock = FakeClock()
    start_s = clock.monotonic_ns() / 1e9
    shown = played(clock, *((start_s + 2 * n, seconds(50 + 2 * n, 20)) for n in range(5)))
    gaps = [b - a for a, b in itertools.pairwise(shown)]
    assert min(gaps) > 0.05
    assert max(gaps) < 0.2
    assert shown[-1] - start_s == pytest.approx(9.9, abs=0.1)


def test_what_began_a_segment_behind_the_end_comes_up_to_it() -> None:
    clock = FakeClock()
    start_s = clock.monotonic_ns() / 1e9
    times = ((start_s + max(0, 2 * n - 2), seconds(2 * n, 20)) for n in range(450))
    shown = played(clock, *times)
    assert shown[19] - start_s == pytest.approx(1.9, abs=0.1)  # two seconds behind
    assert shown[-1] - start_s == pytest.approx(897.9, abs=0.1)  # of the 899.9 that were taken


def test_a_late_segment_is_played_at_its_own_pace() -> None:
    clock = FakeClock()
    start_s = clock.monotonic_ns() / 1e9
    shown = played(clock, (start_s, seconds(0, 20)), (start_s + 9, seconds(2, 20)))
    assert shown[20] == pytest.approx(start_s + 9)
    assert min(b - a for a, b in itertools.pairwise(shown)) > 0.09


@pytest.mark.parametrize("jump_s", [-1000.0, 6.0, 1e9])
def test_times_that_jump_are_not_waited_for(jump_s: float) -> None:
    clock = FakeClock()
    start_s = clock.monotonic_ns() / 1e9
    shown = played(clock, (start_s, [*seconds(2000, 10), *seconds(2000 + jump_s, 10), None]))
    assert shown[-1] - start_s < 2.0
    assert shown[10] == shown[9]
