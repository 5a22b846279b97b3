"""The daemon beside ultralytics, on the same videos with the same weights.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install ultralytics openvino
    python -m bench.peers --peer-python /tmp/peers/bin/python --video street.mp4 \\
        --model yolov8n.onnx --weights yolov8n.pt --weights "batch{batch}_openvino_model"

Sources are copies of one video, read as fast as they can be, over and over; frames are counted for
some seconds once the first result is there. In each round all take turns. `streams` is ultralytics'
predictor for many sources (every frame kept), `loop` a capture and a prediction for each camera in
turns, each with every one of the `--weights`. Without `--imgsz` each picks its own input shape:
an export of ultralytics has the one shape, square, and the one batch size that it was made with,
unless it was made `dynamic`. `{batch}` in the name of the weights is the size that is needed.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from bench.full_speed import fps_of, looped
from streamd.demo.clips import write_images
from streamd.testing.redis_server import RedisServer

# OpenCV would look at each camera for five seconds before it opens the next one.
_PEER_ENVIRONMENT = {
    "PYTHONPATH": "",
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": "rtsp_transport;tcp|analyzeduration;200000",
}
WIDE = 768, 432
Picture = NDArray[np.uint8]
_SCRIPT = Path(__file__).with_name("peer_ultralytics.py")


def main() -> None:
    """Measures and prints one table."""
    options = peer_options(__doc__)
    options.add_argument("--sources", type=int, nargs="+", default=[1, 4, 16, 32])
    options.add_argument("--seconds", type=float, default=15.0)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--wide", action="store_true", help="cut the video to 16:9, 768x432")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
        if asked.wide:
            asked.video = _cut(asked.video, Path(folder) / "wide.mp4")
        _report(asked)


def _report(asked: argparse.Namespace) -> None:
    print("| sources | who | frames/s | streamd's ratio: median (least to most) |")
    print("|---|---|---|---|")
    for count in asked.sources:
        rates = compare(asked, count)
        ours = rates["streamd"]
        for who, theirs in rates.items():
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            print(
                f"| {count} | {who} | {median(theirs):.1f} | {median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f}) |",
                flush=True,
            )


def compare(asked: argparse.Namespace, count: int) -> dict[str, list[float]]:
    """Frames a second of each, round by round."""
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(asked.rounds):
        rates["streamd"].append(daemon_fps(asked, count))
        for weights in asked.weights:
            for mode in ("streams", "loop"):
                rates[f"ultralytics {mode}, {Path(weights).name}"].append(
                    peer_fps(asked, mode, weights, count)
                )
    return rates


def peer_options(about: str) -> argparse.ArgumentParser:
    """What every comparison with ultralytics asks for."""
    options = argparse.ArgumentParser(description=about.splitlines()[0])
    options.add_argument("--peer-python", required=True, help="of an environment with ultralytics")
    options.add_argument("--model", required=True, help="for streamd")
    options.add_argument("--weights", action="append", required=True, help="for ultralytics")
    options.add_argument("--video", type=Path, required=True)
    options.add_argument("--imgsz", type=int, default=0, help="N for N x N everywhere")
    return options


def peer_fps(asked: argparse.Namespace, mode: str, weights: str, count: int) -> float:
    """Frames a second of one run of ultralytics."""
    # The predictor for many sources ends with its videos: it gets them often enough.
    found = peer_output(asked, mode, weights, [str(asked.video)] * count)
    return float(found["frames"]) / float(found["seconds"])


def peer_output(asked: argparse.Namespace, mode: str, weights: str, sources: Sequence[str]) -> Any:
    """What a run of ultralytics prints. Without a size it takes 640, as it does by default."""
    batch = len(sources) if mode.startswith("streams") else 1
    weights = weights.replace("{batch}", str(batch))
    done = subprocess.run(
        [
            *(asked.peer_python, str(_SCRIPT), mode, weights, str(asked.imgsz)),
            *(str(asked.seconds), *sources),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | _PEER_ENVIRONMENT,
    )
    if done.returncode:
        why = (done.stderr.strip() or "failed").splitlines()[-1]
        raise SystemExit(f"ultralytics {mode}: {why}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def wide_pictures(video: Path) -> tuple[list[Picture], float]:
    """The middle of `video` as (432, 768, 3) uint8 RGB, and its frames a second."""
    with av.open(str(video)) as source:
        frames = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
        fps = float(source.streams.video[0].average_rate or 25)
    height, width, _ = frames[0].shape
    cut = width * 9 // 16
    top = (height - cut) // 2
    cuts = (cv2.resize(image[top : top + cut], WIDE) for image in frames)
    return [np.asarray(image, np.uint8) for image in cuts], fps


def _cut(video: Path, wide: Path) -> Path:
    pictures, fps = wide_pictures(video)
    write_images(wide, pictures, WIDE, fps)
    return wide


def daemon_fps(asked: argparse.Namespace, count: int) -> float:
    """One run of the daemon, all as it comes but for the sources."""
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder, RedisServer() as server:
        model = {"path": asked.model, "imgsz": asked.imgsz or "auto"}
        settings = looped([asked.video.absolute()] * count, model, server.url)
        return fps_of(Path(folder), settings, asked.seconds)


if __name__ == "__main__":
    main()
