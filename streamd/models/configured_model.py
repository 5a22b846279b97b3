"""The model that a configuration names."""

import os

from streamd.config import Config
from streamd.engines import ModelInfo
from streamd.engines.engine_file import is_engine_file
from streamd.engines.model_file import inspect_model
from streamd.errors import ConfigError, EngineError, Fault, ModelError
from streamd.logs import get_logger
from streamd.models.checkpoint import as_onnx, check_checkpoint, exported_path, is_checkpoint


def model_of(config: Config) -> ModelInfo:
    """The configured model; a checkpoint is exported first, unless that was done before.

    Raises ConfigError, naming the key, where it cannot be used.
    """
    log = get_logger()
    try:
        path = as_onnx(config.model, lambda step: log.info("model_export", step=step))
        return inspect_model(path, config.model.imgsz)
    except (ModelError, EngineError) as error:
        raise ConfigError([config.fault(("model", "path"), str(error))]) from None


def model_at_hand(config: Config) -> ModelInfo | None:
    """As `model_of`, but a checkpoint that was not exported yet is only looked through: None."""
    try:
        if is_checkpoint(config.model.path) and not exported_path(config.model).is_file():
            check_checkpoint(config.model.path)
            return None
    except ModelError as error:
        raise ConfigError([config.fault(("model", "path"), str(error))]) from None
    return model_of(config)


def check_model(path: str) -> None:
    """Raises ModelError where `path` names no model that can be used; exports nothing."""
    if is_checkpoint(path):
        check_checkpoint(path)
    else:
        inspect_model(path)


def uncalibrated(config: Config) -> list[Fault]:
    """A fault where int8 is asked for without the pictures that it needs, or they are not there."""
    model = config.model
    if model.precision != "int8" or is_engine_file(model.path):
        return []
    key = ("model", "calibrate")
    if not model.calibrate:
        return [config.fault(key, "int8 needs pictures to calibrate with")]
    if "://" in model.calibrate or os.path.exists(model.calibrate):
        return []
    return [config.fault(key, f"no such file or folder: {model.calibrate}")]
