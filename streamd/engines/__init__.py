"""Engines: a model made ready for one backend, behind one contract."""

import os
from importlib.util import find_spec

from streamd.config import ModelConfig
from streamd.engines.contract import CANDIDATES, Engine, EngineSpec, ModelInfo, Runner
from streamd.engines.onnx_model import inspect_model
from streamd.errors import EngineError

__all__ = [
    "CANDIDATES",
    "Engine",
    "EngineSpec",
    "ModelInfo",
    "Runner",
    "choose_backend",
    "inspect_model",
    "load_engine",
    "runner_count",
]


def load_engine(model: ModelInfo, config: ModelConfig) -> Engine:
    """Builds and loads the engine of `model` for this machine. Raises EngineError, ModelError."""
    # Only the process that infers pays for a backend, and only for the one that it uses.
    backend, _ = choose_backend(config)
    if backend == "openvino":
        from streamd.engines.openvino_engine import OpenVinoEngine  # noqa: PLC0415

        return OpenVinoEngine(model, config, runner_count(config))
    from streamd.engines.onnxruntime_engine import OnnxRuntimeEngine  # noqa: PLC0415

    return OnnxRuntimeEngine(model, config)


def choose_backend(config: ModelConfig) -> tuple[str, str]:
    """The backend to use, and why. Raises EngineError where it is not installed."""
    if config.backend != "auto":
        if not find_spec(config.backend):
            raise EngineError(
                f"model.backend: {config.backend} is not installed; "
                f"pip install 'streamd[{config.backend}]'"
            )
        return config.backend, "configured"
    if find_spec("openvino"):
        return "openvino", "auto: the fastest on a CPU"
    if find_spec("onnxruntime"):
        return "onnxruntime", "auto: openvino is not installed"
    raise EngineError("model.backend: neither openvino nor onnxruntime is installed")


def runner_count(config: ModelConfig) -> int:
    """Batches in flight at once: what is configured, else one for two cores, at least two."""
    if config.runners != "auto":
        return config.runners
    return max(2, min(8, (os.cpu_count() or 1) // 2))
