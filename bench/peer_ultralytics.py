"""What ultralytics does with the same videos, in an environment of its own; see bench/peers.py.

    python bench/peer_ultralytics.py streams yolov8n.pt 640 20 video.mp4 video.mp4
    python bench/peer_ultralytics.py streams-live yolov8n.pt 0 20 rtsp://... rtsp://...

Prints frames and seconds as JSON, from the first result on. With a size of 0 it picks 640 in the
aspect of the pictures, as it does by default; any other is a square. `streams` is its own predictor
for many sources, `loop` what people write: a capture and a prediction for each camera, in turns.
`live` prints each result instead: the number of the camera, the number painted into the picture,
and the time, in epoch seconds.
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


_SETTLES_S = 5.0


def main(mode: str, weights: str, imgsz: str, seconds: str, *videos: str) -> None:
    """Predicts for so many seconds."""
    define_missing_operators()
    model = import_module("ultralytics").YOLO(weights, task="detect")
    size = {"imgsz": int(imgsz) or 640, "rect": imgsz == "0"}
    options = {**size, "conf": 0.25, "iou": 0.7, "verbose": False, "device": "cpu"}
    way, _, live = mode.partition("-")
    sources = list(videos) if live else [str(Path(video).absolute()) for video in videos]
    if way == "streams":
        # As streamd: all frames of files, the newest of cameras.
        options["stream_buffer"] = not live
    results = {"streams": by_streams, "loop": by_loop}[way](model, sources, options)
    print(json.dumps((seen_live if live else count)(results, float(seconds))), flush=True)
    os._exit(0)  # its reader threads do not end by themselves


def count(results: Iterator[Any], seconds: float) -> dict[str, float]:
    """How many there are in so many seconds from the first one on."""
    next(results)
    frames, began_s = 0, time.monotonic()
    for _ in results:
        frames += 1
        if time.monotonic() - began_s > seconds:
            break
    return {"frames": frames, "seconds": time.monotonic() - began_s}


def seen_live(results: Iterator[Any], seconds: float) -> list[tuple[int, int, float]]:
    """Camera, number in the picture, and time of each result, once they have come for a while."""
    read = import_module("picture_clock").read
    next(results)
    seen, begins_s = [], time.monotonic() + _SETTLES_S
    for camera, result in results:
        now_s = time.monotonic()
        if now_s > begins_s:
            seen.append((camera, read(result.orig_img), time.time()))
        if now_s > begins_s + seconds:
            break
    return seen


def by_streams(model: Any, videos: list[str], options: dict[str, Any]) -> Iterator[Any]:
    """Its multi-source predictor, whose results are those of all sources in turns."""
    with tempfile.NamedTemporaryFile("w", suffix=".streams", delete=False) as file:
        file.write("\n".join(videos))
    yield from zip(cycle(range(len(videos))), model.predict(file.name, stream=True, **options))


def by_loop(model: Any, videos: list[str], options: dict[str, Any]) -> Iterator[Any]:
    """One frame of each camera after the other."""
    import cv2  # noqa: PLC0415  # of that environment

    captures = [cv2.VideoCapture(video) for video in videos]
    for number in cycle(range(len(captures))):
        found, frame = captures[number].read()
        if not found:
            captures[number] = cv2.VideoCapture(videos[number])
            continue
        yield number, model.predict(frame, **options)[0]


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
