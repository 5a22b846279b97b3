"""Scenes of moving shapes with known truth, for the demo, the tests and training.

A scene is a pure function of its seed and the frame's index: nothing is stored, any frame can be
drawn at any time, and the truth is known to the pixel.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

LABELS: tuple[str, ...] = ("circle", "square", "triangle", "star")
_MIN_VISIBLE = 0.35  # of a shape's area; what is hidden more is neither object nor background
_REACH = 0.6  # of a shape's radius: so near may its centre come to the border
_SUBPIXEL = 4  # bits of fraction in cv2's coordinates

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Truth:
    """An object that is there. `box` is x1, y1, x2, y2 of its visible part in pixels."""

    label: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Shape:
    """One shape: where it starts, how it moves and turns, how it looks. Pixels and seconds."""

    label: str
    radius: float
    start: tuple[float, float]
    speed: tuple[float, float]
    angle: float
    turn: float
    colour: tuple[int, int, int]
    edge: tuple[int, int, int]
    outline: int


class Scene:
    """`width` x `height` pixels at `fps`, drawn from `seed`."""

    def __init__(self, seed: int, width: int = 640, height: int = 360, fps: float = 15.0) -> None:
        self.width, self.height, self.fps = width, height, fps
        rng = np.random.default_rng(seed)
        self._background = _background(rng, width, height)
        self._drift = rng.uniform(0.03, 0.12), rng.uniform(0.1, 0.4), rng.uniform(0, 2 * math.pi)
        self._noise = _noise(rng, width, height)
        self._blur = int(rng.choice([0, 0, 0, 3]))
        scale = min(width / 640, height / 360)
        shapes = [_shape(rng, width, height, scale) for _ in range(int(rng.integers(2, 6)))]
        self._shapes = sorted(shapes, key=lambda shape: shape.radius, reverse=True)

    def frame(self, index: int) -> tuple[Image, list[Truth]]:
        """Frame `index` as (height, width, 3) uint8 RGB, and what is in it."""
        time_s = index / self.fps
        depth, rate, phase = self._drift
        gain = 1 + depth * math.sin(rate * time_s + phase)
        image = np.asarray(cv2.convertScaleAbs(self._background, alpha=gain), np.uint8)
        outlines = [self._outline(shape, time_s) for shape in self._shapes]
        for shape, points in zip(self._shapes, outlines, strict=True):
            _draw(image, shape, points)
        if self._blur:
            image = np.asarray(cv2.GaussianBlur(image, (self._blur,) * 2, 0), np.uint8)
        shift = (index * 37 % self.height, index * 53 % self.width)
        noisy = cv2.add(image, np.roll(self._noise, shift, (0, 1)), dtype=cv2.CV_8U)
        return np.asarray(noisy, np.uint8), self._truth(outlines)

    def _outline(self, shape: _Shape, time_s: float) -> NDArray[np.float64]:
        """The corners of `shape` at `time_s` as (n, 2) pixels; it bounces off the borders."""
        reach = _REACH * shape.radius
        x = _bounce(shape.start[0] + shape.speed[0] * time_s, reach, self.width - reach)
        y = _bounce(shape.start[1] + shape.speed[1] * time_s, reach, self.height - reach)
        angle = shape.angle + shape.turn * time_s
        turned = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        points: NDArray[np.float64] = _CORNERS[shape.label] @ turned * shape.radius + (x, y)
        return points

    def _truth(self, outlines: list[NDArray[np.float64]]) -> list[Truth]:
        """The shapes of which enough is to be seen: not covered, not outside."""
        owner = np.zeros((self.height, self.width), np.uint8)
        for number, points in enumerate(outlines, start=1):
            cv2.fillPoly(owner, [_fixed(points)], number, shift=_SUBPIXEL)
        truth = []
        for number, (shape, points) in enumerate(zip(self._shapes, outlines, strict=True), start=1):
            rows, columns = np.nonzero(owner == number)
            area = cv2.contourArea(points.astype(np.float32))
            if len(rows) < _MIN_VISIBLE * area:
                continue
            x1, y1 = float(columns.min()), float(rows.min())
            x2, y2 = float(columns.max() + 1), float(rows.max() + 1)
            truth.append(Truth(shape.label, (x1, y1, x2, y2)))
        return truth


def _corners(count: int, *, inner: float | None = None) -> NDArray[np.float64]:
    """A regular polygon in the unit circle; with `inner`, every other corner lies at it."""
    angles = np.arange(count) * 2 * math.pi / count - math.pi / 2
    radii = np.ones(count) if inner is None else np.where(np.arange(count) % 2, inner, 1.0)
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


_CORNERS = {
    "circle": _corners(48),
    "square": _corners(4),
    "triangle": _corners(3),
    "star": _corners(10, inner=0.45),
}


def _shape(rng: np.random.Generator, width: int, height: int, scale: float) -> _Shape:
    colour = _colour(rng)
    return _Shape(
        label=str(rng.choice(LABELS)),
        radius=float(rng.uniform(16, 70) * scale),
        start=(float(rng.uniform(0, width)), float(rng.uniform(0, height))),
        speed=(float(rng.uniform(-90, 90) * scale), float(rng.uniform(-60, 60) * scale)),
        angle=float(rng.uniform(0, 2 * math.pi)),
        turn=float(rng.uniform(-1.0, 1.0)),
        colour=colour,
        edge=(_colour(rng) if rng.random() < 0.4 else colour),
        outline=int(rng.choice([0, 0, 0, 4, 7])),
    )


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    hue, saturation, value = rng.integers(0, 180), rng.integers(110, 256), rng.integers(130, 256)
    pixel = np.array([[[hue, saturation, value]]], np.uint8)
    red, green, blue = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def _draw(image: Image, shape: _Shape, points: NDArray[np.float64]) -> None:
    fixed = [_fixed(points)]
    if shape.outline == 0:
        cv2.fillPoly(image, fixed, shape.colour, cv2.LINE_AA, _SUBPIXEL)
    thickness = shape.outline or 2
    cv2.polylines(image, fixed, True, shape.edge, thickness, cv2.LINE_AA, _SUBPIXEL)


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.asarray(np.round(points * 2**_SUBPIXEL), np.int32)


def _bounce(position: float, low: float, high: float) -> float:
    """`position` reflected at `low` and `high` as often as needed."""
    span = high - low
    along = (position - low) % (2 * span)
    return low + (2 * span - along if along > span else along)


def _background(rng: np.random.Generator, width: int, height: int) -> Image:
    """A gradient of two muted colours with clouds, and sometimes boards or tiles."""
    first, second = (rng.integers(20, 170, 3).astype(np.float32) for _ in range(2))
    angle = rng.uniform(0, 2 * math.pi)
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, width), np.linspace(-0.5, 0.5, height))
    mix = np.clip(x * math.cos(angle) + y * math.sin(angle) + 0.5, 0, 1)[..., None]
    canvas = first * (1 - mix) + second * mix
    cells = int(rng.integers(3, 24))
    clouds = rng.normal(0, 1, (cells, max(2, cells * width // height))).astype(np.float32)
    canvas += cv2.resize(clouds, (width, height), interpolation=cv2.INTER_CUBIC)[
        ..., None
    ] * rng.uniform(4, 22)
    _tile(rng, canvas)
    return np.clip(canvas, 0, 235).astype(np.uint8)


def _tile(rng: np.random.Generator, canvas: NDArray[np.float64]) -> None:
    height, width = canvas.shape[:2]
    kind = rng.choice(["plain", "boards", "tiles", "clutter"])
    step = int(rng.integers(24, 90))
    if kind in ("boards", "tiles"):
        canvas[:, ::step] *= 0.75
    if kind == "tiles":
        canvas[::step] *= 0.75
    if kind == "clutter":
        for _ in range(int(rng.integers(4, 14))):
            start = rng.integers(0, [width, height]).tolist()
            end = rng.integers(0, [width, height]).tolist()
            shade = rng.integers(20, 190, 3).tolist()
            cv2.line(canvas, start, end, shade, int(rng.integers(1, 5)), cv2.LINE_AA)


def _noise(rng: np.random.Generator, width: int, height: int) -> NDArray[np.int16]:
    """Sensor noise; the frames roll it about, which is cheaper than drawing it anew."""
    return rng.normal(0, rng.uniform(0.5, 5), (height, width, 3)).astype(np.int16)
