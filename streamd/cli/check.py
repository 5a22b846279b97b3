"""`streamd check` and `streamd probe`: what is wrong, before it matters."""

import dataclasses
import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from streamd.cli.main import ConfigPath, app, load
from streamd.cli.options import section_of
from streamd.config import CameraConfig, mask_url
from streamd.config.exposure import readable_secrets
from streamd.errors import ConfigError, SourceError
from streamd.preflight import unwritable_spool


@app.command()
def check(
    config: ConfigPath,
    connect: Annotated[
        bool, typer.Option("--connect", help="also try each camera, Redis and the engine")
    ] = False,
) -> None:
    """Validate a configuration: one line a fault, as FILE:LINE: KEY: what is wrong."""
    loaded = load(config)
    for warning in filter(None, (readable_secrets(loaded), unwritable_spool(loaded))):
        print(f"warning: {warning}", file=sys.stderr)
    # Here and below: a command pays only for what it needs itself.
    from streamd.checks import faults_of  # noqa: PLC0415

    faults = faults_of(loaded, connect=connect, tell=lambda step: print(step, file=sys.stderr))
    if faults:
        raise ConfigError(faults)
    cameras, model = len(loaded.enabled_cameras), loaded.model.path
    print(f"{config}: ok: {cameras} {'camera' if cameras == 1 else 'cameras'}, model {model}")


@app.command("probe")
def probe_command(
    url: Annotated[str, typer.Argument(metavar="URL", help="a camera's URL, or a file")],
    seconds: Annotated[float, typer.Option(help="how long to look", min=0.1)] = 5.0,
    transport: Annotated[str, typer.Option(help="of RTSP: tcp or udp")] = "tcp",
    decode: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Look at one camera: codec, size, rates, keyframes, clock, or the reason it fails."""
    from streamd.ingest.probe import probe  # noqa: PLC0415

    values = {"id": "probe", "url": url, "transport": transport, "decode": decode}
    camera = section_of(CameraConfig, values, {"url": "URL"})
    try:
        result = dataclasses.asdict(probe(camera, mask_url(url), seconds))
    except SourceError as error:
        if as_json:
            failure = {"url": mask_url(url), "reason": error.reason, "detail": error.detail}
            print(json.dumps(failure))
        print(f"{mask_url(url)}: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps(result))
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    if not sys.stdout.isatty():
        for key, value in result.items():
            print(f"{key}: {'-' if value is None else value}")
        return
    table = Table(show_header=False, box=None)
    for key, value in result.items():
        table.add_row(f"[bold]{key}", "-" if value is None else escape(str(value)))
    Console().print(table)
