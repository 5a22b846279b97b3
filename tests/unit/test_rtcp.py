"""Fake packets with the side data that FFmpeg attaches; real ones are in the integration tests."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import pytest

from streamd.ingest.rtcp import SenderReports

EPOCH_NS = 1_763_800_000_000_000_000


@dataclass
class FakePacket:
    """A packet captured at `camera_s` after EPOCH_NS by the camera's clock; None: no clock."""

    camera_s: float | None
    report: bool = False
    pts: int | None = None

    def has_sidedata(self, kind: str) -> bool:
        assert kind == "rtcp_sr"
        return self.report

    def get_sidedata(self, kind: str) -> bytes:
        assert kind == "prft"
        if self.camera_s is None:
            return b""
        return struct.pack("=qi", (EPOCH_NS + round(self.camera_s * 1e9)) // 1000, 24)


class Connection:
    """Packets that come at `at_s` of CLOCK_MONOTONIC."""

    def __init__(self, *, rtsp: bool = True) -> None:
        self._reports = SenderReports(rtsp=rtsp, time_base=Fraction(1, 90_000))
        self._zero_s = 0.0

    def believed_s(
        self,
        at_s: float,
        camera_s: float | None,
        *,
        report: bool = False,
        attached: bool = True,
        jump_s: float = 0.0,
        reported_after: bool = False,
    ) -> float | None:
        """With `report` a new one holds from this packet on; `jump_s` is in the RTP timestamps."""
        if report and camera_s is not None:
            self._zero_s = camera_s - at_s - jump_s
        pts = None if camera_s is None else round((camera_s - self._zero_s) * 90_000)
        packet: Any = FakePacket(camera_s, report and attached, pts)
        taken = self._reports.capture_ns(
            cast("Any", packet), round(at_s * 1e9), reported_after=reported_after
        )
        return None if taken is None else (taken - EPOCH_NS) / 1e9


def test_times_are_the_cameras_from_its_first_report_on() -> None:
    line = Connection()
    assert line.believed_s(5.0, None) is None
    assert line.believed_s(5.1, 104.9, report=True) == pytest.approx(104.9)
    assert line.believed_s(5.2, 105.0) == pytest.approx(105.0)


def test_a_reference_time_that_did_not_come_by_rtsp_is_not_the_clock_of_rtcp() -> None:
    assert Connection(rtsp=False).believed_s(5.0, 5.0, report=True) is None


def test_a_report_is_not_trusted_for_ever() -> None:
    line = Connection()
    line.believed_s(0.0, 0.0, report=True)
    assert line.believed_s(59.0, 59.0) == pytest.approx(59.0)
    assert line.believed_s(61.0, 61.0) is None
    assert line.believed_s(62.0, 62.0, report=True) == pytest.approx(62.0)


def test_a_report_that_came_inside_a_picture_holds_from_the_next_one_on() -> None:
    line = Connection()
    line.believed_s(0.0, 0.0, report=True)
    assert line.believed_s(61.0, 61.0, reported_after=True) is None
    assert line.believed_s(61.1, 61.1) == pytest.approx(61.1)
    assert line.believed_s(121.0, 121.0) == pytest.approx(121.0)
    assert line.believed_s(122.0, 122.0) is None


def test_a_report_inside_a_picture_whose_timestamp_jumped_makes_only_the_next_one_steady() -> None:
    line = Connection()
    line.believed_s(0.0, 0.0, report=True)
    assert line.believed_s(1.0, 8.0, reported_after=True) is None
    after = line.believed_s(1.1, 1.1, report=True, attached=False, jump_s=7.0)
    assert after == pytest.approx(1.1)


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("jump_s", [7200.0, 2.0, -3.0, -20.0, -7200.0])
def test_a_timestamp_that_jumps_is_not_believed_until_the_next_report(
    jump_s: float, attached: bool
) -> None:
    line = Connection()
    line.believed_s(0.0, 0.0, report=True, attached=attached)
    line.believed_s(0.9, 0.9)
    assert line.believed_s(1.0, 1.0 + jump_s) is None
    assert line.believed_s(2.0, 2.0 + jump_s) is None
    after = line.believed_s(3.0, 3.0, report=True, attached=attached, jump_s=jump_s)
    assert after == pytest.approx(3.0)
    assert line.believed_s(4.0, 4.0) == pytest.approx(4.0)


def test_a_camera_whose_clock_is_set_is_followed_at_its_next_report() -> None:
    line = Connection()
    line.believed_s(0.0, 0.0, report=True)
    assert line.believed_s(1.0, 601.0, report=True) == pytest.approx(601.0)
    assert line.believed_s(1.1, 601.1) == pytest.approx(601.1)
    assert line.believed_s(2.0, 2.0, report=True) == pytest.approx(2.0)
    assert line.believed_s(2.1, 2.1) == pytest.approx(2.1)


def test_what_the_network_held_back_keeps_its_time() -> None:
    line = Connection()
    line.believed_s(0.0, 0.0, report=True)
    held = [line.believed_s(5.0, n / 10) for n in range(1, 50)]
    assert held == pytest.approx([n / 10 for n in range(1, 50)])
    assert line.believed_s(5.1, 5.1) == pytest.approx(5.1)


def test_a_rate_that_is_wrong_is_put_right_by_every_report() -> None:
    """25 fps declared and stamped, 21 delivered: timestamps run fast by a fifth."""
    line = Connection()
    taken = []
    for number in range(210):
        at_s = number / 21
        since_report_s = (number % 105) / 25
        camera_s = (number - number % 105) / 21 + since_report_s
        believed = line.believed_s(at_s, camera_s, report=number % 105 == 0)
        taken.append((at_s, believed))
    assert all(seen is not None and abs(seen - at) < 1.0 for at, seen in taken)
