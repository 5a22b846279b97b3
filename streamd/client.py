"""Subscribing to what streamd publishes, sync or async, alone or in a group.

    from streamd.client import Subscriber

    for event in Subscriber("redis://localhost:6379/0", labels={"person"}):
        print(event.camera, event.ts, [item.label for item in event.data.objects])

    async for event in AsyncSubscriber("redis://localhost:6379/0", group="alerts"):
        ...

Without a `group` a subscriber sees all events from `start` on, and `position` is what to keep in
order to go on there another time. With one, the consumers of that group share the events, and Redis
remembers what each has taken: an event is acknowledged when the next one is asked for, so what was
being worked on in a crash comes again: to the same consumer when it is back, or to another after
`claim_after_s`. A Redis that is away is waited for.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import ClusterError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamd.clock import Backoff
from streamd.events import Event, parse_event

__all__ = ["AsyncSubscriber", "Event", "Gap", "Subscriber"]

DETECTIONS, STATUS = "streamd:detections", "streamd:status"
_REMEMBERED = 10_000
_BLOCK_MS = 1000
_AWAY = (RedisConnectionError, RedisTimeoutError, ClusterError, OSError)


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that will not come. `reason` is `trimmed` where the stream no longer has them.

    Otherwise streamd itself lost them, and says why; `detail` has their number, first and last.
    """

    camera: str
    reason: str
    detail: str


