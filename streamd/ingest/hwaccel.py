"""Decoding on the GPU (NVDEC, through FFmpeg's "cuda" acceleration): whether, and if not, why."""

from collections.abc import Callable
from typing import Literal

import av
import av.error
from av.codec.codec import Codec
from av.codec.hwaccel import HWAccel
from av.video.stream import VideoStream

from streamd.nvidia import decoder_missing

DecodePath = Literal["cpu", "cuda"]

# A frame that was copied from the device is semi-planar; no decoder of a CPU gives such.
_FROM_DEVICE = ("nv12", "nv16", "p010le", "p016le", "p210le", "p216le")


class Accelerator:
    """Decides for one camera, before each opening of its source, where it is to be decoded.

    What could not be done is remembered: it is not tried again, and `note` says why. With `auto`
    that is no news where there is no GPU, or where it does not know the stream's codec.
    """

    def __init__(
        self,
        wanted: Literal["auto", "cpu", "cuda"] = "cpu",
        *,
        missing: Callable[[], str | None] = decoder_missing,
        open_device: Callable[[], HWAccel] | None = None,
    ) -> None:
        self.note = ""
        self._wanted = wanted
        self._missing = missing
        self._open_device = open_device or _open_device
        self._tried: HWAccel | None = None
        self._given_up = wanted == "cpu"

    @property
    def in_use(self) -> bool:
        """Whether the source that was opened last has the device to decode on."""
        return self._tried is not None and not self._given_up

    def hwaccel(self) -> HWAccel | None:
        """For av.open; None where the CPU is to decode."""
        if self._given_up:
            return None
        missing = self._missing()
        if missing:
            self._give_up(missing, news=self._wanted == "cuda")
            return None
        try:
            self._tried = self._open_device()
        except (av.error.FFmpegError, OSError) as error:
            self.lost(f"the GPU cannot be opened: {error.strerror or error}")
            return None
        return self._tried

    def path_of(self, stream: VideoStream, image: av.VideoFrame) -> DecodePath:
        """Where `image`, a frame of `stream`, was decoded in truth."""
        if stream.codec_context.is_hwaccel and image.format.name in _FROM_DEVICE:
            return "cuda"
        if self.in_use:
            # FFmpeg has turned to the CPU by itself, and will again.
            what = f"the GPU does not decode this {stream.codec_context.name} stream"
            self._give_up(what, news=self._wanted == "cuda")
        return "cpu"

    def lost(self, why: str) -> None:
        """The device failed: from now on the CPU decodes."""
        self._give_up(why, news=True)

    def _give_up(self, why: str, *, news: bool) -> None:
        self._given_up = True
        if news:
            self.note = why


def _open_device() -> HWAccel:
    # One context for all cameras of a process: one each would cost hundreds of MB of the GPU.
    device = HWAccel("cuda", allow_software_fallback=True, options={"primary_ctx": "1"})
    # av.open would fail for want of a device as it does for a bad source: so it is tried here.
    device.create(Codec("h264", "r"))
    return device
