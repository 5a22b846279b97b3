"""`streamd check` and `streamd probe`: what is wrong, before it matters."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from streamd.cli.main import ConfigPath, app, load
from streamd.config import CameraConfig, Config, mask_url
from streamd.config.exposure import readable_secrets
from streamd.config.secrets import mask_text
from streamd.daemon import missing_files, model_at_hand, model_of
from streamd.engine_loader import load_engine
from streamd.errors import ConfigError, EngineError, Fault, RedisSetupError, SourceError
from streamd.layout import check_classes
from streamd.probe import ProbeResult, probe
from streamd.redis_client import check_redis
from streamd.source import missing_file, source_for


@app.command()
def check(
    config: ConfigPath,
    connect: Annotated[
        bool, typer.Option("--connect", help="also try each camera, Redis and the engine")
    ] = False,
) -> None:
    """Validate a configuration: one line a fault, as FILE:LINE: KEY: what is wrong."""
    loaded = load(config)
    exposed = readable_secrets(loaded)
    if exposed:
        print(f"warning: {exposed}", file=sys.stderr)
    faults = [*_static_faults(loaded), *(_connection_faults(loaded) if connect else ())]
    if faults:
        raise ConfigError(faults)
    cameras, model = len(loaded.enabled_cameras), loaded.model.path
    print(f"{config}: ok: {cameras} {'camera' if cameras == 1 else 'cameras'}, model {model}")


def _static_faults(config: Config) -> Iterator[Fault]:
    """Faults that the files of this machine show."""
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


def _connection_faults(config: Config) -> Iterator[Fault]:
    """Faults that show only when one connects."""
    try:
        error = check_redis(config.redis)
    except RedisSetupError as refused:
        error = str(refused).partition(": ")[2]
    if error:
        yield config.fault(("redis", "url"), error)
    for index, camera in enumerate(config.cameras):
        if camera.enabled and not camera.is_local_file:
            yield from _source_faults(config, index, camera)
    yield from _engine_faults(config)


def _source_faults(config: Config, index: int, camera: CameraConfig) -> Iterator[Fault]:
    try:
        source_for(camera).open().close()
    except SourceError as error:
        yield config.fault(("cameras", index, "url"), str(error))


def _engine_faults(config: Config) -> Iterator[Fault]:
    try:
        load_engine(model_of(config), config.model)
    except EngineError as error:
        yield config.fault(("model",), str(error))
    except ConfigError:
        return  # the static check has said so


@app.command("probe")
def probe_command(
    url: Annotated[str, typer.Argument(metavar="URL", help="a camera's URL, or a file")],
    seconds: Annotated[float, typer.Option(help="how long to look", min=0.1)] = 5.0,
    transport: Annotated[str, typer.Option(help="of RTSP: tcp or udp")] = "tcp",
    decode: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Look at one camera: codec, size, rates, keyframes, clock, or the reason it fails."""
    camera = _camera_of(url, transport=transport, decode=decode)
    try:
        result = probe(camera, mask_url(url), seconds)
    except SourceError as error:
        if as_json:
            failure = {"url": mask_url(url), "reason": error.reason, "detail": error.detail}
            print(json.dumps(failure))
        print(f"{mask_url(url)}: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        _show(result)


def _camera_of(url: str, **options: str) -> CameraConfig:
    try:
        return CameraConfig.model_validate({"id": "probe", "url": url, **options})
    except ValidationError as error:
        wrong = error.errors()[0]
        key = str(wrong["loc"][0])
        where = f"--{key}" if key in options else mask_url(url)
        what = str(wrong["msg"]).removeprefix("Value error, ")
        raise ConfigError([Fault(where, 0, "", mask_text(what))]) from None


def _show(result: ProbeResult) -> None:
    if not sys.stdout.isatty():
        for key, value in dataclasses.asdict(result).items():
            print(f"{key}: {'-' if value is None else value}")
        return
    table = Table(show_header=False, box=None)
    for key, value in dataclasses.asdict(result).items():
        table.add_row(f"[bold]{key}", "-" if value is None else str(value))
    Console().print(table)
