"""Engines: a model made ready for one backend, behind one contract."""

import os

from streamd.config import ModelConfig
from streamd.engines.contract import CANDIDATES, Engine, EngineSpec, ModelInfo, Runner
from streamd.engines.onnx_model import inspect_model

__all__ = [
    "CANDIDATES",
    "Engine",
    "EngineSpec",
    "ModelInfo",
    "Runner",
    "inspect_model",
    "load_engine",
    "runner_count",
]


def load_engine(model: ModelInfo, config: ModelConfig) -> Engine:
    """Builds and loads the engine of `model` for this machine. Raises EngineError, ModelError."""
    # Only the process that infers pays for a backend.
    from streamd.engines.openvino_engine import OpenVinoEngine  # noqa: PLC0415

    return OpenVinoEngine(model, config, runner_count(config))


def runner_count(config: ModelConfig) -> int:
    """Batches in flight at once: what is configured, else one for two cores, at least two."""
    if config.runners != "auto":
        return config.runners
    return max(2, min(8, (os.cpu_count() or 1) // 2))
