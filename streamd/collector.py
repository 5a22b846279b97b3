"""The hot loop of inference: what is ready becomes batches, batches become results."""

import queue
import threading
import time
from dataclasses import dataclass

import numpy as np

from streamd.batch import BatchPolicy, Lineup, ReadyFrame, collect_batch
from streamd.detections import Detector
from streamd.engines import Engine, Runner
from streamd.engines.contract import rung
from streamd.events import InferredFrame
from streamd.logs import get_logger
from streamd.messages import LetCameraGo, TakeCameraToo
from streamd.overload import LatencyTarget
from streamd.results import BatchResult, Results
from streamd.specs import InferenceSpec, ReadCamera

Order = TakeCameraToo | LetCameraGo


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames on their way through a runner. `taken_ns` is monotonic."""

    number: int
    frames: tuple[ReadyFrame, ...]
    taken_ns: int


class Collector:
    """The hot loop: takes what is ready and gives batches to runners.

    What comes through `orders` is done between two batches.
    """

    def __init__(
        self,
        spec: InferenceSpec,
        engine: Engine,
        runners: list[Runner],
        results: Results,
        stop: threading.Event,
        orders: "queue.SimpleQueue[Order]",
    ) -> None:
        self._spec = spec
        self._pool, self._ledger = spec.pool, spec.ledger
        self._bell = spec.ready
        self._results = results
        self._stop = stop
        self._lineup = Lineup()
        self._batches = 0
        self._ladder = engine.spec.ladder
        # An engine that somebody else built may take less than what is configured.
        self._batch_size = min(spec.model_config.batch_size, self._ladder[-1])
        limit_ms = spec.model_config.max_latency_ms
        self._target = LatencyTarget(int(limit_ms * 1e6), self._ladder) if limit_ms else None
        self._told = False
        self._mine = np.zeros(spec.pool.count, np.bool_)
        self._cameras: dict[int, ReadCamera] = {}
        for camera in spec.cameras:
            self._add(camera)
        self._orders = orders
        self._detector = Detector(
            spec.model,
            confidence=spec.model_config.confidence,
            iou=spec.model_config.iou,
            max_detections=spec.model_config.max_detections,
        )
        self._work: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._free = threading.Semaphore(len(runners))
        self._threads = [
            threading.Thread(target=self._serve, args=(runner,), name=f"runner-{i}", daemon=True)
            for i, runner in enumerate(runners)
        ]

    def run(self) -> int:
        """Until told to stop and nothing is left to infer; returns the number of batches."""
        for thread in self._threads:
            thread.start()
        wake_at_ns: int | None = time.monotonic_ns()  # slots may be ready from before a restart
        while not (self._stop.is_set() and self._drained()):
            self._bell.wait(None if wake_at_ns is None else self._seconds_until(wake_at_ns))
            began = time.thread_time_ns()
            self._follow_orders()
            self._admit()
            wake_at_ns = self._dispatch()
            spent = time.thread_time_ns() - began
            self._ledger.add_worker(self._spec.number, "batch_cpu_ns", spent)
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()
        return self._batches

    def _follow_orders(self) -> None:
        while not self._orders.empty():
            match self._orders.get():
                case TakeCameraToo(camera):
                    self._add(camera)
                    self._results.add(camera)
                case LetCameraGo(index):
                    self._remove(index)

    def _add(self, camera: ReadCamera) -> None:
        self._cameras[camera.index] = camera
        self._lineup.rank(camera.index, camera.config.priority)
        self._mark(camera, mine=True)

    def _remove(self, index: int) -> None:
        self._mark(self._cameras.pop(index), mine=False)
        self._lineup.forget(index)
        self._results.remove(index)

    def _mark(self, camera: ReadCamera, *, mine: bool) -> None:
        self._mine[camera.ring.first : camera.ring.first + camera.ring.count] = mine

    def _admit(self) -> None:
        """Lines up every ready slot; of a live camera only the newest stays."""
        taken = [(slot, self._pool.take(slot)) for slot in self._pool.ready_slots(self._mine)]
        for slot, meta in sorted(taken, key=lambda pair: (pair[1].session, pair[1].seq)):
            superseded = self._lineup.admit(slot, meta)
            if superseded is not None:
                self._pool.release(superseded)
                self._ledger.add(meta.camera, "superseded")

    def _dispatch(self) -> int | None:
        """Gives batches to free runners; returns when to look again (None: at the next ring)."""
        while self._free.acquire(blocking=False):
            now_ns = time.monotonic_ns()
            policy = BatchPolicy(self._fitting(now_ns), self._wait_ns(now_ns))
            active = self._lineup.active_cameras(now_ns)
            decision = collect_batch(self._lineup.ready, now_ns, policy, active)
            if not decision.frames:
                self._free.release()
                return decision.wake_at_ns
            self._lineup.remove(decision.frames, now_ns)
            self._work.put(Batch(self._batches, decision.frames, now_ns))
            self._batches += 1
        return None

    def _fitting(self, now_ns: int) -> int:
        """The size of the next batch; frames that would be too old after it are shed."""
        if self._target is None:
            return self._batch_size
        size = self._target.batch_size(self._batch_size)
        for frame in self._lineup.shed(self._target.captured_after_ns(now_ns, size)):
            self._pool.release(frame.slot)
            self._ledger.add(frame.meta.camera, "shed")
        return size

    def _serve(self, runner: Runner) -> None:
        """A runner's thread."""
        while (batch := self._work.get()) is not None:
            result = self._infer(runner, batch)
            self._results.enter(batch.number, result)
            self._free.release()
            self._bell.ring()

    def _infer(self, runner: Runner, batch: Batch) -> BatchResult:
        began = time.thread_time_ns()
        runner.load([self._pool.image(f.slot, f.meta.shape) for f in batch.frames])
        self._release(batch)
        gathered, infer_began = time.thread_time_ns(), time.monotonic_ns()
        candidates = runner.run()
        infer_ns = time.monotonic_ns() - infer_began
        if self._target is not None:
            self._note_time(self._target, len(batch.frames), infer_ns)
        inferred = time.thread_time_ns()
        frames = tuple(
            InferredFrame(
                frame.meta,
                self._detector.detect(rows, frame.meta, self._cameras[frame.meta.camera].classes),
                batch.taken_ns,
                infer_ns,
            )
            for frame, rows in zip(batch.frames, candidates, strict=True)
        )
        return BatchResult(
            frames,
            rung(self._ladder, len(frames)),
            gathered - began,
            infer_ns,
            time.thread_time_ns() - inferred,
        )

    def _note_time(self, target: LatencyTarget, frames: int, infer_ns: int) -> None:
        target.note(rung(self._ladder, frames), infer_ns)
        if not target.reachable and not self._told:
            self._told = True
            get_logger(worker=self._spec.identity.name).warning(
                "latency_target_missed",
                max_latency_ms=self._spec.model_config.max_latency_ms,
                reason=f"one frame alone takes {infer_ns / 1e6:.0f} ms",
            )

    def _release(self, batch: Batch) -> None:
        """Gives the slots back and wakes the files that wait for one."""
        waiting = set()
        for frame in batch.frames:
            self._pool.release(frame.slot)
            if frame.meta.lossless:
                waiting.add(self._cameras[frame.meta.camera].space)
        for space in waiting:
            self._spec.spaces[space].ring()

    def _wait_ns(self, now_ns: int) -> int:
        if self._stop.is_set():
            return 0
        max_wait_ms = self._spec.model_config.max_wait_ms
        if max_wait_ms == "auto":
            return self._lineup.adaptive_wait_ns(now_ns, self._results.batch_ns)
        return int(max_wait_ms * 1e6)

    def _drained(self) -> bool:
        return not len(self._lineup) and not self._pool.ready_slots(self._mine)

    @staticmethod
    def _seconds_until(monotonic_ns: int) -> float:
        return (monotonic_ns - time.monotonic_ns()) / 1e9
