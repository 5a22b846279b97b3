"""The way out of an inference worker: frames in order, through stages, to events in Redis."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from streamd.config import CameraConfig, Publish, RedisConfig
from streamd.events import InferredFrame, PublishFilter, event_of
from streamd.ledger import Ledger
from streamd.logs import get_logger
from streamd.messages import RedisReport
from streamd.publisher import Entry, Publisher
from streamd.stages import Stage, run_stages
from streamd.turnstile import Turnstile
from streamd.worker import SupervisorLink

_FLUSH_WITHIN_S = 4.0


@dataclass(frozen=True, slots=True)
class BatchResult:
    """An inferred batch. `slots` is the size of the engine that ran it; times are per batch."""

    frames: tuple[InferredFrame, ...]
    slots: int
    gather_cpu_ns: int
    infer_ns: int
    postprocess_cpu_ns: int


class Outlet:
    """One camera's way from inferred frames to stream entries."""

    def __init__(
        self, camera: CameraConfig, *, model: str, publish: Publish, stream: str, ledger: Ledger
    ) -> None:
        self._id = camera.id
        self._model = model
        self._filter = PublishFilter(publish)
        self._stream = stream.replace("{camera}", camera.id)
        self._ledger = ledger
        self._stages: tuple[Stage, ...] = ()
        self._dropped: int | None = None

    def entry(self, frame: InferredFrame) -> Entry | None:
        """The entry for `frame`, the next one of its camera; None if it is not published."""
        index = frame.meta.camera
        frame = run_stages(self._stages, frame)
        self._ledger.add(index, "objects", len(frame.detections))
        if not self._filter.wants(frame.detections):
            return None
        dropped_before, self._dropped = self._dropped, self._ledger.dropped(index)
        event = event_of(
            frame,
            camera=self._id,
            model=self._model,
            dropped=self._dropped - (dropped_before or 0),
            now_ns=time.monotonic_ns(),
        )
        return Entry(self._stream, event.fields(), index, frame.meta.ready_ns)


class Results:
    """Takes batches in any order and publishes their frames in theirs."""

    def __init__(
        self,
        *,
        worker: int,
        outlets: dict[int, Outlet],
        redis: RedisConfig,
        ledger: Ledger,
        link: SupervisorLink,
        room: int,
    ) -> None:
        self._worker = worker
        self._outlets = outlets
        self._ledger = ledger
        self._publisher = Publisher(redis, Deliveries(worker, ledger, link))
        self._turnstile: Turnstile[BatchResult] = Turnstile(room)
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)
        self.batch_ns = 0.0

    def start(self) -> None:
        """Starts publishing."""
        self._publisher.start()
        self._thread.start()

    def enter(self, number: int, result: BatchResult) -> None:
        """Hands in batch `number`; waits while too many wait for an earlier one."""
        self._turnstile.enter(number, result)

    def close(self, batches: int) -> None:
        """Publishes all of the `batches` that were collected, and ends."""
        self._turnstile.close(batches)
        self._thread.join()
        self._publisher.close(_FLUSH_WITHIN_S)

    def _run(self) -> None:
        while (result := self._turnstile.leave()) is not None:
            began = time.thread_time_ns()
            entries = [self._outlets[f.meta.camera].entry(f) for f in result.frames]
            self._publisher.put([entry for entry in entries if entry is not None])
            self._count(result, time.thread_time_ns() - began)

    def _count(self, result: BatchResult, publish_cpu_ns: int) -> None:
        now_ns = time.monotonic_ns()
        for frame in result.frames:
            self._ledger.add(frame.meta.camera, "inferred")
            self._ledger.set(frame.meta.camera, "last_inferred_ns", now_ns)
        self.batch_ns += 0.1 * (result.infer_ns - self.batch_ns)
        for column, count in (
            ("batches", 1),
            ("frames", len(result.frames)),
            ("batch_slots", result.slots),
            ("gather_cpu_ns", result.gather_cpu_ns),
            ("infer_wall_ns", result.infer_ns),
            ("postprocess_cpu_ns", result.postprocess_cpu_ns),
            ("publish_cpu_ns", publish_cpu_ns),
        ):
            self._ledger.add_worker(self._worker, column, count)


class Deliveries:
    """Books what became of entries."""

    def __init__(self, worker: int, ledger: Ledger, link: SupervisorLink) -> None:
        self._worker = worker
        self._ledger = ledger
        self._link = link
        self._booking = threading.Lock()
        self._log = get_logger(worker=f"inference-{worker}")

    def sent(self, entries: Sequence[Entry]) -> None:
        """See publisher.Listener."""
        now_ns = time.monotonic_ns()
        for entry in entries:
            self._ledger.add(entry.camera, "events")
            self._ledger.observe_latency(self._worker, (now_ns - entry.ready_ns) / 1e9)

    def lost(self, entries: Sequence[Entry], why: str) -> None:
        """See publisher.Listener; called from two threads."""
        with self._booking:
            for entry in entries:
                self._ledger.add(entry.camera, "events_lost")
        self._log.warning("events_lost", count=len(entries), reason=why)

    def reachable(self, up: bool, error: str) -> None:
        """See publisher.Listener."""
        if not up:
            self._ledger.add_worker(self._worker, "redis_errors", 1)
        self._link.send(RedisReport(up, error))
