"""streamd.client and the examples against a real Redis."""

import asyncio
import gc
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest
import redis
from redis.exceptions import AuthenticationError, RedisError

from streamd.client import AsyncSubscriber, Event, Gap, Subscriber
from streamd.clock import Backoff
from streamd.config import RedisConfig
from streamd.redis_client import connect
from streamd.testing.redis_server import RedisServer

from .harness import STREAM, a_cluster, event, eventually

STATUS = "streamd:status"
# Two seconds, in Lua.
TAKES_LONG = """redis.replicate_commands()
local began = redis.call('TIME')[1]
while redis.call('TIME')[1] - began < 2 do end
"""


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Any]:
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as opened:
        yield opened


def publish(client: Any, *events: Event) -> None:
    for each in events:
        client.xadd(STREAM, each.fields())


def seqs(events: Iterator[Event], count: int) -> list[int]:
    return [each.seq for each in islice(events, count)]


@contextmanager
def reading_one(subscriber: Subscriber) -> Iterator[list[int]]:
    """The `seq` of its next event, which a thread waits for; it came by the end."""
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(seqs(iter(subscriber), 1)), daemon=True)
    reader.start()
    yield seen
    reader.join(20)


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
    ids = [entry_id for entry_id, _ in client.xrange(STREAM)]
    first = Subscriber(redis_server.url, start="0")
    events = iter(first)
    for n in range(3):
        assert next(events).seq == n
        assert first.position == {STREAM: ids[n]}  # while it is worked on, too
    position = first.position
    assert seqs(iter(Subscriber(redis_server.url, start=position)), 3) == [3, 4, 5]


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


def test_processes_that_share_a_group_name_no_consumer(
    redis_server: RedisServer, client: Any
) -> None:
    publish(client, *(event(n) for n in range(20)))
    options: dict[str, Any] = {"group": "g", "start": "0"}
    first, second = (iter(Subscriber(redis_server.url, **options)) for _ in range(2))
    assert seqs(first, 1) == [0]
    assert seqs(second, 1) == [10]  # what the first is working on, and took, is not read again
    first.close()  # type: ignore[attr-defined]  # it crashes
    heir = iter(Subscriber(redis_server.url, **options, claim_after_s=0.05))
    time.sleep(0.1)
    assert sorted(seqs(heir, 20)) == list(range(20))


def test_consumers_that_ended_are_forgotten(redis_server: RedisServer, client: Any) -> None:
    publish(client, *(event(n) for n in range(3)))
    options: dict[str, Any] = {"group": "g", "start": "0", "claim_after_s": 0.05}
    kept = iter(Subscriber(redis_server.url, consumer="named", **options))
    assert seqs(kept, 3) == [0, 1, 2]
    for n in range(3, 6):
        publish(client, event(n))
        time.sleep(0.1)
        # Each has what the one before it left, which is then done with.
        assert seqs(iter(Subscriber(redis_server.url, **options)), 2) == [n - 1, n]
    names = [each["name"] for each in client.xinfo_consumers(STREAM, "g")]
    assert "named" in names
    assert len(names) <= 3


def test_a_group_goes_on_in_order_when_its_connection_broke(
    redis_server: RedisServer, client: Any
) -> None:
    publish(client, *(event(n) for n in range(12)))
    reader = iter(Subscriber(redis_server.url, group="g", start="0"))
    assert seqs(reader, 3) == [0, 1, 2]
    for each in client.client_list():
        if each["cmd"] != "client":
            client.client_kill(each["addr"])
    assert seqs(reader, 9) == list(range(3, 12))
    eventually(lambda: client.xpending(STREAM, "g")["pending"] == 1)


def test_a_group_is_made_again_when_redis_lost_its_data(
    redis_server: RedisServer, client: Any
) -> None:
    publish(client, event(1))
    reader = iter(Subscriber(redis_server.url, group="g", start="0"))
    assert seqs(reader, 1) == [1]
    client.flushall()
    publish(client, event(2))
    assert seqs(reader, 1) == [2]


