"""What counts as a Redis that is away, and what as one that refuses."""

import asyncio
from typing import Any

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from streamd import redis_client
from streamd.client.connections import close_async, connected_async
from streamd.config import RedisConfig
from streamd.errors import RedisSetupError
from streamd.redis_client import RedisStreams, Unreachable, check_redis, connect, plain

AWAY = [
    ClusterDownError("The cluster is down"),
    MasterDownError("Link with MASTER is down"),
    BusyLoadingError("Redis is loading the dataset in memory"),
    TryAgainError("Multiple keys request during rehashing of slot"),
    RedisClusterException("Redis Cluster cannot be connected"),
    SlotNotCoveredError('Slot "1" is not covered by the cluster'),
    ResponseError("BUSY Redis is busy running a script"),
]
REFUSED = [
    AuthenticationError("invalid username-password pair"),
    NoPermissionError("User streamd has no permissions"),
    ResponseError("unknown command 'TYPE'"),
]


class FakeClient:
    """Every command ends as `answers` says, in turn, the last one for good."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.closed = False
        self.asked: list[tuple[object, ...]] = []  # of xrevrange

    def _answer(self, *_: object, **__: object) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    type = ping = execute = _answer

    def xrevrange(self, *which: object, **_: object) -> Any:
        self.asked.append(which)
        return self._answer()

    def pipeline(self, transaction: bool) -> "FakeClient":
        return self

    def xadd(self, *_: object, **__: object) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[FakeClient]:
    """The clients that connecting gives, in turn."""
    made: list[FakeClient] = []
    monkeypatch.setattr(redis_client, "connect", lambda config, name: made.pop(0))
    return made


def wrapped(cause: Exception) -> RedisClusterException:
    """As redis-py tells of a Cluster whose only node has answered so."""
    error = RedisClusterException(f"Redis Cluster cannot be connected: {cause}")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("scheme", ["redis", "redis+sentinel", "redis+cluster"])
def test_one_that_nobody_answers_for_is_away(scheme: str) -> None:
    config = RedisConfig(url=f"{scheme}://127.0.0.1:1", timeout_s=1.0)
    assert check_redis(config)
    with pytest.raises(Unreachable):
        RedisStreams(config).ping()


@pytest.mark.parametrize("error", [*AWAY, *REFUSED], ids=lambda error: type(error).__name__)
def test_once_it_runs_whatever_is_raised_is_waited_for(
    clients: list[FakeClient], error: Exception
) -> None:
    clients += [FakeClient(error) for _ in range(3)]
    streams = RedisStreams(RedisConfig())
    with pytest.raises(Unreachable):
        streams.ping()
    with pytest.raises(Unreachable):
        streams.add([("s", {"id": "1"})])
    with pytest.raises(Unreachable):  # an empty answer would send entries twice
        streams.arrived({"s": {"1"}})


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_what_may_be_otherwise_later_is_no_refusal(
    clients: list[FakeClient], error: Exception
) -> None:
    clients.append(FakeClient(error))
    assert check_redis(RedisConfig()) == str(error)


@pytest.mark.parametrize("error", REFUSED, ids=lambda error: type(error).__name__)
def test_what_waiting_would_not_cure_is_told_at_once(
    clients: list[FakeClient], error: Exception
) -> None:
    clients += [FakeClient(error), FakeClient(wrapped(error))]
    for _ in range(2):
        with pytest.raises(RedisSetupError, match=str(error)):
            check_redis(RedisConfig())


def test_a_key_that_is_no_stream_is_told_by_adding_to_it(clients: list[FakeClient]) -> None:
    clients.append(FakeClient(ResponseError("WRONGTYPE Operation against a key")))
    assert RedisStreams(RedisConfig()).arrived({"s": {"1"}}) == set()


def test_of_what_is_sent_again_the_part_that_arrived_is_found(clients: list[FakeClient]) -> None:
    first = FakeClient(["1-0"], ResponseError("OOM command not allowed"))
    again = FakeClient([("1-0", {"id": "a"})])
    clients += [first, again]
    streams = RedisStreams(RedisConfig(url="redis+cluster://h"))
    with pytest.raises(Unreachable):
        streams.add([("s", {"id": "a"}), ("t", {"id": "b"})])
    assert streams.arrived({"s": {"a"}}) == {"a"}
    assert again.asked == [("s", "+", "-")]


def test_after_a_failure_it_connects_anew(clients: list[FakeClient]) -> None:
    demoted = FakeClient([ReadOnlyError("You can't write against a read only replica.")])
    clients += [demoted, FakeClient(["1-0"])]
    streams = RedisStreams(RedisConfig())
    with pytest.raises(Unreachable):
        streams.add([("s", {"id": "1"})])
    assert demoted.closed
    assert streams.add([("s", {"id": "1"})]) == [None]


@pytest.mark.parametrize(
    ("url", "service", "given"),
    [
        ("redis+sentinel://h", "mymaster", {"db": 0, "username": None, "password": None}),
        ("redis+sentinel://h/cams/3", "cams", {"db": 3}),
        ("redis+sentinel://h/cams?db=3", "cams", {"db": 3}),
        ("redis+sentinel://u:p%40w@h/cams", "cams", {"username": "u", "password": "p@w"}),
        ("redis+sentinel://h/cams?username=u", "cams", {"username": "u"}),
        ("rediss+sentinel://h/cams?ssl_cert_reqs=none", "cams", {"ssl_cert_reqs": "none"}),
    ],
)
def test_what_a_sentinel_url_says_reaches_the_client(
    url: str, service: str, given: dict[str, object]
) -> None:
    pool = connect(RedisConfig(url=url)).connection_pool
    assert pool.service_name == service
    assert {name: pool.connection_kwargs[name] for name in given} == given


async def ping_async(url: str) -> None:
    client: Any = connected_async(RedisConfig(url=url))
    try:
        await client.ping()
    finally:
        await close_async(client)


def test_sentinels_that_are_away_are_named_and_no_more() -> None:
    url = "redis+sentinel://:q7@127.0.0.1:1,127.0.0.1:2/cams"
    with pytest.raises(RedisConnectionError) as raised:
        connect(RedisConfig(url=url)).ping()
    with pytest.raises(RedisConnectionError) as raised_async:
        asyncio.run(ping_async(url))
    for error in (raised.value, raised_async.value):
        assert plain(error) == (
            "No master found for 'cams' : 127.0.0.1:1 - network:ConnectionError, "
            "127.0.0.1:2 - network:ConnectionError"
        )


def test_sentinels_may_have_ipv6_addresses_and_no_ports() -> None:
    pool = connect(RedisConfig(url="redis+sentinel://[::1]:1,h2,h3:2/cams")).connection_pool
    addresses = [s.connection_pool.connection_kwargs for s in pool.sentinel_manager.sentinels]
    assert [(a["host"], a["port"]) for a in addresses] == [("::1", 1), ("h2", 26379), ("h3", 2)]
