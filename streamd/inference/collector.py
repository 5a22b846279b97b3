"""The hot loop of inference: what is ready becomes batches, batches become results."""

import queue
import threading
import time
from collections.abc import Iterable

import numpy as np

from streamd.events import InferredFrame
from streamd.inference.batch import BatchPolicy, Lineup, collect_batch, shared_size
from streamd.inference.model_instance import Batch, Desk, ModelInstance
from streamd.inference.pulse import Pulse
from streamd.inference.results import BatchResult, Results
from streamd.linux.memory import Doorbell
from streamd.linux.scheduling import Scheduling
from streamd.processes.messages import LetCameraGo, TakeCameraToo
from streamd.processes.specs import InferenceSpec, ReadCamera
from streamd.slots import FrameMeta

# A camera has more slots than it can fill in this time.
_BUSY_S = 0.01

Order = TakeCameraToo | LetCameraGo | ModelInstance


class Collector:
    """The hot loop: takes what is ready and gives batches to the runners of a model.

    What comes through `orders` is done between two batches; a ModelInstance takes the place of the
    one before it, whose batches under way are finished.
    """

    def __init__(
        self,
        spec: InferenceSpec,
        model: ModelInstance,
        results: Results,
        stop: threading.Event,
        orders: "queue.SimpleQueue[Order]",
        pulse: Pulse,
    ) -> None:
        self._spec = spec
        self._pool, self._ledger = spec.pool, spec.ledger
        self._bell = spec.ready
        self._results = results
        self._stop = stop
        self._orders = orders
        self._lineup = Lineup()
        self._mine = np.zeros(spec.pool.count, np.bool_)
        self._cameras: dict[int, ReadCamera] = {}
        self._scheduling = Scheduling()
        for camera in spec.cameras:
            self._add(camera)
        self._freed = Doorbell()
        self._busy = False
        self._desk = Desk(self._release, results.enter, self._freed.ring, pulse)
        self._model = model
        self._retired: list[ModelInstance] = []

    def run(self) -> None:
        """Until told to stop and nothing is left to infer."""
        self._model.start(self._desk)
        wake_at_ns: int | None = time.monotonic_ns()  # slots may be ready from before a restart
        while not (self._stop.is_set() and self._drained()):
            self._wait(wake_at_ns)
            began = time.thread_time_ns()
            self._follow_orders()
            self._let_retired_go()
            self._repeat(self._admit())
            wake_at_ns = self._dispatch()
            spent = time.thread_time_ns() - began
            self._ledger.add_worker(self._spec.number, "batch_cpu_ns", spent)
        self._model.finish()
        for model in (*self._retired, self._model):
            model.join()

    def _wait(self, wake_at_ns: int | None) -> None:
        """Until a frame is ready; while all runners are busy, until one is free.

        Not for longer than a moment, then: frames that are superseded must make room for newer.
        """
        if self._busy:
            self._freed.wait(_BUSY_S)
        else:
            self._bell.wait(None if wake_at_ns is None else self._seconds_until(wake_at_ns))

    def _follow_orders(self) -> None:
        while not self._orders.empty():
            match self._orders.get():
                case TakeCameraToo(camera):
                    self._add(camera)
                    self._results.add(camera)
                case LetCameraGo(index):
                    self._remove(index)
                case ModelInstance() as model:
                    self._use(model)

    def _use(self, model: ModelInstance) -> None:
        self._model.finish()
        self._retired.append(self._model)
        self._model = model
        model.start(self._desk)

    def _let_retired_go(self) -> None:
        """Models that have finished their last batch give back what they hold."""
        for old in [old for old in self._retired if not old.busy]:
            self._retired.remove(old)
            old.close()

    def _add(self, camera: ReadCamera) -> None:
        self._cameras[camera.index] = camera
        self._lineup.rank(camera.index, camera.config.priority)
        self._mark(camera, mine=True)
        self._schedule()

    def _remove(self, index: int) -> None:
        self._mark(self._cameras.pop(index), mine=False)
        self._lineup.forget(index)
        self._results.remove(index)
        self._schedule()

    def _schedule(self) -> None:
        self._scheduling.follow(camera.config for camera in self._cameras.values())

    def _mark(self, camera: ReadCamera, *, mine: bool) -> None:
        self._mine[camera.ring.first : camera.ring.first + camera.ring.count] = mine

    def _admit(self) -> list[FrameMeta]:
        """Lines up every ready slot; of a live camera only the newest stays.

        Returns the still frames whose result is not waited for.
        """
        taken = [(slot, self._pool.take(slot)) for slot in self._pool.ready_slots(self._mine)]
        self._give_back((slot, meta) for slot, meta in taken if meta.still)
        repeated = []
        for slot, meta in sorted(taken, key=lambda pair: (pair[1].session, pair[1].seq)):
            if meta.still:
                awaits = self._lineup.awaits(meta.camera)
                if awaits and meta.lossless:
                    self._lineup.follow(meta)
                elif awaits or self._lineup.has_shed_last(meta.camera):
                    # What it repeats is not known yet, or never will be.
                    self._ledger.add(meta.camera, "still")
                else:
                    repeated.append(meta)
                continue
            superseded = self._lineup.admit(slot, meta)
            if superseded is not None:
                self._pool.release(superseded)
                self._ledger.add(meta.camera, "superseded")
        return repeated

    def _repeat(self, still: list[FrameMeta]) -> None:
        """Still frames take their turn after the frames of their cameras before them."""
        if still:
            now_ns, name = time.monotonic_ns(), self._model.model.name
            frames = tuple(InferredFrame(meta, (), now_ns, 0, name) for meta in still)
            number = self._results.expect(meta.camera for meta in still)
            self._results.enter(number, BatchResult(frames, 0, 0, 0, 0))

    def _dispatch(self) -> int | None:
        """Gives batches to free runners; returns when to look again (None: once one is ready)."""
        self._busy = False
        while self._model.reserve():
            now_ns = time.monotonic_ns()
            policy = BatchPolicy(self._fitting(now_ns), self._wait_ns(now_ns))
            active = self._lineup.active_cameras(now_ns)
            decision = collect_batch(self._lineup.lines, now_ns, policy, active)
            if not decision.frames:
                self._model.give_back()
                return decision.wake_at_ns
            self._lineup.remove(decision.frames, now_ns)
            classes = tuple(self._cameras[f.meta.camera].config.classes for f in decision.frames)
            number = self._results.expect(f.meta.camera for f in decision.frames)
            self._model.infer(Batch(number, decision.frames, classes, now_ns))
        self._busy = True
        return None

    def _fitting(self, now_ns: int) -> int:
        """The size of the next batch; frames that would be too old after it are shed."""
        target, size = self._model.target, self._model.batch_size
        if self._lineup.live and not self._model.batching_pays:
            size = shared_size(len(self._lineup), self._model.runners, size)
        if target is None:
            return size
        size = target.batch_size(size, now_ns)
        for frame in self._lineup.shed(target.captured_after_ns(now_ns, size)):
            self._pool.release(frame.slot)
            self._ledger.add(frame.meta.camera, "shed")
        return size

    def _release(self, batch: Batch) -> None:
        self._give_back((frame.slot, frame.meta) for frame in batch.frames)

    def _give_back(self, slots: Iterable[tuple[int, FrameMeta]]) -> None:
        """Releases slots, and wakes the files that wait for one."""
        waiting = set()
        for slot, meta in slots:
            self._pool.release(slot)
            if meta.lossless:
                waiting.add(self._cameras[meta.camera].space)
        for space in waiting:
            self._spec.spaces[space].ring()

    def _wait_ns(self, now_ns: int) -> int:
        if self._stop.is_set():
            return 0
        max_wait_ms = self._model.config.max_wait_ms
        if max_wait_ms == "auto":
            if not self._model.batching_pays:
                return 0
            return self._lineup.adaptive_wait_ns(now_ns, self._results.batch_ns)
        return int(max_wait_ms * 1e6)

    def _drained(self) -> bool:
        return not len(self._lineup) and not self._pool.ready_slots(self._mine)

    @staticmethod
    def _seconds_until(monotonic_ns: int) -> float:
        return (monotonic_ns - time.monotonic_ns()) / 1e9
