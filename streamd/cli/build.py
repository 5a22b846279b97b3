"""`streamd build` and `streamd engines`."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from streamd.checkpoint import as_onnx
from streamd.cli.main import app
from streamd.config import ModelConfig
from streamd.engine_loader import build_apart
from streamd.engines import inspect_model, installed_backends, load_backend
from streamd.engines.cache import EngineCache, Entry
from streamd.engines.engine_file import is_engine_file
from streamd.errors import ConfigError, EngineError, Fault, ModelError

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
    config = _config(options)
    if is_engine_file(model):
        raise ModelError(f"{model}: is built already; name it as model.path")
    began_s = time.monotonic()
    tell = _silent if as_json else _progress
    config = config.model_copy(update={"path": as_onnx(config, tell)})
    inspect_model(config.path, config.imgsz)
    done = build_apart(config, (), tell)
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
    kept = EngineCache(Path(cache))
    platforms = {name: _platform(name) for name in installed_backends()}
    rows = [(entry, _misfit(entry, platforms)) for entry in kept.entries()]
    if prune:
        _prune(kept, rows)
        rows = [row for row in rows if row[1] is None]
    if as_json:
        print(json.dumps([_listed(entry, misfit) for entry, misfit in rows]))
    else:
        _show_engines(cache, rows)


def _config(options: dict[str, Any]) -> ModelConfig:
    try:
        return ModelConfig.model_validate(options)
    except ValidationError as error:
        wrong = error.errors()
        key = str(wrong[0]["loc"][0])
        said = (str(e["msg"]).removeprefix("Value error, ") for e in wrong if e["loc"][0] == key)
        what = "; or ".join(dict.fromkeys(message[:1].lower() + message[1:] for message in said))
        option = f"--{key.replace('_', '-')}"
        raise ConfigError([Fault(option, 0, "", f"{options[key]!r}: {what}")]) from None


def _size(text: str) -> object:
    """`640` or `384x640` as the configuration has it; what is neither is told by the caller."""
    sides = text.lower().split("x")
    if not all(side.isdecimal() for side in sides):
        return text
    return int(sides[0]) if len(sides) == 1 else [int(side) for side in sides]


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


def _platform(name: str) -> tuple[str, str] | None:
    try:
        platform = load_backend(name).platform()
    except EngineError:
        return None
    return platform.version, platform.device


def _misfit(entry: Entry, platforms: dict[str, tuple[str, str] | None]) -> str | None:
    """Why an engine does not fit this machine; None if it does."""
    key = entry.manifest.key
    platform = platforms.get(key.backend)
    if platform is None:
        return f"{key.backend} cannot be used here"
    version, device = platform
    if key.version != version:
        return f"built with {key.backend} {key.version}, here is {version}"
    return None if key.device == device else f"built for {key.device}, here is {device}"


def _prune(cache: EngineCache, rows: list[tuple[Entry, str | None]]) -> None:
    for entry, misfit in rows:
        if misfit:
            cache.remove(entry.folder)
            print(f"removed {entry.folder}: {misfit}", file=sys.stderr)
    for folder in cache.leftovers():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"removed {folder}: was not finished", file=sys.stderr)


def _listed(entry: Entry, misfit: str | None) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "folder": str(entry.folder),
        "model": manifest.key.model,
        "backend": f"{manifest.key.backend} {manifest.key.version}",
        "device": manifest.key.device,
        "precision": manifest.built.precision,
        "shapes": manifest.key.shapes,
        "ladder": manifest.key.ladder,
        "agreement": manifest.proof["agreement"],
        "size_mb": round(manifest.size_bytes / 1e6, 2),
        "age_h": round((time.time() - manifest.created) / 3600, 2),
        "fits": misfit is None,
        "misfit": misfit,
    }


def _show_engines(cache: str, rows: list[tuple[Entry, str | None]]) -> None:
    if not rows:
        print(f"no engines in {cache}")
        return
    listed = [_listed(entry, misfit) for entry, misfit in rows]
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
