"""`streamd tail`: events as they come."""

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from streamd.cli.main import ConfigPath, app
from streamd.config import Config, load_config

if TYPE_CHECKING:
    from streamd.events import Event


@app.command()
def tail(
    config: ConfigPath,
    camera: Annotated[str | None, typer.Option(help="only this camera")] = None,
    label: Annotated[str | None, typer.Option(help="only events with this label")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    count: Annotated[int | None, typer.Option(help="end after so many events", min=1)] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="begin with the oldest that is kept")
    ] = False,
) -> None:
    """Subscribe and print events as they come."""
    loaded = load_config(config)
    known = [entry.id for entry in loaded.cameras]
    if camera is not None and camera not in known:
        some = ", ".join(known[:8])
        note = f"{config}: has no camera {camera!r}, but {some}; waiting for one added over HTTP"
        print(note, file=sys.stderr)
    console = Console(highlight=False, soft_wrap=True)
    shown = 0
    for event in _events(loaded, camera, "0" if from_start else "$"):
        if camera not in (None, event.camera) or not _has_label(event, label):
            continue
        if as_json:
            # UTF-8 whatever the locale says: JSON has no other encoding.
            sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
            sys.stdout.flush()
        else:
            console.print(_line(event))
        shown += 1
        if shown == count:
            return


def _events(config: Config, camera: str | None, start: str) -> Iterator["Event"]:
    """Events for ever; while Redis is away it says so once and tries again."""
    # No other command needs a client.
    from streamd.client.subscription import streams_of, subscribe  # noqa: PLC0415

    def on_away(why: str) -> None:
        print(f"redis: {why}; trying again", file=sys.stderr)

    streams = streams_of(config, camera)
    yield from subscribe(config.redis, streams, start=start, on_away=on_away)


def _has_label(event: "Event", label: str | None) -> bool:
    return label is None or any(item.label == label for item in event.data.objects)


def _line(event: "Event") -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(event.ts / 1000))
    objects = ", ".join(f"{o.label} {o.confidence:.2f}" for o in event.data.objects) or "-"
    latency = f"{event.data.latency_ms.total:.0f} ms"
    return (
        f"[dim]{clock}.{event.ts % 1000:03d}[/] [bold cyan]{event.camera}[/] "
        f"#{event.seq} [dim]{latency}[/] {escape(objects)}"
    )
