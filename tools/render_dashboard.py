"""Draws what the dashboard would show.

    python -m tools.render_dashboard --out docs/images/dashboard.png

For who has no Grafana at hand, and for docs/operations.md. Starts a real Prometheus (Debian:
prometheus) on the demo's daemon, waits, and asks it for every panel of deploy/grafana/streamd.json;
each chart is drawn from its answer. With --prometheus it asks one that runs already.
"""

import argparse
import json
import math
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from streamd.capacity.senders import Senders
from streamd.demo.clips import write_clip
from streamd.errors import SetupError
from streamd.scenes import Scene
from streamd.testing.daemon_run import DaemonRun, write_settings
from streamd.testing.redis_server import RedisServer, free_port
from tools.make_dashboard import ROWS, Panel

_CAMERAS = 6
_EVERY_S = 2
_COLUMNS = 3


def main() -> None:
    """Starts what is asked for, waits, and draws."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--prometheus", help="URL of one that runs; else one is started")
    options.add_argument("--minutes", type=float, default=3.0, help="that the charts cover")
    asked = options.parse_args()
    with ExitStack() as stack:
        url = asked.prometheus
        if url is None:
            url = stack.enter_context(_everything())
            time.sleep(60 * asked.minutes)
        _draw(url, asked.minutes * 60, asked.out)


@contextmanager
def _everything() -> Iterator[str]:
    """A daemon on live cameras, one of which is not there, and a Prometheus; its URL."""
    if shutil.which("prometheus") is None:
        raise SetupError("no prometheus (Debian: prometheus)")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamd-render-")))
        server = stack.enter_context(RedisServer())
        clip = write_clip(folder / "camera.mp4", Scene(1, 640, 360, fps=10), 10.0).path
        senders = stack.enter_context(closing(Senders(clip, _CAMERAS)))
        urls = [*senders.urls, "rtsp://127.0.0.1:1/missing"]
        settings = {
            "redis": {"url": server.url, "spool": {"path": str(folder / "spool")}},
            "http": {"port": 0},
            "log": {"format": "json"},
            "cameras": [{"id": f"camera-{n}", "url": url} for n, url in enumerate(urls)],
        }
        daemon = stack.enter_context(closing(DaemonRun(write_settings(folder, settings))))
        daemon.wait_for_log("ready", 600.0)
        yield stack.enter_context(_prometheus(folder, daemon.http))


@contextmanager
def _prometheus(folder: Path, target: str) -> Iterator[str]:
    settings = {
        "global": {"scrape_interval": f"{_EVERY_S}s"},
        "scrape_configs": [
            {"job_name": "streamd", "static_configs": [{"targets": [target.partition("//")[2]]}]}
        ],
    }
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command)
    try:
        deadline_s = time.monotonic() + 30
        while not _answers(f"http://{address}/-/ready"):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise SetupError("prometheus did not start")
            time.sleep(0.2)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _draw(url: str, seconds: float, out: Path) -> None:
    panels = [(title, panel) for title, row in ROWS for panel in row]
    rows = math.ceil(len(panels) / _COLUMNS)
    figure = Figure(figsize=(6 * _COLUMNS, 2.6 * rows))
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, (row, panel) in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, row.partition(":")[0], panel, url, seconds)
    figure.tight_layout()
    figure.savefig(out, dpi=75)


def _draw_panel(axes: Axes, row: str, panel: Panel, url: str, seconds: float) -> None:
    title, unit, kind, queries = panel
    axes.set_title(f"{row}: {title}", fontsize=9, loc="left")
    seen = [
        (_legend(legend, series["metric"]), series["values"])
        for expression, legend in queries
        for series in _ask(url, expression.replace("$camera", ".*"), seconds)
    ]
    if not seen:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="grey")
        axes.axis("off")
        return
    if kind == "stat":
        axes.text(0.5, 0.5, f"{float(seen[0][1][-1][1]):g}", ha="center", va="center", fontsize=28)
        axes.axis("off")
        return
    last_s = max(values[-1][0] for _, values in seen)
    for legend, values in seen:
        axes.plot([t - last_s for t, _ in values], [float(v) for _, v in values], label=legend)
    axes.set_ylim(bottom=0)
    axes.set_ylabel({"ops": "1/s", "percentunit": "share", "none": ""}.get(unit, unit), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6, loc="upper left", ncols=2)


def _ask(url: str, expression: str, seconds: float) -> list[Any]:
    now_s = time.time()
    query = urllib.parse.urlencode(
        {"query": expression, "start": now_s - seconds, "end": now_s, "step": _EVERY_S}
    )
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{query}", timeout=10) as answer:
        found: list[Any] = json.load(answer)["data"]["result"]
    return found


def _legend(legend: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value)
    return legend


if __name__ == "__main__":
    main()
