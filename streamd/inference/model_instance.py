"""A model that is ready to infer: its engine, the threads that run it, its thresholds.

Whatever belongs to a model is here, so that another can be warmed up beside it and take its place.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamd.config import ModelConfig
from streamd.engines import ModelInfo, Runner, runner_count
from streamd.engines.contract import rung
from streamd.errors import EngineError
from streamd.events import InferredFrame
from streamd.inference.batch import ReadyFrame
from streamd.inference.overload import LatencyTarget
from streamd.inference.pulse import Pulse
from streamd.inference.results import BatchResult
from streamd.logs import get_logger
from streamd.models.engine_loader import LoadedEngine, load_engine
from streamd.postprocess import Detector
from streamd.slots import InputShape, SlotPool

_PAYS = 2.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames on their way through a runner. `taken_ns` is monotonic.

    `classes` has the labels to report of each frame, None for all.
    """

    number: int
    frames: tuple[ReadyFrame, ...]
    classes: tuple[tuple[str, ...] | None, ...]
    taken_ns: int


@dataclass(frozen=True, slots=True)
class Desk:
    """What a batch passes on its way, called on the thread of its runner.

    `loaded`: its slots are not needed any more. `inferred`: here is its result. `free`: the runner
    may have the next one. `pulse` knows of each batch that is running.
    """

    loaded: Callable[[Batch], None]
    inferred: Callable[[int, BatchResult], None]
    free: Callable[[], None]
    pulse: Pulse


