"""The subscribers, sync and async; the package tells how they are used."""

import asyncio
import threading
from collections.abc import AsyncIterator, Collection, Iterator
from typing import Any

from redis.exceptions import (
    OutOfMemoryError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from streamd.client.connections import (
    Server,
    answer_within_s,
    close_async,
    connected,
    connected_async,
    is_cluster,
    server_of,
)
from streamd.client.reading import Call, Options, Pause, Reading
from streamd.config import RedisConfig
from streamd.events import Event

_LOOK_EVERY_S = 0.5  # whether an AsyncSubscriber that waits was closed
_TROUBLE = (RedisError, RedisClusterException, OSError)


class Subscriber:
    """Iterates over events; `options` are those of Options. Waits for a Redis that is away.

    `url` is one that streamd can publish to, or the RedisConfig of a configuration. Raises
    redis.RedisError for what waiting would not cure: AuthenticationError for a password that is
    refused or missing, ResponseError for a key that is no stream.
    """

    def __init__(self, url: Server, **options: Any) -> None:
        self._server = server_of(url)
        self._reading = _reading(self._server, options)
        self._client: Any = None
        self._in_use = threading.Lock()  # the client
        self._closed = threading.Event()

    @property
    def position(self) -> dict[str, str]:
        """The id of the last entry handed on, by stream: a `start` for another time."""
        return dict(self._reading.position)

    def __iter__(self) -> Iterator[Event]:
        reading = self._reading
        steps, answer = reading.steps(), None
        while True:
            step = steps.send(answer)
            answer = None
            if self._closed.is_set() and not _acknowledges(step):
                self._disconnect()
                return
            if isinstance(step, Event):
                yield step
            elif isinstance(step, Pause):
                self._closed.wait(step.seconds)
            else:
                try:
                    answer = self._call(step)
                    reading.answered()
                except _TROUBLE as error:
                    self._closed.wait(reading.delay_after(error))
                    self._disconnect()  # behind a Sentinel or in a Cluster, it may be elsewhere now
                    steps = reading.steps()

    def _call(self, call: Call) -> Any:
        with self._in_use:
            if self._client is None:
                self._client = connected(self._server)
            try:
                return getattr(self._client, call.name)(*call.args, **call.options)
            except ResponseError as error:
                if _may_be_there_already(call, error):
                    return None
                raise

    def close(self) -> None:
        """Ends it: a thread that waits for an event comes out of its loop within a second or so."""
        self._closed.set()
        self._disconnect()

    def _disconnect(self) -> None:
        """Unless another thread waits for an answer; that one does it then."""
        if self._in_use.acquire(blocking=False):
            if self._client is not None:
                self._client.close()
            self._client = None
            self._in_use.release()


class AsyncSubscriber:
    """As Subscriber, for asyncio."""

    def __init__(self, url: Server, **options: Any) -> None:
        self._server = server_of(url)
        self._reading = _reading(self._server, options)
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the client
        self._closed = False

    @property
    def position(self) -> dict[str, str]:
        """The id of the last entry handed on, by stream: a `start` for another time."""
        return dict(self._reading.position)

    async def __aiter__(self) -> AsyncIterator[Event]:
        reading = self._reading
        steps, answer = reading.steps(), None
        while True:
            step = steps.send(answer)
            answer = None
            if self._closed and not _acknowledges(step):
                await self._disconnect()
                return
            if isinstance(step, Event):
                yield step
            elif isinstance(step, Pause):
                await self._sleep(step.seconds)
            else:
                try:
                    answer = await self._call(step)
                    reading.answered()
                except Exception as error:
                    # Where `close` took the connection away from a call, anything may be raised.
                    if not self._closed:
                        if not isinstance(error, _TROUBLE):
                            raise
                        await self._sleep(reading.delay_after(error))
                    await self._disconnect()
                    steps = reading.steps()

    async def _call(self, call: Call) -> Any:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:  # a client ends with its loop
            self._client, self._loop = connected_async(self._server), loop
        client = self._client
        try:
            return await getattr(client, call.name)(*call.args, **call.options)
        except ResponseError as error:
            if _may_be_there_already(call, error):
                return None
            raise
        finally:
            if client is not self._client:  # closed while it may have been connecting
                await close_async(client)

    async def _sleep(self, seconds: float) -> None:
        """Not much longer than until it is closed."""
        while seconds > 0 and not self._closed:
            await asyncio.sleep(min(seconds, _LOOK_EVERY_S))
            seconds -= _LOOK_EVERY_S

    async def close(self) -> None:
        """Ends it: a task that waits for an event comes out of its loop."""
        self._closed = True
        await self._disconnect()

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await close_async(client)


def _reading(server: Server, given: dict[str, Any]) -> Reading:
    options = Options(**given)
    if isinstance(server, RedisConfig):
        if "streams" not in given:
            options.streams = _streams_of(server, options.cameras)
        options.status_stream = given.get("status_stream", server.status_stream)
    within_s = answer_within_s(server)
    return Reading(options, clustered=is_cluster(server), answer_within_s=within_s)


def _streams_of(config: RedisConfig, cameras: Collection[str] | None) -> list[str]:
    """The streams that the events of `cameras` go to (None: of all)."""
    if "{camera}" not in config.stream:
        return [config.stream]
    if not cameras:
        raise ValueError(f"{config.stream}: name the `streams`, or the `cameras` they are of")
    return sorted(config.stream_of(camera) for camera in cameras)


def _acknowledges(step: object) -> bool:
    """Whether it says of an event that it was worked on, which is to be said even at the end."""
    return isinstance(step, Call) and step.name == "xack"


def _may_be_there_already(call: Call, error: ResponseError) -> bool:
    """Whether it is a group that was made before; a Redis without memory does not tell."""
    if call.name != "xgroup_create":
        return False
    return "BUSYGROUP" in str(error) or isinstance(error, OutOfMemoryError)
