"""An open source: its pictures until it ends or breaks off.

It only ever raises; camera.py is the one place that tries again.
"""

import errno
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urlsplit

import av
import av.error
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from streamd.config import CameraConfig
from streamd.config.secrets import mask_text
from streamd.errors import Reason, SourceError
from streamd.ingest.access_units import AccessUnits, Packet, Picture
from streamd.ingest.allocation import bound_allocations
from streamd.ingest.hwaccel import Accelerator

# A larger picture is refused before memory is taken for it: 8192 x 4320 is the largest of the
# common sizes (8K DCI), and 53 MB as 4:2:0. Decoders hold up to 17 of them.
MAX_PIXELS = 8192 * 4320
# FFmpeg itself joins the pictures of these out of RTP packets, by their mark.
_WHOLE_IN_RTP = ("mjpeg", "vp8", "vp9", "av1", "libdav1d")


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What the container says of its video; `fps` is 0 where it says nothing.

    `in_segments`: many pictures come at once, and then none for as long as these take.
    """

    codec: str
    fps: float
    live: bool
    in_segments: bool = False


class Feed(Protocol):
    """An open source."""

    @property
    def info(self) -> StreamInfo:
        """What is known of the stream before its first packet."""
        ...

    @property
    def stream(self) -> VideoStream:
        """The video stream, whose codec context decodes."""
        ...

    def pictures(self) -> Iterator[Picture]:
        """The pictures of the stream to its end. Raises SourceError where it breaks off."""
        ...

    def close(self) -> None:
        """Lets go of the source; from the thread that reads it."""
        ...


@dataclass(frozen=True, slots=True)
class ContainerFeed:
    """A Feed over PyAV."""

    container: InputContainer
    stream: VideoStream
    info: StreamInfo
    read_timeout_s: float

    @classmethod
    def open(
        cls,
        camera: CameraConfig,
        name: str,
        options: dict[str, str],
        accelerator: Accelerator,
        live: bool | None,
    ) -> "ContainerFeed":
        """Opens `name`; with `live` None, it tells itself whether it is. Raises SourceError."""
        timeouts = (camera.open_timeout_s, camera.stall_timeout_s)
        began_s = time.monotonic()
        bound_allocations()
        limits = {"max_pixels": str(MAX_PIXELS)}
        try:
            container = av.open(
                name,
                options=options | limits,
                timeout=timeouts,
                hwaccel=accelerator.hwaccel(),
                metadata_errors="replace",  # names and titles come in whatever encoding
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            # A server that says nothing until our time-out gives InvalidDataError.
            if time.monotonic() - began_s >= 0.9 * camera.open_timeout_s:
                raise SourceError(Reason.TIMEOUT, "no answer in time") from None
            raise _not_opened(camera, error) from None
        try:
            stream = _video_stream(container)
        except SourceError:
            container.close()
            raise
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        # The options above were for probing; the decoder itself is opened at its first packet.
        stream.codec_context.options = limits
        rate = stream.average_rate or stream.guessed_rate
        info = StreamInfo(
            codec=stream.codec_context.name,
            fps=float(rate) if rate and rate < 1000 else 0.0,
            live=_is_live(container, stream) if live is None else live,
            in_segments=container.format.name == "hls",
        )
        return cls(container, stream, info, camera.stall_timeout_s)

    def pictures(self) -> Iterator[Picture]:
        """See Feed. Ends with the empty one that makes a decoder give out its last frames."""
        codec = self.info.codec
        if self.container.format.name != "rtsp" or codec in _WHOLE_IN_RTP:
            yield from (Picture.whole(packet, codec) for packet in self._demuxed())
            return
        units = AccessUnits(codec, self.stream.codec_context.extradata or b"")
        for piece in self._demuxed():
            if piece.size:
                yield from units.add(piece)
            else:
                yield from (*units.rest(), Picture.whole(piece, codec))

    def _demuxed(self) -> Iterator[Packet]:
        # Of all streams: while others flow, PyAV would not return for want of a packet of ours.
        demuxed = self.container.demux()
        began_s = time.monotonic()
        while True:
            try:
                packet = next(demuxed, None)
            except (av.error.FFmpegError, OSError) as error:
                self._check_stall(began_s)  # TLS turns our own time-out into an error of its own
                if not self._ends_by_closing(error):
                    raise self._broken_off(error) from None
                packet = av.Packet()
                packet.stream = self.stream
                yield cast("Packet", packet)
                return
            if packet is None:
                return
            # A read that timed out first gives what FFmpeg held back until the next frame begins:
            # an old picture, and no sign of life.
            self._check_stall(began_s)
            if packet.stream is self.stream:
                yield cast("Packet", packet)
                began_s = time.monotonic()

    def _check_stall(self, began_s: float) -> None:
        if self.info.live and time.monotonic() - began_s >= self.read_timeout_s:
            raise SourceError(Reason.STALLED, f"no packet for {self.read_timeout_s:g} s")

    def _ends_by_closing(self, error: Exception) -> bool:
        """Whether it is the end of a recording whose length the web server did not tell.

        HTTP then ends it by closing the connection, which FFmpeg takes for an error.
        """
        unknown = not (self.info.live or self.info.in_segments) and self.container.size < 0
        return unknown and getattr(error, "errno", None) == errno.EIO

    def _broken_off(self, error: Exception) -> SourceError:
        fault = source_error(error, Reason.STALLED)
        of_network = self.info.live or not self.container.name.startswith("file:")
        if of_network and fault.reason is Reason.UNREACHABLE:
            return SourceError(Reason.ENDED, f"the connection broke: {fault.detail}")
        return fault

    def close(self) -> None:
        """See Feed."""
        self.container.close()


def _not_opened(camera: CameraConfig, error: Exception) -> SourceError:
    """What FFmpeg's error says of a camera that did not open; of some it says too little."""
    number = getattr(error, "errno", None)
    scheme = "" if camera.is_local_file else camera.url.partition("://")[0]
    if number == errno.EPROTONOSUPPORT and scheme.startswith("rtsp"):
        other = "udp" if camera.transport == "tcp" else "tcp"
        what = f"gives no video over {camera.transport}; try transport: {other}"
        return SourceError(Reason.REFUSED, what)
    if number == errno.EIO and scheme:
        host = urlsplit(f"//{camera.host}").hostname
        if host and _has_no_address(host):
            return SourceError(Reason.UNREACHABLE, f"unknown host {host}")
        if scheme in ("rtsps", "https"):
            doubt = ", as with a certificate that is not trusted or of another host (tls_verify)"
            return SourceError(Reason.UNREACHABLE, "TLS failed" + doubt * camera.tls_verify)
        if scheme == "http":
            return SourceError(Reason.INVALID_DATA, "what the server sent is no video")
    return source_error(error, Reason.TIMEOUT)


