"""Whole pictures out of the pieces that RTP cuts them into, each as soon as its last piece came.

FFmpeg's parser knows that a picture is whole once the next one begins: by then a frame period has
passed, 200 ms of a camera of 5 frames a second. The RTP packet that is a picture's last has a mark,
which FFmpeg does not hand on. But a camera cuts its pictures in one way all the time: into so many
slices, and these into pieces of one length but for the last. Where a connection has shown that this
tells the end, it is believed; whoever breaks the rule later has to show it for four times as long.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias, cast

import av
from av.video.stream import VideoStream

_START = b"\0\0\0\1"  # FFmpeg writes it before each NAL unit
_BEFORE_SLICES = 2048  # bytes: parameter sets and the like are shorter
_HEADERS = 8  # how much longer the first piece of a NAL unit may be than the next ones
_PICTURES_TO_LEARN = 30
_CUT_PICTURES_TO_LEARN = 2
# No picture is as large: more under one timestamp is passed on as it is.
_LARGEST_BYTES = 32_000_000
_SIDE_DATA: tuple[Literal["prft", "rtcp_sr"], ...] = ("prft", "rtcp_sr")  # what rtcp.py reads

Packet: TypeAlias = "av.Packet[VideoStream]"


class _NalUnit(NamedTuple):
    """What is asked of a NAL unit's first bytes."""

    is_slice: bool
    begins_picture: bool
    is_key: bool


@dataclass(slots=True)
class _Unit:
    """A picture of which some pieces came: the access unit of H.264 and H.265."""

    first: Packet
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    slices: int = 0
    is_keyframe: bool = False
    cut: bool = False
    full: int = 0  # the length of a piece that does not end its NAL unit, at least
    foretold: int = 0  # the number of pieces at which the rule first saw the end

    def append(self, piece: bytes, nal_units: Sequence[_NalUnit]) -> None:
        """Another piece, in which these NAL units begin."""
        self.pieces.append(piece)
        self.size += len(piece)
        self.slices += sum(nal.is_slice for nal in nal_units)
        self.is_keyframe = self.is_keyframe or any(nal.is_key for nal in nal_units)


class EndOfPicture:
    """The rule by which a picture's last piece is known, and whether it has held so far."""

    def __init__(self) -> None:
        self._longest = 0
        self._slices = 0
        self._held = 0
        self._cut = 0
        self._needed = _PICTURES_TO_LEARN

    @property
    def holds(self) -> bool:
        """Whether enough pictures of this connection kept it."""
        return self._held >= self._needed and self._cut >= _CUT_PICTURES_TO_LEARN

    def foresees(self, unit: _Unit, piece: bytes, *, begins: bool) -> bool:
        """Whether `piece`, which `begins` NAL units or goes on with one, is the last of `unit`."""
        length = len(piece)
        self._longest = max(self._longest, length)
        if begins:
            unit.full = self._longest - _HEADERS
        else:
            unit.cut = True
        ends = length < unit.full
        if not ends:
            unit.full = length - _HEADERS if begins else length
        return ends and unit.slices == self._slices

    def learn(self, unit: _Unit) -> None:
        """`unit` was whole when the next one began."""
        if unit.foretold == len(unit.pieces):
            self._held += 1
            self._cut += unit.cut
        elif unit.foretold or unit.slices != self._slices:
            self._held = self._cut = 0
        self._slices = unit.slices

    def was_broken(self) -> None:
        """A picture that was taken for whole went on."""
        self._held = self._cut = 0
        self._needed *= 4


