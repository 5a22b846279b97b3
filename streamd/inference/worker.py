"""An inference worker: collect a batch, infer, postprocess, publish.

main thread     doorbell -> lineup -> collect_batch -> a free runner     (collector.py)
runner threads  slots -> engine input -> infer -> NMS -> turnstile       (model_instance.py)
results thread  turnstile -> stages -> event -> publisher (results.py)
loader thread   another model, warmed up beside the one in use; ends     (NextModel)
"""

import queue
import threading
import time
from functools import partial
from multiprocessing.connection import Connection

from streamd.config import CameraConfig
from streamd.errors import EngineError, StreamdError
from streamd.inference.collector import Collector, Order
from streamd.inference.model_instance import ModelInstance, load_instance
from streamd.inference.pulse import Pulse
from streamd.inference.results import Outlet, Results
from streamd.logs import get_logger
from streamd.processes.child import children
from streamd.processes.messages import (
    EngineReport,
    LetCameraGo,
    ModelRefused,
    TakeCameraToo,
    ToWorker,
    UseModel,
)
from streamd.processes.specs import InferenceSpec
from streamd.processes.worker import SupervisorLink, run_worker

# Batches that may wait for an earlier one, at least: another model may have more runners.
_ROOM = 16


def run_inference(spec: InferenceSpec, connection: Connection) -> None:
    """The whole of the process."""
    run_worker(spec.identity, connection, partial(_infer, spec))


def _infer(spec: InferenceSpec, link: SupervisorLink) -> None:
    stop = threading.Event()
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    successor = NextModel(spec, link, orders)
    pulse, log = Pulse(), get_logger(worker=spec.identity.name)

    def is_well() -> bool:
        hangs = pulse.hangs()
        if hangs:
            log.error("inference_hangs", effect="the worker will be ended and started again")
        return not hangs

    def serve() -> None:
        # Pings are answered from the start: a large engine takes long to load.
        link.serve({}, lambda message: _order(spec, orders, successor, message), is_well)
        stop.set()
        children.end()  # an engine that is still being built
        spec.ready.ring()

    began = time.monotonic()
    # What is asked for before there is a model waits for it.
    threading.Thread(target=serve, name="link", daemon=True).start()
    try:
        model = load_instance(
            spec.model,
            spec.model_config,
            spec.pool,
            lambda step: log.info("engine_build", step=step),
        )
    except EngineError:
        if children.ended:
            return
        raise
    results = results_for(spec, link, model.runners)
    results.start()
    collector = Collector(spec, model, results, stop, orders, pulse)
    link.send(_report(model, time.monotonic() - began))
    successor.first_is_ready()
    collector.run()
    results.close()


def results_for(spec: InferenceSpec, link: SupervisorLink, runners: int) -> Results:
    """The way out of a worker whose model has so many runners."""
    return Results(
        worker=spec.number,
        cameras=spec.cameras,
        make_outlet=partial(_outlet, spec),
        redis=spec.redis,
        ledger=spec.ledger,
        link=link,
        room=max(_ROOM, 2 * runners),
    )


class NextModel:
    """Loads another model on a thread of its own, then has the collector use it.

    One at a time: of those asked for meanwhile, the last is loaded next.
    """

    def __init__(
        self, spec: InferenceSpec, link: SupervisorLink, orders: "queue.SimpleQueue[Order]"
    ) -> None:
        self._spec = spec
        self._link = link
        self._orders = orders
        self._changed = threading.Condition()
        self._wanted: UseModel | None = None
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
        self._log = get_logger(worker=spec.identity.name)

    def want(self, order: UseModel) -> None:
        """Asks for a model."""
        with self._changed:
            self._wanted = order
            self._changed.notify()

    def first_is_ready(self) -> None:
        """Begins to load what is asked for."""
        self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted is not None)
                order, self._wanted = self._wanted, None
            if order is not None:
                self._load(order)

    def _load(self, order: UseModel) -> None:
        began = time.monotonic()
        try:
            model = load_instance(
                order.model,
                order.config,
                self._spec.pool,
                lambda step: self._log.info("engine_build", step=step),
            )
        except StreamdError as error:
            if children.ended:
                return
            self._link.send(ModelRefused(order.number, str(error)))
            return
        report = _report(model, time.monotonic() - began, order.number)
        self._orders.put(model)
        self._spec.ready.ring()
        self._link.send(report)


def _outlet(spec: InferenceSpec, camera: CameraConfig) -> Outlet:
    stream = spec.redis.stream_of(camera.id)
    return Outlet(camera, publish=spec.publish, stream=stream, ledger=spec.ledger)


def _order(
    spec: InferenceSpec,
    orders: "queue.SimpleQueue[Order]",
    successor: NextModel,
    message: ToWorker,
) -> None:
    """Passes an order on; it is followed between two batches, once there is an engine."""
    match message:
        case UseModel():
            successor.want(message)
        case TakeCameraToo() | LetCameraGo():
            orders.put(message)
            spec.ready.ring()
        case _:
            raise TypeError(f"{type(message).__name__} is not for an inference worker")


def _report(model: ModelInstance, load_s: float, swap: int = 0) -> EngineReport:
    loaded = model.loaded
    spec = loaded.engine.spec
    return EngineReport(
        model=model.model.path,
        backend=spec.backend,
        why=loaded.why,
        device=spec.device,
        precision=spec.precision,
        shapes=tuple(str(shape) for shape in spec.shapes),
        ladder=spec.ladder,
        cached=loaded.cached,
        agreement=loaded.proof["agreement"],
        load_s=round(load_s, 2),
        swap=swap,
    )
