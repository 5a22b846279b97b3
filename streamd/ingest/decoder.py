"""From packets to whole frames, on the thread of the camera."""

import time
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
from av.codec.context import Flags
from av.video.stream import VideoStream

from streamd.clock import Clock
from streamd.errors import Reason, SourceError
from streamd.ingest.access_units import Picture
from streamd.ingest.rtcp import SenderReports

# These decoders conceal damage without a mark unless they are told to give up on it.
_CONCEALING = ("hevc", "mjpeg")
_KEYFRAMES_TO_REFUSE = 3
# In these pixel formats swscale does not fail, but aborts the process.
_FATAL_FORMATS = ("yaf32le", "yaf32be")


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A whole frame, and when the last of its packet came.

    `pts_s` is the position in the stream in seconds, None where the stream tells none.
    `arrival_wall_ns` is epoch time, `arrival_ns` monotonic. `camera_ns` is the epoch time of its
    capture by the camera's own clock, None where the camera tells none.
    """

    image: av.VideoFrame
    pts_s: float | None
    arrival_wall_ns: int
    arrival_ns: int
    camera_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one packet gave: frames in the order of display, and frames that were damaged.

    `keyframe`: one of them, whole or not, was a picture that stands for itself.
    """

    frames: tuple[DecodedFrame, ...]
    damaged: int
    cpu_ns: int
    keyframe: bool = False


@dataclass(slots=True)
class _Origin:
    """What is known of the packet that a picture was in; FFmpeg hands it from one to the other.

    A picture of a `skipped` packet is only there for those that build upon it. For
    `recovers_after` see Picture.
    """

    number: int
    keyframe: bool
    recovers_after: int
    disposable: bool
    wall_ns: int
    monotonic_ns: int
    camera_ns: int | None
    counted: bool = False
    skipped: bool = False


