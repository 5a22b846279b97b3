"""Whole pictures out of the pieces that RTP cuts them into, each as soon as its last piece came.

FFmpeg's parser knows that a picture is whole once the next one begins: by then a frame period has
passed, 200 ms of a camera of 5 frames a second. The RTP packet that is a picture's last has a mark,
which FFmpeg does not hand on. But a camera cuts its pictures in one way all the time: into so many
slices, and these into pieces of one length but for the last. Where a connection has shown that this
tells the end, it is believed; whoever breaks the rule later has to show it for four times as long.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, cast

import av
from av.video.stream import VideoStream

_START = b"\0\0\0\1"  # FFmpeg writes it before each NAL unit
_BEFORE_SLICES = 2048  # bytes: parameter sets and the like are shorter
_HEADERS = 8  # how much longer the first piece of a NAL unit may be than the next ones
_PICTURES_TO_LEARN = 30
_CUT_PICTURES_TO_LEARN = 2
# No picture is as large: more under one timestamp is passed on as it is.
_LARGEST_BYTES = 32_000_000

Packet: TypeAlias = "av.Packet[VideoStream]"


class _Begun(NamedTuple):
    """What begins in a piece, by the first bytes of its NAL units."""

    slices: int
    is_picture: bool
    is_key: bool
    is_disposable: bool
    recovers_after: int = 0


@dataclass(slots=True)
class Picture:
    """A picture that came and is not decoded: the access unit of H.264 and H.265.

    Its pieces are joined only where it is decoded; of most pictures of many cameras, no more is
    asked than what stands here. `size` is in bytes; the empty one ends a stream.
    """

    first: Packet  # has the times of the picture, and all of it where there are no pieces
    pts: int | None
    size: int = 0
    is_keyframe: bool = False
    is_disposable: bool = False  # no other picture builds upon it, as far as its codec tells
    # With a picture that is no keyframe an encoder may begin to refresh a part of each: so many
    # later, all is refreshed.
    recovers_after: int = 0
    slices: int = 0
    was_reported_in: bool = False  # a sender report of RTCP came after its first piece
    pieces: list[bytes] = field(default_factory=list)

    @classmethod
    def whole(cls, packet: Packet, codec: str) -> "Picture":
        """A picture that came in one packet."""
        if codec != "h264" or not packet.size:
            return cls(packet, packet.pts, packet.size, packet.is_keyframe)
        begun = _read_h264(bytes(memoryview(packet)[:_BEFORE_SLICES]))
        # A container calls the begin of a refresh a keyframe, too.
        key = packet.is_keyframe and (begun.is_key or not begun.recovers_after)
        return cls(packet, packet.pts, packet.size, key, begun.is_disposable, begun.recovers_after)

    def append(self, piece: bytes, begun: _Begun | None) -> None:
        """Another piece, and what begins in it."""
        self.pieces.append(piece)
        self.size += len(piece)
        if begun is not None:
            self.is_keyframe = self.is_keyframe or begun.is_key
            self.recovers_after = self.recovers_after or begun.recovers_after
            self.is_disposable = begun.is_disposable if not self.slices else self.is_disposable
            self.slices += begun.slices

    def packet(self) -> Packet:
        """All of it, for a decoder."""
        if not self.pieces:
            return self.first
        # By its size: of bytes, PyAV 18 makes one without the padding that FFmpeg reads.
        packet = cast("Packet", av.Packet(self.size))
        packet.update(b"".join(self.pieces))
        packet.pts, packet.dts = self.first.pts, self.first.dts
        packet.time_base, packet.is_keyframe = self.first.time_base, self.is_keyframe
        return packet


class EndOfPicture:
    """The rule by which a picture's last piece is known, and whether it has held so far."""

    def __init__(self) -> None:
        self._longest = 0
        self._slices = 0
        self._held = 0
        self._cut_pictures = 0
        self._needed = _PICTURES_TO_LEARN
        self.begin()

    @property
    def holds(self) -> bool:
        """Whether enough pictures of this connection kept it."""
        return self._held >= self._needed and self._cut_pictures >= _CUT_PICTURES_TO_LEARN

    def begin(self) -> None:
        """A picture begins."""
        self._cut = False
        self._full = 0  # the length of a piece that does not end its NAL unit, at least
        self._foretold = 0  # the number of pieces at which the end was first seen

    def foresees(self, picture: Picture, length: int, *, begins: bool) -> bool:
        """Whether its latest piece, of `length` bytes, is seen for the first time as the last one.

        The piece `begins` NAL units or goes on with one.
        """
        self._longest = max(self._longest, length)
        if begins:
            self._full = self._longest - _HEADERS
        else:
            self._cut = True
        ends = length < self._full
        if not ends:
            self._full = length - _HEADERS if begins else length
        if self._foretold or not ends or picture.slices != self._slices:
            return False
        self._foretold = len(picture.pieces)
        return True

    def learn(self, picture: Picture) -> None:
        """`picture` was whole when the next one began."""
        if self._foretold == len(picture.pieces):
            self._held += 1
            self._cut_pictures += self._cut
        elif self._foretold or picture.slices != self._slices:
            self._held = self._cut_pictures = 0
        self._slices = picture.slices

    def was_broken(self) -> None:
        """A picture that was taken for whole went on."""
        self._held = self._cut_pictures = 0
        self._needed *= 4


