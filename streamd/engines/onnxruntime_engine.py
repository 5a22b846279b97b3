"""The ONNX Runtime backend: the portable fallback, and NVIDIA GPUs through its own providers."""

import os
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from streamd.config import ModelConfig
from streamd.engines.contract import EngineSpec, ModelInfo, Runner, batch_ladder, rung
from streamd.engines.onnx_contract import with_contract
from streamd.engines.onnx_model import read_model
from streamd.errors import EngineError

# Best first; what is not installed, or finds no device, falls through to the next.
_PROVIDERS = {
    "TensorrtExecutionProvider": "TensorRT",
    "CUDAExecutionProvider": "CUDA",
    "CPUExecutionProvider": "CPU",
}


class OnnxRuntimeEngine:
    """One session, which takes every batch size; runners share it and its threads."""

    def __init__(self, model: ModelInfo, config: ModelConfig) -> None:
        if config.precision not in ("auto", "fp32"):
            wanted = config.precision
            raise EngineError(f"model.precision: onnxruntime runs a model as it is, not {wanted}")
        graph = with_contract(read_model(model.path), model.path, model.shape)
        options = ort.SessionOptions()
        options.intra_op_num_threads = os.cpu_count() or 1
        # Its own log would break the rule of one readable line.
        options.log_severity_level = 4
        available = ort.get_available_providers()
        providers = [name for name in _PROVIDERS if name in available]
        try:
            self._session = ort.InferenceSession(graph.SerializeToString(), options, providers)
        except Exception as error:  # its errors share no base but Exception
            line = str(error).strip().splitlines()[-1]
            raise EngineError(f"{model.path}: ONNX Runtime cannot load it: {line}") from None
        device = _PROVIDERS[self._session.get_providers()[0]]
        ladder = batch_ladder(config.batch_size)
        self.spec = EngineSpec("onnxruntime", device, "fp32", (model.shape,), ladder)

    def runners(self, count: int) -> list[Runner]:
        """See Engine."""
        return [OnnxRuntimeRunner(self._session, self.spec) for _ in range(count)]


class OnnxRuntimeRunner:
    """One batch at a time, in a buffer of the ladder's largest size."""

    def __init__(self, session: ort.InferenceSession, spec: EngineSpec) -> None:
        self._session = session
        self._ladder = spec.ladder
        (shape,) = spec.shapes
        self._batch = np.zeros((spec.ladder[-1], shape.height, shape.width, 3), np.uint8)
        self._count = 0

    def load(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """See Runner."""
        self._count = len(images)
        for row, image in zip(self._batch, images, strict=False):
            row[...] = image

    def run(self) -> NDArray[np.float32]:
        """See Runner."""
        # A GPU provider prepares anew for every batch size that it has not seen.
        size = rung(self._ladder, self._count)
        try:
            (candidates,) = self._session.run(["candidates"], {"sd_images": self._batch[:size]})
        except Exception as error:  # its errors share no base but Exception
            raise EngineError(f"ONNX Runtime failed: {str(error).splitlines()[-1]}") from None
        return np.asarray(candidates[: self._count], np.float32)
