"""Slots: the queue that processes share, made of frames ready for the engine.

A pool of slots in shared memory. Each camera owns a ring of them. A slot holds one letterboxed
image and a row of metadata, and passes between its camera's thread (the writer) and one inference
worker (the reader):

    free ── writer fills it, submit() ──> ready ── take() ──> taken ── release() ──> free

The state of a slot is three generation numbers, `written >= taken >= released`, and each of them
is stored by one side only, so no lock is needed and none can be left held by a killed process.
Stores of aligned 8-byte words are whole, and x86-64 keeps their order; docs/internals.md says
what that means for other machines.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamd.linux.memory import SharedBlock, page_aligned


class TsSource(IntEnum):
    """Where a capture time comes from."""

    RTCP = 0
    PTS = 1
    ARRIVAL = 2


class InputShape(msgspec.Struct, frozen=True):
    """Size of an engine's input in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


# Width to height of pictures, the likeliest of a camera first.
_ASPECTS = ((16, 9), (4, 3), (1, 1), (9, 16))


def aspect_shapes(square: InputShape, stride: int) -> tuple[InputShape, ...]:
    """Inputs with the long side of `square`, one for each aspect that cameras have.

    A 16:9 picture in a square wastes two fifths of the model's work on padding. Sides are multiples
    of `stride`. None where the input is no square to begin with: it is somebody's choice.
    """
    side = square.width
    if square.height != side:
        return ()
    shapes: dict[InputShape, None] = {}
    for width, height in _ASPECTS:
        short = math.ceil(side * min(width, height) / max(width, height) / stride) * stride
        shapes[InputShape(short, side) if width > height else InputShape(side, short)] = None
    return tuple(shapes)


@dataclass(frozen=True, slots=True)
class Ring:
    """A camera's slots: `count` of them, from slot `first` on."""

    first: int
    count: int


class FrameMeta(msgspec.Struct, frozen=True):
    """What is known of the frame in a slot.

    `camera` is the camera's index; `session` the start of its session, epoch seconds; `seq` counts
    its frames; `pts_s` is media time since the session's start (nan where the stream has none).
    `capture_wall_ns` is epoch time; `capture_ns` and `ready_ns` are CLOCK_MONOTONIC, which all
    processes share. `work_ns` went into decoding and scaling. `width` and `height` are those of
    the picture as it is shown, `shape_*` those of the engine's input. A point of the picture lies
    at `x * scale + pad_x`, `y * scale + pad_y` of the slot.
    A `still` frame shows what the last one before it showed, and its slot holds no image.
    """

    camera: int
    session: int
    seq: int
    pts_s: float
    capture_wall_ns: int
    capture_ns: int
    ready_ns: int
    work_ns: int
    ts_source: int
    lossless: bool
    width: int
    height: int
    shape_height: int
    shape_width: int
    scale: float
    pad_x: int
    pad_y: int
    still: bool = False

    @property
    def shape(self) -> InputShape:
        """The engine input that the image was made for."""
        return InputShape(self.shape_height, self.shape_width)


# A FrameMeta in memory: its fields in their order.
META = np.dtype(
    [
        ("camera", np.int32),
        ("session", np.int64),
        ("seq", np.int64),
        ("pts_s", np.float64),
        ("capture_wall_ns", np.int64),
        ("capture_ns", np.int64),
        ("ready_ns", np.int64),
        ("work_ns", np.int64),
        ("ts_source", np.uint8),
        ("lossless", np.bool_),
        ("width", np.int32),
        ("height", np.int32),
        ("shape_height", np.int32),
        ("shape_width", np.int32),
        ("scale", np.float64),
        ("pad_x", np.int32),
        ("pad_y", np.int32),
        ("still", np.bool_),
    ],
    align=True,
)


