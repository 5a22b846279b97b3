"""What Python can move: cameras that cost nothing, and an engine that answers at once.

    python -m bench.overhead

Two processes, as in the daemon. One has a thread for each camera, whose frames are there at once
(eight rows of a grey picture, so that scaling and copying cost nothing either) and wait for a slot
like those of a file. The other is an inference worker with all that belongs to it, but for the
engine: its 20 objects a frame in a 640x640 input are always the same. Their events go into a real
Redis. Printed by the number of cameras: frames a second, and the CPU time that a frame takes in
either process (medians of the rounds).
"""

import argparse
import json
import math
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from statistics import median

import av
import numpy as np
import psutil
from numpy.typing import NDArray

from streamd.config import CameraConfig, LogConfig, ModelConfig, Publish, RedisConfig
from streamd.engines import EngineSpec, ModelInfo, Runner
from streamd.engines.contract import CANDIDATES, batch_ladder
from streamd.inference.collector import Collector, Order
from streamd.inference.model_instance import ModelInstance
from streamd.inference.pulse import Pulse
from streamd.inference.worker import results_for
from streamd.ingest.decoder import DecodedFrame
from streamd.ingest.letterbox import Letterbox
from streamd.ingest.slot_writer import Capture, SlotRing, SlotWriter
from streamd.ingest.space import Space, Waiters
from streamd.ledger import Ledger
from streamd.linux.memory import Doorbell
from streamd.linux.prctl import die_with_parent
from streamd.models.engine_loader import LoadedEngine
from streamd.processes.specs import InferenceSpec, ReadCamera, WorkerIdentity
from streamd.processes.worker import SupervisorLink, run_worker
from streamd.slots import InputShape, SlotPool, TsSource, lay_out_rings
from streamd.testing.redis_server import RedisServer

_SHAPE = InputShape(640, 640)
_OBJECTS = 20
_BATCH = 8
_FPS = 25
_WARMS_UP_S = 2.0
_MODEL = ModelInfo(
    path="instant.onnx",
    name="instant",
    labels=tuple(f"kind-{number}" for number in range(80)),
    stride=32,
    shape=_SHAPE,
    dynamic=False,
    end_to_end=False,
)


