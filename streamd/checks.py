"""What is wrong with a configuration, as far as can be told without running it."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from streamd.config import CameraConfig, Config
from streamd.engines import choose_backend
from streamd.engines.engine_file import is_engine_file
from streamd.errors import ConfigError, EngineError, Fault, RedisSetupError, SourceError
from streamd.ingest.source import source_for
from streamd.models.configured_model import model_at_hand, model_of, uncalibrated
from streamd.models.engine_loader import load_engine
from streamd.preflight import (
    missing_file,
    missing_files,
    none_enabled,
    unreadable_tls_files,
    unwritable_log,
)
from streamd.processes.child import Tell
from streamd.redis_client import check_redis
from streamd.supervision.layout import check_classes

_KEY = re.compile(r"(?:^|: )model\.(\w+): (.*)")  # in a message
_TRIED_AT_ONCE = 16  # of cameras, each of which may take as long as its time-outs


def faults_of(config: Config, *, connect: bool, tell: Tell = lambda _: None) -> list[Fault]:
    """All faults; with `connect`, each camera, Redis and the engine are tried, too.

    `tell` hears of what takes long.
    """
    faults = list(_static_faults(config))
    if connect:
        faults += _connection_faults(config, tell)
    return list(dict.fromkeys(faults))  # the engine fails by what was said already


def _static_faults(config: Config) -> Iterator[Fault]:
    """Faults that the files of this machine show."""
    yield from none_enabled(config)
    yield from unreadable_tls_files(config)
    yield from unwritable_log(config)
    yield from uncalibrated(config)
    try:
        model = model_at_hand(config)
        yield from _backend_faults(config)
        if model is not None:
            check_classes(config, config.enabled_cameras, model)
    except ConfigError as error:
        yield from error.faults
    yield from missing_files(config)
    for index, camera in enumerate(config.cameras):
        if camera.enabled and camera.is_local_file and not missing_file(camera):
            yield from _source_faults(config, index, camera)


def _backend_faults(config: Config) -> Iterator[Fault]:
    try:
        choose_backend(config.model.backend, foreign_engine=is_engine_file(config.model.path))
    except EngineError as error:
        yield _of_its_key(config, error)


def _connection_faults(config: Config, tell: Tell) -> Iterator[Fault]:
    """Faults that show only when one connects."""
    try:
        error = check_redis(config.redis)
    except RedisSetupError as refused:
        error = str(refused).partition(": ")[2]
    if error:
        yield config.fault(("redis", "url"), error)
    remote = [
        (index, camera)
        for index, camera in enumerate(config.cameras)
        if camera.enabled and not camera.is_local_file
    ]
    with ThreadPoolExecutor(_TRIED_AT_ONCE) as threads:
        for faults in threads.map(lambda place: _source_faults(config, *place), remote):
            yield from faults
    yield from _engine_faults(config, tell)


def _source_faults(config: Config, index: int, camera: CameraConfig) -> list[Fault]:
    try:
        source_for(camera).open().close()
    except SourceError as error:
        return [config.fault(("cameras", index, "url"), str(error))]
    return []


def _engine_faults(config: Config, tell: Tell) -> Iterator[Fault]:
    try:
        load_engine(model_of(config), config.model, tell)
    except EngineError as error:
        yield _of_its_key(config, error)
    except ConfigError:
        return  # the static check has said so


def _of_its_key(config: Config, error: EngineError) -> Fault:
    """What is wrong with the engine, at the key that the error names, if it names one."""
    named = _KEY.search(str(error))
    if named is None:
        return config.fault(("model",), str(error))
    return config.fault(("model", named[1]), named[2])