def test_a_group_goes_on_while_redis_has_no_memory_left(
    redis_server: RedisServer, client: Any
) -> None:
    publish(client, *(event(n) for n in range(3)))
    options: dict[str, Any] = {"group": "g", "consumer": "one", "start": "0"}
    assert seqs(iter(Subscriber(redis_server.url, **options)), 1) == [0]
    client.config_set("maxmemory", 1)
    assert seqs(iter(Subscriber(redis_server.url, **options)), 3) == [0, 1, 2]
    reasons: list[str] = []
    options = {"group": "fresh", "start": "0", "on_away": reasons.append}
    with reading_one(Subscriber(redis_server.url, **options)) as seen:
        eventually(lambda: reasons)
        client.config_set("maxmemory", 0)
    assert seen == [0]


def test_a_group_waits_for_a_replica_that_is_missing(
    redis_server: RedisServer, client: Any
) -> None:
    publish(client, event(0))
    client.config_set("min-replicas-to-write", 1)
    reasons: list[str] = []
    options: dict[str, Any] = {"group": "g", "start": "0", "on_away": reasons.append}
    with reading_one(Subscriber(redis_server.url, **options)) as seen:
        eventually(lambda: reasons)
        client.config_set("min-replicas-to-write", 0)
    assert seen == [0]
    assert reasons[0].startswith("NOREPLICAS")


def test_a_script_that_takes_long_is_waited_for(redis_server: RedisServer, client: Any) -> None:
    publish(client, event(0))
    client.config_set("lua-time-limit", 10)
    script = threading.Thread(target=lambda: client.eval(TAKES_LONG, 0), daemon=True)
    script.start()
    time.sleep(0.3)
    reasons: list[str] = []
    options: dict[str, Any] = {"start": "0", "on_away": reasons.append}
    with reading_one(Subscriber(redis_server.url, **options)) as seen:
        script.join()
    assert seen == [0]
    assert reasons[0].startswith("BUSY")


@pytest.mark.parametrize("login", ["", ":wrong@"])
@pytest.mark.parametrize("group", [None, "g"])
def test_a_password_that_is_refused_or_missing_is_an_error(login: str, group: str | None) -> None:
    with RedisServer(password="right") as server:
        url = f"redis://{login}127.0.0.1:{server.port}/0"
        with pytest.raises(AuthenticationError):
            next(iter(Subscriber(url, group=group)))

        async def read() -> None:
            subscriber = AsyncSubscriber(url, group=group)
            try:
                async for _ in subscriber:
                    break
            finally:
                await subscriber.close()

        with pytest.raises(AuthenticationError):
            asyncio.run(read())