def main() -> None:
    """Measures and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cameras", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    options.add_argument("--seconds", type=float, default=6.0, help="of each number in a round")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    asked = options.parse_args()
    found: dict[int, list[Moved]] = {count: [] for count in asked.cameras}
    for _ in range(asked.rounds):
        for count, seen in found.items():
            with RedisServer() as server:
                seen.append(_measure(count, server.url, asked.seconds))
    rows = {
        count: [median(values) for values in zip(*seen, strict=True)]
        for count, seen in found.items()
    }
    if asked.json:
        print(json.dumps(rows))
        return
    print("| cameras | frames/s | inference worker, us a frame | cameras' process, us a frame |")
    print("|---|---|---|---|")
    for count, (fps, inference_us, cameras_us) in rows.items():
        print(f"| {count} | {fps:.0f} | {inference_us:.0f} | {cameras_us:.0f} |")


Moved = tuple[float, float, float]


def _measure(count: int, redis_url: str, seconds: float) -> Moved:
    """Frames a second, and CPU microseconds a frame of the inference worker and of the cameras."""
    each = max(4, math.ceil(2 * _BATCH / count) + 1)  # as supervision/layout.py has it for files
    pool, ledger = SlotPool(each * count, _SHAPE), Ledger(count, 1)
    ready, space = Doorbell(), Doorbell()
    spec = InferenceSpec(
        identity=WorkerIdentity("inference-0", os.getpid(), LogConfig()),
        number=0,
        cameras=tuple(
            ReadCamera(CameraConfig(id=f"c{index}", url="none.mp4"), index, ring, space=0)
            for index, ring in enumerate(lay_out_rings([each] * count))
        ),
        model=_MODEL,
        model_config=ModelConfig(batch_size=_BATCH),
        redis=RedisConfig(url=redis_url, spool={"path": None}),
        publish=Publish.ALL,
        pool=pool,
        ledger=ledger,
        ready=ready,
        spaces=(space,),
    )
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    processes = [
        context.Process(target=_inference_main, args=(spec, theirs), daemon=True),
        context.Process(target=_cameras_main, args=(spec,), daemon=True),
    ]
    for process in processes:
        process.start()
    try:
        while not ledger.get(count - 1, "inferred_event"):
            time.sleep(0.05)
        time.sleep(_WARMS_UP_S)
        watched = [psutil.Process(process.pid) for process in processes]
        began_s, before, spent_s = time.monotonic(), _inferred(ledger), _cpu_s(watched)
        time.sleep(seconds)
        frames, took_s = _inferred(ledger) - before, time.monotonic() - began_s
        used_s = [now - then for now, then in zip(_cpu_s(watched), spent_s, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.join()
        ours.close()
    return frames / took_s, 1e6 * used_s[0] / frames, 1e6 * used_s[1] / frames


def _inferred(ledger: Ledger) -> int:
    return sum(ledger.inferred(camera) for camera in range(ledger.cameras))


def _cpu_s(processes: Sequence[psutil.Process]) -> list[float]:
    return [sum(process.cpu_times()[:2]) for process in processes]


class _InstantEngine:
    """Answers with the same objects to whatever it is asked; also its own runner."""

    def __init__(self) -> None:
        self.spec = EngineSpec("none", "none", "none", (_SHAPE,), batch_ladder(_BATCH), streams=2)
        self._count = 0
        self._candidates = np.zeros((_BATCH, CANDIDATES, 6), np.float32)
        for number in range(_OBJECTS):
            x, y = 100.0 * (number % 5) + 20, 100.0 * (number // 5) + 120
            score = 0.95 - number / 100
            self._candidates[:, number] = (x, y, x + 60, y + 90, score, number)

    def adopt(self, memory: NDArray[np.uint8]) -> None:
        """See Engine."""

    def close(self) -> None:
        """See Engine."""

    def runners(self, count: int) -> list[Runner]:
        """See Engine."""
        return [_InstantEngine() for _ in range(count)]

    def load(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """See Runner."""
        self._count = len(images)

    def run(self) -> NDArray[np.float32]:
        """See Runner."""
        return self._candidates[: self._count]


def _inference_main(spec: InferenceSpec, connection: Connection) -> None:
    run_worker(spec.identity, connection, partial(_infer, spec))


def _infer(spec: InferenceSpec, link: SupervisorLink) -> None:
    """As in streamd/inference/worker.py, with the other engine."""
    loaded = LoadedEngine(_InstantEngine(), "", cached=True, proof={})
    model = ModelInstance(_MODEL, spec.model_config, loaded, spec.pool)
    results = results_for(spec, link, model.runners)
    results.start()
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    Collector(spec, model, results, threading.Event(), orders, Pulse()).run()


class _Nothing:
    """Scaling that costs nothing."""

    def scale(self, _frame: av.VideoFrame, box: Letterbox) -> NDArray[np.uint8]:
        """See Scaler."""
        return np.broadcast_to(np.uint8(114), (box.inner_height, box.inner_width, 3))


def _cameras_main(spec: InferenceSpec) -> None:
    die_with_parent()
    waiters = Waiters(spec.pool)
    for camera in spec.cameras:
        space = waiters.join(camera.ring)
        threading.Thread(target=_film, args=(spec, camera, space), daemon=True).start()
    while spec.spaces[0].wait(None):
        waiters.released()


def _film(spec: InferenceSpec, camera: ReadCamera, space: Space) -> None:
    writer = SlotWriter(
        camera=camera.index,
        session=0,
        slots=SlotRing(spec.pool, camera.ring, (_SHAPE,), spec.ready.ring, space),
        ledger=spec.ledger,
        scaler=_Nothing(),
        fps=None,
    )
    image, seq = av.VideoFrame(640, 8, "gray"), 0
    while True:
        now_ns = time.monotonic_ns()
        frame = DecodedFrame(image, seq / _FPS, time.time_ns(), now_ns)
        writer.write(
            frame, Capture(seq / _FPS, frame.arrival_wall_ns, now_ns, TsSource.PTS, True), 0
        )
        seq += 1


if __name__ == "__main__":
    main()
