"""How long a start takes: from `streamd run` to ready, and to the first event.

    python -m bench.start --model yolov8n.onnx

The engine is in the cache. One file as a camera, a Redis that runs. `engine` is what loading and
warming the engine took by its own account; what the rest took is `ready` without it.
"""

import argparse
import json
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

from bench.full_speed import looped
from streamd.config import RedisConfig
from streamd.demo.clips import write_clip
from streamd.redis_client import connect
from streamd.scenes import Scene
from streamd.testing.daemon_run import DaemonRun, write_settings
from streamd.testing.redis_server import RedisServer

_STREAM = "streamd:detections"
_READY_WITHIN_S = 600.0
_EVENT_WITHIN_S = 30.0


def main() -> None:
    """Measures and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", required=True)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    asked = options.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as name, RedisServer() as server:
        folder = Path(name)
        clip = write_clip(folder / "camera.mp4", Scene(1, 1280, 720, fps=10), 4.0).path
        path = write_settings(folder, looped([clip], {"path": asked.model}, server.url))
        for _ in range(asked.rounds + 1):
            rounds.append(_start(path, server))
    rounds = rounds[1:]  # the first may have built the engine
    found = {key: median(one[key] for one in rounds) for key in rounds[0]}
    if asked.json:
        print(json.dumps(found))
        return
    print("| from `streamd run` to | s |\n|---|---|")
    for key, value in found.items():
        print(f"| {key} | {value:.2f} |")


def _start(path: Path, server: RedisServer) -> dict[str, float]:
    with closing(connect(RedisConfig(url=server.url))) as client:
        client.delete(_STREAM)
        began_s = time.time()
        with closing(DaemonRun(path)) as daemon:
            daemon.wait_for_log("ready", _READY_WITHIN_S)
            ready_s = time.time() - began_s
            daemon.wait_until(lambda: client.exists(_STREAM), _EVENT_WITHIN_S, "publish")
            (key, _), *_ = client.xrange(_STREAM, count=1)
            engine_s = float(daemon.wait_for_log("engine_ready")["load_s"])
    return {
        "ready": ready_s,
        "the first event": int(key.split("-")[0]) / 1000 - began_s,
        "ready, without loading and warming the engine": ready_s - engine_s,
    }


if __name__ == "__main__":
    main()
