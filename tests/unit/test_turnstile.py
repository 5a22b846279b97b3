import itertools
import random
import threading
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.inference.turnstile import Turnstile

from .fakes import ImpatientCondition, WouldBlockError

GATE, YARD = 0, 1


def impatient(room: int) -> Turnstile[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "Condition", ImpatientCondition)
        return Turnstile(room)


def leaving(turnstile: Turnstile[str]) -> list[str | None]:
    """All that can leave now."""
    items = []
    with suppress(WouldBlockError):
        while True:
            items.append(turnstile.leave())
    return items


@given(
    room=st.integers(1, 5),
    lanes=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=20),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_items_leave_in_the_order_of_each_lane_as_soon_as_they_can(
    room: int, lanes: list[list[int]], data: st.DataObject
) -> None:
    turnstile = impatient(room)
    left: list[int] = []
    running: list[int] = []
    done: set[int] = set()
    sent = 0
    while len(left) < len(lanes):
        oldest = min(set(range(len(lanes))) - set(left))
        while sent < min(len(lanes), oldest + room):
            running.append(turnstile.announce(lanes[sent]))
            sent += 1
        number = running.pop(data.draw(st.integers(0, len(running) - 1)))
        turnstile.enter(number, str(number))
        done.add(number)
        left += [int(item or -1) for item in leaving(turnstile)]
        for held in done - set(left):
            before = set(range(held)) - set(left)
            assert any(set(lanes[held]) & set(lanes[earlier]) for earlier in before)
    turnstile.close()
    assert turnstile.leave() is None
    for lane in range(4):
        own = [number for number in left if lane in lanes[number]]
        assert own == sorted(own)


def test_an_item_does_not_wait_for_those_of_other_lanes() -> None:
    turnstile = impatient(room=4)
    first, second, both = (turnstile.announce(lanes) for lanes in ([GATE], [YARD], [GATE, YARD]))
    turnstile.enter(both, "both")
    turnstile.enter(second, "second")
    assert leaving(turnstile) == ["second"]
    turnstile.enter(first, "first")
    assert leaving(turnstile) == ["first", "both"]


def test_an_item_too_far_ahead_of_the_oldest_waits_outside() -> None:
    turnstile = impatient(room=2)
    first, second, third = (turnstile.announce([lane]) for lane in range(3))
    turnstile.enter(second, "second")
    assert turnstile.leave() == "second"
    with pytest.raises(WouldBlockError):
        turnstile.enter(third, "third")
    turnstile.enter(first, "first")
    assert turnstile.leave() == "first"
    turnstile.enter(third, "third")


def test_an_item_that_is_small_may_be_further_ahead() -> None:
    turnstile = impatient(room=2)
    numbers = [turnstile.announce([lane]) for lane in range(5)]
    turnstile.enter(numbers[3], "small", room=4)
    with pytest.raises(WouldBlockError):
        turnstile.enter(numbers[4], "smaller", room=4)
    with pytest.raises(WouldBlockError):
        turnstile.enter(numbers[2], "large")


def test_after_closing_what_was_announced_still_leaves_and_then_nothing() -> None:
    turnstile = impatient(room=2)
    first, second = (turnstile.announce([GATE, GATE]) for _ in range(2))
    turnstile.enter(first, "first")
    turnstile.close()
    assert turnstile.leave() == "first"
    with pytest.raises(WouldBlockError):
        turnstile.leave()
    turnstile.enter(second, "second")
    assert [turnstile.leave(), turnstile.leave()] == ["second", None]


def test_threads_that_wait_inside_and_outside_are_woken() -> None:
    turnstile: Turnstile[tuple[int, int]] = Turnstile(room=2)
    lanes = itertools.cycle(range(3))
    handing_out = threading.Lock()
    rng = random.Random(1)
    sent: list[tuple[int, int]] = []

    def work() -> None:
        while True:
            batch = []
            with handing_out:
                for _ in range(min(rng.randint(1, 2), 200 - len(sent))):
                    lane = next(lanes)
                    batch.append((lane, turnstile.announce([lane])))
                    sent.append(batch[-1])
            if not batch:
                return
            for lane, number in batch:
                turnstile.enter(number, (lane, number))

    left: list[tuple[int, int]] = []

    def consume() -> None:
        while (item := turnstile.leave()) is not None:
            left.append(item)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    consumer = threading.Thread(target=consume, daemon=True)
    for thread in (consumer, *workers):
        thread.start()
    for thread in workers:
        thread.join(5)
    turnstile.close()
    consumer.join(5)
    assert sorted(left) == sorted(sent)
    for lane in range(3):
        assert [item for item in left if item[0] == lane] == [s for s in sent if s[0] == lane]
