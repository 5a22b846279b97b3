"""The daemon, put together: checks what can be checked, then runs until it is told to end."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from streamd import __version__
from streamd.config import Config, load_config
from streamd.config.secrets import mask_url
from streamd.errors import ConfigError
from streamd.http.doors import App
from streamd.http.server import HttpServer, bind
from streamd.logs import get_logger
from streamd.models.configured_model import model_of, uncalibrated
from streamd.preflight import (
    check_working_folder,
    missing_files,
    none_enabled,
    unreadable_tls_files,
    unwritable_spool,
)
from streamd.processes.signals import EndedEarly, Signals
from streamd.publishing.spooler import waiting_for_another
from streamd.redis_client import check_redis
from streamd.supervision.fleet import Fleet
from streamd.supervision.layout import Layout, check_classes
from streamd.supervision.reload import Reloaded
from streamd.supervision.supervisor import Supervisor


def run_daemon(
    config: Config,
    *,
    until_done: bool = False,
    on_start: Callable[[Supervisor, Fleet, int], None] = lambda *_: None,
) -> int:
    """Runs `config` in this process until a signal; returns the exit code.

    `on_start` gets the supervisor, the fleet and the HTTP port just before the workers start.
    Raises StreamdError for whatever would make the run useless from its start.
    """
    signals = Signals()
    try:
        return _run(config, signals, until_done, on_start)
    except EndedEarly as early:
        get_logger().info("stopping", reason=str(early))
        return 0


def _run(
    config: Config,
    signals: Signals,
    until_done: bool,
    on_start: Callable[[Supervisor, Fleet, int], None],
) -> int:
    check_working_folder()
    _check_useful(config, until_done)
    model = model_of(config)
    check_classes(config, config.enabled_cameras, model)
    layout = Layout(config, model)
    listener = bind(config.http)
    port = int(listener.getsockname()[1])
    try:
        redis_error = check_redis(config.redis)
    except BaseException:
        listener.close()
        raise
    fleet = Fleet(layout.ledger)
    for place in layout.places.values():
        fleet.add(place.config, place.index)
    _greet(layout, port, redis_error)
    supervisor = Supervisor(
        layout,
        fleet,
        supervisor_pid=os.getpid(),
        until_done=until_done,
        signals=signals,
        load=partial(_load_again, config, until_done),
    )

    def build_api() -> App:
        # Half a second of imports, in which the workers start already.
        from streamd.http.api import build_app  # noqa: PLC0415

        return build_app(fleet, layout.inference_workers, config.http, supervisor.control)

    http = HttpServer(build_api, listener, config.http)
    http.start()
    try:
        on_start(supervisor, fleet, port)
        return supervisor.run()
    finally:
        http.stop()


def _load_again(running: Config, until_done: bool) -> Reloaded:
    """The configuration of the file that `running` came from, as it is now, and its model."""
    config = load_config(Path(running.file))
    _check_useful(config, until_done)
    model = model_of(config)
    check_classes(config, config.enabled_cameras, model)
    return Reloaded(config, model)


def _check_useful(config: Config, until_done: bool) -> None:
    """Refuses what could never work. One missing file among others is that camera's affair."""
    useless = none_enabled(config) + unreadable_tls_files(config) + uncalibrated(config)
    if useless:
        raise ConfigError(useless)
    missing = missing_files(config)
    if missing and (until_done or len(missing) == len(config.enabled_cameras)):
        raise ConfigError(missing)
    if not until_done:
        return
    if not any(camera.is_local_file for camera in config.enabled_cameras):
        what = "--until-done needs a camera that is a file"
        raise ConfigError([config.fault(("cameras",), what)])
    for index, camera in enumerate(config.cameras):
        if camera.enabled and camera.loop:
            what = "never ends: --until-done needs loop: false"
            raise ConfigError([config.fault(("cameras", index, "loop"), what)])


def _greet(layout: Layout, port: int, redis_error: str | None) -> None:
    config = layout.config
    host = config.http.host
    http = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    log = get_logger()
    log.info(
        "starting",
        version=__version__,
        cameras=len(layout.places),
        model=config.model.path,
        input=str(layout.model.shape),
        ingest_workers=len({place.ingest for place in layout.places.values()}),
        slots=layout.pool.count,
        slots_mb=round(layout.pool.size_bytes / 1e6, 1),
        redis=mask_url(config.redis.url),
        http=http,
        metrics=f"{http}/metrics",
    )
    no_spool = unwritable_spool(config)
    if no_spool:
        log.warning("spool_unusable", reason=str(no_spool))
    if redis_error:
        log.warning("redis_lost", reason=redis_error, effect="events wait")
    others = waiting_for_another(config.redis)
    if others:
        log.warning(
            "spool_of_another_redis",
            folders=[str(folder) for folder in others],
            effect="their events wait until redis.url and redis.stream are what they were again",
        )
