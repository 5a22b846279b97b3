"""The process that builds an engine."""

from dataclasses import asdict
from typing import Any

from streamd.config import ModelConfig
from streamd.engines import choose_backend, load_backend
from streamd.engines.engine_file import is_engine_file
from streamd.engines.model_file import inspect_model
from streamd.models.build import build, build_order_for
from streamd.models.engine_order import key_of
from streamd.processes.child import Tell, child_main
from streamd.slots import InputShape


def build_as_told(order: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Builds `order["model"]` for `order["shapes"]`, for the model's own shape if that is empty."""
    config = ModelConfig.model_validate(order["model"])
    shapes = tuple(InputShape(height, width) for height, width in order["shapes"])
    asked = build_order_for(inspect_model(config.path, config.imgsz), config, shapes or None)
    name, _ = choose_backend(config.backend, foreign_engine=is_engine_file(config.path))
    backend = load_backend(name)
    key = key_of(asked, config, backend.name, backend.platform())
    entry = build(asked, config, key, backend, tell)
    return {"folder": str(entry.folder), **asdict(entry.manifest)}


if __name__ == "__main__":
    child_main("sd:build", build_as_told)
