"""The configuration: one typed YAML file."""

from streamd.config.http import HttpConfig
from streamd.config.load import load_camera, load_config
from streamd.config.models import (
    CameraConfig,
    Config,
    IngestConfig,
    LogConfig,
    ModelConfig,
    Publish,
)
from streamd.config.redis import RedisConfig
from streamd.config.secrets import mask_url

__all__ = [
    "CameraConfig",
    "Config",
    "HttpConfig",
    "IngestConfig",
    "LogConfig",
    "ModelConfig",
    "Publish",
    "RedisConfig",
    "load_camera",
    "load_config",
    "mask_url",
]
