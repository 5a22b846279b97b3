"""The ONNX Runtime backend: the portable fallback, and NVIDIA GPUs through its own providers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from streamd.engines.contract import (
    BuildOrder,
    Built,
    Engine,
    EngineOrder,
    EngineSpec,
    Platform,
    Runner,
    rung,
)
from streamd.errors import EngineError
from streamd.linux.cores import available_cores
from streamd.slots import InputShape

# Best first; what is not installed, or finds no device, falls through to the next.
_PROVIDERS = {
    "TensorrtExecutionProvider": "TensorRT",
    "CUDAExecutionProvider": "CUDA",
    "CPUExecutionProvider": "CPU",
}


class OnnxRuntimeBackend:
    """Keeps a graph a shape, as ONNX Runtime takes any batch size at once."""

    name = "onnxruntime"

    def platform(self) -> Platform:
        """See Backend."""
        names = ", ".join(_PROVIDERS[provider] for provider in _available())
        return Platform(str(ort.__version__), f"{names}; {available_cores()} cores")

    def build(self, order: BuildOrder, folder: Path, tell: Callable[[str], None]) -> Built:
        """See Backend."""
        if order.precision == "bf16":
            raise EngineError("model.precision: onnxruntime runs fp32, fp16 or int8, not bf16")
        half = order.precision == "fp16"
        for shape in order.shapes:
            tell(f"loading {shape}")
            path = _file(folder, shape)
            path.write_bytes(order.graph(shape, half=half))
            try:
                session = _session(path)
            except EngineError as error:
                what = str(error)
                raise EngineError(
                    f"{order.model.path}: ONNX Runtime cannot load it: {what}"
                ) from None
        device = _PROVIDERS[session.get_providers()[0]]
        precision = order.precision if order.precision != "auto" else "fp32"
        return Built(precision, {"device": device})

    def load(self, order: EngineOrder, built: Built, folder: Path) -> Engine:
        """See Backend."""
        try:
            sessions = {shape: _session(_file(folder, shape)) for shape in order.shapes}
        except EngineError as error:
            raise EngineError(f"{folder}: ONNX Runtime cannot load it: {error}") from None
        device = _PROVIDERS[sessions[order.shapes[0]].get_providers()[0]]
        spec = EngineSpec(self.name, device, built.precision, order.shapes, order.ladder)
        return OnnxRuntimeEngine(sessions, spec)


class OnnxRuntimeEngine:
    """One session a shape, which takes every batch size; runners share it and its threads."""

    def __init__(self, sessions: dict[InputShape, ort.InferenceSession], spec: EngineSpec) -> None:
        self._sessions = sessions
        self.spec = spec

    def adopt(self, memory: NDArray[np.uint8]) -> None:
        """See Engine."""

    def runners(self, count: int) -> list[Runner]:
        """See Engine."""
        return [OnnxRuntimeRunner(self._sessions, self.spec) for _ in range(count)]

    def close(self) -> None:
        """See Engine. Nothing: host memory goes with the last reference to it."""


class OnnxRuntimeRunner:
    """One batch at a time, in a buffer of the ladder's largest size."""

    def __init__(self, sessions: dict[InputShape, ort.InferenceSession], spec: EngineSpec) -> None:
        self._sessions = sessions
        self._ladder = spec.ladder
        largest = spec.ladder[-1]
        self._batches = {
            shape: np.zeros((largest, shape.height, shape.width, 3), np.uint8) for shape in sessions
        }
        self._shape = spec.shapes[0]
        self._count = 0

    def load(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """See Runner."""
        self._count = len(images)
        height, width, _ = images[0].shape
        self._shape = InputShape(height, width)
        for row, image in zip(self._batches[self._shape], images, strict=False):
            row[...] = image

    def run(self) -> NDArray[np.float32]:
        """See Runner."""
        # A GPU provider prepares anew for every batch size that it has not seen.
        batch = self._batches[self._shape][: rung(self._ladder, self._count)]
        try:
            (candidates,) = self._sessions[self._shape].run(["candidates"], {"sd_images": batch})
        except Exception as error:  # its errors share no base but Exception
            raise EngineError(f"ONNX Runtime failed: {_last_line(error)}") from None
        return np.asarray(candidates[: self._count], np.float32)


def _available() -> list[str]:
    available = ort.get_available_providers()
    return [provider for provider in _PROVIDERS if provider in available]


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = available_cores()
    # Its own log would break the rule of one readable line.
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(path), options, _available())
    except Exception as error:  # its errors share no base but Exception
        raise EngineError(_last_line(error)) from None


def _file(folder: Path, shape: InputShape) -> Path:
    return folder / f"{shape}.onnx"


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
