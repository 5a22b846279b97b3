import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.engines.contract import batch_ladder, rung


@given(st.integers(1, 256))
@settings(deadline=None)
def test_a_ladder_climbs_from_one_to_the_batch_size_by_doubling_at_most(batch_size: int) -> None:
    ladder = batch_ladder(batch_size)
    assert (ladder[0], ladder[-1]) == (1, batch_size)
    assert all(low < high <= 2 * low for low, high in itertools.pairwise(ladder))


def test_the_rungs_below_the_batch_size_are_powers_of_two() -> None:
    assert batch_ladder(8) == (1, 2, 4, 8)
    assert batch_ladder(12) == (1, 2, 4, 8, 12)


@given(st.integers(1, 256), st.data())
@settings(deadline=None)
def test_a_partial_batch_takes_the_lowest_rung_that_holds_it(
    batch_size: int, data: st.DataObject
) -> None:
    ladder = batch_ladder(batch_size)
    images = data.draw(st.integers(1, batch_size))
    taken = rung(ladder, images)
    assert taken >= images
    assert not [size for size in ladder if images <= size < taken]
