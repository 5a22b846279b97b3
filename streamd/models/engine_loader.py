"""Loads the engine of a model: out of the cache, else built first, in a process of its own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamd.config import ModelConfig
from streamd.engines import Engine, ModelInfo, choose_backend, load_backend
from streamd.engines.cache import EngineCache, EngineKey
from streamd.engines.engine_file import is_engine_file
from streamd.errors import EngineError
from streamd.models.engine_order import find_whole, key_of, order_for
from streamd.processes.child import Tell, run_child
from streamd.slots import InputShape


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine that is ready to infer; `why` says what made it this backend."""

    engine: Engine
    why: str
    cached: bool
    proof: dict[str, Any]


def load_engine(
    model: ModelInfo,
    config: ModelConfig,
    tell: Tell = lambda _: None,
    shapes: tuple[InputShape, ...] | None = None,
) -> LoadedEngine:
    """The engine of `model` for this machine. `tell` hears of each step of a build.

    Raises EngineError.
    """
    name, why = choose_backend(config.backend, foreign_engine=is_engine_file(model.path))
    backend = load_backend(name)
    # A checkpoint was exported: what is built from is the model's file, not the configured one.
    settings = config.model_copy(update={"path": model.path})
    order = order_for(model, settings, shapes)
    key = key_of(order, settings, name, backend.platform())
    cache = EngineCache(Path(settings.cache))
    kept = find_whole(cache, key, settings, tell)
    if kept is not None:
        engine = backend.load(order, kept.manifest.built, kept.folder)
        return LoadedEngine(engine, why, cached=True, proof=kept.manifest.proof)
    with _usable_cache(settings, key, tell) as usable:
        tell(f"building for {name}: {cache.why_missing(key)}")
        build_apart(usable, order.shapes, tell)
        entry = EngineCache(Path(usable.cache)).find(key)
        if entry is None:
            raise EngineError(f"{model.path}: was built, but not for this machine")
        engine = backend.load(order, entry.manifest.built, entry.folder)
        return LoadedEngine(engine, why, cached=False, proof=entry.manifest.proof)


def build_apart(config: ModelConfig, shapes: tuple[InputShape, ...], tell: Tell) -> dict[str, Any]:
    """Builds in another process; returns the manifest and the folder. Raises EngineError."""
    order = {
        "model": config.model_dump(mode="json"),
        "shapes": [(shape.height, shape.width) for shape in shapes],
    }
    about = f"{config.path}: the process that built the engine"
    return run_child("streamd.models.build_child", order, tell, about=about)


@contextmanager
def _usable_cache(config: ModelConfig, key: EngineKey, tell: Tell) -> Iterator[ModelConfig]:
    """`config` with a folder where `key` can be put: what cannot be kept is built each time."""
    try:
        EngineCache(Path(config.cache)).prepare(key)
    except EngineError as error:
        tell(f"model.cache: {error}; engines are not kept")
        folder = tempfile.mkdtemp(prefix="streamd-engines-")
        try:
            yield config.model_copy(update={"cache": folder})
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    else:
        yield config
