"""streamd.client and the examples against a real Redis."""

import asyncio
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import redis

from streamd.client import AsyncSubscriber, Event, Gap, Subscriber
from streamd.testing.redis_server import RedisServer

from .harness import STREAM, event, eventually

STATUS = "streamd:status"


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Any]:
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as opened:
        yield opened


def publish(client: Any, *events: Event) -> None:
    for each in events:
        client.xadd(STREAM, each.fields())


def seqs(events: Iterator[Event], count: int) -> list[int]:
    return [each.seq for each in islice(events, count)]


def test_all_that_is_kept_or_only_what_is_new(redis_server: RedisServer, client: Any) -> None:
    publish(client, event(1), event(2))
    assert seqs(iter(Subscriber(redis_server.url, start="0")), 2) == [1, 2]
    fresh = iter(Subscriber(redis_server.url))
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(seqs(fresh, 1)), daemon=True)
    reader.start()
    eventually(lambda: "xread" in client.client_list()[0]["cmd"] or client.client_list()[1:])
    time.sleep(0.2)
    publish(client, event(3))
    reader.join(10)
    assert seen == [3]


def test_a_position_is_where_to_go_on(redis_server: RedisServer, client: Any) -> None:
    publish(client, *(event(n) for n in range(6)))
    first = Subscriber(redis_server.url, start="0")
    events = iter(first)
    assert seqs(events, 3) == [0, 1, 2]
    position = first.position
    # What was handed on last may not have been worked on: it comes again.
    assert seqs(iter(Subscriber(redis_server.url, start=position)), 4) == [2, 3, 4, 5]


def test_only_what_is_asked_for(redis_server: RedisServer, client: Any) -> None:
    publish(
        client,
        event(1, "gate", "person"),
        event(2, "yard", "person", "car"),
        event(3, "gate", "car"),
        event(4, "gate"),
    )
    url = redis_server.url
    assert seqs(iter(Subscriber(url, start="0", cameras={"gate"})), 3) == [1, 3, 4]
    assert seqs(iter(Subscriber(url, start="0", labels={"car"})), 2) == [2, 3]
    both = Subscriber(url, start="0", cameras={"gate"}, labels={"car"})
    assert seqs(iter(both), 1) == [3]


def test_an_event_that_comes_twice_is_handed_on_once(
    redis_server: RedisServer, client: Any
) -> None:
    publish(client, event(1), event(2), event(1), event(2), event(3))
    assert seqs(iter(Subscriber(redis_server.url, start="0")), 3) == [1, 2, 3]


def test_a_group_shares_and_goes_on_after_a_crash(redis_server: RedisServer, client: Any) -> None:
    publish(client, *(event(n) for n in range(4)))
    options: dict[str, Any] = {"group": "g", "start": "0"}
    first = iter(Subscriber(redis_server.url, consumer="one", **options))
    assert seqs(first, 2) == [0, 1]
    # It ends here: 0 was done with, as 1 was asked for; 1 was not.
    again = iter(Subscriber(redis_server.url, consumer="one", **options))
    assert seqs(again, 3) == [1, 2, 3]
    publish(client, event(4))
    assert seqs(again, 1) == [4]  # by which 3 is done with


def test_what_a_dead_consumer_had_taken_is_claimed(redis_server: RedisServer, client: Any) -> None:
    publish(client, *(event(n) for n in range(3)))
    dead = iter(Subscriber(redis_server.url, group="g", consumer="dead", start="0"))
    assert seqs(dead, 1) == [0]
    time.sleep(0.05)
    heir = Subscriber(redis_server.url, group="g", consumer="heir", start="0", claim_after_s=0.05)
    assert seqs(iter(heir), 3) == [0, 1, 2]


def test_gaps_are_told(redis_server: RedisServer, client: Any) -> None:
    client.xadd(STATUS, {"kind": "camera", "name": "gate", "state": "online"})
    told = {"kind": "gap", "name": "gate", "reason": "spool_full", "detail": "7 events, a to b"}
    client.xadd(STATUS, told)
    publish(client, event(9))
    gaps: list[Gap] = []
    reader = iter(Subscriber(redis_server.url, start="0", on_gap=gaps.append))
    assert seqs(reader, 1) == [9]
    publish(client, event(10))
    assert seqs(reader, 1) == [10]
    assert gaps == [Gap("gate", "spool_full", "7 events, a to b")]


def test_a_stream_that_was_trimmed_beyond_the_position_is_told(
    redis_server: RedisServer, client: Any
) -> None:
    publish(client, *(event(n) for n in range(10)))
    position = client.xrange(STREAM)[2][0]
    client.xtrim(STREAM, maxlen=3, approximate=False)
    gaps: list[Gap] = []
    reader = Subscriber(redis_server.url, start={STREAM: position}, on_gap=gaps.append)
    assert seqs(iter(reader), 3) == [7, 8, 9]
    assert [gap.reason for gap in gaps] == ["trimmed"]


def test_it_goes_on_when_redis_is_back(durable_redis: RedisServer) -> None:
    with redis.Redis.from_url(durable_redis.url) as writer:
        publish(writer, event(1))
    reader = iter(Subscriber(durable_redis.url, start="0"))
    assert seqs(reader, 1) == [1]
    durable_redis.kill()
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.extend(seqs(reader, 1)), daemon=True)
    thread.start()
    time.sleep(0.3)
    durable_redis.start()
    with redis.Redis.from_url(durable_redis.url) as writer:
        publish(writer, event(2))
    thread.join(20)
    assert seen == [2]


def test_asyncio(redis_server: RedisServer, client: Any) -> None:
    publish(client, event(1), event(2, "gate", "car"), event(3))

    async def read() -> list[int]:
        subscriber = AsyncSubscriber(redis_server.url, group="g", start="0")
        found = []
        async for each in subscriber:
            found.append(each.seq)
            if len(found) == 3:
                break
        await subscriber.close()
        return found

    assert asyncio.run(read()) == [1, 2, 3]
