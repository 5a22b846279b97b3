"""What the motion gate saves, and what it costs in recall.

    python -m bench.motion --model yolov8n.onnx --video pedestrians.mp4

Recall: the video, and a scene made from it that stands still for 20 s, moves for 3 s, and so on,
without and with the noise of a camera; each is read by two cameras, one with `motion: auto`. Of the
objects that the other one has, how many does it have in the same frame: same label, IoU of 0.5 or
more? Noise alone makes a model lose and find objects at the edge of its confidence: for scale, how
many of those in still frames does the camera without the gate have a second before?
Cost: four cameras on a picture that never moves, at full speed with and without the gate, in turns;
the ratio of their rates is that of what a frame costs.
"""

import argparse
import json
import tempfile
from contextlib import closing
from pathlib import Path
from statistics import median

import av
import numpy as np

from bench.full_speed import fps_of, looped
from streamd.demo.clips import write_images
from streamd.detections import overlap
from streamd.events import Event
from streamd.testing.daemon_process import Daemon
from streamd.testing.redis_server import RedisServer

_FPS = 10
_STILL, _MOVING, _TURNS = 20 * _FPS, 3 * _FPS, 4
_NOISE_LEVELS = 2.0
_WITHIN_S = 1800.0


def main() -> None:
    """Measures and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", required=True)
    options.add_argument("--video", required=True, type=Path)
    options.add_argument("--seconds", type=float, default=12.0, help="of each run at full speed")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as name, RedisServer() as server:
        folder = Path(name)
        images = _images(asked.video)
        rare, noisy, still = (folder / f"{name}.mp4" for name in ("rare", "noisy", "still"))
        size = images[0].shape[1], images[0].shape[0]
        write_images(rare, _rarely_moving(images), size, _FPS)
        write_images(noisy, _with_noise(_rarely_moving(images)), size, _FPS)
        write_images(still, _with_noise([images[0]] * _STILL), size, _FPS)
        found: dict[str, float] = {}
        for label, video in (
            ("video", asked.video.resolve()),
            ("rare motion", rare),
            ("rare motion, noise", noisy),
        ):
            figures = _compare(folder, asked.model, video, server)
            found |= {f"{figure}, {label}": value for figure, value in figures.items()}
        found["cost of a still frame"] = _cost(folder, asked, still, server)
    if asked.json:
        print(json.dumps(found))
        return
    print("| figure | value |\n|---|---|")
    for figure, value in found.items():
        print(f"| {figure} | {value:.3f} |")


def _compare(folder: Path, model: str, video: Path, server: RedisServer) -> dict[str, float]:
    """How a gated camera does against one that is not."""
    settings = (
        f"model: {{path: {model}}}\npublish: all\ncameras:\n"
        f"  - {{id: all-{video.stem}, url: {video}}}\n"
        f"  - {{id: gated-{video.stem}, url: {video}, motion: auto}}\n"
    )
    with closing(Daemon(folder / "recall.yaml", settings, server, ("--until-done",))) as daemon:
        if daemon.wait(_WITHIN_S) != 0:
            raise SystemExit(f"{video}: the daemon failed")
        every, gated = (daemon.events(f"{kind}-{video.stem}") for kind in ("all", "gated"))
    figures = {
        "still frames": sum(event.data.still for event in gated) / len(gated),
        "recall": _recall(list(zip(every, gated, strict=True))),
    }
    at_rest = [
        (every[number], every[number - _FPS])
        for number in range(_FPS, len(every))
        if gated[number].data.still and gated[number - _FPS].data.still
    ]
    if at_rest:
        figures["recall of the second before, without the gate"] = _recall(at_rest)
    return figures


def _recall(pairs: list[tuple[Event, Event]]) -> float:
    """The share of the objects of the first events that the second ones have."""
    return sum(_found(one, other) for one, other in pairs) / sum(one.n for one, _ in pairs)


def _found(every: Event, gated: Event) -> int:
    return sum(
        any(
            own.label == wanted.label and overlap(own.box, wanted.box) >= 0.5
            for own in gated.data.objects
        )
        for wanted in every.data.objects
    )


def _cost(folder: Path, asked: argparse.Namespace, still: Path, server: RedisServer) -> float:
    """A still frame's cost with the gate, as a share of that without; median of the rounds."""
    shares = []
    for _ in range(asked.rounds):
        rates = []
        for motion in ("off", "auto"):
            settings = looped([still] * 4, {"path": asked.model}, server.url)
            settings["publish"] = "detections"
            for camera in settings["cameras"]:
                camera["motion"] = motion
            rates.append(fps_of(folder, settings, asked.seconds))
        shares.append(rates[0] / rates[1])
    return median(shares)


def _images(video: Path) -> list[np.ndarray]:
    """All frames of `video` as (height, width, 3) uint8 RGB."""
    with av.open(str(video)) as source:
        return [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]


def _rarely_moving(images: list[np.ndarray]) -> list[np.ndarray]:
    frames: list[np.ndarray] = []
    for turn in range(_TURNS):
        moving = images[turn * _MOVING : (turn + 1) * _MOVING]
        frames += [moving[0]] * _STILL + moving
    return frames


def _with_noise(images: list[np.ndarray]) -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    return [
        (image + noise.normal(0, _NOISE_LEVELS, image.shape)).clip(0, 255).astype(np.uint8)
        for image in images
    ]


if __name__ == "__main__":
    main()
