"""`streamd build` and `streamd engines`."""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from streamd.cli.main import app
from streamd.cli.options import section_of
from streamd.config import CameraConfig, ModelConfig
from streamd.config.section import local_path
from streamd.errors import ConfigError, EngineError, Fault

_KEY = re.compile(r"(?:^|: )model\.(\w+): (.*)")  # in a message

CacheOption = Annotated[str, typer.Option("--output", "--cache", help="folder of built engines")]


@app.command()
def build(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a detector: .pt or .onnx")],
    backend: Annotated[str, typer.Option(help="auto, tensorrt, openvino, onnxruntime")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16, int8")] = "auto",
    batch_size: Annotated[int, typer.Option(help="largest batch, in frames")] = 8,
    imgsz: Annotated[str, typer.Option(help="auto, N, or HEIGHTxWIDTH")] = "auto",
    output: CacheOption = "engines",
    calibrate: Annotated[
        str | None, typer.Option(help="pictures for int8 and the proof: URL, file, or folder")
    ] = None,
    min_agreement: Annotated[str, typer.Option(help="auto, or 0 to 1")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Build an engine, prove it, and keep it in the cache."""
    options = {
        "path": model,
        "backend": backend,
        "precision": precision,
        "batch_size": batch_size,
        "imgsz": _size(imgsz),
        "cache": output,
        "calibrate": calibrate,
        "min_agreement": min_agreement,
    }
    config = section_of(ModelConfig, options, {"path": "MODEL", "cache": "--output"})
    if calibrate is not None:
        _check_pictures(calibrate)
    began_s = time.monotonic()
    done = _built(config, _silent if as_json else _progress)
    if as_json:
        print(json.dumps(_result(done)))
    else:
        _show_built(done, time.monotonic() - began_s)


@app.command()
def engines(
    cache: CacheOption = "engines",
    prune: Annotated[
        bool, typer.Option("--prune", help="remove what does not fit this machine, and left-overs")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List the built engines: what each is for, its size and age, whether it fits this machine."""
    from streamd.models.inventory import list_engines, prune_engines  # noqa: PLC0415

    if prune:
        for folder, why in prune_engines(Path(cache)):
            print(f"removed {folder}: {why}", file=sys.stderr)
    listed = list_engines(Path(cache))
    if as_json:
        print(json.dumps(listed))
    else:
        _show_engines(cache, listed)


def _size(text: str) -> object:
    """`640` or `384x640` as the configuration has it."""
    sides = text.lower().split("x")
    if text == "auto":
        return text
    if len(sides) > 2 or not all(s.isdecimal() and int(s[:6]) >= 32 for s in sides):
        what = f"{text!r}: is none of auto, N, HEIGHTxWIDTH with sides of 32 or more"
        raise ConfigError([Fault("--imgsz", 0, "", what)])
    return int(sides[0]) if len(sides) == 1 else [int(side) for side in sides]


def _check_pictures(calibrate: str) -> None:
    camera = section_of(CameraConfig, {"id": "pictures", "url": calibrate}, {"url": "--calibrate"})
    if camera.is_local_file and not Path(local_path(calibrate)).exists():
        raise ConfigError([Fault("--calibrate", 0, "", f"no such file or folder: {calibrate}")])


def _built(config: ModelConfig, tell: Callable[[str], None]) -> dict[str, Any]:
    """As inventory's build_engine; what it says of a key of the file is said of the option."""
    # Here and below: a command pays only for what it needs itself.
    from streamd.models.inventory import build_engine  # noqa: PLC0415

    try:
        return build_engine(config, tell)
    except EngineError as error:
        found = _KEY.search(str(error))
        if found is None:
            raise
        option = f"--{found[1].replace('_', '-')}"
        raise ConfigError([Fault(option, 0, "", found[2])]) from None


def _silent(_: str) -> None:
    """Progress that nobody wants to see."""


def _progress(step: str) -> None:
    print(f"  {step}", file=sys.stderr, flush=True)


def _result(done: dict[str, Any]) -> dict[str, Any]:
    key, proof = done["key"], done["proof"]
    return {
        "folder": done["folder"],
        "backend": key["backend"],
        "device": key["device"],
        "precision": done["built"]["precision"],
        "settings": done["built"]["settings"],
        "shapes": key["shapes"].split(),
        "ladder": [int(size) for size in key["ladder"].split()],
        "size_mb": round(done["size_bytes"] / 1e6, 2),
        "build_s": done["build_s"],
        "agreement": proof["agreement"],
        "proof": proof,
    }


def _show_built(done: dict[str, Any], seconds: float) -> None:
    result = _result(done)
    proof = result["proof"]
    chosen = ", ".join(f"{key} {value}" for key, value in result["settings"].items())
    print(result["folder"])
    print(f"  backend    {result['backend']} on {result['device']}")
    print(f"  precision  {result['precision']} ({chosen or 'as asked'})")
    print(f"  input      {' '.join(result['shapes'])}, batches of {result['ladder']}")
    print(f"  size       {result['size_mb']} MB, {seconds:.1f} s")
    print(
        f"  proof      agreement {proof['agreement']} over {proof['compared']} detections, "
        f"mean IoU {proof['mean_iou']}, mean score difference {proof['mean_score_difference']}"
    )


def _show_engines(cache: str, listed: list[dict[str, Any]]) -> None:
    if not listed:
        print(f"no engines in {cache}")
        return
    shown = ("folder", "backend", "precision", "shapes", "ladder", "agreement", "size_mb", "age_h")
    if not sys.stdout.isatty():
        for one in listed:
            values = [_cell(one[name]) for name in shown]
            print("\t".join([*values, one["misfit"] or "fits"]))
        return
    table = Table(box=None)
    for name in (*shown, "fits"):
        table.add_column(name)
    for one in listed:
        table.add_row(*(_cell(one[name]) for name in shown), one["misfit"] or "yes")
    Console().print(table)


def _cell(value: object) -> str:
    return "-" if value is None else str(value)
