"""What the NAL units of H.264 and H.265 tell of pictures, by their first bytes."""

from collections.abc import Iterator
from typing import NamedTuple

START_CODE = b"\0\0\0\1"  # FFmpeg writes it before each NAL unit


class Bits:
    """Reads the bits of `data`, a part of a NAL unit. Raises EOFError past its end."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")  # 7.4.1: so that it holds no start code
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def number(self, bits: int) -> int:
        """The next `bits` bits as an unsigned number: u(n)."""
        self._left -= bits
        if self._left < 0:
            raise EOFError
        number = self._value >> self._left
        self._value -= number << self._left
        return number

    def exp_golomb(self) -> int:
        """The next number of a length of its own: ue(v), of 9.1."""
        zeros = self._left - self._value.bit_length()
        self.number(zeros)
        return self.number(zeros + 1) - 1

    def signed_exp_golomb(self) -> int:
        """The next number that may be negative: se(v), of 9.1.1."""
        code = self.exp_golomb()
        return (code + 1) // 2 if code % 2 else -code // 2


class Begun(NamedTuple):
    """What begins in a piece, by the first bytes of its NAL units."""

    slices: int
    is_picture: bool
    is_key: bool
    is_disposable: bool
    recovers_after: int = 0


def read_h264(data: bytes) -> Begun:
    """By ITU-T H.264, tables 7-1 and 7.3.3; a recovery point at which all is right is a keyframe.

    nal_ref_idc is 0 for all slices of a picture or for none (7.4.1): nothing builds upon it.
    """
    slices, is_picture, is_key, is_disposable = 0, False, False, False
    recovers_after = 0
    for at in nal_units(data):
        kind = data[at] & 0x1F
        if kind in (1, 5):
            is_picture = is_picture or data[at + 1 : at + 2] >= b"\x80"  # first_mb_in_slice is 0
            is_disposable = not data[at] & 0x60
            slices += 1
        elif kind == 6:
            recovery = _recovery_frame_cnt(data, at + 1)
            is_key = is_key or recovery == 0
            recovers_after = recovers_after or recovery or 0
        is_key = is_key or kind == 5
    return Begun(slices, is_picture, is_key, is_disposable, recovers_after)


def _recovery_frame_cnt(data: bytes, at: int) -> int | None:
    """Of the SEI messages at `at` (7.3.2.3.1, D.1.8); None where they tell of no recovery point."""
    end = data.find(START_CODE, at) % (len(data) + 1)
    while at + 2 < end:
        kind, size = data[at], data[at + 1]
        if kind == 6:
            try:
                return Bits(data[at + 2 : min(end, at + 2 + size)]).exp_golomb()
            except EOFError:
                return None
        if 0xFF in (kind, size):  # a long one, and the last for all that is known
            return None
        at += 2 + size
    return None


def read_hevc(data: bytes) -> Begun:
    """By ITU-T H.265, tables 7-1 and 7.3.6.1; pictures of random access are keyframes.

    That nothing builds upon a picture is told for a temporal layer only, upon which higher ones
    may build.
    """
    slices, is_picture, is_key = 0, False, False
    for at in nal_units(data):
        kind = data[at] >> 1 & 0x3F
        if kind < 32:  # first_slice_segment_in_pic_flag
            is_picture = is_picture or data[at + 2 : at + 3] >= b"\x80"
            slices += 1
        is_key = is_key or 16 <= kind <= 23
    return Begun(slices, is_picture, is_key, False)


def nal_units(data: bytes) -> Iterator[int]:
    """Where the NAL units begin of which `data` has the first byte."""
    at = data.find(START_CODE)
    while 0 <= at < len(data) - len(START_CODE):
        yield at + len(START_CODE)
        at = data.find(START_CODE, at + len(START_CODE))


READERS = {"h264": read_h264, "hevc": read_hevc}
