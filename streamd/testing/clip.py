"""A video file taken apart into access units, ready to be sent by a server."""

import re
from dataclasses import dataclass
from pathlib import Path

import av
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

_START_CODE = re.compile(b"\x00\x00\x01")
_TO_ANNEX_B = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
# NAL unit types: SPS, PPS of H.264; VPS, SPS, PPS of H.265.
_PARAMETER_SETS = {"h264": (7, 8), "hevc": (32, 33, 34), "mjpeg": ()}


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One coded picture.

    `nals` are its NAL units without start codes, for MJPEG the one JPEG image. `due_s` is its
    decoding time since the clip's start. `shift_s`, never positive, is by how much the picture
    was captured before that: other than 0 only in clips with B-frames.
    """

    nals: tuple[bytes, ...]
    keyframe: bool
    due_s: float
    shift_s: float


@dataclass(frozen=True, slots=True)
class Clip:
    """The video of a file. `codec` is h264, hevc or mjpeg; sizes are in pixels."""

    codec: str
    fps: float
    width: int
    height: int
    duration_s: float
    parameter_sets: tuple[bytes, ...]
    units: tuple[AccessUnit, ...]

    @classmethod
    def open(cls, path: str | Path) -> "Clip":
        """Read the first video stream of the file at `path`.

        Every keyframe is given the parameter sets in front of it, as cameras send them.
        Raises ValueError for a codec that is not served or a file without pictures, OSError or
        ValueError for one that is no video.
        """
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: no pictures")
            stream = container.streams.video[0]
            codec = stream.codec_context.name
            if codec not in _PARAMETER_SETS:
                raise ValueError(f"{path}: cannot serve {codec}, only h264, hevc and mjpeg")
            fps = float(stream.average_rate or stream.guessed_rate or 25)
            packets = _packets(container, stream)
            if not packets:
                raise ValueError(f"{path}: no pictures")
            parameter_sets = _parameter_sets(codec, split_annex_b(bytes(packets[0])))
            if len(parameter_sets) < len(_PARAMETER_SETS[codec]):
                raise ValueError(f"{path}: the first picture comes without its parameter sets")
            units = _units(codec, packets, parameter_sets, fps)
            width, height = stream.codec_context.width, stream.codec_context.height
        duration_s = units[-1].due_s + 1 / fps
        return cls(codec, fps, width, height, duration_s, parameter_sets, units)


def split_annex_b(data: bytes) -> tuple[bytes, ...]:
    """Split a byte stream with start codes (H.264 annex B) into its NAL units."""
    starts = [match.start() for match in _START_CODE.finditer(data)]
    ends = [*starts[1:], len(data)]
    # A NAL unit never ends in a zero byte: those at its end belong to the next start code.
    nals = (data[start + 3 : end].rstrip(b"\x00") for start, end in zip(starts, ends, strict=True))
    return tuple(nal for nal in nals if nal)


def nal_type(codec: str, nal: bytes) -> int:
    """Return the `nal_unit_type` of a NAL unit of codec h264 or hevc."""
    return nal[0] & 0x1F if codec == "h264" else (nal[0] >> 1) & 0x3F


def _packets(container: InputContainer, stream: VideoStream) -> "list[Packet[VideoStream]]":
    """Demux the whole stream; H.264 and H.265 come out with start codes."""
    demuxed = [packet for packet in container.demux(stream) if packet.size]
    name = _TO_ANNEX_B.get(stream.codec_context.name)
    if name is None:
        return demuxed
    to_annex_b = BitStreamFilterContext(name, stream)
    return [out for packet in [*demuxed, None] for out in to_annex_b.filter(packet)]


def _parameter_sets(codec: str, nals: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Pick the first of each parameter set, in the order in which a decoder needs them."""
    first: dict[int, bytes] = {}
    for nal in nals:
        first.setdefault(nal_type(codec, nal), nal)
    return tuple(first[kind] for kind in _PARAMETER_SETS[codec] if kind in first)


def _units(
    codec: str,
    packets: "list[Packet[VideoStream]]",
    parameter_sets: tuple[bytes, ...],
    fps: float,
) -> tuple[AccessUnit, ...]:
    decode_s = [
        index / fps if packet.dts is None else float(packet.dts * packet.time_base)
        for index, packet in enumerate(packets)
    ]
    present_s = [
        decoded if packet.pts is None else float(packet.pts * packet.time_base)
        for packet, decoded in zip(packets, decode_s, strict=True)
    ]
    # The longest reordering is what an encoder waits for: no picture is sent before its capture.
    delay_s = max(present - decoded for present, decoded in zip(present_s, decode_s, strict=True))
    units = []
    for packet, decoded, present in zip(packets, decode_s, present_s, strict=True):
        data = bytes(packet)
        nals = (data,) if codec == "mjpeg" else split_annex_b(data)
        if packet.is_keyframe and parameter_sets and parameter_sets[0] not in nals:
            nals = parameter_sets + nals
        shift_s = present - decoded - delay_s
        units.append(AccessUnit(nals, packet.is_keyframe, decoded - decode_s[0], shift_s))
    return tuple(units)
