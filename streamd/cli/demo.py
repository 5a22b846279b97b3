"""`streamd demo`: the whole system with nothing else installed."""

from typing import Annotated

import typer

from streamd.cli.ending import unwind_at_signals
from streamd.cli.main import app
from streamd.cli.options import redis_of, section_of
from streamd.config import CameraConfig
from streamd.errors import ConfigError, Fault
from streamd.preflight import missing_file


@app.command()
def demo(
    cameras: Annotated[int, typer.Option(help="synthetic cameras", min=1, max=64)] = 4,
    seconds: Annotated[
        float | None, typer.Option(help="end so long after the first event", min=1)
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="a URL or file instead; may be given again")
    ] = None,
    model: Annotated[str | None, typer.Option(help="an ONNX detector instead")] = None,
    redis: Annotated[str | None, typer.Option(help="a Redis URL instead of an own one")] = None,
) -> None:
    """Run the whole system: synthetic cameras, the shipped model, a Redis, a live table."""
    sources = tuple(_camera_of(number, url) for number, url in enumerate(source or (), start=1))
    # The demo brings servers and drawing along, which no other command needs.
    from streamd.demo.run import DemoOptions, run_demo  # noqa: PLC0415

    options = DemoOptions(
        cameras, seconds, sources, model, None if redis is None else redis_of(redis)
    )
    unwind_at_signals()
    raise typer.Exit(run_demo(options))


def _camera_of(number: int, url: str) -> CameraConfig:
    """The camera of a `--source`; a file is looped, in its own time."""
    values = {"id": f"camera-{number}", "url": url}
    camera = section_of(CameraConfig, values, {"url": "--source"})
    missing = missing_file(camera)
    if missing:
        raise ConfigError([Fault("--source", 0, "", missing)])
    if camera.is_local_file:
        camera = camera.model_copy(update={"loop": True, "paced": True})
    return camera
