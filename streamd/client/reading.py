"""What a subscriber asks Redis next, and what the answers mean; without I/O."""

import logging
import os
import re
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterError,
    ReadOnlyError,
    RedisClusterException,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamd.clock import Backoff
from streamd.events import Event, parse_event
from streamd.redis_client import plain

DETECTIONS, STATUS = "streamd:detections", "streamd:status"
_REMEMBERED = 10_000
_BLOCK_S = 1.0
_AT_ONCE = 200
# Others wait for what a consumer has taken, and claim it when that takes too long.
_AT_ONCE_IN_A_GROUP = 10
_POLL_S = 0.1  # streams of a Cluster, which cannot be waited for together
_DEFAULT_CONSUMER = re.compile(r".+:\d+:[0-9a-f]{8}")

_REFUSED = (AuthenticationError, AuthorizationError)
_AWAY = (RedisConnectionError, RedisTimeoutError, RedisClusterException, OSError)
_FAILING_OVER = (ReadOnlyError, ClusterError, TryAgainError)
# The stream or the group is gone, as when Redis lost its data: both are made again. A full disk, a
# replica that is missing, a script that takes long.
_PASSING = ("NOGROUP", "no such key", "UNBLOCKED", "MISCONF", "NOREPLICAS", "BUSY ")

_log = logging.getLogger("streamd.client")


def _log_away(why: str) -> None:
    _log.warning("redis: %s; trying again", why)


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
    `position`; a `group` that is there already goes on where it was. A `consumer` is one process of
    the group (None: a new name each time). `on_gap` hears of events that will not come, of a group
    one consumer. `on_away` hears why Redis cannot be read, once each time.
    """

    streams: Sequence[str] = (DETECTIONS,)
    status_stream: str = STATUS
    cameras: Collection[str] | None = None
    labels: Collection[str] | None = None
    start: str | dict[str, str] = "$"
    group: str | None = None
    consumer: str | None = None
    claim_after_s: float = 60.0
    on_gap: Callable[[Gap], None] | None = None
    on_away: Callable[[str], None] = _log_away

    def __post_init__(self) -> None:
        for name in ("streams", "cameras", "labels"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} is to be a list, not a text")
        if not self.streams:
            raise ValueError("streams is empty")
        if self.consumer is not None and self.group is None:
            raise ValueError("consumer is one of a group: name the group, too")
        if not isinstance(self.start, str | dict):
            raise TypeError('start is to be "$", "0" or a position')


@dataclass(frozen=True, slots=True)
class Call:
    """A command for Redis, whose answer is to be sent back."""

    name: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing came: to be waited for so long."""

    seconds: float


Steps = Generator[Call | Pause | Event, Any, None]


