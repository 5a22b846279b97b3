"""Whole pictures out of the pieces that RTP cuts them into, each as soon as its last piece came.

FFmpeg's parser knows that a picture is whole once the next one begins: by then a frame period has
passed, 200 ms of a camera of 5 frames a second. The RTP packet that is a picture's last has a mark,
which FFmpeg does not hand on. But a camera cuts its pictures in one way all the time: into so many
slices, and these into pieces of one length but for the last. Where a connection has shown that this
tells the end, it is believed; whoever breaks the rule later has to show it for four times as long.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

import av
from av.video.stream import VideoStream

_START = b"\0\0\0\1"  # FFmpeg writes it before each NAL unit
_HEADERS = 8  # how much longer the first piece of a NAL unit may be than the next ones
_PICTURES_TO_LEARN = 30
_CUT_PICTURES_TO_LEARN = 2
# No picture is as large: more under one timestamp is passed on as it is.
_LARGEST_BYTES = 32_000_000
_SIDE_DATA: tuple[Literal["prft", "rtcp_sr"], ...] = ("prft", "rtcp_sr")  # what rtcp.py reads

Packet: TypeAlias = "av.Packet[VideoStream]"


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
    """Joins the pieces of one connection, in their order; see the module."""

    def __init__(self, codec: str) -> None:
        self._read = {"h264": _read_h264, "hevc": _read_hevc}.get(codec, _read_none)
        self._rule = EndOfPicture()
        self._unit: _Unit | None = None
        self._given_early: int | None = None

    def add(self, piece: Packet) -> list[Packet]:
        """The pictures that `piece` completes."""
        whole = []
        if self._unit is not None and piece.pts != self._unit.first.pts:
            self._rule.learn(self._unit)
            whole.append(self._taken(self._unit))
        if self._unit is None:
            if piece.pts is not None and piece.pts == self._given_early:
                self._rule.was_broken()
            self._unit = _Unit(piece)
        self._given_early = None
        unit, data = self._unit, bytes(piece)
        begins = data.startswith(_START)
        if begins:
            self._read(unit, data)
        unit.pieces.append(data)
        unit.size += len(data)
        if self._rule.foresees(unit, data, begins=begins) and not unit.foretold:
            unit.foretold = len(unit.pieces)
            if self._rule.holds:
                self._given_early = piece.pts
                whole.append(self._taken(unit))
        if self._unit is not None and unit.size > _LARGEST_BYTES:
            whole.append(self._taken(unit))
        return whole

    def rest(self) -> list[Packet]:
        """What is left at the end of the stream."""
        return [] if self._unit is None else [self._taken(self._unit)]

    def _taken(self, unit: _Unit) -> Packet:
        self._unit = None
        packet = cast("Packet", av.Packet(b"".join(unit.pieces)))
        packet.pts, packet.dts = unit.first.pts, unit.first.dts
        packet.time_base = unit.first.time_base
        packet.is_keyframe = unit.is_keyframe
        for name in _SIDE_DATA:
            if unit.first.has_sidedata(name):
                packet.set_sidedata(unit.first.get_sidedata(name))
        return packet


def _read_none(unit: _Unit, piece: bytes) -> None:
    """Of other codecs nothing is known: the end of their pictures is the next one's timestamp."""


def _read_h264(unit: _Unit, piece: bytes) -> None:
    """Slices and keyframes by ITU-T H.264, table 7-1; a recovery point is one as in FFmpeg."""
    for at in _nal_units(piece):
        kind = piece[at] & 0x1F
        unit.slices += kind in (1, 5)
        recovery_point = kind == 6 and piece[at + 1 : at + 2] == b"\x06"
        unit.is_keyframe = unit.is_keyframe or kind == 5 or recovery_point


def _read_hevc(unit: _Unit, piece: bytes) -> None:
    """Slices and pictures of random access by ITU-T H.265, table 7-1."""
    for at in _nal_units(piece):
        kind = piece[at] >> 1 & 0x3F
        unit.slices += kind < 32
        unit.is_keyframe = unit.is_keyframe or 16 <= kind <= 23


def _nal_units(piece: bytes) -> list[int]:
    """Where the NAL units begin of which `piece` has the first byte."""
    starts, at = [], piece.find(_START)
    while 0 <= at < len(piece) - len(_START):
        starts.append(at + len(_START))
        at = piece.find(_START, at + len(_START))
    return starts
