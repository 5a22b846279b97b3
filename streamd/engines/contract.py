"""What an engine is, whatever runs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamd.engines.model_path import find_model
from streamd.slots import InputShape

# Boxes that leave the graph for an image of 640x640 or less, best first; NMS sees no more.
CANDIDATES = 300
_THEIR_AREA_PX = 640 * 640
_MOST_CANDIDATES = 3840  # that TensorRT sorts
# Goes up whenever the graph changes: engines that were built before do not fit any more.
CONTRACT_VERSION = 5


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model file says of itself.

    `labels` by class id; `shape` is its input size; `dynamic` says whether others are possible.
    `aspects` are its sizes where each picture gets the one of its aspect, the likeliest first.
    `end_to_end` models give final boxes: they need no NMS. `ladder` has the batch sizes that it is
    bound to; None where any can be built. `weights` are the files beside it that hold its weights,
    where it does not. `stamp` tells one state of the files from another: the time of the last
    change in nanoseconds and their size in bytes.
    """

    path: str
    name: str
    labels: tuple[str, ...]
    stride: int
    shape: InputShape
    dynamic: bool
    end_to_end: bool
    ladder: tuple[int, ...] | None = None
    stamp: tuple[int, int] = (0, 0)
    aspects: tuple[InputShape, ...] = ()
    weights: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All that the model is in, its own file first. Raises ModelError if that is gone."""
        file = find_model(self.path)
        return (file, *(file.parent / name for name in self.weights))

    @property
    def shapes(self) -> tuple[InputShape, ...]:
        """All its input sizes; none is larger than `shape` in any direction."""
        return self.aspects or (self.shape,)


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """A loaded engine: what it runs on, and the batch sizes and shapes that it takes.

    `streams` batches make the device busy; fewer in flight would leave some of it idle. Of a `lazy`
    engine the first shape is ready, each other one from its first batch on.
    """

    backend: str
    device: str
    precision: str
    shapes: tuple[InputShape, ...]
    ladder: tuple[int, ...]
    streams: int = 1
    lazy: bool = False


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

    def adopt(self, memory: NDArray[np.uint8]) -> None:
        """Makes `memory`, that images will lie in, quick to load from. Raises EngineError.

        Called once at most, before `runners`. An engine on the CPU has nothing to do.
        """
        ...

    def runners(self, count: int) -> list[Runner]:
        """`count` runners that can work at the same time."""
        ...

    def close(self) -> None:
        """Gives back what it and its runners hold of the device; none of them works any more.

        Any thread may call it.
        """
        ...


class GraphSource(Protocol):
    """The model as serialised ONNX that meets the contract.

    `sd_images` (batch, height, width, 3) uint8 RGB in, `candidates` (batch, K, 6) float32 out, the
    batch is dynamic.
    """

    def __call__(self, shape: InputShape, *, half: bool = False, symmetric: bool = False) -> bytes:
        """The graph for inputs of `shape`; with `half`, its weights and arithmetic are fp16.

        Where the order's precision is int8 it has Q/DQ nodes, with activations in uint8, or with
        `symmetric` in int8 around zero. Raises EngineError.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineOrder:
    """Which engine is asked for.

    `precision` is one of auto, fp32, bf16, fp16, int8; with auto the backend chooses.
    """

    model: ModelInfo
    shapes: tuple[InputShape, ...]
    ladder: tuple[int, ...]
    precision: str


@dataclass(frozen=True, slots=True)
class BuildOrder(EngineOrder):
    """An engine that is not built yet, and what it is made from."""

    graph: GraphSource


@dataclass(frozen=True, slots=True)
class Platform:
    """What a built engine is bound to: the version of its backend, and the device by its name."""

    version: str
    device: str


@dataclass(frozen=True, slots=True)
class Built:
    """What was chosen while an engine was built, and is remembered with it."""

    precision: str
    settings: dict[str, str | int] = field(default_factory=dict)


class Backend(Protocol):
    """Builds engines for one library, and loads them. Everything raises EngineError."""

    @property
    def name(self) -> str:
        """As in the configuration."""
        ...

    def platform(self) -> Platform:
        """What is installed, and the device that would be used."""
        ...

    def build(self, order: BuildOrder, folder: Path, tell: Callable[[str], None]) -> Built:
        """Writes the files of an engine into the empty `folder`; `tell` hears of each step."""
        ...

    def load(self, order: EngineOrder, built: Built, folder: Path) -> Engine:
        """The engine whose files are in `folder`."""
        ...


def candidates_of(shape: InputShape) -> int:
    """CANDIDATES, and of a larger input so many more as it has room for objects."""
    share = shape.height * shape.width / _THEIR_AREA_PX
    return min(_MOST_CANDIDATES, round(CANDIDATES * max(1.0, share)))


def batch_ladder(batch_size: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to `batch_size`, which is always the last."""
    sizes = [1]
    while sizes[-1] * 2 < batch_size:
        sizes.append(sizes[-1] * 2)
    return tuple(dict.fromkeys([*sizes, batch_size]))


def rung(ladder: Sequence[int], images: int) -> int:
    """The smallest size of `ladder` that holds `images`."""
    return next(size for size in ladder if size >= images)
