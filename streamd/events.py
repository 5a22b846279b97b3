"""Events: what a subscriber reads from the Redis stream. docs/events.md is the contract."""

import math
from collections import Counter
from inspect import cleandoc
from typing import Any

import msgspec

from streamd.config import Publish
from streamd.detections import Detection
from streamd.slots import FrameMeta, TsSource

SCHEMA_VERSION = 1
_NO_EVENT = f"not an event of schema version {SCHEMA_VERSION}"
_encode = msgspec.json.Encoder().encode


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds of a frame's way: decode and scale, wait for a batch, infer, capture to event.

    `total` is also what the frame waited before decoding and what postprocessing took.
    """

    decode: float
    wait: float
    infer: float
    total: float


class EventData(msgspec.Struct, frozen=True):
    """The `data` field of an event, as JSON.

    `pts` is the position in the media, in seconds (null where the stream tells none). `dropped`
    counts this camera's frames that were to be inferred since its last event and were not. A
    `still` frame was not inferred: it shows what the last one did, and has its objects.
    """

    pts: float | None
    width: int
    height: int
    model: str
    dropped: int
    latency_ms: Latency
    objects: tuple[Detection, ...]
    still: bool = False


class Event(msgspec.Struct, frozen=True):
    """One frame of one camera. `ts` is the capture time in epoch milliseconds.

    `id` is camera:session:seq; `seq` counts the camera's frames, published or not.
    """

    v: int
    id: str
    camera: str
    seq: int
    ts: int
    ts_source: str
    n: int
    data: EventData

    def fields(self) -> dict[str, Any]:
        """The flat fields of a stream entry; `data` is JSON."""
        return {
            "v": self.v,
            "id": self.id,
            "camera": self.camera,
            "seq": self.seq,
            "ts": self.ts,
            "ts_source": self.ts_source,
            "n": self.n,
            "data": _encode(self.data),
        }


class InferredFrame(msgspec.Struct, frozen=True):
    """A frame with its detections by `model`. Times are CLOCK_MONOTONIC.

    `infer_ns` is that of its batch. A still frame has the detections of the last inferred one.
    """

    meta: FrameMeta
    detections: tuple[Detection, ...]
    taken_ns: int
    infer_ns: int
    model: str


def event_of(frame: InferredFrame, *, camera: str, dropped: int, now_ns: int) -> Event:
    """The event of an inferred frame; `now_ns` is monotonic."""
    meta = frame.meta
    latency = Latency(
        decode=_ms(meta.work_ns),
        wait=_ms(frame.taken_ns - meta.ready_ns),
        infer=_ms(frame.infer_ns),
        total=_ms(now_ns - meta.capture_ns),
    )
    data = EventData(
        pts=None if math.isnan(meta.pts_s) else round(meta.pts_s, 6),
        width=meta.width,
        height=meta.height,
        model=frame.model,
        dropped=dropped,
        latency_ms=latency,
        objects=frame.detections,
        still=meta.still,
    )
    return Event(
        v=SCHEMA_VERSION,
        id=f"{camera}:{meta.session}:{meta.seq}",
        camera=camera,
        seq=meta.seq,
        ts=meta.capture_wall_ns // 1_000_000,
        ts_source=TsSource(meta.ts_source).name.lower(),
        n=len(frame.detections),
        data=data,
    )


class PublishFilter:
    """Which frames of one camera become events."""

    def __init__(self, policy: Publish) -> None:
        self._policy = policy
        self._last: Counter[str] | None = None

    def wants(self, detections: tuple[Detection, ...]) -> bool:
        """True if the frame with these detections is to be published; frames come in order.

        The first always is: what was told last, by a filter before this one, may be over.
        """
        if self._policy is Publish.ALL:
            return True
        labels = Counter(detection.label for detection in detections)
        last, self._last = self._last, labels
        if self._policy is Publish.CHANGES:
            return labels != last
        return bool(labels or last or last is None)


def event_schema() -> dict[str, Any]:
    """The JSON schema of an event as `streamd tail --json` prints it, `data` unpacked."""
    schema: dict[str, Any] = msgspec.json.schema(Event)
    for definition in schema["$defs"].values():
        if "description" in definition:  # a docstring, which Python itself cleans from 3.13 on
            definition["description"] = cleandoc(definition["description"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def parse_event(fields: dict[str, str]) -> Event:
    """The event in a stream entry's fields. Raises ValueError where they are none."""
    try:
        data = msgspec.json.decode(fields["data"])
        event = msgspec.convert({**fields, "data": data}, Event, strict=False)
    except (KeyError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(f"{_NO_EVENT}: {error}") from None
    if event.v != SCHEMA_VERSION:  # what looks the same may mean something else
        raise ValueError(f"{_NO_EVENT}: v is {event.v}")
    return event


def _ms(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 2)
