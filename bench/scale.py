"""What one more camera costs: CPU, memory, threads and latency from 1 to 128 of them.

    python -m bench.scale --plot scale.png

Simulated 720p cameras of 15 fps with a keyframe each second or more, of which `fps: 1` is asked, so
that only keyframes are decoded; the shipped model. Memory is the proportional set size of all
processes, without the slots; CPU is that of the ingest processes, in % of a core. What one camera
costs is the slope of a straight line through the counts from four on (there are two ingest
processes then).
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from bench.live import events_of, live_daemon
from streamd.demo.clips import write_clip
from streamd.linux.usage import memory_by_role, processes
from streamd.scenes import Scene
from streamd.testing.daemon_run import DaemonRun
from streamd.testing.redis_server import RedisServer

_SIZE = 1280, 720
_SENT_FPS = 15
_CLIP_S = 10.0
_SETTLES_S = 8.0
_STRAIGHT_FROM = 4


@dataclass(frozen=True, slots=True)
class Point:
    """What so many cameras take; CPU in cores by role, memory in MB, ages in milliseconds."""

    cameras: int
    events_per_s: float
    cpu: dict[str, float]
    memory_mb: float
    threads: int
    p50_ms: float
    p99_ms: float


def main() -> None:
    """Measures and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cameras", type=int, nargs="+", default=[1, 4, 16, 32, 64, 128])
    options.add_argument("--seconds", type=float, default=20.0, help="of each number of cameras")
    options.add_argument("--codec", choices=("h264", "hevc", "mjpeg"), default="h264")
    options.add_argument("--plot", type=Path, help="file to draw a chart into")
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    asked = options.parse_args()
    if len(set(asked.cameras)) < 2:
        options.error("--cameras: what one more costs is told by two numbers at least")
    points = []
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
        scene = Scene(1, *_SIZE, fps=_SENT_FPS)
        # Matroska takes all of the codecs.
        clip = write_clip(Path(folder) / "camera.mkv", scene, _CLIP_S, asked.codec)
        for count in asked.cameras:
            with (
                RedisServer() as server,
                live_daemon(clip.path, count, {"fps": 1}, server) as daemon,
            ):
                points.append(_measure(count, daemon, server, asked.seconds))
    straight = [point for point in points if point.cameras >= _STRAIGHT_FROM]
    straight = straight if len(straight) > 1 else points
    slopes = {
        "MB a camera": _slope(straight, [p.memory_mb for p in straight]),
        "% of a core a camera": _slope(straight, [100 * p.cpu["ingest"] for p in straight]),
    }
    if asked.plot:
        _draw(asked.plot, points)
    if asked.json:
        print(json.dumps({"points": [asdict(point) for point in points], **slopes}))
        return
    print("| cameras | events/s | ingest, % of a core | inference | supervisor | MB | threads |")
    print("|---|---|---|---|---|---|---|")
    for p in points:
        shares = " | ".join(
            f"{100 * p.cpu[role]:.1f}" for role in ("ingest", "inference", "supervisor")
        )
        print(
            f"| {p.cameras} | {p.events_per_s:.1f} | {shares} | {p.memory_mb:.0f} | {p.threads} |"
        )
    print("\n| cameras | age p50, ms | p99 |\n|---|---|---|")
    for p in points:
        print(f"| {p.cameras} | {p.p50_ms:.0f} | {p.p99_ms:.0f} |")
    print()
    for name, value in slopes.items():
        print(f"{name}: {value:.2f}")


def _measure(count: int, daemon: DaemonRun, server: RedisServer, seconds: float) -> Point:
    events_of(server, _SETTLES_S)
    before, began_s = daemon.cpu_s(), time.monotonic()
    seen = events_of(server, seconds)
    took_s, after = time.monotonic() - began_s, daemon.cpu_s()
    ages = [written_ms - event.ts for written_ms, event in seen]
    slots_mb = daemon.wait_for_log("starting")["slots_mb"]
    running = [psutil.Process(number) for number, _ in processes(daemon.process.pid)]
    return Point(
        cameras=count,
        events_per_s=len(seen) / took_s,
        cpu={role: (now_s - before[role]) / took_s for role, now_s in after.items()},
        memory_mb=sum(memory_by_role(daemon.process.pid).values()) / 1e6 - slots_mb,
        threads=sum(process.num_threads() for process in running),
        p50_ms=float(np.percentile(ages, 50)),
        p99_ms=float(np.percentile(ages, 99)),
    )


def _slope(points: list[Point], values: list[float]) -> float:
    return float(np.polyfit([point.cameras for point in points], values, 1)[0])


def _draw(path: Path, points: list[Point]) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415  # not part of the base install

    figure = Figure(figsize=(9, 8))
    cpu, memory, ages = figure.subplots(3, sharex=True)
    counts = [point.cameras for point in points]
    for role in ("ingest", "inference", "supervisor"):
        cpu.plot(counts, [100 * point.cpu[role] for point in points], "o-", label=role)
    cpu.set_ylabel("CPU, % of a core")
    cpu.legend()
    memory.plot(counts, [point.memory_mb for point in points], "o-", label="MB without slots")
    memory.plot(counts, [point.threads for point in points], "o-", label="threads")
    memory.legend()
    for share in (50, 99):
        values = [point.p50_ms if share == 50 else point.p99_ms for point in points]
        ages.plot(counts, values, "o-", label=f"p{share}")
    ages.set_ylabel("capture to Redis, ms")
    ages.set_xlabel(
        f"cameras of {_SIZE[0]}x{_SIZE[1]}, {_SENT_FPS} fps, one frame a second inferred"
    )
    ages.legend()
    for axes in (cpu, memory, ages):
        axes.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
