"""Reads events as they come; the reading end of `tail` and of the demo."""

from collections.abc import Iterator, Sequence
from typing import Any

from streamd.config import Config, RedisConfig
from streamd.events import Event, parse_event
from streamd.redis_client import REDIS_ERRORS, connect


def streams_of(config: Config) -> list[str]:
    """The streams that the events of `config` go to."""
    name = config.redis.stream
    return sorted({name.replace("{camera}", camera.id) for camera in config.cameras})


def subscribe(
    redis: RedisConfig, streams: Sequence[str], *, start: str = "$", block_ms: int = 1000
) -> Iterator[Event | None]:
    """Events of all `streams` as they come, and None whenever `block_ms` passed without one.

    `start` is "$" for what is new or "0" for all that is kept. Raises ConnectionError where Redis
    is away or refuses.
    """
    # redis-py types its answers as awaitable or not; what is used here is a list of pairs.
    client: Any = None
    try:
        client = connect(redis)
        positions = {stream: _position(client, stream, start) for stream in streams}
        while True:
            answer = client.xread(positions, count=200, block=block_ms)
            for stream, entries in answer:
                for entry_id, fields in entries:
                    positions[stream] = entry_id
                    yield parse_event(fields)
            if not answer:
                yield None
    except REDIS_ERRORS as error:
        raise ConnectionError(str(error)) from None
    finally:
        if client is not None:
            client.close()


def _position(client: Any, stream: str, start: str) -> str:
    """`$` as a fixed id, so that nothing is missed between two reads."""
    if start != "$":
        return start
    last = client.xrevrange(stream, count=1)
    return str(last[0][0]) if last else "0"