class Decoder:
    """Decodes one stream on the calling thread.

    One thread a camera suits many cameras, and slice threads would hide damage: FFmpeg marks a
    frame as corrupt only without them. A damaged frame, or one that never came, spoils those that
    build upon it, which FFmpeg does not mark: they count as damaged up to the next whole keyframe.

    `strict` makes H.265 and JPEG decoders refuse what they would conceal. They may then refuse
    all of a camera that is only sloppy: see `refuses_all`.
    """

    def __init__(self, stream: VideoStream, clock: Clock, *, strict: bool = False) -> None:
        self._context = stream.codec_context
        self._context.thread_type = "NONE"
        self._context.thread_count = 1
        self._context.flags |= Flags.copy_opaque
        self.strict = strict and self._context.name in _CONCEALING
        if self.strict:
            self._context.options = self._context.options | {"err_detect": "explode"}
        self._clock = clock
        is_rtsp = stream.container.format.name == "rtsp"
        self._reports = SenderReports(rtsp=is_rtsp, time_base=stream.time_base)
        self._time_base_s = float(stream.time_base or 0)
        self._start_s = _seconds(stream.start_time, stream.time_base) or 0.0
        self._packets = 0
        # Packets from the first damaged one to the last, until a whole keyframe; None: no damage.
        self._damage: tuple[int, int] | None = None
        self._recovers_in: int | None = None  # pictures until a refresh is complete
        self._skipped: list[tuple[Picture, _Origin]] = []
        self._refused = 0
        self._given_up_on = 0  # keyframes that the device failed at since it last made a frame
        self._delivers = False

    @property
    def refuses_all(self) -> bool:
        """Whether being strict has cost every keyframe so far."""
        return self.strict and not self._delivers and self._refused >= _KEYFRAMES_TO_REFUSE

    @property
    def device_fails(self) -> bool:
        """Whether the GPU has failed at one keyframe after another: it is none of the stream's."""
        return self._given_up_on >= _KEYFRAMES_TO_REFUSE

    @property
    def delays(self) -> bool:
        """Whether a picture may come out only after a later packet went in."""
        return self._context.has_b_frames

    def media_s(self, picture: Picture) -> float | None:
        """When `picture` is shown, in seconds of the stream."""
        return None if picture.pts is None else picture.pts * self._time_base_s

    def drop(self, picture: Picture) -> None:
        """Does not decode `picture`, upon which no other builds."""
        self._origin(picture)

    def skip(self, picture: Picture) -> None:
        """Does not decode `picture`, unless what follows up to the next keyframe will need it."""
        origin = self._origin(picture)
        origin.skipped = True
        if picture.is_keyframe:
            self._skipped.clear()
        self._skipped.append((picture, origin))

    def decode(self, picture: Picture) -> Decoded:
        """The frames that `picture` completes; the last, empty one gives the delayed ones.

        Raises SourceError where they are of a pixel format that nothing here can handle.
        """
        origin = self._origin(picture)
        began = time.thread_time_ns()
        self._make_up_for_skipped(picture)
        try:
            images = self._images(picture, origin)
        except av.error.EOFError:
            images = []
        except (av.error.FFmpegError, OSError) as error:
            origin.counted = True
            self._given_up_on += origin.keyframe and isinstance(error, av.error.ExternalError)
            self._spoil(origin.number)
            self._refused += origin.keyframe
            # A JPEG decoder's packets all claim to be keyframes, whatever is in them.
            keyframe = origin.keyframe and self._delivers and self._context.name != "mjpeg"
            return Decoded((), 1, time.thread_time_ns() - began, keyframe)
        cpu_ns = time.thread_time_ns() - began
        return self._sorted(images, origin, cpu_ns)

    def _images(self, picture: Picture, origin: _Origin) -> list[av.VideoFrame]:
        packet = picture.packet()
        if packet.size:
            packet.opaque = origin
        return self._context.decode(packet)

    def _make_up_for_skipped(self, picture: Picture) -> None:
        """Decodes what was skipped where `picture` builds upon it; nobody sees those pictures."""
        needed, self._skipped = self._skipped, []
        if picture.is_keyframe:
            return
        for earlier, its_origin in needed:
            try:
                images = self._images(earlier, its_origin)
            except (av.error.FFmpegError, OSError):
                self._spoil(self._packets)
                continue
            for image in images:
                origin = image.opaque
                if isinstance(origin, _Origin):
                    # Damage spreads from it, too, and ends with a keyframe that is whole.
                    is_key = _is_keyframe(image, origin)
                    self._is_whole(origin, is_key, corrupt=image.is_corrupt)

    def _origin(self, picture: Picture) -> _Origin:
        now_ns = self._clock.time_ns(), self._clock.monotonic_ns()
        wall_ns, monotonic_ns = picture.came_ns or now_ns
        if picture.follows_a_loss:
            self._packets += 1
            self._spoil(self._packets)
        self._packets += 1
        camera_ns = None
        if picture.size:
            camera_ns = self._reports.capture_ns(
                picture.first, monotonic_ns, reported_after=picture.was_reported_in
            )
        return _Origin(
            self._packets,
            picture.is_keyframe,
            picture.recovers_after,
            picture.is_disposable,
            wall_ns,
            monotonic_ns,
            camera_ns,
        )

    def _sorted(self, images: list[av.VideoFrame], latest: _Origin, cpu_ns: int) -> Decoded:
        frames: list[DecodedFrame] = []
        damaged, keyframe = 0, False
        if images:
            self._given_up_on = 0
        for image in images:
            origin = image.opaque if isinstance(image.opaque, _Origin) else latest
            is_key = _is_keyframe(image, origin)
            keyframe = keyframe or is_key
            if origin.skipped:
                continue  # delayed by its decoder
            if self._is_whole(origin, is_key, corrupt=image.is_corrupt or origin.counted):
                frames.append(self._dated(image, origin))
            else:
                damaged += not origin.counted
        self._delivers = self._delivers or bool(frames)
        return Decoded(tuple(frames), damaged, cpu_ns, keyframe)

    def _is_whole(self, origin: _Origin, is_key: bool, *, corrupt: bool) -> bool:
        if corrupt:
            self._spoil(origin.number)
        elif self._damage is None or origin.number < self._damage[0]:
            return True
        elif origin.number > self._damage[1] and (is_key or self._has_recovered(origin)):
            self._damage = None
            return True
        return False

    def _has_recovered(self, origin: _Origin) -> bool:
        """Whether a refresh that began after the damage has come to its end with this picture."""
        if self._recovers_in is None:
            self._recovers_in = origin.recovers_after or None
            return False
        self._recovers_in -= not origin.disposable
        return self._recovers_in <= 0

    def _spoil(self, number: int) -> None:
        """Packet `number` is damaged, and so is what follows it."""
        first, last = self._damage or (number, number)
        self._damage = min(first, number), max(last, number)
        self._recovers_in = None

    def _dated(self, image: av.VideoFrame, origin: _Origin) -> DecodedFrame:
        if image.format.name in _FATAL_FORMATS:
            what = f"has pictures of pixel format {image.format.name}"
            raise SourceError(Reason.CODEC_UNSUPPORTED, what)
        pts_s = _seconds(image.pts, image.time_base)
        return DecodedFrame(
            image,
            None if pts_s is None else pts_s - self._start_s,
            origin.wall_ns,
            origin.monotonic_ns,
            origin.camera_ns,
        )


def _is_keyframe(image: av.VideoFrame, origin: _Origin) -> bool:
    """FFmpeg takes the begin of a refresh for a keyframe."""
    return origin.keyframe or (image.key_frame and not origin.recovers_after)


def _seconds(ticks: int | None, time_base: Fraction | None) -> float | None:
    return None if ticks is None or time_base is None else float(ticks * time_base)