class ModelInstance:
    """A loaded model and its runners; `start` puts it to work, `finish` lets it end.

    Raises EngineError where the engine cannot give its runners.
    """

    def __init__(
        self, model: ModelInfo, config: ModelConfig, loaded: LoadedEngine, pool: SlotPool
    ) -> None:
        self.model = model
        self.config = config
        self.loaded = loaded
        self._pool = pool
        self._log = get_logger(model=model.path)
        spec = loaded.engine.spec
        self.ladder = spec.ladder
        # An engine that somebody else built may take less than what is configured.
        self.batch_size = min(config.batch_size, self.ladder[-1])
        limit_ms = config.max_latency_ms
        self.target = LatencyTarget(int(limit_ms * 1e6), self.ladder) if limit_ms else None
        self._told = False
        self._detector = Detector(
            model,
            confidence=config.confidence,
            iou=config.iou,
            max_detections=config.max_detections,
        )
        self._class_ids: dict[tuple[str, ...], frozenset[int]] = {}
        self._runners = self._ready_runners()
        # A GPU does a batch in little more than the time of a frame; a core takes them in turn.
        self.batching_pays = self._gain_of_batching() >= _PAYS
        self._work: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._free = threading.Semaphore(len(self._runners))
        self._threads: list[threading.Thread] = []

    @property
    def runners(self) -> int:
        """Batches that can be in flight at once."""
        return len(self._runners)

    @property
    def busy(self) -> bool:
        """Whether batches of it may still be under way after `finish`."""
        return any(thread.is_alive() for thread in self._threads)

    def start(self, desk: Desk) -> None:
        """Puts the runners to work."""
        self._threads = [
            threading.Thread(target=self._serve, args=(runner, desk), name=f"runner-{i}")
            for i, runner in enumerate(self._runners)
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def reserve(self) -> bool:
        """Takes a free runner for the next `infer`; False where none is free."""
        return self._free.acquire(blocking=False)

    def give_back(self) -> None:
        """Frees a reserved runner that has got no batch."""
        self._free.release()

    def infer(self, batch: Batch) -> None:
        """Gives a batch to the runner that was reserved."""
        self._work.put(batch)

    def finish(self) -> None:
        """No more batches come; the threads end after those under way."""
        for _ in self._threads:
            self._work.put(None)

    def join(self) -> None:
        """Waits for the end of the threads."""
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """Gives back what it holds of the device, once it is no longer `busy`."""
        self.loaded.engine.close()

    def _ready_runners(self) -> list[Runner]:
        engine = self.loaded.engine
        try:
            engine.adopt(self._pool.images)
        except EngineError as error:
            self._log.warning("slots_not_pinned", reason=str(error), effect="more CPU a frame")
        runners = engine.runners(runner_count(self.config, engine.spec))
        for shape in engine.spec.shapes[: 1 if engine.spec.lazy else None]:
            for runner in runners:
                for size in engine.spec.ladder:
                    runner.load([_blank(shape)] * size)
                    runner.run()
        return runners

    def _gain_of_batching(self) -> float:
        """How many times as many frames a second a batch makes as one frame alone.

        A batch of eight tells: one of 256 would hold up the start of a CPU for seconds.
        """
        largest = min(self.batch_size, 8)
        shape, runner = self.loaded.engine.spec.shapes[0], self._runners[0]

        def run_s() -> float:
            began_s = time.perf_counter()
            runner.run()
            return time.perf_counter() - began_s

        quickest_s = []
        for size, times in ((1, 5), (largest, 2)):
            runner.load([_blank(shape)] * size)
            quickest_s.append(min(run_s() for _ in range(times)))
        return largest * quickest_s[0] / quickest_s[1]

    def _serve(self, runner: Runner, desk: Desk) -> None:
        """A runner's thread."""
        while (batch := self._work.get()) is not None:
            with desk.pulse.running():
                result = self._infer(runner, batch, desk)
            desk.inferred(batch.number, result)
            self._free.release()
            desk.free()

    def _infer(self, runner: Runner, batch: Batch, desk: Desk) -> BatchResult:
        began = time.thread_time_ns()
        runner.load([self._pool.image(f.slot, f.meta.shape) for f in batch.frames])
        desk.loaded(batch)
        gathered, infer_began = time.thread_time_ns(), time.monotonic_ns()
        candidates = runner.run()
        infer_ns = time.monotonic_ns() - infer_began
        if self.target is not None:
            self._note_time(self.target, len(batch.frames), infer_ns)
        inferred = time.thread_time_ns()
        found = self._detector.detect(
            candidates,
            [frame.meta for frame in batch.frames],
            [self._ids_of(labels) for labels in batch.classes],
        )
        frames = tuple(
            InferredFrame(meta, objects, batch.taken_ns, infer_ns, self.model.name)
            for frame, objects in zip(batch.frames, found, strict=True)
            for meta in (frame.meta, *frame.followers)
        )
        return BatchResult(
            frames,
            rung(self.ladder, len(batch.frames)),
            gathered - began,
            infer_ns,
            time.thread_time_ns() - inferred,
        )

    def _ids_of(self, labels: Sequence[str] | None) -> frozenset[int] | None:
        """The class ids of `labels`. One that only another model knows is never seen."""
        if labels is None:
            return None
        key = tuple(labels)
        if key not in self._class_ids:
            known = self.model.labels
            self._class_ids[key] = frozenset(known.index(x) for x in key if x in known)
        return self._class_ids[key]

    def _note_time(self, target: LatencyTarget, frames: int, infer_ns: int) -> None:
        target.note(rung(self.ladder, frames), infer_ns, time.monotonic_ns())
        if not target.reachable and not self._told:
            self._told = True
            self._log.warning(
                "latency_target_missed",
                max_latency_ms=self.config.max_latency_ms,
                reason=f"one frame alone takes {infer_ns / 1e6:.0f} ms",
            )


def load_instance(
    model: ModelInfo, config: ModelConfig, pool: SlotPool, tell: Callable[[str], None]
) -> ModelInstance:
    """Loads `model`, building its engine if need be, and warms it up. Raises EngineError."""
    loaded = load_engine(model, config, tell)
    try:
        return ModelInstance(model, config, loaded, pool)
    except EngineError:
        loaded.engine.close()
        raise


def _blank(shape: InputShape) -> NDArray[np.uint8]:
    return np.full((shape.height, shape.width, 3), 114, np.uint8)
