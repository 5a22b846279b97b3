"""Which frames go into the next batch, and when. No I/O, no clock, no threads."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from msgspec import Struct
from msgspec.structs import replace

from streamd.slots import FrameMeta, InputShape

# Roboflow's adaptive window: shortest live period less the time of one batch, within these.
MIN_WAIT_NS = 2_000_000
MAX_WAIT_NS = 100_000_000
IDLE_AFTER_NS = 2_000_000_000


class ReadyFrame(Struct, frozen=True):
    """A taken slot that waits for a batch.

    `since_ns` is when its camera began to wait for its turn: a frame that replaces an older one
    keeps the older one's place, so a fast camera is neither favoured nor starved. Higher
    `priority` goes first. `followers` are still frames, which have its result.
    """

    slot: int
    meta: FrameMeta
    since_ns: int
    priority: int = 0
    followers: tuple[FrameMeta, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """When to stop waiting for a fuller batch."""

    max_size: int
    max_wait_ns: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Frames to infer now (at most one shape), or none and the time to look again."""

    frames: tuple[ReadyFrame, ...] = ()
    wake_at_ns: int | None = None


def collect_batch(
    ready: Sequence[Sequence[ReadyFrame]],
    now_ns: int,
    policy: BatchPolicy,
    active_cameras: Mapping[InputShape, int],
) -> Decision:
    """The next batch out of `ready`, which holds each camera's waiting frames, oldest first.

    A batch holds one shape. Every camera gets one frame before any gets a second; within a round,
    the highest priority comes first, then who has waited longest. A batch may leave when it is
    full, when each of its shape's `active_cameras` that may still deliver is in it, or when its
    oldest frame has waited for `policy.max_wait_ns`, so a camera that is silent delays nobody for
    longer than that. Of several that may leave, the one whose first frame comes first does: no
    shape starves, and none keeps a fuller one waiting.
    """
    by_shape: dict[InputShape, list[Sequence[ReadyFrame]]] = {}
    for frames in ready:
        by_shape.setdefault(frames[0].meta.shape, []).append(frames)
    wake_at_ns = None
    for shape in _in_turn(by_shape):
        line = by_shape[shape]
        batch = _first(line, shape, policy.max_size)
        if len(batch) == policy.max_size or len(line) >= active_cameras.get(shape, 0):
            return Decision(frames=batch)
        oldest = min((frames[0] for frames in line), key=lambda frame: frame.since_ns)
        # A live frame that replaced another is newer than its camera's wait, a file's next older.
        deadline_ns = min(oldest.since_ns, oldest.meta.ready_ns) + policy.max_wait_ns
        if now_ns >= deadline_ns:
            return Decision(frames=batch)
        wake_at_ns = deadline_ns if wake_at_ns is None else min(wake_at_ns, deadline_ns)
    return Decision(wake_at_ns=wake_at_ns)


def _in_turn(by_shape: Mapping[InputShape, list[Sequence[ReadyFrame]]]) -> list[InputShape]:
    """The shapes, the one whose first frame goes first at the front."""
    if len(by_shape) == 1:
        return list(by_shape)
    return sorted(by_shape, key=lambda shape: min(_rank(line[0]) for line in by_shape[shape]))


def _rank(frame: ReadyFrame) -> tuple[int, int, int]:
    """The smallest goes first."""
    return -frame.priority, frame.since_ns, frame.slot


def _first(
    line: list[Sequence[ReadyFrame]], shape: InputShape, most: int
) -> tuple[ReadyFrame, ...]:
    """Up to `most` frames: one of each camera in `line`, then the second of each, and so on.

    Of each camera up to the first one of another shape, so that its order holds.
    """
    batch: list[ReadyFrame] = []
    for position in count():
        heads = [frames[position] for frames in line]
        batch += sorted(heads, key=_rank)[: most - len(batch)]
        if len(batch) == most or not line:
            break
        line = [
            frames
            for frames in line
            if len(frames) > position + 1 and frames[position + 1].meta.shape == shape
        ]
    return tuple(batch)


