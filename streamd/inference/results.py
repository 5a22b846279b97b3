"""The way out of an inference worker: frames in order, through stages, to events in Redis."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from streamd.config import CameraConfig, Publish, RedisConfig
from streamd.events import InferredFrame, PublishFilter, event_of
from streamd.inference.stages import Stage, run_stages
from streamd.inference.turnstile import Turnstile
from streamd.ledger import Ledger
from streamd.logs import get_logger
from streamd.processes.messages import CameraGone, EventsLost, ObjectsSeen, RedisReport
from streamd.processes.specs import ReadCamera
from streamd.processes.worker import SupervisorLink
from streamd.publishing.publisher import Publisher
from streamd.publishing.spooler import Entry

_FLUSH_WITHIN_S = 4.0
_TELL_OF_OBJECTS_EVERY_S = 2.0
_ROOM_FOR_STILL = 4096  # results without a batch that may wait for one


@dataclass(frozen=True, slots=True)
class BatchResult:
    """An inferred batch. `slots` is the size of the engine that ran it; times are per batch.

    0 slots: no engine ran, all frames are still.
    """

    frames: tuple[InferredFrame, ...]
    slots: int
    gather_cpu_ns: int
    infer_ns: int
    postprocess_cpu_ns: int


class Outlet:
    """One camera's way from inferred frames to stream entries."""

    def __init__(
        self, camera: CameraConfig, *, publish: Publish, stream: str, ledger: Ledger
    ) -> None:
        self.camera_id = camera.id
        self._filter = PublishFilter(publish)
        self._stream = stream
        self._ledger = ledger
        self._stages: tuple[Stage, ...] = ()
        self._last: InferredFrame | None = None

    def entry(self, frame: InferredFrame) -> Entry | None:
        """The entry for `frame`, the next one of its camera; None if it is not published."""
        index = frame.meta.camera
        if not frame.meta.still:
            self._last = frame
        elif self._last is None:
            self._ledger.add(index, "unknown")
            return None
        else:
            last = self._last
            frame = replace(frame, detections=last.detections, model=last.model)
        frame = run_stages(self._stages, frame)
        self._ledger.add(index, "objects", len(frame.detections))
        if not self._filter.wants(frame.detections):
            return None
        dropped = self._ledger.dropped(index)
        told = self._ledger.get(index, "drops_told")
        self._ledger.set(index, "drops_told", dropped)
        event = event_of(
            frame,
            camera=self.camera_id,
            dropped=dropped - told,
            now_ns=time.monotonic_ns(),
        )
        return Entry(
            self._stream,
            event.fields(),
            frame.meta.ready_ns,
            frame.meta.capture_ns,
            still=frame.meta.still,
            place=index,
        )


class Results:
    """Takes batches in any order and publishes the frames of each camera in theirs."""

    def __init__(
        self,
        *,
        worker: int,
        cameras: Iterable[ReadCamera],
        make_outlet: Callable[[CameraConfig], Outlet],
        redis: RedisConfig,
        ledger: Ledger,
        link: SupervisorLink,
        room: int,
    ) -> None:
        self._worker = worker
        self._make_outlet = make_outlet
        self._outlets = {camera.index: make_outlet(camera.config) for camera in cameras}
        self._link = link
        self._ledger = ledger
        self._indices = {outlet.camera_id: index for index, outlet in self._outlets.items()}
        listener = Deliveries(worker, self._indices, ledger, link)
        self._publisher = Publisher(redis, listener, f"inference-{worker}")
        self._turnstile: Turnstile[BatchResult] = Turnstile(room)
        self._log = get_logger(worker=f"inference-{worker}")
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)
        self._objects: Counter[str] = Counter()
        self._told_of_objects_s = 0.0
        self.batch_ns = 0.0

    def start(self) -> None:
        """Starts publishing."""
        self._publisher.start()
        self._thread.start()

    def add(self, camera: ReadCamera) -> None:
        """Another camera, before its first frame; or one that is read by another worker now."""
        if camera.index not in self._outlets:
            self._outlets[camera.index] = self._make_outlet(camera.config)
        self._indices[camera.config.id] = camera.index

    def remove(self, index: int) -> None:
        """A camera that left, after its last frame. The supervisor is told."""
        outlet = self._outlets.pop(index)
        if self._indices.get(outlet.camera_id) == index:
            del self._indices[outlet.camera_id]
        self._link.send(CameraGone(index))

    def expect(self, cameras: Iterable[int]) -> int:
        """The number of another batch, with frames of `cameras`; in the order of their frames."""
        return self._turnstile.announce(cameras)

    def enter(self, number: int, result: BatchResult) -> None:
        """Hands in batch `number`; waits while too many wait for an earlier one.

        Still frames hold no slot and come from the hot loop, which a slow batch must not stop.
        """
        self._turnstile.enter(number, result, None if result.slots else _ROOM_FOR_STILL)

    def close(self) -> None:
        """Publishes all batches that are expected, and ends."""
        # What a slow Redis does not take by then goes to disk: the time for it is short.
        self._publisher.closes_within(_FLUSH_WITHIN_S)
        self._turnstile.close()
        self._thread.join()
        left = self._publisher.close(_FLUSH_WITHIN_S)
        if left:
            self._log.warning(
                "events_on_disk", count=left, effect="they are sent at the next start"
            )

    def _run(self) -> None:
        while (result := self._turnstile.leave()) is not None:
            began = time.thread_time_ns()
            entries = [self._outlets[f.meta.camera].entry(f) for f in result.frames]
            self._publisher.put([entry for entry in entries if entry is not None])
            for frame, entry in zip(result.frames, entries, strict=True):
                if entry is None:
                    still = frame.meta.still
                    self._ledger.add(frame.meta.camera, "still" if still else "inferred_quiet")
            self._count(result, time.thread_time_ns() - began)
            if time.monotonic() - self._told_of_objects_s > _TELL_OF_OBJECTS_EVERY_S:
                self._tell_of_objects()
        self._tell_of_objects()

    def _count(self, result: BatchResult, publish_cpu_ns: int) -> None:
        now_ns = time.monotonic_ns()
        for frame in result.frames:
            self._ledger.set(frame.meta.camera, "last_inferred_ns", now_ns)
        self._ledger.add_worker(self._worker, "publish_cpu_ns", publish_cpu_ns)
        if not result.slots:
            return
        self.batch_ns += 0.1 * (result.infer_ns - self.batch_ns)
        for column, count in (
            ("batch_slots", result.slots),
            ("gather_cpu_ns", result.gather_cpu_ns),
            ("postprocess_cpu_ns", result.postprocess_cpu_ns),
        ):
            self._ledger.add_worker(self._worker, column, count)
        inferred = [frame for frame in result.frames if not frame.meta.still]
        observe = partial(self._ledger.observe, self._worker)
        self._objects.update(item.label for frame in inferred for item in frame.detections)
        observe("batch_size", len(inferred))
        observe("inference_s", result.infer_ns / 1e9)
        observe("postprocess_s", result.postprocess_cpu_ns / 1e9)
        for frame in inferred:
            observe("batch_wait_s", (frame.taken_ns - frame.meta.ready_ns) / 1e9)

    def _tell_of_objects(self) -> None:
        self._told_of_objects_s = time.monotonic()
        if self._objects:
            self._link.send(ObjectsSeen(dict(self._objects)))
            self._objects.clear()


