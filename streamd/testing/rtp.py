"""RTP and RTCP packets (RFC 3550) with H.264 (RFC 6184), H.265 (RFC 7798) and JPEG payloads.

Pure functions from bytes to bytes; numbering, pacing and sockets are somewhere else.
"""

import struct

from streamd.testing.jpeg import jpeg_payloads

CLOCK_HZ = 90_000
_NTP_EPOCH_S = 2_208_988_800  # 1970 counted from 1900
_PAYLOAD_BYTES = 1400  # fits Ethernet's 1500 with every header around it
_RTP_HEADER = struct.Struct("!BBHII")
_H264_FU_A = 28
_H265_FU = 49


def payload_type(codec: str) -> int:
    """Return the RTP payload type: JPEG's is static (RFC 3551), the others are dynamic."""
    return 26 if codec == "mjpeg" else 96


def payloads(codec: str, nals: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Cut an access unit into RTP payloads; the last one is to carry the marker bit."""
    if codec == "mjpeg":
        return tuple(jpeg_payloads(nals[0], _PAYLOAD_BYTES))
    fragments = _h264_fragments if codec == "h264" else _h265_fragments
    return tuple(
        payload
        for nal in nals
        for payload in ([nal] if len(nal) <= _PAYLOAD_BYTES else fragments(nal))
    )


def _h264_fragments(nal: bytes) -> list[bytes]:
    """Cut a NAL unit into FU-A fragments, RFC 6184 section 5.8."""
    indicator = (nal[0] & 0xE0) | _H264_FU_A
    return [
        bytes((indicator, flags | nal[0] & 0x1F)) + part
        for flags, part in _parts(nal[1:], _PAYLOAD_BYTES - 2)
    ]


def _h265_fragments(nal: bytes) -> list[bytes]:
    """Cut a NAL unit into fragmentation units, RFC 7798 section 4.4.3."""
    header = bytes(((nal[0] & 0x81) | _H265_FU << 1, nal[1]))
    kind = (nal[0] >> 1) & 0x3F
    return [
        header + bytes((flags | kind,)) + part
        for flags, part in _parts(nal[2:], _PAYLOAD_BYTES - 3)
    ]


def _parts(body: bytes, size: int) -> list[tuple[int, bytes]]:
    """Return pieces of `body` with the FU header's start and end bits."""
    offsets = range(0, len(body), size)
    return [
        ((0x80 if at == 0 else 0) | (0x40 if at == offsets[-1] else 0), body[at : at + size])
        for at in offsets
    ]


def rtp_header(kind: int, sequence: int, timestamp: int, ssrc: int, *, marker: bool) -> bytes:
    """Return the 12 bytes in front of a payload of type `kind`."""
    return _RTP_HEADER.pack(0x80, kind | (marker << 7), sequence, timestamp, ssrc)


def ntp_timestamp(wall_s: float) -> int:
    """Return a Unix time as NTP's 32.32 bit fixed-point count of seconds since 1900."""
    seconds = int(wall_s)
    return (seconds + _NTP_EPOCH_S << 32) + int((wall_s - seconds) * (1 << 32))


def sender_report(ssrc: int, wall_s: float, timestamp: int, packets: int, octets: int) -> bytes:
    """Return a compound RTCP packet: a sender report (RFC 3550 section 6.4.1) and a CNAME.

    It states that the RTP clock showed `timestamp` at the Unix time `wall_s`.
    """
    octets, packets = octets & 0xFFFFFFFF, packets & 0xFFFFFFFF
    head = struct.pack("!BBHI", 0x80, 200, 6, ssrc)
    body = struct.pack("!QIII", ntp_timestamp(wall_s), timestamp, packets, octets)
    return head + body + _cname(ssrc)


def goodbye(ssrc: int) -> bytes:
    """Return the RTCP BYE with which a stream ends (RFC 3550 section 6.6)."""
    return struct.pack("!BBHI", 0x81, 203, 1, ssrc)


def _cname(ssrc: int) -> bytes:
    name = b"camera"
    items = struct.pack("!IBB", ssrc, 1, len(name)) + name
    items += bytes(4 - len(items) % 4)  # the item list ends in at least one zero byte
    return struct.pack("!BBH", 0x81, 202, len(items) // 4) + items