class SlotPool:
    """`count` slots for images up to `largest`; the supervisor makes it, workers attach.

    Memory: three int64 arrays and the metadata, then one page-aligned uint8 image a slot.
    """

    def __init__(self, count: int, largest: InputShape) -> None:
        self.count = count
        self.image_bytes = page_aligned(largest.height * largest.width * 3)
        self._images_at = page_aligned(count * (3 * 8 + META.itemsize))
        self._block = SharedBlock("slots", self._images_at + count * self.image_bytes)
        self._map()

    def _map(self) -> None:
        words = self.count * 8
        self._written = self._block.array(0, (self.count,), np.int64)
        self._taken = self._block.array(words, (self.count,), np.int64)
        self._released = self._block.array(2 * words, (self.count,), np.int64)
        self._meta = self._block.array(3 * words, (self.count,), META)

    @property
    def size_bytes(self) -> int:
        """Shared memory that the pool takes once every slot was used."""
        return self._block.size

    @property
    def images(self) -> NDArray[np.uint8]:
        """All memory that images lie in, as bytes."""
        return self._block.array(self._images_at, (self.count * self.image_bytes,), np.uint8)

    def image(self, slot: int, shape: InputShape) -> NDArray[np.uint8]:
        """The image of `slot` as (height, width, 3) uint8 RGB."""
        offset = self._images_at + slot * self.image_bytes
        return self._block.array(offset, (shape.height, shape.width, 3), np.uint8)

    # The writer's side: the thread of the camera that owns the ring.

    def free_slot(self, ring: Ring) -> int | None:
        """A slot of `ring` that may be filled; None where all wait for the reader."""
        for slot in range(ring.first, ring.first + ring.count):
            if self._released[slot] == self._written[slot]:
                return slot
        return None

    def free_slots(self, among: NDArray[np.bool_]) -> list[int]:
        """Slots that may be filled, among those of the (count,) mask `among`."""
        free: list[int] = np.flatnonzero((self._released == self._written) & among).tolist()
        return free

    def submit(self, slot: int, meta: FrameMeta) -> None:
        """Hands a filled slot to the reader."""
        self._meta[slot] = msgspec.structs.astuple(meta)
        self._written[slot] += 1

    # The reader's side: the one inference worker that the camera is assigned to.

    def ready_slots(self, readable: NDArray[np.bool_]) -> list[int]:
        """Slots that are ready and not taken yet, among those of the (count,) mask `readable`.

        With each frame come all that its camera submitted before it. While one look goes over the
        slots, a frame may come behind it and the next one before it: that is for a second look.
        """
        ready = self._ready(readable)
        again = self._ready(readable) if ready else ready
        if len(again) == len(ready):
            return ready
        newest: dict[int, tuple[int, int]] = {}
        for slot in ready:
            camera, order = self._order_of(slot)
            newest[camera] = max(order, newest.get(camera, order))
        for slot in set(again).difference(ready):
            camera, order = self._order_of(slot)
            if order < newest.get(camera, order):
                ready.append(slot)
        return ready

    def _ready(self, readable: NDArray[np.bool_]) -> list[int]:
        ready: list[int] = np.flatnonzero((self._written != self._taken) & readable).tolist()
        return ready

    def _order_of(self, slot: int) -> tuple[int, tuple[int, int]]:
        """The camera of the frame in a ready slot, and its session and number."""
        meta = self._meta[slot]
        return int(meta["camera"]), (int(meta["session"]), int(meta["seq"]))

    def take(self, slot: int) -> FrameMeta:
        """Takes a ready slot and returns what is in it."""
        self._taken[slot] = self._written[slot]
        return FrameMeta(*self._meta[slot].item())

    def release(self, slot: int) -> None:
        """Gives a taken slot back to the writer."""
        self._released[slot] = self._taken[slot]

    # The supervisor's side.

    def submitted(self, ring: Ring) -> int:
        """Frames that went into the slots of `ring` since the pool was made."""
        return int(self._written[ring.first : ring.first + ring.count].sum())

    def taken(self, ring: Ring) -> int:
        """Frames that were taken out of the slots of `ring` since the pool was made."""
        return int(self._taken[ring.first : ring.first + ring.count].sum())

    def reclaim(self, ring: Ring) -> None:
        """Releases what a dead reader had taken. What is ready stays for the next one."""
        slots = slice(ring.first, ring.first + ring.count)
        self._released[slots] = self._taken[slots]

    def reset(self, ring: Ring) -> None:
        """Makes `ring` as new, for another camera; nobody may be using it."""
        slots = slice(ring.first, ring.first + ring.count)
        for words in (self._written, self._taken, self._released):
            words[slots] = 0

    def __getstate__(self) -> dict[str, object]:
        kept = ("count", "image_bytes", "_images_at", "_block")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._map()


def lay_out_rings(counts: list[int]) -> list[Ring]:
    """One ring for each of `counts`, one after the other."""
    ends = list(accumulate(counts))
    return [Ring(end - count, count) for end, count in zip(ends, counts, strict=True)]
