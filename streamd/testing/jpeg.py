"""JPEG images as RTP payloads (RFC 2435)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce

_SOF0, _DHT, _SOS, _EOI, _DQT, _DRI = 0xC0, 0xC4, 0xDA, 0xD9, 0xDB, 0xDD
_TYPE_OF_SAMPLING = {0x21: 0, 0x22: 1}  # 4:2:2 and 4:2:0, RFC 2435 section 4.1
_TABLES_IN_BAND = 255  # the Q value that says: quantisation tables are in the first packet


@dataclass(slots=True)
class _Image:
    """What RFC 2435 keeps of a JPEG image; a receiver rebuilds the other headers."""

    width: int = 0
    height: int = 0
    kind: int = 0
    restart_interval: int = 0
    tables: dict[int, bytes] = field(default_factory=dict)
    scan: bytes = b""


def jpeg_payloads(data: bytes, size: int) -> Iterator[bytes]:
    """Cut one baseline JPEG image into RTP payloads of at most `size` bytes.

    The receiver assumes the standard Huffman tables, so the image must have been coded with
    them (FFmpeg: `huffman=default`). Raises ValueError for images which the RFC cannot carry.
    """
    image = _parse(data)
    tables = b"".join(image.tables[key] for key in sorted(image.tables))
    restart = b""
    kind = image.kind
    if image.restart_interval:
        kind |= 64
        restart = struct.pack("!HH", image.restart_interval, 0xFFFF)
    offset = 0
    while offset < len(image.scan):
        header = struct.pack(
            "!IBBBB", offset, kind, _TABLES_IN_BAND, image.width // 8, image.height // 8
        )
        header += restart
        if offset == 0:
            header += struct.pack("!BBH", 0, 0, len(tables)) + tables
        part = image.scan[offset : offset + size - len(header)]
        yield header + part
        offset += len(part)


def _parse(data: bytes) -> _Image:
    image = _Image()
    for marker, body in _segments(data):
        if marker == _SOF0:
            image.height, image.width = struct.unpack_from("!HH", body, 1)
            image.kind = _sampling_type(body)
        elif marker == _DQT:
            image.tables |= _quantisation_tables(body)
        elif marker == _DRI:
            (image.restart_interval,) = struct.unpack("!H", body)
        elif marker == _DHT and not _is_standard_huffman(body):
            raise ValueError("JPEG over RTP needs the standard Huffman tables")
        elif marker == _SOS:
            image.scan = body
    if not (image.scan and image.width and image.tables):
        raise ValueError("not a baseline JPEG image")
    if image.width % 8 or image.height % 8 or max(image.width, image.height) > 2040:
        raise ValueError("JPEG over RTP needs sides that are multiples of 8, up to 2040 pixels")
    return image


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield markers with the bytes after their length; with SOS comes the entropy-coded scan."""
    at = 2  # after SOI
    while at + 4 <= len(data):
        marker, length = struct.unpack_from("!xBH", data, at)
        body = data[at + 4 : at + 2 + length]
        if marker == _SOS:
            end = data.rfind(bytes((0xFF, _EOI)))
            yield marker, data[at + 2 + length : end if end > at else None]
            return
        yield marker, body
        at += 2 + length


def _sampling_type(frame: bytes) -> int:
    components = [frame[at + 1] for at in range(6, len(frame), 3)]
    kind = _TYPE_OF_SAMPLING.get(components[0])
    if len(components) != 3 or components[1:] != [0x11, 0x11] or kind is None:
        raise ValueError("JPEG over RTP carries 4:2:0 and 4:2:2 images only")
    return kind


def _quantisation_tables(body: bytes) -> dict[int, bytes]:
    tables = {body[at] & 15: body[at + 1 : at + 65] for at in range(0, len(body), 65)}
    if any(body[at] >> 4 for at in range(0, len(body), 65)):
        raise ValueError("JPEG over RTP: 16 bit quantisation tables are not served")
    return tables


def _is_standard_huffman(body: bytes) -> bool:
    """Compare the counts of codes by length with those of JPEG's annex K.3."""
    at = 0
    while at < len(body):
        counts = body[at + 1 : at + 17]
        if counts not in _STANDARD_COUNTS:
            return False
        at += 17 + reduce(int.__add__, counts)
    return True


_STANDARD_COUNTS = {
    bytes.fromhex("00010501010101010100000000000000"),  # luminance DC
    bytes.fromhex("00030101010101010101010000000000"),  # chrominance DC
    bytes.fromhex("0002010303020403050504040000017d"),  # luminance AC
    bytes.fromhex("00020102040403040705040400010277"),  # chrominance AC
}
