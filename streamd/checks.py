"""What is wrong with a configuration, as far as can be told without running it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from streamd.child import Tell
from streamd.config import CameraConfig, Config
from streamd.configured_model import model_at_hand, model_of
from streamd.engine_loader import load_engine
from streamd.errors import ConfigError, EngineError, Fault, RedisSetupError, SourceError
from streamd.layout import check_classes
from streamd.preflight import missing_file, missing_files, none_enabled, unwritable_log
from streamd.redis_client import check_redis
from streamd.source import source_for

_TRIED_AT_ONCE = 16  # of cameras, each of which may take as long as its time-outs


def faults_of(config: Config, *, connect: bool, tell: Tell = lambda _: None) -> list[Fault]:
    """All faults; with `connect`, each camera, Redis and the engine are tried, too.

    `tell` hears of what takes long.
    """
    return [*_static_faults(config), *(_connection_faults(config, tell) if connect else ())]


def _static_faults(config: Config) -> Iterator[Fault]:
    """Faults that the files of this machine show."""
    yield from none_enabled(config)
    yield from unwritable_log(config)
    try:
        model = model_at_hand(config)
        if model is not None:
            check_classes(config, config.enabled_cameras, model)
    except ConfigError as error:
        yield from error.faults
    yield from missing_files(config)
    for index, camera in enumerate(config.cameras):
        if camera.enabled and camera.is_local_file and not missing_file(camera):
            yield from _source_faults(config, index, camera)


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
        yield config.fault(("model",), str(error))
    except ConfigError:
        return  # the static check has said so
