"""The process that turns a checkpoint into ONNX, with ultralytics: apart, and without network."""

import ctypes
import os
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from streamd.errors import EngineError, ModelError
from streamd.processes.child import Tell, child_main

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_KEPT: list[Any] = []  # operators live as long as their library object


def export_as_told(order: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Exports `order["checkpoint"]` to model.onnx in `order["folder"]`."""
    if not leave_the_network():
        tell("this system does not let the network be cut off while the checkpoint is loaded")
    folder, source = Path(order["folder"]), Path(order["checkpoint"])
    copy = folder / source.name
    shutil.copy(source, copy)
    # It writes its settings and looks for its fonts at home.
    os.environ["YOLO_CONFIG_DIR"] = str(folder)
    provide_torchvision_operators()
    try:
        model = import_module("ultralytics").YOLO(str(copy))
    except Exception as error:
        raise ModelError(f"{source}: ultralytics cannot load it: {_line(error)}") from None
    if model.task != "detect":
        raise ModelError(f"{source}: is a {model.task} model, streamd runs detection models")
    exported = export(model, source, tell)
    Path(exported).rename(folder / "model.onnx")
    return {}


def export(model: Any, source: Path, tell: Tell) -> str:
    """The path of the ONNX file: for any batch and size, or for its own size where that fails."""
    settings: dict[str, Any] = {"format": "onnx", "simplify": True, "device": "cpu"}
    try:
        return str(model.export(dynamic=True, **settings))
    except Exception as error:
        tell(f"not for any size ({_line(error)}); exporting for its own size")
    try:
        return str(model.export(dynamic=False, **settings))
    except Exception as error:
        raise EngineError(f"{source}: ultralytics cannot export it: {_line(error)}") from None


def leave_the_network() -> bool:
    """Moves this process into a network of its own, which is empty. False if it may not."""
    unshare = ctypes.CDLL(None).unshare
    return any(unshare(flags) == 0 for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET))


def provide_torchvision_operators() -> None:
    """Makes torchvision importable, with an nms, where its compiled operators do not fit."""
    torch = import_module("torch")
    try:
        import_module("torchvision")
        return
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torchvision = import_module("torchvision")
    torchvision.ops.nms = torchvision.ops.boxes.nms = greedy_nms
    _KEPT.append(library)


def greedy_nms(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """Indices of the boxes (n, 4) that greedy suppression keeps, best score first."""
    torch = import_module("torch")
    order = scores.argsort(descending=True)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[rest, :2], boxes[best, :2])
        high = torch.minimum(boxes[rest, 2:], boxes[best, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        order = rest[shared / (area[rest] + area[best] - shared) <= iou_threshold]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.int64)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    child_main("sd:export", export_as_told)
