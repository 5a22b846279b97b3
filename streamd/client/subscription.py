"""Reads events as they come; the reading end of `tail` and of the demo."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from redis.exceptions import RedisError

from streamd.client.subscriber import Subscriber
from streamd.config import Config, RedisConfig, mask_url
from streamd.errors import RedisSetupError
from streamd.events import Event
from streamd.redis_client import plain


def streams_of(config: Config, camera: str | None = None) -> list[str]:
    """The streams that the events of `config` go to, or those of one `camera`, listed or not."""
    ids = [each.id for each in config.cameras] if camera is None else [camera]
    return sorted({config.redis.stream_of(id_) for id_ in ids})


def subscribe(
    redis: RedisConfig,
    streams: Sequence[str],
    *,
    start: str = "$",
    on_away: Callable[[str], None] = lambda _: None,
) -> Iterator[Event]:
    """Events of all `streams` as they come, for ever.

    `start` is "$" for what is new or "0" for all that is kept. While Redis is away it is waited
    for; `on_away` is told why, once. Raises RedisSetupError where it refuses.
    """
    with closing(Subscriber(redis, streams=streams, start=start, on_away=on_away)) as subscriber:
        try:
            yield from subscriber
        except RedisError as error:
            where = f"redis.url: {mask_url(redis.url)}"
            raise RedisSetupError(f"{where}: refused: {plain(error)}") from None