class AccessUnits:
    """Gathers the pieces of one connection, in their order; see the module.

    Of codecs other than H.264 and H.265 only a new timestamp tells that a picture was whole.
    """

    def __init__(self, codec: str) -> None:
        self._read = {"h264": _read_h264, "hevc": _read_hevc}.get(codec)
        self._rule = EndOfPicture()
        self._picture: Picture | None = None
        self._given_early: int | None = None

    def add(self, piece: Packet) -> list[Picture]:
        """The pictures that `piece` completes."""
        data, pts = bytes(piece), piece.pts
        # NAL units hold no start code: a piece that goes on with one begins no other.
        begun = self._read(data) if self._read and data.startswith(_START) else None
        whole, picture = [], self._picture
        if picture is not None and _begins_another(picture, pts, begun):
            self._rule.learn(picture)
            whole += self.rest()
            picture = None
        if picture is None:
            if pts is not None and pts == self._given_early:
                self._rule.was_broken()
            picture = self._picture = Picture(piece, pts)
            self._rule.begin()
        else:
            picture.was_reported_in |= _has_report(piece)
        if pts != picture.pts:
            # Nor is it a keyframe for what came before its first slice: that one's may be lost.
            picture.first, picture.pts = piece, pts
            picture.is_keyframe, picture.recovers_after = False, 0
        self._given_early = None
        picture.append(data, begun)
        begins = begun is not None
        foreseen = self._read is not None and self._rule.foresees(picture, len(data), begins=begins)
        if foreseen and self._rule.holds:
            self._given_early = pts
            whole += self.rest()
        elif picture.size > _LARGEST_BYTES:
            whole += self.rest()
        return whole

    def rest(self) -> list[Picture]:
        """What is there of a picture, at the end of the stream."""
        picture, self._picture = self._picture, None
        return [] if picture is None else [picture]


def _begins_another(picture: Picture, pts: int | None, begun: _Begun | None) -> bool:
    """Some cameras give two pictures one timestamp, and some what precedes slices one of its own.

    A piece that goes on with a NAL unit whose beginning was lost is a picture's.
    """
    if picture.slices:
        return pts != picture.pts or (begun is not None and begun.is_picture)
    if pts == picture.pts:
        return False
    headers = begun is not None and picture.size < _BEFORE_SLICES
    return not (headers and all(piece.startswith(_START) for piece in picture.pieces))


def _has_report(piece: Packet) -> bool:
    """Whether a sender report came before `piece`; the time of day stands beside it, as in all.

    Asked of every piece: to look for it by name takes three times as long.
    """
    attached = tuple(piece.iter_sidedata())
    return len(attached) > 1 and any(one.data_type == "rtcp_sr" for one in attached)


def _read_h264(data: bytes) -> _Begun:
    """By ITU-T H.264, tables 7-1 and 7.3.3; a recovery point at which all is right is a keyframe.

    nal_ref_idc is 0 for all slices of a picture or for none (7.4.1): nothing builds upon it.
    """
    slices, is_picture, is_key, is_disposable = 0, False, False, False
    recovers_after = 0
    for at in _nal_units(data):
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
    return _Begun(slices, is_picture, is_key, is_disposable, recovers_after)


def _recovery_frame_cnt(data: bytes, at: int) -> int | None:
    """Of the SEI messages at `at` (7.3.2.3.1, D.1.8); None where they tell of no recovery point."""
    end = data.find(_START, at) % (len(data) + 1)
    while at + 2 < end:
        kind, size = data[at], data[at + 1]
        if kind == 6:
            return _exp_golomb(data[at + 2 : min(end, at + 2 + size)])
        if 0xFF in (kind, size):  # a long one, and the last for all that is known
            return None
        at += 2 + size
    return None


def _exp_golomb(data: bytes) -> int | None:
    """The unsigned number that `data` begins with (9.1); None where it is cut off."""
    length, value = 8 * len(data), int.from_bytes(data, "big")
    rest = length - 2 * (length - value.bit_length()) - 1
    return (value >> rest) - 1 if rest >= 0 else None


def _read_hevc(data: bytes) -> _Begun:
    """By ITU-T H.265, tables 7-1 and 7.3.6.1; pictures of random access are keyframes.

    That nothing builds upon a picture is told for a temporal layer only, upon which higher ones
    may build.
    """
    slices, is_picture, is_key = 0, False, False
    for at in _nal_units(data):
        kind = data[at] >> 1 & 0x3F
        if kind < 32:  # first_slice_segment_in_pic_flag
            is_picture = is_picture or data[at + 2 : at + 3] >= b"\x80"
            slices += 1
        is_key = is_key or 16 <= kind <= 23
    return _Begun(slices, is_picture, is_key, False)


def _nal_units(data: bytes) -> Iterator[int]:
    """Where the NAL units begin of which `data` has the first byte."""
    at = data.find(_START)
    while 0 <= at < len(data) - len(_START):
        yield at + len(_START)
        at = data.find(_START, at + len(_START))
