"""Redis is killed, paused, filled, moved: each event arrives once and in order all the same."""

import os
import signal
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme

from streamd.config import RedisConfig
from streamd.demo.clips import Clip
from streamd.events import Event
from streamd.publishing.publisher import Publisher
from streamd.publishing.spooler import Entry
from streamd.redis_client import check_redis, connect
from streamd.testing.redis_server import RedisServer
from streamd.testing.tls_proxy import TlsProxy

from .harness import DaemonFactory, Metronome, balanced, eventually

CAMERA = "publish: all\ncameras: [{{id: a, url: {path}, loop: true, paced: true}}]"


def settings(clip: Clip) -> str:
    return CAMERA.format(path=clip.path)


def assert_whole(events: Sequence[Event]) -> None:
    """Each event once, in order, none missing within a session."""
    ids = [event.id for event in events]
    assert len(set(ids)) == len(ids), "duplicates"
    sessions: dict[str, list[int]] = {}
    for event in events:
        sessions.setdefault(event.id.split(":")[1], []).append(event.seq)
    for seqs in sessions.values():
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))


class Quiet:
    """A listener for a publisher of its own."""

    def __init__(self) -> None:
        self.up: list[bool] = []
        self.ids: list[str] = []
        self.losses: list[str] = []

    def kept(self, entries: Sequence[Entry]) -> None:
        pass

    def sent(self, entries: Sequence[Entry], took_s: float) -> None:
        self.ids += [entry.id for entry in entries]

    def lost(self, entries: Sequence[Entry], why: str) -> None:
        self.losses += [why for _ in entries]

    def waiting(self, spooled: int, size_bytes: int, oldest_ms: int) -> None:
        pass

    def spool_damaged(self, what: str) -> None:
        raise AssertionError(what)

    def spool_unusable(self, error: str) -> None:
        raise AssertionError(error)

    def reachable(self, up: bool, error: str) -> None:
        self.up.append(up)


def numbered(start: int, stop: int) -> list[Entry]:
    return [
        Entry("events", {"id": f"a:1:{n}", "camera": "a", "data": b"x" * 200}, time.monotonic_ns())
        for n in range(start, stop)
    ]


def config_of(server: RedisServer, folder: Path, **more: Any) -> RedisConfig:
    spool = {"path": str(folder)}
    return RedisConfig.model_validate({"url": server.url, "timeout_s": 0.5, "spool": spool, **more})


def ids_in(server: RedisServer) -> list[str]:
    client: Any = redis.Redis.from_url(server.url, decode_responses=True)
    found = [fields["id"] for _, fields in client.xrange("events")]
    client.close()
    return found


def test_a_redis_that_comes_back_with_its_data_has_every_event_once(
    daemon: DaemonFactory, durable_redis: RedisServer, clip: Clip
) -> None:
    running = daemon(settings(clip), server=durable_redis)
    running.wait_events(10)
    durable_redis.kill()
    running.wait_for_log("redis_lost", worker="inference-0")
    time.sleep(0.5)
    durable_redis.start()
    running.wait_for_log("redis_connected", worker="inference-0")
    count = len(running.events())
    running.wait_events(count + 20)
    assert running.stop() == 0
    events = running.events()
    assert_whole(events)
    assert events[0].seq == 0
    stopped = running.wait_for_log("stopped")["frames"]
    assert stopped["inferred"] == len(events)
    assert not running.logged("events_lost")


def test_a_service_that_ends_while_redis_is_away_sends_the_rest_at_its_next_start(
    daemon: DaemonFactory, durable_redis: RedisServer, clip: Clip, metronome: Metronome
) -> None:
    running = daemon(settings(clip), server=durable_redis)
    running.wait_events(5)
    durable_redis.stop()
    running.wait_for_log("redis_lost", worker="inference-0")
    time.sleep(0.5)
    began_s = time.monotonic()
    assert running.stop() == 0
    assert (
        time.monotonic() - began_s < 4.0 + metronome.late_s
    )  # it need not wait for a Redis that is away
    inferred = running.wait_for_log("stopped")["frames"]["inferred"]
    assert running.wait_for_log("events_on_disk")["count"] > 0
    durable_redis.start()
    again = daemon(settings(clip), server=durable_redis)
    events = again.wait_events(inferred + 5)
    assert_whole(events)
    assert [event.seq for event in events[:inferred]] == list(range(inferred))