class Lineup:
    """The frames that wait for a batch, by camera: the newest of a live one, all of a file."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[ReadyFrame]] = {}
        self._served_ns: dict[int, int] = {}
        self._seen_ns: dict[int, int] = {}
        self._shape: dict[int, InputShape] = {}
        self._period_ns: dict[int, float] = {}
        self._priority: dict[int, int] = {}
        self._owed_ns: dict[int, int] = {}
        self._active: dict[int, InputShape] = {}
        self._active_count: Counter[InputShape] = Counter()
        self._active_until_ns = 0

    def __len__(self) -> int:
        return sum(len(frames) for frames in self._waiting.values())

    @property
    def ready(self) -> list[Sequence[ReadyFrame]]:
        """Each camera's waiting frames, oldest first."""
        return [frames for frames in self._waiting.values() if frames]

    def rank(self, camera: int, priority: int) -> None:
        """The priority of a camera's frames from now on; 0 if never told."""
        self._priority[camera] = priority

    def admit(self, slot: int, meta: FrameMeta) -> int | None:
        """Adds a taken slot; returns the slot of the live frame that it replaces, if any.

        The slots of one camera are to be admitted in the order of their `seq`.
        """
        waiting = self._waiting.setdefault(meta.camera, deque())
        self._note_period(meta)
        priority = self._priority.get(meta.camera, 0)
        if not meta.lossless and waiting:
            stale = waiting.pop()
            waiting.append(ReadyFrame(slot, meta, stale.since_ns, priority))
            return stale.slot
        since_ns = max(meta.ready_ns, self._served_ns.get(meta.camera, 0))
        since_ns = self._owed_ns.pop(meta.camera, since_ns)
        waiting.append(ReadyFrame(slot, meta, since_ns, priority))
        return None

    def awaits(self, camera: int) -> bool:
        """Whether a frame of `camera` waits."""
        return bool(self._waiting.get(camera))

    def follow(self, meta: FrameMeta) -> None:
        """Has a still frame go with the latest that waits of its camera."""
        waiting = self._waiting[meta.camera]
        waiting[-1] = replace(waiting[-1], followers=(*waiting[-1].followers, meta))

    def shed(self, captured_after_ns: int) -> list[ReadyFrame]:
        """Takes out the live frames that were captured earlier.

        Their cameras keep their places, so that within a priority all are shed alike.
        """
        gone: list[ReadyFrame] = []
        for camera, waiting in self._waiting.items():
            if not waiting or waiting[0].meta.lossless:
                continue
            if waiting[0].meta.capture_ns < captured_after_ns:
                frame = waiting.popleft()
                self._owed_ns[camera] = frame.since_ns
                gone.append(frame)
        return gone

    def remove(self, frames: Iterable[ReadyFrame], now_ns: int) -> None:
        """Takes a batch's frames out: they are the first ones of their cameras."""
        for frame in frames:
            waiting = self._waiting[frame.meta.camera]
            if waiting.popleft().slot != frame.slot:
                raise ValueError(f"slot {frame.slot} is not the next one of its camera")
            self._served_ns[frame.meta.camera] = now_ns
            if waiting:
                # The next frame of a file begins to wait when the one before it is served.
                following = waiting.popleft()
                waiting.appendleft(replace(following, since_ns=now_ns))

    def forget(self, camera: int) -> None:
        """A camera left; no frame of it waits."""
        for memory in (
            self._waiting,
            self._served_ns,
            self._seen_ns,
            self._shape,
            self._period_ns,
            self._priority,
            self._owed_ns,
        ):
            memory.pop(camera, None)
        self._active_until_ns = 0

    def active_cameras(self, now_ns: int) -> Mapping[InputShape, int]:
        """How many cameras of each shape delivered within the last two seconds."""
        if now_ns >= self._active_until_ns:
            seen = {c: ns for c, ns in self._seen_ns.items() if now_ns - ns < IDLE_AFTER_NS}
            self._active = {camera: self._shape[camera] for camera in seen}
            self._active_count = Counter(self._active.values())
            # None of these is idle before then; others are counted from their next frame on.
            self._active_until_ns = min(seen.values(), default=now_ns) + IDLE_AFTER_NS
        return self._active_count

    def adaptive_wait_ns(self, now_ns: int, batch_ns: float) -> int:
        """How long a batch may wait for more: the shortest live period less `batch_ns`.

        `batch_ns` is what a batch takes on average. Clamped to 2..100 ms; the rule is the one of
        Roboflow's inference pipeline. A camera that was idle for two seconds does not count.
        """
        periods = [
            period
            for camera, period in self._period_ns.items()
            if now_ns - self._seen_ns[camera] < IDLE_AFTER_NS
        ]
        if not periods:
            return MIN_WAIT_NS
        return int(min(max(min(periods) - batch_ns, MIN_WAIT_NS), MAX_WAIT_NS))

    def _note_period(self, meta: FrameMeta) -> None:
        last = self._seen_ns.get(meta.camera)
        self._seen_ns[meta.camera] = meta.ready_ns
        shape = self._shape[meta.camera] = meta.shape
        if self._active.get(meta.camera) != shape:
            self._active_until_ns = 0
        if last is None or meta.lossless:
            return
        gap = meta.ready_ns - last
        if 0 < gap < IDLE_AFTER_NS:
            average = self._period_ns.get(meta.camera, gap)
            self._period_ns[meta.camera] = average + 0.1 * (gap - average)
