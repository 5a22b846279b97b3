"""How old a result is at half load, and where the time goes.

    python -m bench.latency --model yolov8n.onnx

What a frame costs is measured first, decoding, scaling and the engine each alone. Then so many
simulated 720p cameras are sent by RTSP, 15 frames a second of which 5 are inferred, that they ask
for half of the cores. Age is from the arrival of a frame's last packet to the entry in Redis, which
may wait 20 ms for a fuller batch. Printed: median and 99th percentile of the age and of each part
of it, and the 99th percentile as a share of what is allowed: the wait and 2.5 inferences. Parts and
daemon take turns; medians of the rounds.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np

from bench.daemon import engine_alone
from bench.limit import read_on_all_cores
from bench.live import events_of, live_daemon
from streamd.config import ModelConfig
from streamd.demo.clips import write_clip
from streamd.engines.model_file import inspect_model
from streamd.events import Event
from streamd.ingest.letterbox import Letterbox
from streamd.linux.cores import available_cores
from streamd.scenes import Scene
from streamd.testing.redis_server import RedisServer

_SIZE = 1280, 720
_FPS = 5
_SENT_FPS = 15
_CLIP_S = 10.0
_MAX_WAIT_MS = 20
_SETTLES_S = 5.0
_PARTS = ("age", "decode and scale", "wait", "infer", "postprocess and queues", "publish")


def main() -> None:
    """Measures and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", required=True)
    options.add_argument("--seconds", type=float, default=20.0, help="of each round")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    asked = options.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    config = ModelConfig(path=asked.model)
    shape = Letterbox.best(*_SIZE, inspect_model(config.path, config.imgsz).shapes).shape
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
        clip = write_clip(Path(folder) / "camera.mp4", Scene(1, *_SIZE, fps=_SENT_FPS), _CLIP_S)
        for _ in range(asked.rounds):
            decode_s, scale_s = read_on_all_cores(clip.path, shape)
            frame_s = scale_s + engine_alone(config).cpu_ms / 1000
            a_camera = _SENT_FPS * decode_s + _FPS * frame_s
            cameras = max(1, round(available_cores() / 2 / a_camera))
            found["cameras"].append(cameras)
            model = {"path": asked.model, "max_wait_ms": _MAX_WAIT_MS}
            with (
                RedisServer() as server,
                live_daemon(clip.path, cameras, {"fps": _FPS}, server, model=model),
            ):
                events_of(server, _SETTLES_S)
                seen = events_of(server, asked.seconds)
            parts = np.array([_parts(*one) for one in seen])
            found["events/s"].append(len(seen) / asked.seconds)
            for part, values in zip(_PARTS, parts.T, strict=True):
                for share in (50, 99):
                    found[f"{part}, p{share}"].append(float(np.percentile(values, share)))
            allowed_ms = _MAX_WAIT_MS + 2.5 * found["infer, p50"][-1]
            found["age, p99, of what is allowed"].append(found["age, p99"][-1] / allowed_ms)
    medians = {name: median(values) for name, values in found.items()}
    if asked.json:
        print(json.dumps(medians))
        return
    print(f"{medians['cameras']:.0f} cameras, {medians['events/s']:.1f} events/s\n")
    print("| ms | p50 | p99 |\n|---|---|---|")
    for part in _PARTS:
        print(f"| {part} | {medians[f'{part}, p50']:.1f} | {medians[f'{part}, p99']:.1f} |")
    print(f"\np99 of what is allowed: {medians['age, p99, of what is allowed']:.2f}")


def _parts(written_ms: int, event: Event) -> tuple[float, ...]:
    """The age of one event and its parts, in the order of _PARTS, in milliseconds."""
    spent = event.data.latency_ms
    age_ms = float(written_ms - event.ts)
    known_ms = spent.decode + spent.wait + spent.infer
    return (
        age_ms,
        spent.decode,
        spent.wait,
        spent.infer,
        spent.total - known_ms,
        max(0.0, age_ms - spent.total),
    )


if __name__ == "__main__":
    main()