def test_a_worker_that_is_killed_while_redis_is_away_loses_no_inferred_frame(
    daemon: DaemonFactory, durable_redis: RedisServer, clip: Clip
) -> None:
    running = daemon(settings(clip), server=durable_redis)
    running.wait_events(5)
    durable_redis.kill()
    running.wait_for_log("redis_lost", worker="inference-0")
    time.sleep(0.5)
    os.kill(running.children("inference")[0].pid, signal.SIGKILL)
    running.wait_for_log("worker_died", worker="inference-0")
    running.wait_for_log("redis_lost", worker="inference-0")
    durable_redis.start()
    running.wait_for_log("redis_connected", worker="inference-0")
    running.wait_events(len(running.events()) + 10)
    assert running.stop() == 0
    frames = running.wait_for_log("stopped")["frames"]
    assert balanced(frames)
    events = running.events()
    assert len({event.id for event in events}) == len(events)
    assert [e.seq for e in events] == sorted(e.seq for e in events)
    # A frame that Redis took just before the worker died may be booked as lost, never as inferred.
    assert 0 <= len(events) - frames["inferred"] <= frames["lost_inference"]


def test_a_paused_redis_gets_nothing_twice(durable_redis: RedisServer, tmp_path: Path) -> None:
    books = Quiet()
    out = Publisher(config_of(durable_redis, tmp_path), books, "test")
    out.start()
    for n in range(0, 600, 20):
        if n in (100, 300):
            durable_redis.pause()
        if n in (200, 400):
            eventually(lambda: books.up[-1:] == [False])
            durable_redis.resume()
        out.put(numbered(n, n + 20))
    eventually(lambda: len(books.ids) == 600)
    out.close(5.0)
    assert ids_in(durable_redis) == [f"a:1:{n}" for n in range(600)]


def with_ten_sent(server: RedisServer, folder: Path) -> tuple[Publisher, Quiet]:
    """A publisher that runs, and has sent ten entries."""
    books = Quiet()
    out = Publisher(config_of(server, folder), books, "test")
    out.start()
    out.put(numbered(0, 10))
    eventually(lambda: len(books.ids) == 10)
    return out, books


def test_bytes_of_another_producer_do_no_harm(durable_redis: RedisServer, tmp_path: Path) -> None:
    client: Any = redis.Redis.from_url(durable_redis.url)
    out, books = with_ten_sent(durable_redis, tmp_path)
    client.xadd("events", {b"id": b"\xff\xd8", b"\xff": b"\xfe"})
    durable_redis.pause()
    out.put(numbered(10, 20))
    eventually(lambda: books.up[-1:] == [False])
    durable_redis.resume()
    eventually(lambda: len(books.ids) == 20)
    out.close(5.0)
    found = [fields[b"id"] for _, fields in client.xrange("events")]
    client.close()
    ours = [f"a:1:{n}".encode() for n in range(20)]
    assert found == [*ours[:10], b"\xff\xd8", *ours[10:]]


def test_a_redis_without_memory_is_waited_for(durable_redis: RedisServer, tmp_path: Path) -> None:
    client: Any = redis.Redis.from_url(durable_redis.url)
    out, books = with_ten_sent(durable_redis, tmp_path)
    client.config_set("maxmemory", "1mb")
    client.config_set("maxmemory-policy", "noeviction")
    out.put(numbered(10, 200))
    eventually(lambda: books.up[-1:] == [False])
    client.config_set("maxmemory", "0")
    eventually(lambda: len(books.ids) == 200)
    out.close(5.0)
    client.close()
    assert ids_in(durable_redis) == [f"a:1:{n}" for n in range(200)]


