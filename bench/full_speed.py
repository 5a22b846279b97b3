"""A daemon on files that are read as fast as they can be: its settings, and its rate."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from streamd.capacity.scrape import FRAMES, Samples, scrape
from streamd.testing.daemon_run import DaemonRun, write_settings

_READY_WITHIN_S = 600.0  # an engine may have to be built
_WARMS_UP_S = 4.0


def looped(files: Sequence[Path], model: dict[str, Any], redis_url: str) -> dict[str, Any]:
    """The configuration: each of `files` over and over, all else as it comes."""
    return {
        "redis": {"url": redis_url, "spool": {"path": None}},
        "http": {"port": 0},
        "log": {"format": "json"},
        "model": model,
        "publish": "all",
        "cameras": [
            {"id": f"c{number}", "url": str(file), "loop": True}
            for number, file in enumerate(files)
        ],
    }


def fps_of(folder: Path, settings: dict[str, Any], seconds: float) -> float:
    """Frames with a result a second, over so many seconds in which a daemon is at full speed."""
    with closing(DaemonRun(write_settings(folder, settings))) as daemon:
        daemon.wait_for_log("ready", _READY_WITHIN_S)
        time.sleep(_WARMS_UP_S)
        before, began_s = _done(scrape(daemon.http)), time.monotonic()
        time.sleep(seconds)
        return (_done(scrape(daemon.http)) - before) / (time.monotonic() - began_s)


def _done(samples: Samples) -> float:
    return samples[FRAMES] + samples["streamd_frames_total", "still"]