class Reading:
    """Drives a subscriber, sync or async. `clustered`: each command may name one stream only.

    `answer_within_s`: how long the connection waits for an answer.
    """

    def __init__(
        self,
        options: Options,
        *,
        clustered: bool = False,
        answer_within_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.position: dict[str, str] = {}
        self.consumer = options.consumer or ""
        self._process = 0  # that made up the name of the consumer
        status = () if options.on_gap is None else (options.status_stream,)
        self._streams = tuple(dict.fromkeys((*status, *options.streams)))
        self._together = [(s,) for s in self._streams] if clustered else [self._streams]
        # Redis is to say that nothing came before the connection counts as lost; 0 is for ever.
        self._block_ms = max(1, int(1000 * min(_BLOCK_S, answer_within_s / 2)))
        self._clock = clock
        self._claim_due_s = 0.0
        self._joined: set[str] = set()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._backoff = Backoff(first_s=0.1, longest_s=5.0)
        self._is_away = self._was_odd = False

    def steps(self) -> Steps:
        """Calls to be made, to each of which its answer is sent, and events to be handed on.

        It is asked for anew after an error, and goes on where the last one was.
        """
        if not self.options.consumer and self._process != os.getpid():
            # A fork that went on with the name of its parent would have what that one works on.
            self.consumer, self._process = _new_consumer(), os.getpid()
        for stream in self._streams:
            yield from self._find_start(stream) if self._alone else self._join(stream)
        if not self._alone:
            yield from self._forget_the_dead()
            yield from self._pending()
        block_ms = self._block_ms if len(self._together) == 1 else None
        behind: set[str] = set()
        while True:
            yield from self._claim()
            came = 0
            for streams in self._together:
                for stream in behind.intersection(streams):
                    yield from self._look_behind(stream)
                call = self._read(streams, block_ms)
                answer = _by_stream((yield call))
                sizes = {stream: len(entries) for stream, entries in answer}
                came += sum(sizes.values())
                behind.difference_update(streams)
                behind.update(s for s, size in sizes.items() if size == call.options["count"])
                yield from self._take(answer)
            if not came and block_ms is None:
                yield Pause(_POLL_S)

    def answered(self) -> None:
        """Redis is there."""
        self._is_away = False
        self._backoff.reset()

    def delay_after(self, error: Exception) -> float:
        """The seconds to wait before new `steps`. Raises `error` where waiting would not help."""
        # A Cluster wraps what its nodes say.
        cause = error.__cause__ if isinstance(error, RedisClusterException) else None
        if isinstance(cause, _REFUSED):
            raise cause
        passes = isinstance(error, (*_AWAY, *_FAILING_OVER)) or str(error).startswith(_PASSING)
        if isinstance(error, _REFUSED) or not passes:
            raise error
        if not self._is_away:
            self._is_away = True
            self.options.on_away(plain(error).rstrip("."))
        return self._backoff.next_delay_s()

    @property
    def _alone(self) -> bool:
        return self.options.group is None

    def _start_of(self, stream: str) -> str:
        start = self.options.start
        return start if isinstance(start, str) else start.get(stream, "$")

    def _find_start(self, stream: str) -> Steps:
        start = self.position.get(stream) or self._start_of(stream)
        if start == "$":  # as a fixed id, so that nothing is missed between two reads
            last = yield Call("xrevrange", (stream,), {"count": 1})
            start = last[0][0] if last else "0"
        else:
            yield from self._look_for_trimming(stream, start)
        self.position[stream] = start

    def _join(self, stream: str) -> Steps:
        # A group that is gone again goes with all that was in its stream.
        start = "0" if stream in self._joined else self._start_of(stream)
        yield Call("xgroup_create", (stream, self.options.group, start), {"mkstream": True})
        self._joined.add(stream)
        yield from self._look_behind(stream)

    def _look_behind(self, stream: str) -> Steps:
        """Whether what was to be read next has been trimmed: of whoever is behind, it may be."""
        if self.options.on_gap is None:
            return
        if self._alone:
            yield from self._look_for_trimming(stream, self.position[stream])
            return
        groups = yield Call("xinfo_groups", (stream,))
        for each in groups:
            if each["name"] == self.options.group:
                yield from self._look_for_trimming(stream, each["last-delivered-id"])

    def _look_for_trimming(self, stream: str, start: str) -> Steps:
        if self.options.on_gap is None or start in ("0", "0-0"):
            return
        first = yield Call("xrange", (stream,), {"count": 1})
        if first and _order(first[0][0]) > _order(start):
            known = yield Call("xrange", (stream, start, start))
            if not known:
                detail = f"{stream}: from {start} to {first[0][0]}"
                self.options.on_gap(Gap("", "trimmed", detail))

    def _forget_the_dead(self) -> Steps:
        """Every start makes a consumer: those that ended go, once others have what they had."""
        if self.options.consumer is not None:
            return
        for stream in self._streams:
            known = yield Call("xinfo_consumers", (stream, self.options.group))
            for each in known:
                silent = each["idle"] > 1000 * self.options.claim_after_s
                if silent and not each["pending"] and _DEFAULT_CONSUMER.fullmatch(each["name"]):
                    which = (stream, self.options.group, each["name"])
                    yield Call("xgroup_delconsumer", which)

    def _pending(self) -> Steps:
        """What this consumer had taken and not acknowledged when it ended or lost Redis."""
        for streams in self._together:
            while True:
                answer = _by_stream((yield self._read(streams, None, "0")))
                if not any(entries for _, entries in answer):
                    break
                yield from self._take(answer)

    def _claim(self) -> Steps:
        """What others took long ago and never acknowledged."""
        options = self.options
        if self._alone or self._clock() < self._claim_due_s:
            return
        self._claim_due_s = self._clock() + min(1.0, options.claim_after_s)
        for stream in self._streams:
            idle_ms = int(options.claim_after_s * 1000)
            which = (stream, options.group, self.consumer, idle_ms)
            answer = yield Call("xautoclaim", which, {"count": _AT_ONCE_IN_A_GROUP})
            entries = answer[1]
            yield from self._take([(stream, entries)])
            if len(entries) == _AT_ONCE_IN_A_GROUP:
                self._claim_due_s = 0.0
            if any(entry_id is None for entry_id, _ in entries):
                yield from self._pending()  # Redis 6 gives those that were trimmed without an id

    def _read(self, streams: Sequence[str], block_ms: int | None, start: str = ">") -> Call:
        options = {"block": block_ms, "count": _AT_ONCE}
        if self._alone:
            return Call("xread", ({s: self.position[s] for s in streams},), options)
        options["count"] = max(1, _AT_ONCE_IN_A_GROUP // len(self._streams))
        starts = dict.fromkeys(streams, start)
        return Call("xreadgroup", (self.options.group, self.consumer, starts), options)

    def _take(self, answer: Sequence[tuple[str, Any]]) -> Steps:
        for stream, entries in answer:
            for entry_id, fields in entries:
                if entry_id is None:
                    continue
                self.position[stream] = entry_id
                if stream in self.options.streams:
                    yield from self._hand_on(stream, entry_id, fields)
                else:
                    self._note_gap(fields)
                if not self._alone:
                    yield Call("xack", (stream, self.options.group, entry_id))

    def _note_gap(self, fields: dict[str, str]) -> None:
        if fields.get("kind") == "gap" and self.options.on_gap is not None:
            said = (fields.get(name, "") for name in ("name", "reason", "detail"))
            self.options.on_gap(Gap(*said))

    def _hand_on(self, stream: str, entry_id: str, fields: dict[str, str]) -> Steps:
        """The event of an entry, unless it is filtered out, comes again, or was deleted."""
        if not fields or fields.get("id") in self._seen:
            return
        wanted = self.options.cameras
        if wanted is not None and fields.get("camera") not in wanted:
            return
        try:
            event = parse_event(fields)
        except ValueError as error:
            if not self._was_odd:
                self._was_odd = True
                _log.warning("%s: %s is skipped, as others will be: %s", stream, entry_id, error)
            return
        labels = self.options.labels
        if labels is None or any(item.label in labels for item in event.data.objects):
            yield event
        self._seen[event.id] = None  # only now: in a crash it comes again
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)


def _by_stream(answer: Any) -> list[tuple[str, Any]]:
    """The entries of each stream, with `?protocol=3` in the URL as well: redis-py nests those."""
    if isinstance(answer, dict):
        return [(s, [entry for each in lists for entry in each]) for s, lists in answer.items()]
    return [(stream, entries) for stream, entries in answer or ()]


def _new_consumer() -> str:
    """No other process has it, not even in a container that shares its host's name."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)