def test_a_redis_that_is_away_is_told_of_once(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    reader = iter(Subscriber("redis://:q7@127.0.0.1:1/0"))
    threading.Thread(target=lambda: next(reader), daemon=True).start()
    time.sleep(1.0)
    (record,) = caplog.records
    assert record.getMessage().startswith("redis: Error 111 connecting to 127.0.0.1:1.")


@pytest.mark.parametrize("group", [None, "g"])
@pytest.mark.parametrize("shape", ["section", "url"])
def test_a_silence_longer_than_the_timeout_is_no_absence(
    redis_server: RedisServer, client: Any, shape: str, group: str | None
) -> None:
    url = f"{redis_server.url}?socket_timeout=0.4"
    server = RedisConfig(url=redis_server.url, timeout_s=0.4) if shape == "section" else url
    reasons: list[str] = []
    options: dict[str, Any] = {"group": group, "on_away": reasons.append}
    with reading_one(Subscriber(server, **options)) as seen:
        time.sleep(1.5)
        publish(client, event(3))
    assert (seen, reasons) == ([3], [])


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("group", [None, "g"])
def test_each_protocol_of_redis_does(
    redis_server: RedisServer, client: Any, protocol: int, group: str | None
) -> None:
    publish(client, *(event(n) for n in range(3)))
    url = f"{redis_server.url}?protocol={protocol}"
    gaps: list[Gap] = []
    options: dict[str, Any] = {"start": "0", "group": group, "on_gap": gaps.append}
    reader = iter(Subscriber(url, **options))
    assert seqs(reader, 3) == [0, 1, 2]
    publish(client, event(3))
    assert seqs(reader, 1) == [3]


def test_a_group_is_told_of_a_gap_once(redis_server: RedisServer, client: Any) -> None:
    told = {"kind": "gap", "name": "gate", "reason": "spool_full", "detail": "7 events, a to b"}
    client.xadd(STATUS, told)
    publish(client, *(event(n) for n in range(4)))
    gaps: list[Gap] = []
    for n in range(3):
        options: dict[str, Any] = {"group": "g", "consumer": "one", "on_gap": gaps.append}
        assert seqs(iter(Subscriber(redis_server.url, start="0", **options)), 2) == [n, n + 1]
    assert gaps == [Gap("gate", "spool_full", "7 events, a to b")]


def test_a_group_is_told_of_what_was_trimmed_while_it_was_away(
    redis_server: RedisServer, client: Any
) -> None:
    publish(client, event(0))
    gaps: list[Gap] = []
    options: dict[str, Any] = {"group": "g", "start": "0", "on_gap": gaps.append}
    assert seqs(iter(Subscriber(redis_server.url, **options)), 1) == [0]
    assert not gaps
    publish(client, *(event(n) for n in range(1, 10)))
    client.xtrim(STREAM, maxlen=3, approximate=False)
    assert seqs(iter(Subscriber(redis_server.url, **options)), 3) == [7, 8, 9]
    assert [gap.reason for gap in gaps] == ["trimmed"]


@pytest.mark.parametrize("group", [None, "g"])
def test_one_that_falls_behind_while_it_reads_is_told_of_what_was_trimmed(
    redis_server: RedisServer, client: Any, group: str | None
) -> None:
    publish(client, *(event(n) for n in range(400)))
    gaps: list[Gap] = []
    options: dict[str, Any] = {"group": group, "start": "0", "on_gap": gaps.append}
    reader = iter(Subscriber(redis_server.url, **options))
    assert seqs(reader, 10) == list(range(10))
    publish(client, *(event(n) for n in range(400, 500)))
    client.xtrim(STREAM, maxlen=50, approximate=False)
    rest = [next(reader).seq]
    while rest[-1] < 499:
        rest.append(next(reader).seq)
    assert rest[-50:] == list(range(450, 500))
    assert [gap.reason for gap in gaps] == ["trimmed"]


@pytest.mark.parametrize("group", [None, "g"])
def test_what_is_no_event_is_skipped(
    redis_server: RedisServer, client: Any, caplog: pytest.LogCaptureFixture, group: str | None
) -> None:
    publish(client, event(1))
    client.xadd(STREAM, {"hello": "world"})
    client.xadd(STREAM, {b"\xff\xfe": b"\xff"})
    client.xadd(STREAM, event(5).fields() | {"data": "{}"})
    client.xadd(STREAM, event(6).fields() | {"data": "[" * 100_000})
    publish(client, event(2), event(3))
    reader = iter(Subscriber(redis_server.url, group=group, start="0"))
    assert seqs(reader, 3) == [1, 2, 3]
    (record,) = caplog.records
    assert "is skipped, as others will be: not an event of schema version 1" in record.getMessage()
    if group:
        assert client.xpending(STREAM, group)["pending"] == 1  # the last one handed on


@contextmanager
def behind_a_sentinel() -> Iterator[str]:
    with RedisServer() as server:
        monitored = f"monitor cams 127.0.0.1 {server.port} 1"
        with RedisServer(sentinel=True, settings={"sentinel": monitored}) as sentinel:
            yield f"redis+sentinel://127.0.0.1:{sentinel.port}/cams/0"


@pytest.mark.parametrize("shape", [a_cluster, behind_a_sentinel])
@pytest.mark.parametrize("group", [None, "g"])
def test_wherever_streamd_publishes_to(shape: Any, group: str | None) -> None:
    options: dict[str, Any] = {
        "streams": ["det:gate", "det:yard"],
        "group": group,
        "start": "0",
        "on_gap": lambda _: None,
    }

    async def read(url: str) -> set[str]:
        subscriber = AsyncSubscriber(url, **options | {"group": group and "other"})
        cameras: set[str] = set()
        async for each in subscriber:
            cameras.add(each.camera)
            if len(cameras) == 2:
                break
        await subscriber.close()
        return cameras

    with shape() as url:
        writer: Any = connect(RedisConfig(url=url))
        for camera in ("gate", "yard"):
            writer.xadd(f"det:{camera}", event(1, camera).fields())
        subscriber = Subscriber(url, **options)
        reader = iter(subscriber)
        assert {each.camera for each in islice(reader, 2)} == {"gate", "yard"}
        writer.xadd("det:yard", event(2, "yard").fields())
        assert seqs(reader, 1) == [2]
        subscriber.close()
        assert asyncio.run(read(url)) == {"gate", "yard"}
        writer.close()


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://:q7@h", "http://***@h: is no URL of Redis"),
        ("redis://:q7/x@h", "redis://***@h: is no URL of Redis"),
        ("redis+cluster://:q7@a,b", "redis+cluster://***@a,b: names several hosts"),
    ],
)
@pytest.mark.parametrize("kind", [Subscriber, AsyncSubscriber])
def test_a_wrong_url_is_told_without_its_password(kind: Any, url: str, what: str) -> None:
    with pytest.raises(ValueError, match=re.escape(what)) as raised:
        kind(url)
    assert "q7" not in str(raised.value)


