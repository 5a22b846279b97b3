"""Redis in all its shapes: one server, Sentinel or Cluster, with TLS and ACL users.

A client fails fast and never retries by itself: the publisher does, and in order.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    ClusterError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry
from redis.sentinel import Sentinel

from streamd.config import RedisConfig, mask_url
from streamd.config.secrets import mask_text
from streamd.errors import RedisSetupError

# What a client raises. RedisClusterException (an unreachable Cluster) is no RedisError.
REDIS_ERRORS = (RedisError, RedisClusterException, OSError)
# Answers that are others later: CLUSTERDOWN, MASTERDOWN, TRYAGAIN; and while a script runs.
_FOR_NOW = (ClusterError, TryAgainError)
_WHILE_A_SCRIPT_RUNS = "BUSY "
# Redis will refuse these again however often they are sent.
_HOPELESS = "WRONGTYPE"
_PAGE = 1000
_NAME = "streamd"  # of the daemon's connections, in CLIENT LIST
# How redis-py names a Sentinel that it asked: with all of its options.
_A_CLIENT = re.compile(
    r"<redis\.(?:asyncio\.)?client\.Redis\(.*?\bhost=([^,)]*),port=(\d+).*?\)>\)>\)>"
)


class Unreachable(Exception):  # noqa: N818  # a state of Redis, no error of the program
    """Redis does not take what was sent, for now; the text is one line without credentials."""


def connect(config: RedisConfig, name: str | None = None) -> Any:
    """A client for `config.url`: redis.Redis, or RedisCluster, which has the same commands.

    Redis lists it under its `name`; to have one takes the right to CLIENT SETNAME.
    Raises one of REDIS_ERRORS where a Cluster has to be asked first and does not answer.
    """
    options = {**options_of(config), "client_name": name, "retry": Retry(NoBackoff(), 0)}
    scheme, _, rest = config.url.partition("://")
    if scheme.endswith("+cluster"):
        url = f"{scheme.removesuffix('+cluster')}://{rest}"
        return RedisCluster.from_url(url, **options)
    if scheme.endswith("+sentinel"):
        return through_sentinel(config.url, options, Sentinel)
    return redis.Redis.from_url(config.url, **options)


def through_sentinel(url: str, options: dict[str, Any], make: Any) -> Any:
    """`redis+sentinel://user:password@host:port,host:port/service/db`; TLS with `rediss`.

    `make` is redis-py's Sentinel, or that of asyncio, both of which it leaves without types.
    """
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    service, _, db = parts.path.strip("/").partition("/")
    given = {name: values[0] for name, values in parse_qs(parts.query).items()}
    account = {
        "username": unquote(user) or given.get("username"),
        "password": unquote(password) or given.get("password"),
        "db": int(given.get("db", db or 0)),
    }
    tls = {name: value for name, value in given.items() if name.startswith("ssl_")}
    options = {**options, **tls, "ssl": parts.scheme.startswith("rediss")}
    addresses = [urlsplit(f"//{host}") for host in hosts.split(",")]
    sentinel = make(
        [(address.hostname, address.port or 26379) for address in addresses],
        sentinel_kwargs=dict(options),
        **options,
    )
    return sentinel.master_for(service or "mymaster", **account)


def options_of(config: RedisConfig) -> dict[str, Any]:
    """What redis.Redis and redis.asyncio.Redis are to be made with."""
    files = {
        "ssl_ca_certs": config.tls_ca,
        "ssl_certfile": config.tls_cert,
        "ssl_keyfile": config.tls_key,
    }
    return {
        "socket_timeout": config.timeout_s,
        "socket_connect_timeout": config.timeout_s,
        "decode_responses": True,
        "encoding_errors": "replace",  # others may write bytes into a stream
        **{name: path for name, path in files.items() if path is not None},
    }


def check_redis(config: RedisConfig) -> str | None:
    """None if Redis can be used, else why it cannot be reached now.

    Raises RedisSetupError where it answers but refuses: waiting would not help.
    """
    where = f"redis.url: {mask_url(config.url)}"
    client: Any = None
    try:
        client = connect(config, _NAME)
        for stream in (config.stream, config.status_stream):
            kind = client.type(stream) if "{camera}" not in stream else "none"
            if isinstance(kind, str) and kind not in ("none", "stream"):
                raise RedisSetupError(f"{where}: the key {stream} is a {kind}, not a stream")
    except REDIS_ERRORS as error:
        if _refused(error):
            raise RedisSetupError(f"{where}: refused: {plain(error)}") from None
        return plain(error)
    finally:
        if client is not None:
            client.close()
    return None


def _refused(error: BaseException | None) -> bool:
    """Whether Redis has answered, and would answer the same again."""
    if isinstance(error, RedisClusterException):  # it wraps what the node said
        return _refused(error.__cause__ or error.__context__)
    refusals = isinstance(error, AuthenticationError | ResponseError)
    passes = isinstance(error, _FOR_NOW) or str(error).startswith(_WHILE_A_SCRIPT_RUNS)
    return refusals and not passes


def plain(error: Exception) -> str:
    """An error of Redis as one line: without credentials, and without the command."""
    text = _A_CLIENT.sub(r"\1:\2", str(error).rpartition("caused error: ")[2])
    return mask_text(" ".join(text.split())) or type(error).__name__


class RedisStreams:
    """What the publisher asks of Redis. Every method raises Unreachable."""

    def __init__(self, config: RedisConfig) -> None:
        self._config = config
        self._client: Any = None
        self._newest: dict[str, str] = {}  # the entry id that was answered last, by stream

    def ping(self) -> None:
        """Asks whether it is there."""
        try:
            self._connected().ping()
        except REDIS_ERRORS as error:
            raise self._unreachable(error) from None

    def add(self, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str | None]:
        """Adds (stream, fields) in order; gives None for each, or why it will never be taken.

        One transaction, so that what follows an entry cannot be there without it; of a Cluster,
        one a stream.
        """
        refused: list[str | None] = [None] * len(entries)
        newest: dict[str, str] = {}
        try:
            client = self._connected()
            for group in self._groups(entries):
                pipeline = client.pipeline(transaction=True)
                for at in group:
                    stream, fields = entries[at]
                    pipeline.xadd(
                        stream, dict(fields), maxlen=self._config.max_entries, approximate=True
                    )
                answers = pipeline.execute(raise_on_error=False)
                for at, answer in zip(group, answers, strict=True):
                    refused[at] = _settled(entries[at][0], answer, newest)
        except REDIS_ERRORS as error:
            raise self._unreachable(error) from None
        # Not earlier: where a part fails all are sent again, and what arrived is looked for.
        self._newest |= newest
        return refused

    def arrived(self, wanted: Mapping[str, set[str]]) -> set[str]:
        """Which of the `wanted` ids, by stream, are among the newest entries.

        Reads each stream from its end back to the last entry that this client was told of. Where
        it was told of none, some pages suffice: what is in doubt was sent last.
        """
        found: set[str] = set()
        try:
            for stream, ids in wanted.items():
                found |= self._look_back(stream, ids)
        except REDIS_ERRORS as error:
            if not str(error).startswith(_HOPELESS):  # that is for adding to it to say
                raise self._unreachable(error) from None
        return found

    def close(self) -> None:
        """Lets go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _look_back(self, stream: str, ids: set[str]) -> set[str]:
        known = self._newest.get(stream)
        stop = f"({known}" if known else "-"
        end, found = "+", set()
        for _ in range(max(20, self._config.max_entries // _PAGE) if known else 20):
            page = self._connected().xrevrange(stream, end, stop, count=_PAGE)
            found |= ids & {fields.get("id", "") for _, fields in page}
            if len(page) < _PAGE or found == ids:
                break
            end = f"({page[-1][0]}"
        return found

    def _groups(self, entries: Sequence[tuple[str, Any]]) -> list[list[int]]:
        if "+cluster" not in self._config.url.partition("://")[0]:
            return [list(range(len(entries)))]
        groups: dict[str, list[int]] = {stream: [] for stream in Counter(s for s, _ in entries)}
        for at, (stream, _) in enumerate(entries):
            groups[stream].append(at)
        return list(groups.values())

    def _connected(self) -> Any:
        if self._client is None:
            self._client = connect(self._config, _NAME)
        return self._client

    def _unreachable(self, error: Exception) -> Unreachable:
        # The next try connects anew: the address may lead to another server after a fail-over, and
        # a Cluster has other nodes then.
        self.close()
        return Unreachable(plain(error))


def _settled(stream: str, answer: Any, newest: dict[str, str]) -> str | None:
    """Why an entry will never be taken; None where it was, as the `newest` of its stream."""
    if not isinstance(answer, Exception):
        newest[stream] = answer
        return None
    if str(answer).startswith(_HOPELESS):
        return f"{stream}: {answer}"
    raise answer
