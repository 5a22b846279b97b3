"""The engines that are kept on this machine: one more, all of them, only those that fit."""

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamd.config import ModelConfig
from streamd.engines import installed_backends, load_backend
from streamd.engines.cache import EngineCache, Entry
from streamd.engines.engine_file import is_engine_file
from streamd.engines.model_file import inspect_model
from streamd.errors import EngineError, ModelError
from streamd.models.checkpoint import as_onnx
from streamd.models.engine_loader import build_apart
from streamd.processes.child import Tell


def build_engine(config: ModelConfig, tell: Tell) -> dict[str, Any]:
    """Builds what `config` asks for, unless it is there; returns the manifest and the folder.

    Raises ModelError or EngineError.
    """
    if is_engine_file(config.path):
        raise ModelError(f"{config.path}: is built already; name it as model.path")
    config = config.model_copy(update={"path": as_onnx(config, tell)})
    inspect_model(config.path, config.imgsz)
    return build_apart(config, (), tell)


def list_engines(cache: Path) -> list[dict[str, Any]]:
    """What `streamd engines --json` prints of each engine in the folder `cache`."""
    return [_listed(entry, misfit) for entry, misfit in _entries(EngineCache(cache))]


def prune_engines(cache: Path) -> Iterator[tuple[Path, str]]:
    """Removes what does not fit this machine or was not finished: each folder, and why.

    Raises EngineError where one may not be removed.
    """
    kept = EngineCache(cache)
    for entry, misfit in _entries(kept):
        if misfit:
            kept.remove(entry.folder)
            yield entry.folder, misfit
    for folder in kept.leftovers():
        kept.remove(folder)
        yield folder, "was not finished"


def _entries(cache: EngineCache) -> list[tuple[Entry, str | None]]:
    """Each engine, and why it does not fit this machine; None if it does."""
    platforms = {name: _platform(name) for name in installed_backends()}
    return [(entry, _misfit(entry, platforms)) for entry in cache.entries()]


@functools.cache  # it loads a library, and to prune and list asks twice
def _platform(name: str) -> tuple[str, str] | None:
    try:
        platform = load_backend(name).platform()
    except EngineError:
        return None
    return platform.version, platform.device


def _misfit(entry: Entry, platforms: dict[str, tuple[str, str] | None]) -> str | None:
    """Why an engine does not fit this machine; None if it does."""
    key = entry.manifest.key
    platform = platforms.get(key.backend)
    if platform is None:
        return f"{key.backend} cannot be used here"
    version, device = platform
    if key.version != version:
        return f"built with {key.backend} {key.version}, here is {version}"
    return None if key.device == device else f"built for {key.device}, here is {device}"


def _listed(entry: Entry, misfit: str | None) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "folder": str(entry.folder),
        "model": manifest.key.model,
        "backend": f"{manifest.key.backend} {manifest.key.version}",
        "device": manifest.key.device,
        "precision": manifest.built.precision,
        "shapes": manifest.key.shapes,
        "ladder": manifest.key.ladder,
        "agreement": manifest.proof["agreement"],
        "size_mb": round(manifest.size_bytes / 1e6, 2),
        "age_h": round((time.time() - manifest.created) / 3600, 2),
        "fits": misfit is None,
        "misfit": misfit,
    }