@pytest.mark.parametrize("group", [None, "g"])
def test_a_section_says_which_streams_there_are(
    redis_server: RedisServer, client: Any, group: str | None
) -> None:
    client.xadd("events:gate", event(1).fields())
    client.xadd("life", {"kind": "gap", "name": "gate", "reason": "spool_full", "detail": "7"})
    gaps: list[Gap] = []
    options: dict[str, Any] = {"start": "0", "group": group, "on_gap": gaps.append}
    section = RedisConfig(url=redis_server.url, stream="events:gate", status_stream="life")
    assert seqs(iter(Subscriber(section, **options)), 1) == [1]
    assert gaps == [Gap("gate", "spool_full", "7")]
    each = RedisConfig(url=redis_server.url, stream="events:{camera}")
    assert seqs(iter(Subscriber(each, start="0", cameras=["gate", "yard"])), 1) == [1]
    with pytest.raises(ValueError, match="name the `streams`"):
        Subscriber(each)


@pytest.mark.parametrize("group", [None, "g"])
def test_closing_ends_a_loop_that_waits_and_acknowledges_what_was_worked_on(
    redis_server: RedisServer, client: Any, group: str | None
) -> None:
    publish(client, event(1), event(2))
    subscriber = Subscriber(redis_server.url, start="0", group=group)
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(each.seq for each in subscriber))
    reader.start()
    eventually(lambda: seen == [1, 2])
    subscriber.close()
    reader.join(10)
    assert not reader.is_alive()
    assert list(subscriber) == []
    assert not group or client.xpending(STREAM, group)["pending"] == 0
    eventually(lambda: client.info("clients")["connected_clients"] == 1)


@pytest.mark.parametrize("group", [None, "g"])
def test_closing_ends_an_async_loop_that_waits(
    redis_server: RedisServer, client: Any, group: str | None
) -> None:
    publish(client, event(1))

    async def read() -> list[int]:
        subscriber = AsyncSubscriber(redis_server.url, start="0", group=group)

        async def all_of_it() -> list[int]:
            return [each.seq async for each in subscriber]

        reader = asyncio.create_task(all_of_it())
        await asyncio.sleep(1.0)
        await subscriber.close()
        return await asyncio.wait_for(reader, 10)

    assert asyncio.run(read()) == [1]
    assert not group or client.xpending(STREAM, group)["pending"] == 0
    eventually(lambda: client.info("clients")["connected_clients"] == 1)


def test_closing_ends_a_loop_that_waits_for_redis() -> None:
    subscriber = Subscriber("redis://127.0.0.1:1/0")
    reader = threading.Thread(target=lambda: list(subscriber))
    reader.start()
    time.sleep(0.5)
    subscriber.close()
    reader.join(10)
    assert not reader.is_alive()


def test_closing_ends_an_async_loop_that_waits_long_for_redis(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backoff, "next_delay_s", lambda _: 60.0)

    async def read() -> None:
        subscriber = AsyncSubscriber("redis://127.0.0.1:1/0")

        async def all_of_it() -> None:
            async for _ in subscriber:
                pass

        reader = asyncio.create_task(all_of_it())
        await asyncio.sleep(0.3)
        await subscriber.close()
        await asyncio.wait_for(reader, 10)

    asyncio.run(read())


