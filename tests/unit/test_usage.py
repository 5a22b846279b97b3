"""What the processes of a daemon used."""

import pytest

from streamd.linux import usage
from streamd.linux.usage import CpuMeter


def test_what_a_process_used_stays_counted_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = iter(
        [
            [(1, "supervisor", 1.0), (2, "supervisor", 0.5)],
            [(1, "supervisor", 2.0), (2, "inference", 10.0)],  # its name was not set yet before
            [(1, "supervisor", 2.0)],
            [(1, "supervisor", 2.0), (2, "inference", 3.0)],  # another one, of the same number
        ]
    )
    monkeypatch.setattr(usage, "_cpu_of_each", lambda _: next(looks))
    meter = CpuMeter(1)
    assert meter.read() == {"supervisor": 1.5}
    for used_s in (9.5, 9.5, 12.5):
        assert meter.read() == {"supervisor": 2.5, "inference": used_s}
