"""What an engine is, whatever runs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamd.slots import InputShape

# Boxes that leave the graph for one image, best first; NMS sees no more.
CANDIDATES = 300


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model file says of itself.

    `labels` by class id; `shape` is its own input size; `dynamic` says whether others are possible.
    `end_to_end` models give final boxes: they need no NMS.
    """

    path: str
    name: str
    labels: tuple[str, ...]
    stride: int
    shape: InputShape
    dynamic: bool
    end_to_end: bool


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """A loaded engine: what it runs on, and the batch sizes and shapes that it takes."""

    backend: str
    device: str
    precision: str
    shapes: tuple[InputShape, ...]
    ladder: tuple[int, ...]


class Runner(Protocol):
    """One batch at a time; an engine may have several, each used by one thread."""

    def load(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """Takes over up to `ladder[-1]` images of one shape, each (height, width, 3) uint8 RGB.

        The caller may overwrite them once this returns.
        """
        ...

    def run(self) -> NDArray[np.float32]:
        """Infers what was loaded: (images, K, 6) of x1, y1, x2, y2, score, class.

        Boxes are in pixels of the input, best score first; rows beyond the last box have score 0.
        Raises EngineError.
        """
        ...


class Engine(Protocol):
    """A model made ready for one backend and device."""

    @property
    def spec(self) -> EngineSpec:
        """What was loaded."""
        ...

    def runners(self, count: int) -> list[Runner]:
        """`count` runners that can work at the same time."""
        ...


def batch_ladder(batch_size: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to `batch_size`, which is always the last."""
    sizes = [1]
    while sizes[-1] * 2 < batch_size:
        sizes.append(sizes[-1] * 2)
    return tuple(dict.fromkeys([*sizes, batch_size]))


def rung(ladder: Sequence[int], images: int) -> int:
    """The smallest size of `ladder` that holds `images`."""
    return next(size for size in ladder if size >= images)