def test_closing_an_async_subscriber_at_any_step_leaves_no_connection(
    redis_server: RedisServer,
) -> None:
    async def read(steps: int) -> None:
        subscriber = AsyncSubscriber(redis_server.url)

        async def all_of_it() -> None:
            async for _ in subscriber:
                pass

        reader = asyncio.create_task(all_of_it())
        for _ in range(steps):
            await asyncio.sleep(0)
        await subscriber.close()
        await asyncio.wait_for(reader, 10)

    for steps in range(30):
        asyncio.run(read(steps))
        gc.collect()  # a connection that is left warns, which is an error here


@pytest.mark.parametrize("group", [None, "g"])
def test_a_time_out_around_the_next_event_loses_none(
    redis_server: RedisServer, client: Any, group: str | None
) -> None:
    async def read() -> list[int]:
        subscriber = AsyncSubscriber(redis_server.url, start="0", group=group)
        events = aiter(subscriber)
        seen: list[int] = []
        while len(seen) < 5:
            try:
                seen.append((await asyncio.wait_for(anext(events), 0.2)).seq)
            except TimeoutError:
                events = aiter(subscriber)
                publish(client, event(len(seen)))
        await subscriber.close()
        return seen

    assert asyncio.run(read()) == [0, 1, 2, 3, 4]


def test_a_subscriber_goes_on_in_another_event_loop(redis_server: RedisServer, client: Any) -> None:
    publish(client, *(event(n) for n in range(4)))
    subscriber = AsyncSubscriber(redis_server.url, start="0")

    async def read() -> list[int]:
        events = aiter(subscriber)
        return [(await anext(events)).seq for _ in range(2)]

    with asyncio.Runner() as first, asyncio.Runner() as second:
        assert first.run(read()) == [0, 1]
        left = subscriber._client
        assert second.run(read()) == [2, 3]
        second.run(subscriber.close())
        first.run(left.aclose())


def test_processes_that_a_subscriber_is_forked_into_share_no_consumer(
    redis_server: RedisServer, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(client, *(event(n) for n in range(20)))
    subscriber = Subscriber(redis_server.url, group="g", start="0")
    assert seqs(iter(subscriber), 1) == [0]
    monkeypatch.setattr("streamd.client.reading.os.getpid", lambda: 1)  # this is the child
    assert seqs(iter(subscriber), 1) == [10]


def test_a_stream_that_is_gone_is_waited_for(redis_server: RedisServer, client: Any) -> None:
    publish(client, *(event(n) for n in range(10)))
    gaps: list[Gap] = []
    events = iter(Subscriber(redis_server.url, group="g", start="0", on_gap=gaps.append))
    read_at_once = 5  # of two streams
    assert seqs(events, read_at_once) == list(range(read_at_once))
    client.delete(STREAM)
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(seqs(events, 1)), daemon=True)
    reader.start()
    time.sleep(0.3)
    publish(client, event(50))
    reader.join(10)
    assert seen == [50]


@pytest.mark.parametrize("shape", ["section", "url"])
def test_the_rights_that_are_documented_suffice(
    redis_server: RedisServer, client: Any, shape: str
) -> None:
    publish(client, event(1))
    client.execute_command(
        "ACL", "SETUSER", "reader", "on", ">q7", "~streamd:*", "+xread", "+xrevrange"
    )
    url = f"redis://reader:q7@127.0.0.1:{redis_server.port}/0"
    server = RedisConfig(url=url) if shape == "section" else url
    assert seqs(iter(Subscriber(server, start="0")), 1) == [1]


def test_a_text_instead_of_a_list_is_refused() -> None:
    with pytest.raises(TypeError, match="labels is to be a list, not a text"):
        Subscriber("redis://localhost", labels="person")


def test_options_that_cannot_be_meant_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match='start is to be "\\$", "0" or a position'):
        Subscriber("redis://localhost", start=None)
    with pytest.raises(ValueError, match="streams is empty"):
        Subscriber("redis://localhost", streams=[], group="g")
    with pytest.raises(ValueError, match="name the group, too"):
        Subscriber("redis://localhost", consumer="me")


def test_a_key_that_is_no_stream_is_an_error(redis_server: RedisServer, client: Any) -> None:
    client.set(STREAM, "text")
    with pytest.raises(RedisError, match="WRONGTYPE"):
        next(iter(Subscriber(redis_server.url, start="0")))


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
