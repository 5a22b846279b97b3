"""Clients of subscribers, sync and async, for every Redis that streamd publishes to."""

from typing import Any
from urllib.parse import unquote, urlsplit

import redis
import redis.asyncio
from pydantic import ValidationError
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from streamd.config import RedisConfig, mask_url
from streamd.redis_client import connect

Server = str | RedisConfig

# Another producer's entry may hold what is no text.
_OPTIONS: dict[str, Any] = {
    "decode_responses": True,
    "encoding_errors": "replace",
    "socket_timeout": 5.0,
    "socket_connect_timeout": 5.0,
}


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


def connected(server: Server) -> Any:
    """redis.Redis, or RedisCluster. See redis_client.connect."""
    if isinstance(server, RedisConfig):
        return connect(server)
    return redis.Redis.from_url(server, retry=Retry(NoBackoff(), 0), **_OPTIONS)


def connected_async(server: Server) -> Any:
    """As `connected`, for asyncio; asks nobody yet."""
    options: dict[str, Any] = {**_OPTIONS, "retry": AsyncRetry(NoBackoff(), 0)}
    if isinstance(server, str):
        return redis.asyncio.Redis.from_url(server, **options)
    options |= {"socket_timeout": server.timeout_s, "socket_connect_timeout": server.timeout_s}
    files = {
        "ssl_ca_certs": server.tls_ca,
        "ssl_certfile": server.tls_cert,
        "ssl_keyfile": server.tls_key,
    }
    options |= {name: path for name, path in files.items() if path is not None}
    scheme, _, rest = server.url.partition("://")
    kind, _, shape = scheme.partition("+")
    if shape == "cluster":
        return redis.asyncio.RedisCluster.from_url(f"{kind}://{rest}", **options)
    if shape == "sentinel":
        return _through_sentinel(server.url, options)
    return redis.asyncio.Redis.from_url(server.url, **options)


async def close_async(client: Any) -> None:
    """Closes a client of `connected_async`, and what redis-py leaves open: those of Sentinels."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    manager = getattr(pool, "sentinel_manager", None)
    for sentinel in manager.sentinels if manager is not None else ():
        await sentinel.aclose()


def _through_sentinel(url: str, options: dict[str, Any]) -> Any:
    """As redis_client has it, with the Sentinel of asyncio."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    places = [host.partition(":")[::2] for host in hosts.split(",")]
    service, _, db = parts.path.strip("/").partition("/")
    if parts.scheme.startswith("rediss"):
        options = {**options, "ssl": True}
    # redis-py leaves Sentinel without types.
    make: Any = Sentinel
    sentinel = make(
        [(name, int(port or 26379)) for name, port in places],
        sentinel_kwargs=dict(options),
        **options,
        username=unquote(user) or None,
        password=unquote(password) or None,
    )
    return sentinel.master_for(service or "mymaster", db=int(db or 0))
