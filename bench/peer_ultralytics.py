"""What ultralytics does with the same videos, in an environment of its own; see bench/peers.py.

    python bench/peer_ultralytics.py streams yolov8n.pt 640 20 video.mp4 video.mp4

Prints frames and seconds as JSON, from the first result on. With a size of 0 it picks 640 in the
aspect of the pictures, as it does by default; any other is a square. `streams` is its own predictor
for many sources, `loop` what people write: a capture and a prediction for each camera, in turns.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

os.environ |= {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}


def main(mode: str, weights: str, imgsz: str, seconds: str, *videos: str) -> None:
    """Predicts for so many seconds."""
    define_missing_operators()
    model = import_module("ultralytics").YOLO(weights, task="detect")
    size = {"imgsz": int(imgsz) or 640, "rect": imgsz == "0"}
    options = {**size, "conf": 0.25, "iou": 0.7, "verbose": False, "device": "cpu"}
    paths = [str(Path(video).absolute()) for video in videos]
    results = {"streams": by_streams, "loop": by_loop}[mode](model, paths, options)
    next(results)
    frames, began_s = 0, time.monotonic()
    for _ in results:
        frames += 1
        if time.monotonic() - began_s > float(seconds):
            break
    print(json.dumps({"frames": frames, "seconds": time.monotonic() - began_s}), flush=True)
    os._exit(0)  # its reader threads do not end by themselves


def by_streams(model: Any, videos: list[str], options: dict[str, Any]) -> Iterator[Any]:
    """Its multi-source predictor; `stream_buffer` keeps every frame, as streamd does of files."""
    with tempfile.NamedTemporaryFile("w", suffix=".streams", delete=False) as file:
        file.write("\n".join(videos))
    yield from model.predict(file.name, stream=True, stream_buffer=True, **options)


def by_loop(model: Any, videos: list[str], options: dict[str, Any]) -> Iterator[Any]:
    """One frame of each camera after the other."""
    import cv2  # noqa: PLC0415  # of that environment

    captures = [cv2.VideoCapture(video) for video in videos]
    for number in cycle(range(len(captures))):
        found, frame = captures[number].read()
        if not found:
            captures[number] = cv2.VideoCapture(videos[number])
            continue
        yield model.predict(frame, **options)


def define_missing_operators() -> None:
    """A torchvision that does not fit its torch lacks its operators, and cannot be imported.

    Then ultralytics' own suppression in PyTorch takes the place of the one that it calls.
    """
    torch = import_module("torch")
    try:
        import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_module("torchvision")
        vars(import_module("torchvision.extension"))["_has_ops"] = lambda: True
        library.impl("nms", import_module("ultralytics.utils.nms").TorchNMS.nms, "CPU")
        globals()["_kept"] = library


if __name__ == "__main__":
    main(*sys.argv[1:])
