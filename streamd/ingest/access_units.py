"""Whole pictures out of the pieces that RTP cuts them into, each as soon as its last piece came.

FFmpeg's parser knows that a picture is whole once the next one begins: by then a frame period has
passed, 200 ms of a camera of 5 frames a second. The RTP packet that is a picture's last has a mark,
which FFmpeg does not hand on. But a camera cuts its pictures in one way all the time: into so many
slices, and these into pieces of one length but for the last. Where a connection has shown that this
tells the end, it is believed; whoever breaks the rule later has to show it for four times as long.
"""

from dataclasses import dataclass, field
from typing import TypeAlias, cast

import av
from av.video.stream import VideoStream

from streamd.clock import Clock, SystemClock
from streamd.ingest.frame_numbers import FrameNumbers
from streamd.ingest.nal_units import READERS, START_CODE, Begun, read_h264

_BEFORE_SLICES = 2048  # bytes: parameter sets and the like are shorter
_HEADERS = 8  # how much longer the first piece of a NAL unit may be than the next ones
_PICTURES_TO_LEARN = 30
_CUT_PICTURES_TO_LEARN = 2
# No picture is as large: more under one timestamp is passed on as it is.
_LARGEST_BYTES = 32_000_000

Packet: TypeAlias = "av.Packet[VideoStream]"


@dataclass(slots=True)
class Picture:
    """A picture that came and is not decoded: the access unit of H.264 and H.265.

    Its pieces are joined only where it is decoded; of most pictures of many cameras, no more is
    asked than what stands here. `size` is in bytes; the empty one ends a stream. `came_ns` is when
    its last piece came (epoch, monotonic), None where it was whole at once: then it is now.
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
    follows_a_loss: bool = False  # a picture is missing before it, upon which it may build
    came_ns: tuple[int, int] | None = None
    was_reported_in: bool = False  # a sender report of RTCP came after its first piece
    pieces: list[bytes] = field(default_factory=list)

    @classmethod
    def whole(cls, packet: Packet, codec: str) -> "Picture":
        """A picture that came in one packet."""
        if codec != "h264" or not packet.size:
            return cls(packet, packet.pts, packet.size, packet.is_keyframe)
        begun = read_h264(bytes(memoryview(packet)[:_BEFORE_SLICES]))
        # A container calls the begin of a refresh a keyframe, too.
        key = packet.is_keyframe and (begun.is_key or not begun.recovers_after)
        return cls(packet, packet.pts, packet.size, key, begun.is_disposable, begun.recovers_after)

    def append(self, piece: bytes, begun: Begun | None, came_ns: tuple[int, int]) -> None:
        """Another piece, what begins in it, and when it came."""
        self.pieces.append(piece)
        self.came_ns = came_ns
        self.size += len(piece)
        if begun is not None:
            self.is_keyframe = self.is_keyframe or begun.is_key
            self.recovers_after = self.recovers_after or begun.recovers_after
            self.is_disposable = begun.is_disposable if not self.slices else self.is_disposable
            self.slices += begun.slices

    @property
    def decoding_s(self) -> float | None:
        """Its place in the order of decoding, in seconds of the stream."""
        dts, time_base = self.first.dts, self.first.time_base
        return None if dts is None or time_base is None else float(dts * time_base)

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

    Of codecs other than H.264 and H.265 only a new timestamp tells that a picture was whole. Of
    H.264, `parameter_sets` are those that came beside the stream, with start codes.
    """

    def __init__(
        self,
        codec: str,
        parameter_sets: bytes = b"",
        clock: Clock = SystemClock(),  # noqa: B008  # it has no state
    ) -> None:
        self._clock = clock
        self._read = READERS.get(codec)
        self._numbers = FrameNumbers(parameter_sets) if codec == "h264" else None
        self._rule = EndOfPicture()
        self._picture: Picture | None = None
        self._given_early: int | None = None

    def add(self, piece: Packet) -> list[Picture]:
        """The pictures that `piece` completes."""
        data, pts = bytes(piece), piece.pts
        # NAL units hold no start code: a piece that goes on with one begins no other.
        begun = self._read(data) if self._read and data.startswith(START_CODE) else None
        is_after_loss = begun and self._numbers and self._numbers.lost_before(data)
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
        picture.follows_a_loss = picture.follows_a_loss or bool(is_after_loss)
        picture.append(data, begun, (self._clock.time_ns(), self._clock.monotonic_ns()))
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


def _begins_another(picture: Picture, pts: int | None, begun: Begun | None) -> bool:
    """Some cameras give two pictures one timestamp, and some what precedes slices one of its own.

    A piece that goes on with a NAL unit whose beginning was lost is a picture's.
    """
    if picture.slices:
        return pts != picture.pts or (begun is not None and begun.is_picture)
    if pts == picture.pts:
        return False
    headers = begun is not None and picture.size < _BEFORE_SLICES
    return not (headers and all(piece.startswith(START_CODE) for piece in picture.pieces))


def _has_report(piece: Packet) -> bool:
    """Whether a sender report came before `piece`; the time of day stands beside it, as in all.

    Asked of every piece: to look for it by name takes three times as long.
    """
    attached = tuple(piece.iter_sidedata())
    return len(attached) > 1 and any(one.data_type == "rtcp_sr" for one in attached)
