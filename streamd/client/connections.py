"""Clients of subscribers, sync and async, for every Redis that streamd publishes to."""

from typing import Any

import redis
import redis.asyncio
from pydantic import ValidationError
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from streamd.config import RedisConfig, mask_url
from streamd.redis_client import connect, options_of, through_sentinel

Server = str | RedisConfig

_OPTIONS = options_of(RedisConfig())


def server_of(url: Server) -> Server:
    """What `connected` takes: a URL that redis-py knows, else a RedisConfig.

    Raises ValueError, without credentials, where `url` is neither.
    """
    if isinstance(url, RedisConfig):
        return url
    try:
        if "+" in url.partition("://")[0]:
            return RedisConfig(url=url)
        redis.Redis.from_url(url)  # connects to nothing yet
    except ValidationError as error:
        what = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise ValueError(f"{mask_url(url)}: {what}") from None
    except ValueError:
        raise ValueError(f"{mask_url(url)}: is no URL of Redis") from None
    return url


def is_cluster(server: Server) -> bool:
    """Whether a command may name streams of one slot only."""
    return isinstance(server, RedisConfig) and "+cluster" in server.url.partition("://")[0]


def answer_within_s(server: Server) -> float:
    """How long a client of `server` waits for an answer."""
    if isinstance(server, RedisConfig):
        return server.timeout_s
    given = redis.Redis.from_url(server, **_OPTIONS).get_connection_kwargs()
    return float(given["socket_timeout"])


def connected(server: Server) -> Any:
    """redis.Redis, or RedisCluster. See redis_client.connect."""
    if isinstance(server, RedisConfig):
        return connect(server)
    return redis.Redis.from_url(server, retry=Retry(NoBackoff(), 0), **_OPTIONS)


def connected_async(server: Server) -> Any:
    """As `connected`, for asyncio; asks nobody yet."""
    retry = AsyncRetry(NoBackoff(), 0)
    if isinstance(server, str):
        return redis.asyncio.Redis.from_url(server, retry=retry, **_OPTIONS)
    options = {**options_of(server), "retry": retry}
    scheme, _, rest = server.url.partition("://")
    kind, _, shape = scheme.partition("+")
    if shape == "cluster":
        return redis.asyncio.RedisCluster.from_url(f"{kind}://{rest}", **options)
    if shape == "sentinel":
        return through_sentinel(server.url, options, Sentinel)
    return redis.asyncio.Redis.from_url(server.url, **options)


async def close_async(client: Any) -> None:
    """Closes a client of `connected_async`, and what redis-py leaves open: those of Sentinels."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    manager = getattr(pool, "sentinel_manager", None)
    for sentinel in manager.sentinels if manager is not None else ():
        await sentinel.aclose()
