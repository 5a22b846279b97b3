import random
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.clock import Backoff, SystemClock

from .fakes import TopOfRange


def test_the_longest_delay_doubles_up_to_the_cap() -> None:
    backoff = Backoff(first_s=1, longest_s=10, rng=TopOfRange())
    assert [backoff.next_delay_s() for _ in range(6)] == [1, 2, 4, 8, 10, 10]


def test_a_reset_starts_over_at_the_first_step() -> None:
    backoff = Backoff(first_s=1, longest_s=10, rng=TopOfRange())
    for _ in range(4):
        backoff.next_delay_s()
    backoff.reset()
    assert [backoff.next_delay_s() for _ in range(2)] == [1, 2]


def test_after_a_longest_delay_the_steps_stay_at_the_longest() -> None:
    backoff = Backoff(first_s=1, longest_s=10, rng=TopOfRange())
    assert [backoff.longest_delay_s(), backoff.next_delay_s()] == [10, 10]


@given(st.integers(), st.floats(0.1, 5), st.floats(5, 120))
@settings(max_examples=40, deadline=None)
def test_a_delay_is_drawn_from_all_of_its_step_and_a_longest_one_from_its_upper_half(
    seed: int, first_s: float, longest_s: float
) -> None:
    backoff = Backoff(first_s=first_s, longest_s=longest_s, rng=random.Random(seed))
    step_s = first_s
    for _ in range(12):
        assert 0 <= backoff.next_delay_s() <= step_s
        step_s = min(longest_s, 2 * step_s)
    settled = [backoff.next_delay_s() for _ in range(200)]
    assert min(settled) < longest_s / 4
    assert max(settled) > longest_s * 3 / 4
    longest = [backoff.longest_delay_s() for _ in range(200)]
    assert longest_s / 2 <= min(longest) < longest_s * 5 / 8
    assert longest_s * 7 / 8 < max(longest) <= longest_s


def test_two_peers_do_not_come_back_together() -> None:
    assert Backoff().next_delay_s() != Backoff().next_delay_s()


def test_the_real_clock_tells_whether_its_wait_was_cut_short() -> None:
    event = threading.Event()
    assert not SystemClock().wait(event, 0)
    event.set()
    assert SystemClock().wait(event, 3600)