def _is_live(container: InputContainer, stream: VideoStream) -> bool:
    """Whether what a web server sends is live: it tells no duration.

    Of an MP4 in fragments FFmpeg tells that of the first one. Such a file has a size, at least;
    of a camera's, which is made while it is sent, nobody knows it.
    """
    is_endless_mp4 = "mp4" in container.format.name and container.size < 0 and not stream.frames
    return container.duration is None or is_endless_mp4


def source_error(error: Exception, interrupted: Reason) -> SourceError:
    """FFmpeg's error as one of ours; `interrupted` is what our own time-out means here."""
    reasons: tuple[tuple[tuple[type[Exception], ...], Reason], ...] = (
        ((av.error.ExitError,), interrupted),
        ((av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError), Reason.AUTH_FAILED),
        ((av.error.HTTPNotFoundError, av.error.FileNotFoundError), Reason.NOT_FOUND),
        ((av.error.TimeoutError,), Reason.TIMEOUT),
        ((av.error.ConnectionRefusedError, av.error.HTTPError), Reason.REFUSED),
        ((av.error.HTTPClientError,), Reason.REFUSED),
        ((av.error.InvalidDataError, av.error.EOFError), Reason.INVALID_DATA),
        ((av.error.DecoderNotFoundError, av.error.ProtocolNotFoundError), Reason.CODEC_UNSUPPORTED),
        ((IsADirectoryError, PermissionError), Reason.INVALID_DATA),
    )
    if isinstance(error, av.error.ArgumentError):  # says no more than "Invalid argument"
        return SourceError(Reason.INVALID_DATA, "is no video of a kind that is read")
    for kinds, reason in reasons:
        if isinstance(error, kinds):
            return SourceError(reason, _detail(error))
    return SourceError(Reason.UNREACHABLE, _detail(error))


def _has_no_address(host: str) -> bool:
    """Whether it is unknown, of which FFmpeg says no more than "Input/output error"."""
    try:
        socket.getaddrinfo(host, None)
    except (socket.gaierror, UnicodeError):
        return True
    return False


def _detail(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return mask_text(" ".join(str(text).split()))


def _video_stream(container: InputContainer) -> VideoStream:
    """The first that is no cover picture; of the variants of an HLS stream, the largest."""
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        raise SourceError(Reason.CODEC_UNSUPPORTED, "has no video stream")
    # PyAV leaves the context out where FFmpeg has no decoder, against its own annotation.
    known = [s for s in videos if cast(object, s.codec_context) is not None]
    stream = videos[0]
    if container.format.name == "hls" and known:
        stream = max(known, key=lambda s: s.codec_context.width * s.codec_context.height)
    if stream not in known:
        raise SourceError(Reason.CODEC_UNSUPPORTED, "has video of an unknown codec")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        what = f"its pictures of {width}x{height} are larger than {MAX_PIXELS / 1e6:.0f} megapixels"
        raise SourceError(Reason.CODEC_UNSUPPORTED, what)
    return stream
