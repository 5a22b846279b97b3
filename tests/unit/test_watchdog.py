"""When a service manager hears that all is well."""

import pytest

from streamd.supervision.watchdog import Watchdog


def frames(
    captured: int, inferred: int, rate_capped: int = 0, decode_error: int = 0, still: int = 0
) -> dict[str, int]:
    return {
        "captured": captured,
        "inferred": inferred,
        "rate_capped": rate_capped,
        "decode_error": decode_error,
        "still": still,
    }


def test_it_is_fed_while_frames_are_inferred() -> None:
    watchdog = Watchdog(interval_s=40)
    told = [watchdog.is_due(t, frames(10 * t, 9 * t), t) for t in range(100, 160, 2)]
    assert told == [t % 10 == 0 for t in range(100, 160, 2)]


def test_it_is_not_fed_while_frames_come_and_none_is_inferred() -> None:
    watchdog = Watchdog(interval_s=40)
    assert watchdog.is_due(100, frames(1000, 900), 7)
    assert not any(watchdog.is_due(t, frames(10 * t, 900), 7) for t in range(101, 200))
    assert watchdog.is_due(200, frames(2000, 901), 8)


def test_results_that_redis_does_not_take_are_results() -> None:
    """Frames count as inferred once their events are safe, perhaps when Redis is back."""
    watchdog = Watchdog(interval_s=40)
    told = [watchdog.is_due(t, frames(10 * t, 0), t) for t in range(100, 160, 2)]
    assert told == [t % 10 == 0 for t in range(100, 160, 2)]


def test_cameras_that_deliver_nothing_that_is_asked_for_are_no_fault_of_it() -> None:
    watchdog = Watchdog(interval_s=40)
    assert watchdog.is_due(100, frames(0, 0), 0)
    assert watchdog.is_due(110, frames(50, 0, rate_capped=20, decode_error=30), 0)
    assert watchdog.is_due(120, frames(50, 0, rate_capped=20, decode_error=30), 0)
    assert watchdog.is_due(130, frames(70, 0, rate_capped=20, decode_error=30, still=20), 0)


@pytest.mark.parametrize(
    ("environ", "watched"),
    [
        ({}, False),
        ({"WATCHDOG_USEC": "60000000"}, True),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, True),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
    ],
)
def test_it_watches_where_the_service_manager_asks_for_it(
    environ: dict[str, str], watched: bool
) -> None:
    assert (Watchdog.of(environ, 7) is not None) == watched
