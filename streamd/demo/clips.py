"""Scenes as real video files, with the truth of every frame."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from streamd.scenes import Scene, Truth

_BT709 = 1  # AVCOL_SPC_BT709, also of the primaries and the transfer function
_ENCODERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("libx264", "yuv420p", {"preset": "veryfast", "crf": "23", "bf": "0"}),
    "hevc": (
        "libx265",
        "yuv420p",
        {"preset": "ultrafast", "crf": "26", "x265-params": "log-level=none:bframes=0"},
    ),
    "mjpeg": ("mjpeg", "yuvj420p", {"huffman": "default"}),
    "av1": ("libsvtav1", "yuv420p", {"preset": "12", "crf": "35"}),
    "vp9": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8", "crf": "35"}),
}


@dataclass(frozen=True, slots=True)
class Clip:
    """A written file; `truth` has one entry a frame."""

    path: Path
    fps: float
    width: int
    height: int
    truth: tuple[tuple[Truth, ...], ...]

    def truth_at(self, pts_s: float) -> tuple[Truth, ...]:
        """What is in the frame shown at `pts_s` seconds; the clip repeats after its end."""
        return self.truth[round(pts_s * self.fps) % len(self.truth)]


def write_clip(path: Path, scene: Scene, seconds: float, codec: str = "h264") -> Clip:
    """Renders `scene` into `path`, whose suffix names the container; a keyframe every second.

    `codec` is h264, hevc, mjpeg, av1 or vp9.
    """
    truth = []

    def images() -> Iterator[NDArray[np.uint8]]:
        for index in range(max(1, round(seconds * scene.fps))):
            image, objects = scene.frame(index)
            truth.append(tuple(objects))
            yield image

    write_images(path, images(), (scene.width, scene.height), scene.fps, codec)
    return Clip(path, scene.fps, scene.width, scene.height, tuple(truth))


def write_images(
    path: Path,
    images: Iterable[NDArray[np.uint8]],
    size: tuple[int, int],
    fps: float,
    codec: str = "h264",
) -> None:
    """Encodes `images`, (height, width, 3) uint8 RGB of `size` (width, height), as write_clip."""
    encoder, pixel_format, options = _ENCODERS[codec]
    full_range = codec == "mjpeg"
    with _policy_kept(), av.open(str(path), "w") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = cast(VideoStream, container.add_stream(encoder, rate=rate, options=options))
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        context = stream.codec_context
        context.gop_size = max(1, round(fps))
        if not full_range:  # JPEG is BT.601 by definition and takes no tag
            context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format=pixel_format,
                dst_colorspace=Colorspace.ITU601 if full_range else Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=context.color_range,
                interpolation=Interpolation.BILINEAR,
                threads=1,
            )
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@contextmanager
def _policy_kept() -> Iterator[None]:
    """SVT-AV1, run as root, leaves its caller SCHED_FIFO, and so all that the caller starts."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)
