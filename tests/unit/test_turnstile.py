import itertools
import random
import threading
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.turnstile import Turnstile

from .fakes import ImpatientCondition, WouldBlockError


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


@given(room=st.integers(1, 5), count=st.integers(0, 20), data=st.data())
@settings(max_examples=60, deadline=None)
def test_items_leave_in_order_however_they_were_completed(
    room: int, count: int, data: st.DataObject
) -> None:
    turnstile = impatient(room)
    left: list[str | None] = []
    running: list[int] = []
    sent = 0
    while len(left) < count:
        while sent < min(count, len(left) + room):
            running.append(sent)
            sent += 1
        done = running.pop(data.draw(st.integers(0, len(running) - 1)))
        turnstile.enter(done, f"batch {done}")
        left += leaving(turnstile)
    turnstile.close(count)
    assert left == [f"batch {n}" for n in range(count)]
    assert turnstile.leave() is None


def test_an_item_too_far_ahead_of_its_turn_waits_outside() -> None:
    turnstile = impatient(room=2)
    turnstile.enter(1, "second")
    with pytest.raises(WouldBlockError):
        turnstile.enter(2, "third")
    turnstile.enter(0, "first")
    assert turnstile.leave() == "first"
    turnstile.enter(2, "third")


def test_after_closing_what_was_sent_still_leaves_and_then_nothing() -> None:
    turnstile = impatient(room=2)
    turnstile.enter(0, "first")
    turnstile.close(2)
    assert turnstile.leave() == "first"
    with pytest.raises(WouldBlockError):
        turnstile.leave()
    turnstile.enter(1, "second")
    assert [turnstile.leave(), turnstile.leave()] == ["second", None]


def test_threads_that_wait_inside_and_outside_are_woken() -> None:
    turnstile: Turnstile[int] = Turnstile(room=2)
    numbers = iter(range(200))
    handing_out = threading.Lock()
    rng = random.Random(1)

    def work() -> None:
        while True:
            with handing_out:
                batch = list(itertools.islice(numbers, rng.randint(1, 2)))
            if not batch:
                return
            for number in batch:
                turnstile.enter(number, number)

    left: list[int] = []

    def consume() -> None:
        while (item := turnstile.leave()) is not None:
            left.append(item)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    consumer = threading.Thread(target=consume, daemon=True)
    for thread in (consumer, *workers):
        thread.start()
    for thread in workers:
        thread.join(5)
    turnstile.close(200)
    consumer.join(5)
    assert left == list(range(200))
