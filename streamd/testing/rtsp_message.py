"""RTSP 1.0 messages (RFC 2326) and session descriptions (RFC 4566)."""

import base64
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from streamd.testing.clip import Clip
from streamd.testing.rtp import CLOCK_HZ, payload_type

TRACK = "track0"
_MAX_HEAD_BYTES = 64 * 1024
_REASONS = {
    200: "OK",
    401: "Unauthorized",
    404: "Not Found",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    461: "Unsupported Transport",
    501: "Not Implemented",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request's line and headers; header names are in lower case."""

    method: str
    url: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        """The path of the mount that is addressed, without the name of the track."""
        path = unquote(urlsplit(self.url).path).rstrip("/")
        return path.removesuffix("/" + TRACK)

    def header(self, name: str) -> str:
        """Return a header's value, empty if it was not sent."""
        return self.headers.get(name, "")


@dataclass(slots=True)
class RequestReader:
    """Turns what a client sends into requests; interleaved RTP and RTCP are passed over."""

    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Request]:
        """Take received bytes and return the requests that are complete by now.

        Raises ValueError when the bytes are not RTSP.
        """
        self._buffer += data
        requests = []
        while (length := self._message_length()) is not None:
            message = bytes(self._buffer[:length])
            del self._buffer[:length]
            if message[:1] != b"$" and message.strip():
                requests.append(_parse(message))
        return requests

    def _message_length(self) -> int | None:
        """Return the length of the first message in the buffer, None while it is incomplete."""
        if self._buffer[:1] == b"$":
            length = 4 + int.from_bytes(self._buffer[2:4], "big")
            return length if len(self._buffer) >= max(length, 4) else None
        if self._buffer[:2] == b"\r\n":
            return 2
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise ValueError("an endless request")
            return None
        body = int(_headers(self._buffer[:head].decode()).get("content-length", 0))
        length = head + 4 + max(0, body)
        return length if len(self._buffer) >= length else None


def _parse(message: bytes) -> Request:
    head = message.partition(b"\r\n\r\n")[0].decode()
    match head.partition("\r\n")[0].split():
        case [method, url, "RTSP/1.0"]:
            return Request(method, url, _headers(head))
    raise ValueError("not an RTSP request")


def _headers(head: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in head.split("\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def response(
    request: Request, code: int, headers: dict[str, str] | None = None, body: str = ""
) -> bytes:
    """Return the answer to `request` as it goes over the wire."""
    lines = [f"RTSP/1.0 {code} {_REASONS[code]}", f"CSeq: {request.header('cseq') or 0}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines.append(f"Content-Length: {len(body.encode())}")
    return "\r\n".join([*lines, "", body]).encode()


def session_description(clip: Clip) -> str:
    """Return the SDP of a clip: one video track, parameter sets included (sprop-*)."""
    kind = payload_type(clip.codec)
    encoding = {"h264": "H264", "hevc": "H265", "mjpeg": "JPEG"}[clip.codec]
    lines = [
        "v=0",
        "o=- 0 0 IN IP4 127.0.0.1",
        "s=streamd test camera",
        "c=IN IP4 0.0.0.0",
        "t=0 0",
        "a=control:*",
        f"m=video 0 RTP/AVP {kind}",
        f"a=rtpmap:{kind} {encoding}/{CLOCK_HZ}",
        f"a=framerate:{clip.fps:g}",
        f"a=control:{TRACK}",
    ]
    if clip.parameter_sets:
        lines.append(f"a=fmtp:{kind} {_format_parameters(clip)}")
    return "\r\n".join([*lines, ""])


def _format_parameters(clip: Clip) -> str:
    encoded = [base64.b64encode(nal).decode() for nal in clip.parameter_sets]
    if clip.codec == "h264":
        profile = clip.parameter_sets[0][1:4].hex()
        sets = ",".join(encoded)
        return f"packetization-mode=1;profile-level-id={profile};sprop-parameter-sets={sets}"
    names = ("sprop-vps", "sprop-sps", "sprop-pps")
    return ";".join(f"{name}={value}" for name, value in zip(names, encoded, strict=True))
