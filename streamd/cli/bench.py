"""`streamd bench`: how many cameras fit on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from streamd.cli.ending import unwind_at_signals
from streamd.cli.main import app
from streamd.cli.options import redis_of, section_of
from streamd.config import CameraConfig


@app.command()
def bench(
    camera: Annotated[
        str, typer.Option(help="kind of camera: 1080p25, 720p, 4k15, 640x480@10")
    ] = "1080p25",
    fps: Annotated[str, typer.Option(help="frames a second to infer of each, or all")] = "5",
    model: Annotated[
        str, typer.Option(help="the model, as in the configuration")
    ] = "engines/shapes.onnx",
    target_latency_ms: Annotated[
        float, typer.Option(help="p99 that must be met, from capture to Redis", min=1)
    ] = 300.0,
    max_cameras: Annotated[int, typer.Option(help="try no more than these", min=1)] = 512,
    seconds: Annotated[float, typer.Option(help="length of each measurement", min=1)] = 8.0,
    source: Annotated[
        str | None,
        typer.Option(
            help="a recording that the cameras send (H.264, H.265, MJPEG), not a scene of --camera"
        ),
    ] = None,
    redis: Annotated[str | None, typer.Option(help="a Redis URL instead of an own one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    plot: Annotated[Path | None, typer.Option(help="draw a chart into this file")] = None,
) -> None:
    """Measure how many cameras fit on this machine, and where the time goes.

    Simulated cameras send by RTSP from this machine, more and more of them, until frames are missed
    or too old. What sending costs is shown, too: real cameras spare you that.
    """
    # It brings servers and drawing along, which no other command needs.
    from streamd.capacity.kind import CameraKind  # noqa: PLC0415
    from streamd.capacity.run import CapacityOptions, run_capacity  # noqa: PLC0415

    wanted = section_of(CameraConfig, {"id": "bench", "url": "rtsp://bench", "fps": fps})
    options = CapacityOptions(
        kind=CameraKind.parse(camera),
        fps=None if wanted.fps == "all" else wanted.fps,
        model=model,
        target_ms=target_latency_ms,
        most=max_cameras,
        seconds=seconds,
        source=source,
        redis=None if redis is None else redis_of(redis),
        as_json=as_json,
        plot=plot,
    )
    unwind_at_signals()
    raise typer.Exit(run_capacity(options))
