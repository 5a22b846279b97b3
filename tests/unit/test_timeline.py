import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.timeline import FileTimeline

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


def test_a_hole_in_a_recording_is_not_taken_for_the_time_between_frames() -> None:
    timeline = opened(FakeClock())
    for pts_s in (0.0, 0.1, 3600.0):
        timeline.place(pts_s)
    timeline.restart()
    assert timeline.place(0.0) == pytest.approx(3600.1)


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
