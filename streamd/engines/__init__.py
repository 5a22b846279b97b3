"""Engines: a model made ready for one backend, behind one contract."""

from streamd.config import ModelConfig
from streamd.engines.backends import choose_backend, installed_backends, load_backend
from streamd.engines.contract import CANDIDATES, Engine, EngineSpec, ModelInfo, Runner
from streamd.linux.cores import available_cores

__all__ = [
    "CANDIDATES",
    "Engine",
    "EngineSpec",
    "ModelInfo",
    "Runner",
    "choose_backend",
    "installed_backends",
    "load_backend",
    "runner_count",
]


def runner_count(config: ModelConfig, engine: EngineSpec) -> int:
    """Batches in flight at once: as configured, else what keeps the device busy, two at least."""
    if config.runners != "auto":
        return config.runners
    return max(2, min(8, engine.streams, available_cores()))
