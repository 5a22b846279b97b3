"""Packets that need no decoding."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.ingest.rate_cap import RateCap
from streamd.ingest.thinning import KeyframeGate


def passed(gate: KeyframeGate, packets: list[tuple[float, bool]]) -> list[float]:
    """When the packets came that are to be decoded."""
    return [t for t, keyframe in packets if not gate.skips(keyframe, t, wanted=True)]


def stream(fps: int, group: int, seconds: float) -> list[tuple[float, bool]]:
    return [(n / fps, n % group == 0) for n in range(int(seconds * fps))]


def test_keyframes_alone_are_decoded_once_they_are_known_to_be_enough() -> None:
    times = passed(KeyframeGate(1.0), stream(fps=25, group=25, seconds=60))
    assert times[:76] == [n / 25 for n in range(76)]
    assert times[76:] == [float(n) for n in range(4, 60)]


@pytest.mark.parametrize(("fps", "group"), [(None, 25), (5.0, 25), (1.0, 50)])
def test_all_are_decoded_where_keyframes_are_not_enough(fps: float | None, group: int) -> None:
    packets = stream(fps=25, group=group, seconds=30)
    assert len(passed(KeyframeGate(fps), packets)) == len(packets)


@pytest.mark.parametrize(("too_far_s", "thinned"), [(2.1, True), (2.0, False), (0.5, False)])
def test_keyframes_that_are_too_far_apart_are_not_enough_for_any_rate(
    too_far_s: float, thinned: bool
) -> None:
    packets = stream(fps=25, group=50, seconds=30)
    decoded = passed(KeyframeGate(0.1, too_far_s), packets)
    assert (len(decoded) < len(packets)) == thinned


def test_a_keyframe_that_is_overdue_ends_it() -> None:
    gate = KeyframeGate(1.0)
    regular = stream(fps=10, group=10, seconds=10)
    stretched = [(10 + n / 10, n == 0) for n in range(100)]
    passed(gate, regular)
    assert passed(gate, stretched) == [10.0] + [10 + n / 10 for n in range(21, 100)]


def test_packets_that_come_late_and_in_bursts_change_little() -> None:
    rng = random.Random(0)
    gate = KeyframeGate(1.0)
    decoded = []
    for time_s, keyframe in stream(fps=10, group=10, seconds=60):
        # All of three seconds at once, later on half a second late now and then.
        came_s = 13.5 if 10.5 <= time_s < 13.5 else time_s + rng.choice([0, 0, 0, 0.5])
        if not gate.skips(keyframe, came_s, media_s=time_s, wanted=True):
            decoded.append(time_s)
    # The keyframe that came 2.5 s late might have been one of many; the next one shows it was not.
    settled = [time_s for time_s in decoded if time_s > 5 and not 11 < time_s < 12]
    assert settled == [float(n) for n in range(6, 60)]


def test_the_time_of_the_stream_is_not_believed_where_it_runs_slow() -> None:
    packets = stream(fps=10, group=20, seconds=30)
    gate = KeyframeGate(1.0)  # every two seconds there is a keyframe, after one of the stream's
    assert not any(gate.skips(key, t, media_s=t / 2, wanted=True) for t, key in packets)


@pytest.mark.parametrize("group", [1, 5, 8])
def test_of_more_keyframes_than_enough_only_those_are_decoded_that_are_kept(group: int) -> None:
    gate, cap, decoded, kept = KeyframeGate(1.0), RateCap(1.0), 0, []
    for time_s, keyframe in stream(fps=10, group=group, seconds=60):
        if gate.skips(keyframe, time_s, wanted=cap.would_admit(time_s)):
            continue
        decoded += 1
        if cap.admits(time_s):
            kept.append(time_s)
    # Until three intervals are known, all are decoded.
    assert decoded <= len(kept) + 3 * group
    assert len(kept) == pytest.approx(60, abs=3)


@given(
    st.lists(st.tuples(st.floats(0.001, 5.0), st.booleans(), st.booleans()), max_size=200),
    st.sampled_from([0.2, 1.0, 5.0]),
)
def test_no_keyframe_that_is_wanted_is_ever_skipped(
    gaps: list[tuple[float, bool, bool]], fps: float
) -> None:
    gate, now_s = KeyframeGate(fps), 0.0
    for gap_s, keyframe, wanted in gaps:
        now_s += gap_s
        assert not (gate.skips(keyframe, now_s, wanted=wanted) and keyframe and wanted)
