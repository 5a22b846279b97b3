"""The subscribers, sync and async; the package tells how they are used."""

import asyncio
import time
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
            if isinstance(step, Event):
                yield step
            elif isinstance(step, Pause):
                time.sleep(step.seconds)
            else:
                try:
                    answer = self._call(step)
                    reading.answered()
                except _TROUBLE as error:
                    time.sleep(reading.delay_after(error))
                    self.close()  # behind a Sentinel or in a Cluster, it may be elsewhere now
                    steps = reading.steps()

    def _call(self, call: Call) -> Any:
        if self._client is None:
            self._client = connected(self._server)
        try:
            return getattr(self._client, call.name)(*call.args, **call.options)
        except ResponseError as error:
            if _may_be_there_already(call, error):
                return None
            raise

    def close(self) -> None:
        """Lets go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None


class AsyncSubscriber:
    """As Subscriber, for asyncio."""

    def __init__(self, url: Server, **options: Any) -> None:
        self._server = server_of(url)
        self._reading = _reading(self._server, options)
        self._client: Any = None

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
            if isinstance(step, Event):
                yield step
            elif isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            else:
                try:
                    answer = await self._call(step)
                    reading.answered()
                except _TROUBLE as error:
                    await asyncio.sleep(reading.delay_after(error))
                    await self.close()
                    steps = reading.steps()

    async def _call(self, call: Call) -> Any:
        if self._client is None:
            self._client = connected_async(self._server)
        try:
            return await getattr(self._client, call.name)(*call.args, **call.options)
        except ResponseError as error:
            if _may_be_there_already(call, error):
                return None
            raise

    async def close(self) -> None:
        """Lets go of the connection."""
        if self._client is not None:
            await close_async(self._client)
            self._client = None


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


def _may_be_there_already(call: Call, error: ResponseError) -> bool:
    """Whether it is a group that was made before; a Redis without memory does not tell."""
    if call.name != "xgroup_create":
        return False
    return "BUSYGROUP" in str(error) or isinstance(error, OutOfMemoryError)
