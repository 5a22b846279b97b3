"""From a decoded frame to the engine's input: scale, convert to RGB, rotate, pad, in one slot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from streamd.slots import InputShape

PAD_VALUE = 114  # the grey that YOLO models are trained with
_HD_HEIGHT = 720
_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
_KNOWN_COLORSPACES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a picture of `width` x `height` pixels lies in an input of `shape`.

    It is scaled by `scale` to `inner_width` x `inner_height` pixels and stands `pad_x`, `pad_y`
    pixels from the left and the top. Rounding follows ultralytics' LetterBox.
    """

    width: int
    height: int
    shape: InputShape
    scale: float
    inner_width: int
    inner_height: int
    pad_x: int
    pad_y: int

    @classmethod
    def fit(cls, width: int, height: int, shape: InputShape) -> "Letterbox":
        """The largest centred placement that keeps the aspect."""
        scale = min(shape.height / height, shape.width / width)
        inner_width = max(1, round(width * scale))
        inner_height = max(1, round(height * scale))
        return cls(
            width=width,
            height=height,
            shape=shape,
            scale=scale,
            inner_width=inner_width,
            inner_height=inner_height,
            pad_x=round((shape.width - inner_width) / 2 - 0.1),
            pad_y=round((shape.height - inner_height) / 2 - 0.1),
        )

    @classmethod
    def best(cls, width: int, height: int, shapes: Sequence[InputShape]) -> "Letterbox":
        """The placement that shows most of the picture's detail; of equal ones the smallest."""
        boxes = [cls.fit(width, height, shape) for shape in shapes]
        return max(boxes, key=lambda box: (box.scale, -box.shape.height * box.shape.width))

    def paint_padding(self, image: NDArray[np.uint8]) -> None:
        """Fills what the picture will not cover of `image`, (height, width, 3) uint8."""
        bottom, right = self.pad_y + self.inner_height, self.pad_x + self.inner_width
        image[: self.pad_y] = PAD_VALUE
        image[bottom:] = PAD_VALUE
        image[self.pad_y : bottom, : self.pad_x] = PAD_VALUE
        image[self.pad_y : bottom, right:] = PAD_VALUE

    def inner(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part of `image` that the picture covers, as a view."""
        rows = slice(self.pad_y, self.pad_y + self.inner_height)
        return image[rows, self.pad_x : self.pad_x + self.inner_width]


class Scaler(Protocol):
    """Turns a decoded frame into the pixels of a letterbox's inner part."""

    def scale(self, frame: av.VideoFrame, box: Letterbox) -> NDArray[np.uint8]:
        """`frame` as (inner_height, inner_width, 3) uint8 RGB, upright."""
        ...


class FastScaler:
    """Scales the picture as YUV, then converts what is left of it to RGB, both by swscale.

    That is half the work of both in one pass, for which swscale has less vector code. AREA takes
    the mean of all pixels that come together, where FAST_BILINEAR, no cheaper at the sizes of most
    cameras, looks at two. Against the exact resampling all detections agree (docs/benchmarks.md).
    """

    def __init__(self) -> None:
        self._resizer = VideoReformatter()
        self._converter = VideoReformatter()

    def scale(self, frame: av.VideoFrame, box: Letterbox) -> NDArray[np.uint8]:
        """See Scaler."""
        turned = quarter_turns(frame) % 2
        width = box.inner_height if turned else box.inner_width
        height = box.inner_width if turned else box.inner_height
        matrix, levels = source_colorspace(frame), source_color_range(frame)
        small = frame
        if not frame.format.is_rgb:
            small = self._resizer.reformat(
                frame,
                width,
                height,
                "yuv420p",
                src_colorspace=matrix,
                dst_colorspace=matrix,
                src_color_range=levels,
                dst_color_range=levels,
                interpolation=Interpolation.AREA,
                threads=1,
            )
        rgb = self._converter.reformat(
            small,
            width,
            height,
            "rgb24",
            src_colorspace=matrix,
            src_color_range=levels,
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.AREA,
            threads=1,
        )
        return upright(packed_view(rgb, 3), frame)


def display_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height of `frame` as it is shown, after its rotation."""
    if quarter_turns(frame) % 2:
        return frame.height, frame.width
    return frame.width, frame.height


def source_colorspace(frame: av.VideoFrame) -> int:
    """The YUV matrix of `frame`: what the stream says, else BT.709 from 720 lines on, BT.601 below.

    libswscale itself would take BT.601 for everything that is not tagged.
    """
    known = _KNOWN_COLORSPACES.get(int(frame.colorspace))
    if known is not None:
        return int(known)
    hd = min(frame.width, frame.height) >= _HD_HEIGHT
    return int(Colorspace.ITU709 if hd else Colorspace.ITU601)


def source_color_range(frame: av.VideoFrame) -> int:
    """Full or limited range: what the stream or its pixel format says, else limited."""
    full = int(frame.color_range) == int(ColorRange.JPEG) or frame.format.name.startswith("yuvj")
    return int(ColorRange.JPEG if full else ColorRange.MPEG)


def packed_view(frame: av.VideoFrame, channels: int) -> NDArray[np.uint8]:
    """The pixels of an rgb24 (3) or gray (1) frame as (height, width, channels), without a copy."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    pixels: NDArray[np.uint8] = rows[: frame.height, : frame.width * channels]
    return pixels.reshape(frame.height, frame.width, channels)


def quarter_turns(frame: av.VideoFrame) -> int:
    """By how many quarters, 0 to 3, `frame` is to be turned counter-clockwise to stand upright.

    A display matrix may turn by any angle, and PyAV cuts its fraction off: the nearest one counts.
    """
    rotation_deg = frame.rotation
    return round(rotation_deg / 90) % 4 if rotation_deg else 0


def is_mirrored(frame: av.VideoFrame) -> bool:
    """Whether `frame` is to be shown mirrored: its rows in reverse order, before it is turned."""
    try:
        # Not frame.side_data: it and the frame would refer to each other, and images would fill the
        # memory until Python looks for such circles.
        side_data = SideDataContainer(frame)  # type: ignore[call-arg]  # the annotation lacks it
        matrix = side_data.get("DISPLAYMATRIX")
    except ValueError:  # nor does PyAV itself know each that may be beside it: EXIF
        return False
    if matrix is None:
        return False
    a, b, _, c, d = np.frombuffer(matrix, np.int32, count=5).astype(float)
    return bool(a * d < b * c)


def upright(image: NDArray[np.uint8], frame: av.VideoFrame) -> NDArray[np.uint8]:
    """`image`, which holds the pixels of `frame` as they were coded, as it is to be shown; a view.

    A display matrix may mirror and turn, as that of a phone's front camera does.
    """
    return np.rot90(image[::-1] if is_mirrored(frame) else image, quarter_turns(frame))
