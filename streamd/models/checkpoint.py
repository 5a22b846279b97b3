"""Checkpoints of ultralytics (.pt): looked through, and exported to ONNX in a process apart.

A checkpoint is a pickle, and to load one is to run what it says. So this process only reads the
names that the pickle refers to, and refuses what no checkpoint of a detector needs. That is no
proof of good will: whoever loads it is a child without network (export_child.py).
"""

import hashlib
import pickletools
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from streamd.config import ModelConfig
from streamd.engines.model_path import find_model
from streamd.errors import EngineError, ModelError
from streamd.processes.child import run_child

_SUFFIX = ".pt"
_TASKS = {
    "SegmentationModel": "segment",
    "PoseModel": "pose",
    "ClassificationModel": "classify",
    "OBBModel": "obb",
}
_MODULES = ("torch", "ultralytics", "collections", "numpy", "pathlib", "_codecs", "types")
_BUILTINS = {"getattr", "set", "slice", "dict", "list", "tuple", "int", "float", "bool", "str"}


def is_checkpoint(path: str) -> bool:
    """Whether `path` is to be taken for a checkpoint, by its name."""
    return path.endswith(_SUFFIX)


def exported_path(config: ModelConfig) -> Path:
    """Where the ONNX file of a checkpoint is kept. Raises ModelError where that cannot be read."""
    source = find_model(config.path)
    try:
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{config.path}: {error.strerror or error}") from None
    return Path(config.cache) / f"exported-{digest[:12]}" / f"{source.stem}.onnx"


def as_onnx(config: ModelConfig, tell: Callable[[str], None]) -> str:
    """The path of the model as ONNX: `config.path` itself, or that of an exported checkpoint.

    Exports a checkpoint that was not exported before. Raises ModelError, EngineError.
    """
    if not is_checkpoint(config.path):
        return config.path
    target = exported_path(config)
    if not target.is_file():
        check_checkpoint(config.path)
        _export(config, target, tell)
    return str(target)


def check_checkpoint(path: str) -> None:
    """Looks through a checkpoint without loading it. Raises ModelError where it is no detector."""
    names = _names_in(path)
    foreign = sorted(n for n in names if not _is_usual(n))
    if foreign:
        raise ModelError(
            f"{path}: is no checkpoint of ultralytics: it refers to {foreign[0]}; it was not loaded"
        )
    models = [name.rpartition(".")[2] for name in names if name.startswith("ultralytics.nn.tasks.")]
    for model in models:
        if model in _TASKS:
            task = _TASKS[model]
            raise ModelError(f"{path}: is a {task} model, streamd runs detection models")
    if not models:
        raise ModelError(f"{path}: is no checkpoint of an ultralytics model")
    if not find_spec("ultralytics"):
        raise ModelError(
            f"{path}: is a checkpoint; to export it, pip install '.[export]' in streamd's source, "
            f"or elsewhere: yolo export model={Path(path).name} format=onnx dynamic=True"
        )


def _names_in(path: str) -> set[str]:
    """Dotted names that the checkpoint's pickle refers to."""
    try:
        with zipfile.ZipFile(find_model(path)) as archive:
            member = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            pickled = archive.read(member)
        return set(_globals(pickled))
    except (zipfile.BadZipFile, StopIteration, ValueError, OSError, KeyError):
        raise ModelError(f"{path}: is no checkpoint of PyTorch") from None


def _globals(pickled: bytes) -> list[str]:
    names, strings = [], list[str]()
    for operation, argument, _ in pickletools.genops(pickled):
        if "UNICODE" in operation.name:
            strings.append(str(argument))
        elif operation.name == "GLOBAL":
            names.append(str(argument).replace(" ", "."))
        elif operation.name == "STACK_GLOBAL":
            names.append(".".join(strings[-2:]))
        elif operation.name == "INST":
            names.append(str(argument).replace(" ", "."))
    return names


def _is_usual(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    if module in ("__builtin__", "builtins"):
        return attribute in _BUILTINS
    return module.split(".")[0] in _MODULES


def _export(config: ModelConfig, target: Path, tell: Callable[[str], None]) -> None:
    tell(f"exporting {config.path} to ONNX")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".exporting-", dir=target.parent))
    except OSError as error:
        raise EngineError(f"{config.cache}: {error.strerror or error}") from None
    try:
        order = {"checkpoint": str(find_model(config.path).resolve()), "folder": str(folder)}
        run_child(
            "streamd.models.export_child",
            order,
            tell,
            about=f"{config.path}: the process that exported it",
            environment={"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"},
        )
        (folder / "model.onnx").rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
