"""Stand-ins that several unit tests share: time, frames, things that would block, tiny models."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
from msgspec.structs import replace
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from streamd.ingest.decoder import DecodedFrame
from streamd.ingest.letterbox import Letterbox
from streamd.ingest.slot_writer import Capture
from streamd.slots import FrameMeta, InputShape, TsSource

SQUARE = InputShape(64, 64)
WIDE = InputShape(32, 64)

_META = FrameMeta(
    camera=0,
    session=1_763_800_000,
    seq=0,
    pts_s=0.0,
    capture_wall_ns=1_763_800_123_456_789_000,
    capture_ns=0,
    ready_ns=0,
    work_ns=0,
    ts_source=TsSource.ARRIVAL,
    lossless=False,
    width=64,
    height=64,
    shape_height=64,
    shape_width=64,
    scale=1.0,
    pad_x=0,
    pad_y=0,
)


def frame_meta(shape: InputShape = SQUARE, **changes: Any) -> FrameMeta:
    """What is known of an ordinary frame, but for `changes`."""
    return replace(_META, shape_height=shape.height, shape_width=shape.width, **changes)


@dataclass(slots=True)
class FakeClock:
    """Time that passes only while somebody waits; `on_wait` is called at every wait.

    The time of day is `epoch_ns` ahead of the monotonic time; a test that changes it has set it.
    """

    now_ns: int = 1_000_000_000_000
    epoch_ns: int = 1_763_800_000_000_000_000
    waits_s: list[float] = field(default_factory=list)
    on_wait: Callable[[], None] = lambda: None

    def monotonic_ns(self) -> int:
        return self.now_ns

    def time_ns(self) -> int:
        return self.now_ns + self.epoch_ns

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.waits_s.append(timeout_s)
        self.on_wait()
        if not event.is_set():
            self.advance(timeout_s)
        return event.is_set()

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


class FlatScaler:
    """Gives every picture one value."""

    def __init__(self, value: int = 200) -> None:
        self.value = value

    def scale(self, frame: av.VideoFrame, box: Letterbox) -> NDArray[np.uint8]:
        return np.full((box.inner_height, box.inner_width, 3), self.value, np.uint8)


def decoded_frame(width: int = 64, height: int = 64, pts_s: float | None = 0.0) -> DecodedFrame:
    """A black frame as it leaves the decoder."""
    return DecodedFrame(av.VideoFrame(width, height, "gray"), pts_s, 0, 0)


def capture(media_s: float = 0.0, *, lossless: bool = False) -> Capture:
    """A frame captured `media_s` seconds after the clock's start."""
    ns = round(media_s * 1e9)
    return Capture(media_s, ns, ns, TsSource.PTS if lossless else TsSource.ARRIVAL, lossless)


class TopOfRange(random.Random):
    """Draws the longest delay that is allowed."""

    def uniform(self, a: float, b: float) -> float:
        return b


class WouldBlockError(Exception):
    """A thread would have to wait here."""


class ImpatientCondition(threading.Condition):
    """In place of threading.Condition: says that it would block, and does not."""

    def wait(self, timeout: float | None = None) -> bool:
        raise WouldBlockError


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A model of one matrix product: each output value mixes a few input values.

    `output` computes in NumPy what the graph computes from the same images.
    """

    path: str
    picks: NDArray[np.int64]
    weights: NDArray[np.float32]
    output_shape: tuple[int, int]

    def output(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, height, width, 3) uint8 -> (n, *output_shape)."""
        values = images.transpose(0, 3, 1, 2).reshape(len(images), -1)[:, self.picks] / 255
        mixed = values @ self.weights
        return mixed.reshape(len(images), *self.output_shape).astype(np.float32)


def write_model(
    path: Path,
    output_shape: tuple[int, int],
    *,
    labels: object = None,
    sides: tuple[int | str, int | str] = (32, 64),
    channels: int = 3,
    spread: tuple[float, float] = (-1.0, 1.0),
    opset: int = 17,
    element: int = TensorProto.FLOAT,
    shown_shape: tuple[int | str, ...] | None = None,
    more_outputs: tuple[str, ...] = (),
    **metadata: str,
) -> TinyModel:
    """Writes a model whose weights are drawn from `spread`; `labels` None names two classes."""
    rng = np.random.default_rng(7)
    dtype = np.float16 if element == TensorProto.FLOAT16 else np.float32
    picks = rng.integers(0, 3 * 32 * 64, 24)
    weights = rng.uniform(*spread, (24, output_shape[0] * output_shape[1])).astype(np.float32)
    constants: list[tuple[str, NDArray[Any]]] = [
        ("flat", np.array([0, -1], np.int64)),
        ("picks", picks),
        ("weights", weights.astype(dtype)),
        ("rows", np.array([-1, *output_shape], np.int64)),
    ]
    nodes = [
        helper.make_node("Reshape", ["images", "flat"], ["values"]),
        helper.make_node("Gather", ["values", "picks"], ["picked"], axis=1),
        helper.make_node("MatMul", ["picked", "weights"], ["mixed"]),
        helper.make_node("Reshape", ["mixed", "rows"], ["output0"]),
        *(helper.make_node("Identity", ["output0"], [name]) for name in more_outputs),
    ]
    shape = shown_shape or ("batch", *output_shape)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", element, ["batch", channels, *sides])],
        [helper.make_tensor_value_info(o, element, shape) for o in ("output0", *more_outputs)],
        [numpy_helper.from_array(value, name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    names = (
        {}
        if labels is False
        else {"names": str({0: "cat", 1: "dog"} if labels is None else labels)}
    )
    for key, value in {**names, **metadata}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, str(path))
    return TinyModel(str(path), picks, weights, output_shape)