@dataclass(slots=True)
class Options:
    """What to read, and of that what to hand on.

    `streams` hold events, of which only those of `cameras`, and with an object of one of `labels`,
    are handed on (None: all). `start` is `$` for what is new, `0` for all that is kept, or a
    `position`. `on_gap` hears of events that will not come.
    """

    streams: Sequence[str] = (DETECTIONS,)
    status_stream: str = STATUS
    cameras: Collection[str] | None = None
    labels: Collection[str] | None = None
    start: str | dict[str, str] = "$"
    group: str | None = None
    consumer: str = "1"
    claim_after_s: float = 60.0
    on_gap: Callable[[Gap], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class _Call:
    """A command for Redis, whose answer is to be sent back."""

    name: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


_Steps = Generator[_Call | Event, Any, None]


class _Reading:
    """What to ask Redis next, and what its answers mean; without I/O, for both subscribers."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.position: dict[str, str] = {}
        self._seen: OrderedDict[str, None] = OrderedDict()

    def steps(self) -> _Steps:
        """Calls to be made, to each of which its answer is sent, and events to be handed on."""
        yield from self._begin()
        if self.options.group is None:
            while True:
                answer = yield _Call("xread", (dict(self.position), 200, _BLOCK_MS))
                yield from self._take(answer)
        yield from self._pending()
        while True:
            yield from self._claim()
            answer = yield self._group_read(">", _BLOCK_MS)
            yield from self._take(answer)

    def _begin(self) -> _Steps:
        options = self.options
        for stream in (*options.streams, options.status_stream):
            start = options.start
            if not isinstance(start, str):
                start = start.get(stream, "$")
            if options.group is not None and stream != options.status_stream:
                yield from self._join(stream, start)
                continue
            if start == "$":  # as a fixed id, so that nothing is missed between two reads
                last = yield _Call("xrevrange", (stream,), {"count": 1})
                start = last[0][0] if last else "0"
            elif start != "0":
                yield from self._look_for_trimming(stream, start)
            self.position[stream] = start

    def _join(self, stream: str, start: str) -> _Steps:
        assert self.options.group is not None
        created = yield _Call(
            "xgroup_create", (stream, self.options.group, start), {"mkstream": True}
        )
        if isinstance(created, ResponseError) and "BUSYGROUP" not in str(created):
            raise created

    def _look_for_trimming(self, stream: str, start: str) -> _Steps:
        first = yield _Call("xrange", (stream,), {"count": 1})
        if first and _order(first[0][0]) > _order(start):
            known = yield _Call("xrange", (stream, start, start))
            if not known:
                detail = f"{stream}: from {start} to {first[0][0]}"
                self.options.on_gap(Gap("", "trimmed", detail))

    def _pending(self) -> _Steps:
        """What this consumer had taken and not acknowledged when it ended."""
        while True:
            answer = yield self._group_read("0", None)
            if not any(entries for _, entries in answer):
                return
            yield from self._take(answer)

    def _claim(self) -> _Steps:
        """What others took long ago and never acknowledged."""
        options = self.options
        for stream in options.streams:
            answer = yield _Call(
                "xautoclaim",
                (stream, options.group, options.consumer, int(options.claim_after_s * 1000)),
                {"count": 100},
            )
            yield from self._take([(stream, answer[1])])

    def _group_read(self, start: str, block_ms: int | None) -> _Call:
        options = self.options
        streams = dict.fromkeys(options.streams, start)
        return _Call(
            "xreadgroup",
            (options.group, options.consumer, streams),
            {"count": 200, "block": block_ms},
        )

    def _take(self, answer: Any) -> _Steps:
        for stream, entries in answer or ():
            for entry_id, fields in entries:
                if stream == self.options.status_stream:
                    self._note_gap(fields)
                else:
                    event = self._wanted(fields)
                    if event is not None:
                        yield event
                    if self.options.group is not None:
                        yield _Call("xack", (stream, self.options.group, entry_id))
                self.position[stream] = entry_id

    def _note_gap(self, fields: dict[str, str]) -> None:
        if fields.get("kind") == "gap":
            self.options.on_gap(Gap(fields["name"], fields["reason"], fields["detail"]))

    def _wanted(self, fields: dict[str, str] | None) -> Event | None:
        """The event of an entry; None where it is filtered out, comes again, or was deleted."""
        if not fields or fields["id"] in self._seen:
            return None
        self._seen[fields["id"]] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        options = self.options
        if options.cameras is not None and fields["camera"] not in options.cameras:
            return None
        event = parse_event(fields)
        if options.labels is None:
            return event
        return event if any(o.label in options.labels for o in event.data.objects) else None


class Subscriber:
    """Iterates over events; `options` are those of Options. Waits for a Redis that is away.

    Raises redis.ResponseError for what waiting would not cure, such as a refused password.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._reading = _Reading(Options(**options))
        self._client = redis.Redis.from_url(url, decode_responses=True)

    @property
    def position(self) -> dict[str, str]:
        """The id of the last entry handed on, by stream: a `start` for another time."""
        return dict(self._reading.position)

    def __iter__(self) -> Iterator[Event]:
        steps, answer = self._reading.steps(), None
        while True:
            step = steps.send(answer)
            answer = None
            if isinstance(step, Event):
                yield step
            else:
                answer = self._call(step)

    def _call(self, call: _Call) -> Any:
        backoff = Backoff(first_s=0.1, longest_s=5.0)
        while True:
            try:
                return getattr(self._client, call.name)(*call.args, **call.options)
            except _AWAY:  # MASTERDOWN is a ResponseError, too
                time.sleep(backoff.next_delay_s())
            except ResponseError as error:
                if call.name == "xgroup_create":
                    return error
                raise

    def close(self) -> None:
        """Lets go of the connection."""
        self._client.close()


class AsyncSubscriber:
    """As Subscriber, for asyncio."""

    def __init__(self, url: str, **options: Any) -> None:
        self._reading = _Reading(Options(**options))
        self._client = redis.asyncio.Redis.from_url(url, decode_responses=True)

    @property
    def position(self) -> dict[str, str]:
        """The id of the last entry handed on, by stream: a `start` for another time."""
        return dict(self._reading.position)

    async def __aiter__(self) -> AsyncIterator[Event]:
        steps, answer = self._reading.steps(), None
        while True:
            step = steps.send(answer)
            answer = None
            if isinstance(step, Event):
                yield step
            else:
                answer = await self._call(step)

    async def _call(self, call: _Call) -> Any:
        backoff = Backoff(first_s=0.1, longest_s=5.0)
        while True:
            try:
                return await getattr(self._client, call.name)(*call.args, **call.options)
            except _AWAY:  # MASTERDOWN is a ResponseError, too
                await asyncio.sleep(backoff.next_delay_s())
            except ResponseError as error:
                if call.name == "xgroup_create":
                    return error
                raise

    async def close(self) -> None:
        """Lets go of the connection."""
        await self._client.aclose()


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)
