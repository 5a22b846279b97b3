"""Whether a picture of H.264 was lost whole, by the numbers of those that came.

FFmpeg's decoder then builds upon an older picture and marks nothing. Every picture has the number
of the last one that others build upon, or one more (frame_num of ITU-T H.264, 7.4.3); an IDR
picture begins anew at 0. Encoders may count in another way: a connection is believed once it has
kept this for so many pictures.
"""

from typing import NamedTuple

from streamd.ingest.nal_units import Bits, nal_units

_PICTURES_TO_LEARN = 30
_SLICE, _IDR, _SPS, _PPS = 1, 5, 7, 8
_LONGEST_HEADER = 24  # bytes of a slice's header up to its frame_num, and more
_LONGEST_SET = 1024  # bytes of parameters, of which scaling lists have the most
# Of these profiles (7.3.2.1.1) the parameters begin with the format of pixels.
_PROFILES_WITH_FORMAT = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
_444 = 3


class _Sequence(NamedTuple):
    """What a sequence parameter set says of frame_num: its number of bits, what may come before."""

    bits: int
    colour_planes: bool
    may_leave_out: bool


class FrameNumbers:
    """Follows one connection; `parameter_sets` are those known before it, with start codes."""

    def __init__(self, parameter_sets: bytes = b"") -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of: dict[int, int] = {}  # by the id of a picture parameter set
        self._last: int | None = None
        self._kept = 0
        self.lost_before(parameter_sets)

    def lost_before(self, data: bytes) -> bool:
        """Whether a picture begins in `data` before which one is missing that others build upon.

        `data` begins with the start code of a NAL unit.
        """
        lost = False
        for at in nal_units(data):
            kind = data[at] & 0x1F
            try:
                if kind in (_SLICE, _IDR):
                    lost = self._follow(data, at, kind) or lost
                elif kind == _SPS:
                    number, sequence = _sequence(Bits(data[at + 1 : at + _LONGEST_SET]))
                    self._sequences[number] = sequence
                elif kind == _PPS:
                    bits = Bits(data[at + 1 : at + _LONGEST_SET])
                    number = bits.exp_golomb()
                    self._sequence_of[number] = bits.exp_golomb()
            except (EOFError, KeyError):  # cut off, or its parameters never came
                self._last = None
        return lost

    def _follow(self, data: bytes, at: int, kind: int) -> bool:
        bits = Bits(data[at + 1 : at + 1 + _LONGEST_HEADER])
        if bits.exp_golomb():  # first_mb_in_slice: another slice of the same picture
            return False
        bits.exp_golomb()
        sequence = self._sequences[self._sequence_of[bits.exp_golomb()]]
        if sequence.colour_planes:
            bits.number(2)
        number, last = bits.number(sequence.bits), self._last
        if kind == _IDR or data[at] & 0x60:  # others build upon it
            self._last = number
        if kind == _IDR or last is None or sequence.may_leave_out:
            return False
        if (number - last) % (1 << sequence.bits) <= 1:
            self._kept = min(self._kept + 1, _PICTURES_TO_LEARN)
            return False
        believed = self._kept == _PICTURES_TO_LEARN
        self._kept = self._kept if believed else 0
        return believed


def _sequence(bits: Bits) -> tuple[int, _Sequence]:
    """A sequence parameter set (7.3.2.1.1) as far as it matters here, and its id."""
    profile = bits.number(8)
    bits.number(16)
    number, planes = bits.exp_golomb(), False
    if profile in _PROFILES_WITH_FORMAT:
        chroma = bits.exp_golomb()
        planes = chroma == _444 and bool(bits.number(1))
        bits.exp_golomb()
        bits.exp_golomb()
        bits.number(1)
        if bits.number(1):
            for index in range(12 if chroma == _444 else 8):
                if bits.number(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    length = bits.exp_golomb() + 4
    order = bits.exp_golomb()
    if order == 0:
        bits.exp_golomb()
    elif order == 1:
        bits.number(1)
        bits.exp_golomb()
        bits.exp_golomb()
        for _ in range(bits.exp_golomb()):
            bits.exp_golomb()
    bits.exp_golomb()
    return number, _Sequence(length, planes, bool(bits.number(1)))


def _skip_scaling_list(bits: Bits, size: int) -> None:
    """By 7.3.2.1.1.1: it ends early where the next value would be 0."""
    value = 8
    for _ in range(size):
        value = (value + bits.signed_exp_golomb()) % 256
        if not value:
            return
