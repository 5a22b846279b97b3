"""An inference worker: collect a batch, infer, postprocess, publish.

main thread     doorbell -> lineup -> collect_batch -> a free runner     (collector.py)
runner threads  slots -> engine input -> infer -> NMS -> turnstile       (collector.py)
results thread  turnstile -> stages -> event -> publisher (results.py)
"""

import queue
import threading
import time
from functools import partial
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from streamd.collector import Collector, Order
from streamd.config import CameraConfig
from streamd.engine_loader import LoadedEngine, load_engine
from streamd.engines import Engine, Runner, runner_count
from streamd.errors import EngineError
from streamd.logs import get_logger
from streamd.memory import Doorbell
from streamd.messages import EngineReport, LetCameraGo, TakeCameraToo, ToWorker
from streamd.results import Outlet, Results
from streamd.slots import InputShape
from streamd.specs import InferenceSpec
from streamd.worker import SupervisorLink, run_worker


def inference_main(spec: InferenceSpec, connection: Connection) -> None:
    """The process' entry."""
    run_worker(spec.identity, connection, partial(_infer, spec))


def _infer(spec: InferenceSpec, link: SupervisorLink) -> None:
    stop = threading.Event()
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()

    def serve() -> None:
        # Pings are answered from the start: a large engine takes long to load.
        link.serve({}, lambda message: _order(orders, message, spec.ready))
        stop.set()
        spec.ready.ring()

    threading.Thread(target=serve, name="link", daemon=True).start()
    began = time.monotonic()
    log = get_logger(worker=spec.identity.name)
    loaded = load_engine(
        spec.model, spec.model_config, lambda step: log.info("engine_build", step=step)
    )
    engine = loaded.engine
    try:
        engine.adopt(spec.pool.images)
    except EngineError as error:
        log.warning("slots_not_pinned", reason=str(error), effect="loading costs more CPU")
    runners = engine.runners(runner_count(spec.model_config, engine.spec))
    _warm_up(engine, runners)
    results = Results(
        worker=spec.number,
        cameras=spec.cameras,
        make_outlet=partial(_outlet, spec),
        redis=spec.redis,
        ledger=spec.ledger,
        link=link,
        room=2 * len(runners),
    )
    results.start()
    collector = Collector(spec, engine, runners, results, stop, orders)
    link.send(_report(loaded, time.monotonic() - began))
    batches = collector.run()
    results.close(batches)


def _warm_up(engine: Engine, runners: list[Runner]) -> None:
    for shape in engine.spec.shapes:
        image = _blank(shape)
        for runner in runners:
            for size in engine.spec.ladder:
                runner.load([image] * size)
                runner.run()


def _blank(shape: InputShape) -> NDArray[np.uint8]:
    return np.full((shape.height, shape.width, 3), 114, np.uint8)


def _outlet(spec: InferenceSpec, camera: CameraConfig) -> Outlet:
    return Outlet(
        camera,
        model=spec.model.name,
        publish=spec.publish,
        stream=spec.redis.stream,
        ledger=spec.ledger,
    )


def _order(orders: "queue.SimpleQueue[Order]", message: ToWorker, bell: Doorbell) -> None:
    """Passes an order on; it is followed between two batches, once there is an engine."""
    if not isinstance(message, TakeCameraToo | LetCameraGo):
        raise TypeError(f"{type(message).__name__} is not for an inference worker")
    orders.put(message)
    bell.ring()


def _report(loaded: LoadedEngine, load_s: float) -> EngineReport:
    spec = loaded.engine.spec
    return EngineReport(
        backend=spec.backend,
        why=loaded.why,
        device=spec.device,
        precision=spec.precision,
        shapes=tuple(str(shape) for shape in spec.shapes),
        ladder=spec.ladder,
        cached=loaded.cached,
        agreement=loaded.proof["agreement"],
        load_s=round(load_s, 2),
    )