class AccessUnits:
    """Joins the pieces of one connection, in their order; see the module.

    Of codecs other than H.264 and H.265 only a new timestamp tells that a picture was whole.
    """

    def __init__(self, codec: str) -> None:
        self._read = {"h264": _read_h264, "hevc": _read_hevc}.get(codec)
        self._rule = EndOfPicture()
        self._unit: _Unit | None = None
        self._given_early: int | None = None

    def add(self, piece: Packet) -> list[Packet]:
        """The pictures that `piece` completes."""
        whole, data = [], bytes(piece)
        nal_units = [self._read(data, at) for at in _nal_units(data)] if self._read else []
        if self._unit is not None and self._begins_another(self._unit, piece, nal_units):
            self._rule.learn(self._unit)
            whole.append(self._taken(self._unit))
        if self._unit is None:
            if piece.pts is not None and piece.pts == self._given_early:
                self._rule.was_broken()
            self._unit = _Unit(piece)
        self._given_early = None
        unit = self._unit
        unit.append(data, nal_units)
        foreseen = self._read and self._rule.foresees(unit, data, begins=bool(nal_units))
        if foreseen and not unit.foretold:
            unit.foretold = len(unit.pieces)
            if self._rule.holds:
                self._given_early = piece.pts
                whole.append(self._taken(unit))
        if self._unit is not None and unit.size > _LARGEST_BYTES:
            whole.append(self._taken(unit))
        return whole

    @staticmethod
    def _begins_another(unit: _Unit, piece: Packet, nal_units: Sequence[_NalUnit]) -> bool:
        """Some cameras give two pictures one timestamp."""
        begins = unit.slices > 0 and any(nal.begins_picture for nal in nal_units)
        return begins or piece.pts != unit.first.pts

    def rest(self) -> list[Packet]:
        """What is left at the end of the stream."""
        return [] if self._unit is None else [self._taken(self._unit)]

    def _taken(self, unit: _Unit) -> Packet:
        self._unit = None
        # By its size: of bytes, PyAV 18 makes one without the padding that FFmpeg reads.
        packet = cast("Packet", av.Packet(unit.size))
        packet.update(b"".join(unit.pieces))
        packet.pts, packet.dts = unit.first.pts, unit.first.dts
        packet.time_base = unit.first.time_base
        packet.is_keyframe = unit.is_keyframe
        for name in _SIDE_DATA:
            if unit.first.has_sidedata(name):
                packet.set_sidedata(unit.first.get_sidedata(name))
        return packet


def is_disposable(picture: Packet, codec: str) -> bool:
    """Whether no other picture builds upon this one, by the header of its first slice.

    In H.264 nal_ref_idc is 0 for all slices of a picture or for none (ITU-T H.264, 7.4.1). H.265
    tells it for a temporal layer only, in which higher ones may not be interested: False.
    """
    if codec != "h264":
        return False
    head = bytes(memoryview(picture)[:_BEFORE_SLICES])
    first = next((at for at in _nal_units(head) if _read_h264(head, at).is_slice), None)
    return first is not None and not head[first] >> 5 & 0x3


def _read_h264(piece: bytes, at: int) -> _NalUnit:
    """By ITU-T H.264, tables 7-1 and 7.3.3; a recovery point is a keyframe as in FFmpeg."""
    kind = piece[at] & 0x1F
    recovery_point = kind == 6 and piece[at + 1 : at + 2] == b"\x06"
    first = piece[at + 1 : at + 2] >= b"\x80"  # first_mb_in_slice is 0
    return _NalUnit(kind in (1, 5), kind in (1, 5) and first, kind == 5 or recovery_point)


def _read_hevc(piece: bytes, at: int) -> _NalUnit:
    """By ITU-T H.265, tables 7-1 and 7.3.6.1; pictures of random access are keyframes."""
    kind = piece[at] >> 1 & 0x3F
    first = piece[at + 2 : at + 3] >= b"\x80"  # first_slice_segment_in_pic_flag
    return _NalUnit(kind < 32, kind < 32 and first, 16 <= kind <= 23)


def _nal_units(piece: bytes) -> list[int]:
    """Where the NAL units begin of which `piece` has the first byte."""
    starts, at = [], piece.find(_START)
    while 0 <= at < len(piece) - len(_START):
        starts.append(at + len(_START))
        at = piece.find(_START, at + len(_START))
    return starts