def test_the_oldest_events_make_room_and_a_gap_record_says_so(
    daemon: DaemonFactory, redis_server: RedisServer, clip: Clip
) -> None:
    fast = f"publish: all\ncameras: [{{id: a, url: {clip.path}, loop: true}}]"
    running = daemon(fast, redis_settings="spool: {max_mb: 0.1}")
    running.wait_events(5)
    redis_server.stop()
    running.wait_for_log("events_lost", reason="spool full")
    redis_server.start()
    running.wait_for_log("redis_connected", worker="inference-0")
    gaps = eventually(lambda: running.status_entries("gap"))
    assert gaps[0]["name"] == "a"
    assert gaps[0]["state"] == "lost"
    assert gaps[0]["reason"] == "spool_full"
    eventually(lambda: running.cameras()["a"]["events_lost"] > 0)


@pytest.mark.parametrize("acl", [False, True])
def test_a_password_or_an_acl_user_is_enough(tmp_path: Path, acl: bool) -> None:
    with RedisServer(password="secret") as server:
        url = server.url
        if acl:
            client: Any = redis.Redis.from_url(server.url)
            rights = ["+@stream", "+@connection", "+type", "+multi", "+exec", "~events*"]
            client.execute_command("ACL", "SETUSER", "streamd", "on", ">pw", *rights)
            client.close()
            url = f"redis://streamd:pw@127.0.0.1:{server.port}/0"
        config = config_of(server, tmp_path, url=url, stream="events", status_stream="events2")
        assert check_redis(config) is None
        books = Quiet()
        out = Publisher(config, books, "test")
        out.start()
        out.put(numbered(0, 10))
        eventually(lambda: len(books.ids) == 10)
        out.close(1.0)
        assert len(ids_in(server)) == 10


def publish_and_read(config: RedisConfig, count: int) -> list[str]:
    """What arrives of `count` events, as a subscriber sees it."""
    books = Quiet()
    out = Publisher(config, books, "test")
    out.start()
    out.put(numbered(0, count))
    eventually(lambda: len(books.ids) == count)
    out.close(1.0)
    client = connect(config)
    found = [fields["id"] for _, fields in client.xrange("events")]
    client.close()
    return found


def test_through_sentinel(redis_server: RedisServer, tmp_path: Path) -> None:
    monitored = f"monitor cams 127.0.0.1 {redis_server.port} 1"
    with RedisServer(sentinel=True, settings={"sentinel": monitored}) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/cams/0"
        config = config_of(redis_server, tmp_path, url=url)
        assert check_redis(config) is None
        assert publish_and_read(config, 10) == [f"a:1:{n}" for n in range(10)]


def test_in_a_cluster(tmp_path: Path) -> None:
    with RedisServer(settings={"cluster-enabled": "yes"}) as server:
        client: Any = redis.Redis.from_url(server.url)
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        eventually(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        client.close()
        url = server.url.replace("redis://", "redis+cluster://").removesuffix("/0")
        config = config_of(server, tmp_path, url=url)
        assert check_redis(config) is None
        assert publish_and_read(config, 10) == [f"a:1:{n}" for n in range(10)]


def test_through_tls_with_certificates_of_ones_own(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    mine = authority.issue_cert("streamd@factory.example")
    mine.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    mine.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("localhost").configure_cert(context)
    with TlsProxy(context, redis_server.port) as proxy:
        url = f"rediss://localhost:{proxy.port}/0"
        files = {f"tls_{name}": str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")}
        config = config_of(redis_server, tmp_path, url=url, **files)
        assert publish_and_read(config, 10) == [f"a:1:{n}" for n in range(10)]
        stranger = config_of(redis_server, tmp_path, url=url, tls_ca=files["tls_ca"])
        assert check_redis(stranger) is not None
        trustful = config_of(redis_server, tmp_path, url=url)
        assert "certificate verify failed" in (check_redis(trustful) or "")
