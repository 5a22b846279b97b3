"""Trains engines/shapes.onnx, the detector that the demo and the tests use.

Everything is generated from seeds: scenes of `streamd.scenes`, half of them through JPEG at a
random quality, since a decoded stream is never clean. The network is a YOLO11 of half the width of
the smallest official one, trained from random weights. Afterwards it is evaluated on scenes that it
has never seen, and exported as ultralytics exports any model.

It takes about an hour of one core (`--threads 1`; on two busy ones, two threads take longer), in an
environment of its own (PyTorch is not for the daemon's):

    pip install -e . && pip install torch ultralytics
    python tools/train_shapes.py --output engines/shapes.onnx

Prints mAP50 and mAP50-95 of the held-out set.
"""

import argparse
import os
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamd.models.export_child import provide_torchvision_operators
from streamd.scenes import LABELS, Scene

SIZES = ((640, 360), (640, 480), (480, 480), (480, 270), (960, 540))
SEED = 20261123
IMAGE_SIZE = 320
SCALE = [0.33, 0.125, 256]


@dataclass(frozen=True)
class Round:
    """A stretch of training on images of its own, drawn from the seeds from `first_seed` on."""

    first_seed: int
    epochs: int
    learning_rate: float
    mosaic: float


# Seeds are disjoint from those of the held-out set, and from those below 100,000, which the demo
# and the tests use. The second round refines: new images, smaller steps, no mosaics.
ROUNDS = (Round(1_000_000, 22, 0.002, 0.3), Round(1_010_000, 15, 0.001, 0.0))
HELD_OUT_SEED = 2_000_000


def main() -> None:
    """Generates, trains, evaluates, exports."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--output", type=Path, default=Path("engines/shapes.onnx"))
    options.add_argument("--work", type=Path, default=Path("runs/shapes"))
    options.add_argument("--train", type=int, default=1600, help="training images a round")
    options.add_argument("--test", type=int, default=400, help="held-out images")
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options.add_argument("--weights", type=Path, help="a checkpoint: skip the first round")
    asked = options.parse_args()
    os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")
    work, weights = asked.work.resolve(), asked.weights
    for number, stretch in enumerate(ROUNDS, start=1):
        if number > 1 or asked.weights is None:
            data = write_dataset(work, stretch.first_seed, asked.train, asked.test)
            weights = train(data, work, stretch, weights, asked.threads)
    export(weights, data, asked.output)


def write_dataset(work: Path, first_seed: int, train_images: int, test_images: int) -> Path:
    """Images and labels under `work`/data; returns the YAML that names them."""
    root = work / "data"
    shutil.rmtree(root, ignore_errors=True)
    sets = (("train", first_seed, train_images), ("val", HELD_OUT_SEED, test_images))
    for name, first, count in sets:
        images, labels = root / "images" / name, root / "labels" / name
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for seed in range(first, first + count):
            write_example(seed, images / f"{seed}.png", labels / f"{seed}.txt")
    names = "".join(f"  {i}: {label}\n" for i, label in enumerate(LABELS))
    listing = root / "shapes.yaml"
    listing.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return listing


def write_example(seed: int, image_path: Path, label_path: Path) -> None:
    """One frame of one scene, and its boxes as class, centre and size in 0..1."""
    rng = np.random.default_rng(seed)
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    image, truth = Scene(seed, width, height).frame(int(rng.integers(0, 600)))
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
        _, packed = cv2.imencode(".jpg", image, quality)
        image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    cv2.imwrite(str(image_path), image[:, :, ::-1])
    lines = []
    for item in truth:
        x1, y1, x2, y2 = item.box
        box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(" ".join([str(LABELS.index(item.label)), *(f"{v:.6f}" for v in box)]))
    label_path.write_text("\n".join(lines) + "\n")


def train(data: Path, work: Path, stretch: Round, weights: Path | None, threads: int) -> Path:
    """Trains from `weights`, or random ones; returns the last checkpoint."""
    provide_torchvision_operators()
    # Left alone, ultralytics trains on all cores but one.
    settings: Any = import_module("ultralytics.utils.torch_utils")
    settings.NUM_THREADS = threads
    ultralytics = import_module("ultralytics")
    network = work / "yolo11s.yaml"
    network.write_text(network_yaml(ultralytics))
    model = ultralytics.YOLO(str(weights or network), task="detect")
    model.train(
        data=str(data),
        epochs=stretch.epochs,
        imgsz=IMAGE_SIZE,
        batch=16,
        device="cpu",
        workers=0,
        amp=False,
        val=False,
        plots=False,
        seed=SEED,
        deterministic=True,
        project=str(work),
        name=f"from-{stretch.first_seed}",
        exist_ok=True,
        close_mosaic=stretch.epochs // 4,
        mosaic=stretch.mosaic,
        cache="ram",
        degrees=0.0,
        optimizer="AdamW",
        lr0=stretch.learning_rate,
        cos_lr=True,
    )
    return work / f"from-{stretch.first_seed}" / "weights" / "last.pt"


def network_yaml(ultralytics: Any) -> str:
    """YOLO11 with one scale of our own, `s`, an eighth of full width."""
    yaml = import_module("yaml")
    shipped = Path(ultralytics.__file__).parent / "cfg" / "models" / "11" / "yolo11.yaml"
    network = yaml.safe_load(shipped.read_text())
    network["scales"] = {"s": SCALE}
    network["nc"] = len(LABELS)
    return str(yaml.safe_dump(network))


def export(weights: Path, data: Path, output: Path) -> None:
    """Evaluates `weights` on the held-out set and writes them to `output` as ONNX."""
    ultralytics = import_module("ultralytics")
    model = ultralytics.YOLO(str(weights))
    measured = model.val(
        data=str(data), imgsz=IMAGE_SIZE, device="cpu", workers=0, plots=False, verbose=False
    )
    exported = model.export(
        format="onnx", imgsz=IMAGE_SIZE, dynamic=True, simplify=True, opset=18, device="cpu"
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(exported, output)
    size_mb = output.stat().st_size / 1e6
    print(f"{output}: {size_mb:.2f} MB")
    print(f"held-out mAP50 {measured.box.map50:.4f}, mAP50-95 {measured.box.map:.4f}")


if __name__ == "__main__":
    main()
