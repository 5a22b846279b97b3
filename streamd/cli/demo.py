"""`streamd demo`: the whole system with nothing else installed."""

from typing import Annotated

import typer

from streamd.cli.main import app


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
    # The demo brings servers and drawing along, which no other command needs.
    from streamd.demo.run import DemoOptions, run_demo  # noqa: PLC0415

    options = DemoOptions(cameras, seconds, tuple(source or ()), model, redis)
    raise typer.Exit(run_demo(options))