class Deliveries:
    """Books what became of entries; the publisher makes one call at a time.

    A frame with an event counts as inferred once a crash cannot lose the event any more.
    `cameras` gives the index of each camera; entries of others are left from an earlier run.
    """

    def __init__(
        self, worker: int, cameras: dict[str, int], ledger: Ledger, link: SupervisorLink
    ) -> None:
        self._worker = worker
        self._cameras = cameras
        self._ledger = ledger
        self._link = link
        self._log = get_logger(worker=f"inference-{worker}")

    def kept(self, entries: Sequence[Entry]) -> None:
        """See publisher.Listener."""
        self._book_results(entries)

    def sent(self, entries: Sequence[Entry], took_s: float) -> None:
        """See publisher.Listener."""
        observe = partial(self._ledger.observe, self._worker)
        observe("publish_s", took_s)
        fresh = [entry for entry in entries if not entry.spooled]
        self._book_results(fresh)
        self._book(entries, "events")
        now_ns = time.monotonic_ns()
        for entry in fresh:
            observe("slot_to_redis_s", (now_ns - entry.ready_ns) / 1e9)
            observe("capture_to_redis_s", (now_ns - entry.capture_ns) / 1e9)

    def lost(self, entries: Sequence[Entry], why: str) -> None:
        """See publisher.Listener."""
        self._book_results([entry for entry in entries if not entry.spooled])
        self._book(entries, "events_lost")
        self._log.warning("events_lost", count=len(entries), reason=why)
        by_camera: dict[str, list[Entry]] = {}
        for entry in entries:
            by_camera.setdefault(str(entry.fields["camera"]), []).append(entry)
        for camera, gone in by_camera.items():
            self._link.send(EventsLost(camera, len(gone), gone[0].id, gone[-1].id, why))

    def waiting(self, spooled: int, size_bytes: int, oldest_ms: int) -> None:
        """See publisher.Listener."""
        for column, value in (
            ("spool_events", spooled),
            ("spool_bytes", size_bytes),
            ("spool_oldest_ms", oldest_ms),
        ):
            self._ledger.set_worker(self._worker, column, value)

    def spool_unusable(self, error: str) -> None:
        """See publisher.Listener."""
        self._log.warning("spool_unusable", reason=error, effect="events wait in memory alone")

    def spool_damaged(self, what: str) -> None:
        """See publisher.Listener."""
        self._log.warning("spool_damaged", reason=what, effect="all else on disk is sent")

    def reachable(self, up: bool, error: str) -> None:
        """See publisher.Listener."""
        if not up:
            self._ledger.add_worker(self._worker, "redis_errors", 1)
        self._link.send(RedisReport(up, error))

    def _book_results(self, entries: Sequence[Entry]) -> None:
        self._book([entry for entry in entries if not entry.still], "inferred_event")
        self._book([entry for entry in entries if entry.still], "still")

    def _book(self, entries: Sequence[Entry], column: str) -> None:
        for entry in entries:
            # A camera that was changed has two places for a while.
            camera = entry.place
            if camera is None:
                camera = self._cameras.get(str(entry.fields["camera"]))
            if camera is not None:
                self._ledger.add(camera, column)
