"""Which frames go into the next batch, and when. No I/O, no clock, no threads."""

import heapq
import math
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from msgspec import Struct
from msgspec.structs import replace

from streamd.slots import FrameMeta, InputShape

# Roboflow's adaptive window: shortest live period less the time of one batch, within these.
MIN_WAIT_NS = 2_000_000
MAX_WAIT_NS = 100_000_000
IDLE_AFTER_NS = 2_000_000_000


class ReadyFrame(Struct, frozen=True, order=True):
    """A taken slot that waits for a batch. Frames sort by their turns.

    The lowest `rank` goes first, then who has waited longest: `since_ns` is when its camera began
    to wait for its turn. A frame that replaces an older one keeps the older one's place, so a fast
    camera is neither favoured nor starved. `followers` are still frames, which have its result.
    """

    rank: int
    since_ns: int
    slot: int
    meta: FrameMeta
    followers: tuple[FrameMeta, ...] = ()


# The cameras that wait with a frame of one shape, each as its frames, oldest first; not empty.
Line = Collection[Sequence[ReadyFrame]]


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
    lines: Mapping[InputShape, Line],
    now_ns: int,
    policy: BatchPolicy,
    active_cameras: Mapping[InputShape, int],
) -> Decision:
    """The next batch out of `lines`, in which each camera is in that of its first frame's shape.

    A batch holds one shape. Every camera gets one frame before any gets a second; within a round,
    the lowest rank comes first, then who has waited longest. A batch may leave when it is
    full, when each of its shape's `active_cameras` that may still deliver is in it, or when its
    oldest frame has waited for `policy.max_wait_ns`, so a camera that is silent delays nobody for
    longer than that. Of several that may leave, the one whose first frame comes first does: no
    shape starves, and none keeps a fuller one waiting.
    """
    wake_at_ns = None
    for shape in _in_turn(lines):
        line = lines[shape]
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


def shared_size(waiting: int, runners: int, largest: int) -> int:
    """The size of a batch where a batch takes about as long as its frames one after the other.

    Then a frame of a large batch waits for all others in it, and a small one costs little: four
    turns of all `runners` are to take what waits, so that only a backlog makes batches large.
    """
    return max(1, min(largest, math.ceil(waiting / (4 * runners))))


def _in_turn(lines: Mapping[InputShape, Line]) -> list[InputShape]:
    """The shapes, the one whose first frame goes first at the front."""
    if len(lines) == 1:
        return list(lines)
    return sorted(lines, key=lambda shape: min(frames[0] for frames in lines[shape]))


def _first(line: Line, shape: InputShape, most: int) -> tuple[ReadyFrame, ...]:
    """Up to `most` frames: one of each camera in `line`, then the second of each, and so on.

    Of each camera up to the first one of another shape, so that its order holds.
    """
    batch: list[ReadyFrame] = []
    for position in count():
        heads = [frames[position] for frames in line]
        batch += heapq.nsmallest(most - len(batch), heads)
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
        self._lines: dict[InputShape, dict[int, deque[ReadyFrame]]] = {}
        self._stands: dict[int, InputShape] = {}  # in whose line a camera is
        self._served_ns: dict[int, int] = {}
        self._seen_ns: dict[int, int] = {}
        self._shape: dict[int, InputShape] = {}
        self._period_ns: dict[int, float] = {}
        self._rank: dict[int, int] = {}
        self._owed_ns: dict[int, int] = {}
        self._active: dict[int, InputShape] = {}
        self._active_count: Counter[InputShape] = Counter()
        self._active_until_ns = 0
        self._count = 0
        self.live = 0  # how many of the frames are of live cameras

    def __len__(self) -> int:
        return self._count

    @property
    def lines(self) -> Mapping[InputShape, Line]:
        """What waits, as `collect_batch` takes it."""
        return {shape: line.values() for shape, line in self._lines.items()}

    def rank(self, camera: int, priority: int) -> None:
        """The priority of a camera's frames from now on, the highest first; 0 if never told."""
        self._rank[camera] = -priority

    def admit(self, slot: int, meta: FrameMeta) -> int | None:
        """Adds a taken slot; returns the slot of the live frame that it replaces, if any.

        The slots of one camera are to be admitted in the order of their `seq`.
        """
        waiting = self._waiting.setdefault(meta.camera, deque())
        self._note_period(meta)
        rank = self._rank.get(meta.camera, 0)
        stale = None
        if not meta.lossless and waiting:
            stale = waiting.pop()
            since_ns = stale.since_ns
        else:
            since_ns = max(meta.ready_ns, self._served_ns.get(meta.camera, 0))
            since_ns = self._owed_ns.pop(meta.camera, since_ns)
        waiting.append(ReadyFrame(rank, since_ns, slot, meta))
        if stale is None:
            self._count += 1
            self.live += not meta.lossless
        if len(waiting) == 1:
            self._stand(meta.camera, waiting)
        return stale.slot if stale else None

    def awaits(self, camera: int) -> bool:
        """Whether a frame of `camera` waits."""
        return bool(self._waiting.get(camera))

    def has_shed_last(self, camera: int) -> bool:
        """Whether the latest frame of `camera` was shed: it will never have a result."""
        return camera in self._owed_ns

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
                self._stand(camera, waiting)
        self._count -= len(gone)
        self.live -= len(gone)
        return gone

    def remove(self, frames: Iterable[ReadyFrame], now_ns: int) -> None:
        """Takes a batch's frames out: they are the first ones of their cameras."""
        for frame in frames:
            waiting = self._waiting[frame.meta.camera]
            if waiting.popleft().slot != frame.slot:
                raise ValueError(f"slot {frame.slot} is not the next one of its camera")
            self._count -= 1
            self.live -= not frame.meta.lossless
            self._served_ns[frame.meta.camera] = now_ns
            if waiting:
                # The next frame of a file begins to wait when the one before it is served.
                following = waiting.popleft()
                waiting.appendleft(replace(following, since_ns=now_ns))
            self._stand(frame.meta.camera, waiting)

    def forget(self, camera: int) -> None:
        """A camera left; no frame of it waits."""
        for memory in (
            self._waiting,
            self._served_ns,
            self._seen_ns,
            self._shape,
            self._period_ns,
            self._rank,
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

    def _stand(self, camera: int, waiting: deque[ReadyFrame]) -> None:
        """A camera stands in the line of its first frame's shape, or in none."""
        shape = waiting[0].meta.shape if waiting else None
        stood = self._stands.get(camera)
        if shape == stood:
            return
        if stood is not None:
            del self._stands[camera], self._lines[stood][camera]
            if not self._lines[stood]:
                del self._lines[stood]
        if shape is not None:
            self._stands[camera] = shape
            self._lines.setdefault(shape, {})[camera] = waiting

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
