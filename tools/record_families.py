"""Records the graphs of all model families that ultralytics ships, for tests/families.

Each is built from its YAML with random weights and exported to ONNX as a user would. What is kept
is the graph: every large tensor is replaced by its spread, and the tests fill it again from a seed.
That proves shapes, names and operators, and that two backends compute the same; no weight of
anybody is in it. It takes half an hour.

In an environment of its own, which has PyTorch and ultralytics (see tools/train_shapes.py), and
ONNX Runtime:

    PYTHONPATH=. python tools/record_families.py --output tests/families
"""

import argparse
import gzip
import json
import os
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from streamd.models.export_child import provide_torchvision_operators
from streamd.testing.random_weights import draw_weights

LARGE = 64  # elements; what is smaller is part of the graph's meaning


@dataclass(frozen=True)
class Family:
    """A model to record: `yaml` of ultralytics, `classes`, and how it is exported."""

    name: str
    yaml: str
    classes: int
    imgsz: tuple[int, int] = (64, 96)
    dynamic: bool = True
    end_to_end: bool | None = None


FAMILIES = (
    Family("yolov5nu", "yolov5n.yaml", 80),
    Family("yolov8n", "yolov8n.yaml", 1),
    Family("yolov8n-p2", "yolov8n-p2.yaml", 3),
    Family("yolov9t", "yolov9t.yaml", 20),
    Family("yolov10n", "yolov10n.yaml", 80, end_to_end=True),
    Family("yolo11n", "yolo11n.yaml", 80),
    Family("yolo11n-fixed", "yolo11n.yaml", 2, imgsz=(96, 64), dynamic=False),
    Family("yolo12n", "yolo12n.yaml", 7),
    Family("yolo26n-raw", "yolo26n.yaml", 80, end_to_end=False),
    Family("yolo26n", "yolo26n.yaml", 80, end_to_end=True),
    Family("rtdetr-l", "rtdetr-l.yaml", 80, imgsz=(320, 320)),
)


def main() -> None:
    """Writes NAME.onnx.gz for every family."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--only", help="the name of one family")
    asked = options.parse_args()
    os.environ |= {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
    provide_torchvision_operators()
    import_module("torch").manual_seed(1)
    for family in FAMILIES:
        if asked.only in (None, family.name):
            record(family, asked.output.resolve() / f"{family.name}.onnx.gz")


def record(family: Family, target: Path) -> None:
    """Exports one family and writes its graph."""
    with tempfile.TemporaryDirectory(prefix="streamd-family-") as folder:
        model = onnx.load(export(family, Path(folder)))
    strip_weights(model)
    spread_scores(model, family)
    target.write_bytes(gzip.compress(model.SerializeToString(), mtime=0))
    output = [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    print(f"{family.name}: output {output}, {target.stat().st_size / 1000:.1f} kB", flush=True)


def export(family: Family, folder: Path) -> str:
    """Makes the model of `family` in `folder` and exports it; returns the ONNX file's path."""
    ultralytics: Any = import_module("ultralytics")
    shipped = Path(ultralytics.__file__).parent / "cfg" / "models"
    scaleless = {family.yaml, *(family.yaml.replace(scale, "", 1) for scale in scales(family.yaml))}
    source = next(path for name in scaleless for path in shipped.rglob(name))
    # The scale is read out of the file's name.
    text = source.read_text().replace("nc: 80", f"nc: {family.classes}", 1)
    copy = folder / family.yaml
    copy.write_text(text)
    kind = ultralytics.RTDETR if family.name.startswith("rtdetr") else ultralytics.YOLO
    model = kind(str(copy))
    settings: dict[str, Any] = {"dynamic": family.dynamic, "imgsz": list(family.imgsz)}
    if family.end_to_end is not None:
        settings["end2end"] = family.end_to_end
    os.chdir(folder)
    return str(model.export(format="onnx", simplify=True, device="cpu", **settings))


def scales(yaml: str) -> list[str]:
    """The scale letter in the name of a YAML, as yolov8n.yaml is yolov8.yaml at scale n."""
    return [letter for letter in ("n", "t") if f"{letter}." in yaml or f"{letter}-" in yaml]


def strip_weights(model: onnx.ModelProto) -> None:
    """Empties every large float tensor and notes its mean and spread in its doc_string."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < LARGE:
            continue
        spread = {"mean": float(values.mean()), "std": float(values.std())}
        tensor.doc_string = json.dumps(spread)
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")


def spread_scores(model: onnx.ModelProto, family: Family) -> None:
    """Chooses the spread of convolutions for which scores differ most from box to box.

    Else signals fade or grow from layer to layer, and all boxes have the same score.
    """
    rng = np.random.default_rng(11)
    coarse = rng.random((1, 3, family.imgsz[0] // 8, family.imgsz[1] // 8), dtype=np.float32)
    image = coarse.repeat(8, axis=2).repeat(8, axis=3)
    trials = [with_gain(model, gain) for gain in np.geomspace(1.3, 2.0, 100)]
    best = max(trials, key=lambda trial: distinct_scores(trial, image))
    model.CopyFrom(best)


def with_gain(model: onnx.ModelProto, gain: float) -> onnx.ModelProto:
    """A copy whose convolutions have a spread of `gain` over the root of their inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.doc_string and len(tensor.dims) == 4:
            std = float(gain / np.sqrt(np.prod(tensor.dims[1:])))
            tensor.doc_string = json.dumps({"mean": 0.0, "std": std})
    return copy


def distinct_scores(model: onnx.ModelProto, image: np.ndarray[Any, Any]) -> int:
    """How many different scores, to three digits, the boxes of `image` have."""
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    draw_weights(filled)
    ort: Any = import_module("onnxruntime")
    session = ort.InferenceSession(filled.SerializeToString())
    (output,) = session.run(None, {filled.graph.input[0].name: image})[0]
    final = output.shape[-1] == 6
    scores = output[:, 4] if final else output[4:].max(axis=0)
    return len(np.unique(scores.round(3))) if np.isfinite(output).all() else 0


if __name__ == "__main__":
    main()
