"""The pace of the test camera, on a clock of its own."""

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest

from streamd.testing.clip import AccessUnit, Clip
from streamd.testing.rtp_stream import RtpStream
from streamd.testing.rtsp_mount import Mount

from .fakes import FakeClock

FPS = 30
UNITS = tuple(AccessUnit((b"\x65picture",), True, number / FPS, 0.0) for number in range(15))
CLIP = Clip("h264", FPS, 64, 64, 15 / FPS, (), UNITS)


class Wire:
    """A transport that notes when each picture left, in seconds since PLAY."""

    header = ""

    def __init__(self, clock: FakeClock) -> None:
        self.sent_s: list[float] = []
        self.reports: list[bytes] = []
        self._clock = clock
        self._began_ns = clock.monotonic_ns()

    def send_rtp(self, packets: Sequence[bytes]) -> None:
        assert len(packets) == 1
        self.sent_s.append((self._clock.monotonic_ns() - self._began_ns) / 1e9)

    def send_rtcp(self, packet: bytes) -> None:
        self.reports.append(packet)

    def close(self) -> None:
        pass


class Played:
    """A stream as its session runs it."""

    def __init__(self, *, loop: bool = True) -> None:
        self.clock = FakeClock()
        self.mount = Mount("127.0.0.1:554", "/gate", CLIP, None, loop=loop)
        self.wire = Wire(self.clock)
        self.stream = RtpStream(self.mount, self.wire, Random(0), self.clock)

    def until(self, pictures: int) -> list[float]:
        """Play on until so many pictures were sent; when each was."""
        while len(self.wire.sent_s) < pictures:
            wait_s = self.stream.wait_s()
            assert wait_s is not None
            self.clock.advance(max(wait_s, 1e-6))  # less would be rounded away
            self.stream.send_due()
        return self.wire.sent_s


def due(first: int, end: int, late_s: float = 0.0) -> object:
    return pytest.approx(late_s + np.arange(first, end) / FPS, abs=1e-5)


def test_pictures_leave_at_the_clips_pace_over_its_loops() -> None:
    assert Played().until(60) == due(0, 60)


def test_a_short_delay_is_made_up_for() -> None:
    played = Played()
    played.until(10)
    played.clock.advance(0.4)
    sent_s = played.until(60)
    assert sent_s[30:] == due(30, 60)


@pytest.mark.parametrize(("catch_up", "late_s"), [(False, 2.0), (True, 0.0)])
def test_after_a_long_delay_all_that_follows_is_late(catch_up: bool, late_s: float) -> None:
    played = Played()
    played.mount.catch_up = catch_up
    played.until(10)
    played.clock.advance(2.0 + 1 / FPS)  # from the tenth picture, not the eleventh
    sent_s = played.until(100)
    assert sent_s[80:] == due(80, 100, late_s)


def test_without_loop_it_says_goodbye_when_its_last_picture_is_over() -> None:
    played = Played(loop=False)
    played.until(15)
    assert played.stream.wait_s() == pytest.approx(1 / FPS, abs=1e-5)
    played.clock.advance(1.001 / FPS)
    played.stream.send_due()
    assert played.stream.ended
    assert played.stream.wait_s() is None
    assert played.wire.reports[-1][-8] == 0x81  # the head of RTCP BYE
    assert len(played.wire.sent_s) == 15
