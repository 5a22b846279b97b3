"""A daemon on simulated live cameras that is up, with all of them online."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from streamd.capacity.senders import Senders
from streamd.config import RedisConfig
from streamd.events import Event, parse_event
from streamd.redis_client import connect
from streamd.testing.daemon_run import DaemonRun, write_settings
from streamd.testing.redis_server import RedisServer

STREAM = "streamd:detections"
_READY_WITHIN_S = 600.0  # an engine may have to be built
_ONLINE_WITHIN_S = 90.0


@contextmanager
def live_daemon(
    clip: Path, count: int, camera: dict[str, Any], server: RedisServer, **sections: Any
) -> Iterator[DaemonRun]:
    """`count` cameras that send `clip`, each with the settings of `camera`.

    Ages are between two looks at this host's clock alone.
    """
    with (
        closing(Senders(clip, count)) as senders,
        daemon_on(senders.urls, {"max_clock_offset_s": 0, **camera}, server, **sections) as daemon,
    ):
        yield daemon


@contextmanager
def daemon_on(
    urls: Sequence[str], camera: dict[str, Any], server: RedisServer, **sections: Any
) -> Iterator[DaemonRun]:
    """A daemon on the cameras at `urls`, each with the settings of `camera`."""
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as name:
        settings = {
            "redis": {"url": server.url, "max_entries": 1_000_000, "spool": {"path": None}},
            "http": {"port": 0, "requests_per_s": 1000},
            "log": {"format": "json"},
            "publish": "all",
            "cameras": [
                {"id": f"c{number}", "url": url, **camera} for number, url in enumerate(urls)
            ],
            **sections,
        }
        with closing(DaemonRun(write_settings(Path(name), settings))) as daemon:
            daemon.wait_for_log("ready", _READY_WITHIN_S)
            daemon.wait_online(_ONLINE_WITHIN_S)
            yield daemon


def events_of(server: RedisServer, seconds: float) -> list[tuple[int, Event]]:
    """The events of the next `seconds`, each with Redis' time of it in epoch milliseconds."""
    began = time.time()
    time.sleep(seconds)
    with closing(connect(RedisConfig(url=server.url))) as client:
        entries = client.xrange(STREAM, int(began * 1000), int(time.time() * 1000))
    return [(int(key.split("-")[0]), parse_event(fields)) for key, fields in entries]
