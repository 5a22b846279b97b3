import gc
import math
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamd.ingest.letterbox import (
    PAD_VALUE,
    FastScaler,
    Letterbox,
    Scaler,
    display_size,
    source_colorspace,
)
from streamd.ingest.letterbox_exact import ExactScaler
from streamd.scenes import Scene
from streamd.slots import InputShape, aspect_shapes

SCALERS = [FastScaler, ExactScaler]
BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)

shapes = st.builds(
    InputShape,
    st.integers(1, 40).map(lambda n: 32 * n),
    st.integers(1, 40).map(lambda n: 32 * n),
)
sides = st.integers(1, 4320)


def placed_by_ultralytics(
    width: int, height: int, shape: InputShape
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """`ultralytics.data.augment.LetterBox` with auto=False: unpadded size, and the borders."""
    ratio = min(shape.height / height, shape.width / width)
    unpadded = round(width * ratio), round(height * ratio)
    dw, dh = (shape.width - unpadded[0]) / 2, (shape.height - unpadded[1]) / 2
    top, bottom = round(dh - 0.1), round(dh + 0.1)
    left, right = round(dw - 0.1), round(dw + 0.1)
    return unpadded, (top, bottom, left, right)


@pytest.mark.parametrize(
    ("size", "best"),
    [
        ((1920, 1080), (384, 640)),
        ((3840, 1080), (384, 640)),
        ((1280, 800), (480, 640)),
        ((704, 576), (640, 640)),
        ((640, 480), (480, 640)),
        ((2048, 2048), (640, 640)),
        ((1080, 1920), (640, 384)),
        ((480, 640), (640, 640)),
    ],
)
def test_a_picture_takes_the_smallest_input_that_costs_it_no_detail(
    size: tuple[int, int], best: tuple[int, int]
) -> None:
    assert Letterbox.best(*size, aspect_shapes(InputShape(640, 640), 32)).shape == InputShape(*best)


@given(sides, sides)
@settings(max_examples=200, deadline=None)
def test_no_detail_is_lost_to_a_narrower_input(width: int, height: int) -> None:
    square = InputShape(640, 640)
    best = Letterbox.best(width, height, aspect_shapes(square, 32))
    assert best.scale == Letterbox.fit(width, height, square).scale


@given(sides, sides, shapes)
@settings(max_examples=200, deadline=None)
def test_a_picture_is_placed_where_ultralytics_places_it(
    width: int, height: int, shape: InputShape
) -> None:
    box = Letterbox.fit(width, height, shape)
    inner, borders = placed_by_ultralytics(width, height, shape)
    assert (box.inner_width, box.inner_height) == (max(1, inner[0]), max(1, inner[1]))
    if min(inner) > 0:
        bottom = shape.height - box.pad_y - box.inner_height
        right = shape.width - box.pad_x - box.inner_width
        assert (box.pad_y, bottom, box.pad_x, right) == borders


@given(sides, sides, shapes)
@settings(max_examples=200, deadline=None)
def test_a_picture_fills_one_side_and_lies_whole_and_centred_within_the_input(
    width: int, height: int, shape: InputShape
) -> None:
    box = Letterbox.fit(width, height, shape)
    assert box.inner_width == shape.width or box.inner_height == shape.height
    right = shape.width - box.inner_width - box.pad_x
    bottom = shape.height - box.inner_height - box.pad_y
    assert 0 <= right - box.pad_x <= 1
    assert 0 <= bottom - box.pad_y <= 1
    assert abs(box.inner_width - width * box.scale) <= 1
    assert abs(box.inner_height - height * box.scale) <= 1


@pytest.mark.parametrize(
    ("size", "shape", "inner", "pad"),
    [
        ((1920, 1080), InputShape(640, 640), (640, 360), (0, 140)),
        ((1920, 1080), InputShape(384, 640), (640, 360), (0, 12)),
        ((1080, 1920), InputShape(640, 640), (360, 640), (140, 0)),
        ((640, 480), InputShape(480, 640), (640, 480), (0, 0)),
        ((810, 1080), InputShape(640, 640), (480, 640), (80, 0)),
        ((500, 375), InputShape(640, 640), (640, 480), (0, 80)),
        ((1365, 768), InputShape(640, 640), (640, 360), (0, 140)),
        ((1366, 900), InputShape(640, 640), (640, 422), (0, 109)),
    ],
)
def test_well_known_sizes_lie_where_they_should(
    size: tuple[int, int], shape: InputShape, inner: tuple[int, int], pad: tuple[int, int]
) -> None:
    box = Letterbox.fit(*size, shape)
    assert (box.inner_width, box.inner_height) == inner
    assert (box.pad_x, box.pad_y) == pad


@given(sides, sides, st.sampled_from([InputShape(64, 64), InputShape(32, 96), InputShape(96, 32)]))
@settings(max_examples=100, deadline=None)
def test_padding_and_picture_share_the_input_without_gap_or_overlap(
    width: int, height: int, shape: InputShape
) -> None:
    box = Letterbox.fit(width, height, shape)
    image = np.zeros((shape.height, shape.width, 3), np.uint8)
    box.inner(image)[...] = 7
    assert np.count_nonzero(image) == box.inner_width * box.inner_height * 3
    box.paint_padding(image)
    assert np.count_nonzero(image == 7) == box.inner_width * box.inner_height * 3
    assert set(image.flat) <= {7, PAD_VALUE}


def solid(
    width: int,
    height: int,
    yuv: tuple[int, int, int],
    *,
    pixel_format: str = "yuv420p",
    tag: int = 2,
    color_range: int = 0,
) -> av.VideoFrame:
    """A frame of one colour; `tag` and `color_range` are FFmpeg's numbers."""
    frame = av.VideoFrame(width, height, pixel_format)
    for plane, value in zip(frame.planes, yuv, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.colorspace, frame.color_range = tag, color_range
    return frame


def rgb_of(
    yuv: tuple[int, int, int], matrix: tuple[float, float], *, full: bool
) -> NDArray[np.float64]:
    """Rec. ITU-R BT.601, 709 and 2020: R'G'B' from digital Y'CbCr; `matrix` is KR, KB."""
    kr, kb = matrix
    y, u, v = yuv
    luma = y / 255 if full else (y - 16) / 219
    cb, cr = ((c - 128) / (255 if full else 224) for c in (u, v))
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return 255 * np.array([red, green, blue]).clip(0, 1)


COLOUR = (90, 160, 220)


def scaled_colour(scaler: Callable[[], Scaler], frame: av.VideoFrame) -> NDArray[np.float64]:
    box = Letterbox.fit(*display_size(frame), InputShape(32, 64))
    pixels = scaler().scale(frame, box)
    assert pixels.shape == (box.inner_height, box.inner_width, 3)
    colour: NDArray[np.float64] = pixels.reshape(-1, 3).mean(axis=0)
    return colour


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize(
    ("size", "tag", "matrix"),
    [
        ((640, 360), 2, BT601),
        ((1280, 720), 2, BT709),
        ((720, 1280), 2, BT709),
        ((1280, 718), 2, BT601),
        ((640, 360), 1, BT709),
        ((1280, 720), 5, BT601),
        ((1280, 720), 6, BT601),
        ((640, 360), 9, BT2020),
    ],
)
def test_the_matrix_is_the_tagged_one_or_follows_from_the_size(
    scaler: Callable[[], Scaler], size: tuple[int, int], tag: int, matrix: tuple[float, float]
) -> None:
    colour = scaled_colour(scaler, solid(*size, COLOUR, tag=tag))
    assert colour == pytest.approx(rgb_of(COLOUR, matrix, full=False), abs=4)


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize(
    ("pixel_format", "color_range", "full"),
    [
        ("yuv420p", 0, False),
        ("yuv420p", 1, False),
        ("yuv420p", 2, True),
        ("yuvj420p", 0, True),
        ("yuvj422p", 2, True),
    ],
)
def test_the_range_is_the_tagged_one_or_that_of_the_pixel_format(
    scaler: Callable[[], Scaler], pixel_format: str, color_range: int, full: bool
) -> None:
    frame = solid(320, 160, COLOUR, pixel_format=pixel_format, color_range=color_range)
    assert scaled_colour(scaler, frame) == pytest.approx(rgb_of(COLOUR, BT601, full=full), abs=4)


def noise(width: int, height: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(width * height)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(2, 300), st.integers(2, 300))
@settings(max_examples=40, deadline=None)
def test_the_exact_scaler_equals_bilinear_resizing_of_the_full_rgb_picture(
    width: int, height: int
) -> None:
    picture = noise(width, height)
    box = Letterbox.fit(width, height, InputShape(96, 160))
    scaled = ExactScaler().scale(av.VideoFrame.from_ndarray(picture, format="rgb24"), box)
    expected = cv2.resize(picture, (box.inner_width, box.inner_height))
    assert np.array_equal(scaled, expected)


def test_the_exact_scaler_converts_before_it_resizes() -> None:
    frame = av.VideoFrame.from_ndarray(noise(322, 182), format="rgb24").reformat(format="yuv420p")
    frame.colorspace = 1
    full = frame.reformat(
        format="rgb24",
        src_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.BICUBIC,
        threads=1,
    )
    box = Letterbox.fit(322, 182, InputShape(96, 160))
    expected = cv2.resize(full.to_ndarray(), (box.inner_width, box.inner_height))
    assert np.array_equal(ExactScaler().scale(frame, box), expected)


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("width", [30, 31, 32, 33])
def test_a_picture_that_already_fits_comes_out_unchanged_whatever_its_line_length(
    scaler: Callable[[], Scaler], width: int
) -> None:
    picture = noise(width, 32)
    box = Letterbox.fit(width, 32, InputShape(32, 64))
    scaled = scaler().scale(av.VideoFrame.from_ndarray(picture, format="rgb24"), box)
    assert np.array_equal(scaled, picture)


@given(st.integers(1, 200), st.integers(1, 200), st.tuples(*3 * [st.integers(40, 210)]))
@settings(max_examples=100, deadline=None)
def test_every_line_is_filled_to_its_end_whatever_its_length(
    width: int, height: int, yuv: tuple[int, int, int]
) -> None:
    box = Letterbox.fit(width, height, InputShape(96, 160))
    scaled = FastScaler().scale(solid(width, height, yuv), box)
    expected = rgb_of(yuv, BT601, full=False)
    assert np.abs(scaled - expected).max() <= 6


@pytest.mark.parametrize("size", [(480, 270), (1280, 720), (1920, 1080)])
def test_the_fast_scaler_is_nearer_to_the_exact_one_than_two_point_sampling(
    size: tuple[int, int],
) -> None:
    """Which of a larger picture looks at some of the pixels only."""
    picture, _ = Scene(3, *size).frame(7)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
    box = Letterbox.fit(*size, InputShape(384, 640))
    exact = ExactScaler().scale(frame, box).astype(int)
    sampled = frame.reformat(
        box.inner_width,
        box.inner_height,
        "rgb24",
        src_colorspace=source_colorspace(frame),
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.FAST_BILINEAR,
        threads=1,
    ).to_ndarray()
    fast = FastScaler().scale(frame, box)
    assert np.abs(fast - exact).mean() < np.abs(sampled - exact).mean()


# The display matrices of ISO 14496-12 that turn a picture of 64 x 48 clockwise, and where its
# upper left corner is then shown: row and column of the quarter.
TURNS = {
    0: ((1, 0, 0, 1, 0, 0), (0, 0)),
    90: ((0, 1, -1, 0, 48, 0), (0, 1)),
    180: ((-1, 0, 0, -1, 64, 48), (1, 1)),
    270: ((0, -1, 1, 0, 0, 64), (1, 0)),
}


def turned_frame(path: Path, matrix: tuple[float, ...]) -> av.VideoFrame:
    """The frame of a file with a white upper left quarter, and this matrix in its header."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    a, b, c, d, x, y = (int(value * 65536) for value in matrix)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, x, y, 1 << 30)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("clockwise_deg", TURNS)
def test_a_turned_picture_is_put_upright(
    tmp_path: Path, scaler: Callable[[], Scaler], clockwise_deg: int
) -> None:
    matrix, (row, column) = TURNS[clockwise_deg]
    frame = turned_frame(tmp_path / "turned.mp4", matrix)
    size = (48, 64) if clockwise_deg % 180 else (64, 48)
    assert display_size(frame) == size
    box = Letterbox.fit(*size, InputShape(32, 32))
    scaled = scaler().scale(frame, box)
    assert scaled.shape == (box.inner_height, box.inner_width, 3)
    quarters = scaled.reshape(2, box.inner_height // 2, 2, box.inner_width // 2, 3)
    brightness = quarters.mean(axis=(1, 3, 4))
    expected = np.zeros((2, 2))
    expected[row, column] = 255
    assert brightness == pytest.approx(expected, abs=20)


# As TURNS: left and right change places, above and below, both diagonals.
MIRRORS = [
    ((-1, 0, 0, 1, 64, 0), (0, 1)),
    ((1, 0, 0, -1, 0, 48), (1, 0)),
    ((0, 1, 1, 0, 0, 0), (0, 0)),
    ((0, -1, -1, 0, 48, 64), (1, 1)),
]


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize(("matrix", "corner"), MIRRORS)
def test_a_mirrored_picture_is_shown_as_its_matrix_says(
    tmp_path: Path,
    scaler: Callable[[], Scaler],
    matrix: tuple[float, ...],
    corner: tuple[int, int],
) -> None:
    frame = turned_frame(tmp_path / "mirrored.mp4", matrix)
    size = (64, 48) if matrix[0] else (48, 64)
    assert display_size(frame) == size
    scaled = scaler().scale(frame, Letterbox.fit(*size, InputShape(32, 32)))
    height, width = (side // 2 for side in scaled.shape[:2])
    brightness = scaled.reshape(2, height, 2, width, 3).mean(axis=(1, 3, 4))
    expected = np.zeros((2, 2))
    expected[corner] = 255
    assert brightness == pytest.approx(expected, abs=20)


@pytest.mark.parametrize("scaler", SCALERS)
def test_images_are_freed_at_once(tmp_path: Path, scaler: Callable[[], Scaler]) -> None:
    frame = turned_frame(tmp_path / "mirrored.mp4", MIRRORS[0][0])
    gc.collect()
    gc.disable()
    try:
        scaler().scale(frame, Letterbox.fit(64, 48, InputShape(32, 32)))
        references = sys.getrefcount(frame)
    finally:
        gc.enable()
    assert references == 2  # `frame` itself, and the argument


def test_a_photo_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("mjpeg")
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuvj420p")))
        container.mux(stream.encode(None))
    entry = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    data = path.read_bytes()
    marker = b"\xff\xe1" + struct.pack(">H", len(exif) + 2)
    path.write_bytes(data[:2] + marker + exif + data[2:])
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    box = Letterbox.fit(*display_size(frame), InputShape(32, 32))
    assert FastScaler().scale(frame, box).shape == (32, 24, 3)


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize(
    ("clockwise_deg", "shown_as"),
    [(1, 0), (30, 0), (60, 90), (89.99, 90), (-89.99, 270), (-135.5, 180), (179, 180)],
)
def test_a_turn_by_any_angle_counts_as_the_nearest_quarter(
    tmp_path: Path, scaler: Callable[[], Scaler], clockwise_deg: float, shown_as: int
) -> None:
    cos, sin = math.cos(math.radians(clockwise_deg)), math.sin(math.radians(clockwise_deg))
    frame = turned_frame(tmp_path / "turned.mp4", (cos, sin, -sin, cos, 0, 0))
    size = display_size(frame)
    assert size == ((48, 64) if shown_as % 180 else (64, 48))
    scaled = scaler().scale(frame, Letterbox.fit(*size, InputShape(32, 32)))
    row, column = TURNS[shown_as][1]
    quarters = scaled.reshape(2, scaled.shape[0] // 2, 2, scaled.shape[1] // 2, 3)
    assert quarters.mean(axis=(1, 3, 4))[row, column] > 200
