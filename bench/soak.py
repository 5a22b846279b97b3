"""Hours at full speed: memory, descriptors and latency, sampled, plotted, and their slopes.

    make soak ARGS="--hours 8"
    python -m bench.soak --hours 1 --output soak

Files that are read as fast as they can be keep the engine busy all the time, beside cameras by
RTSP of which one breaks off every minute. Every ten seconds a line goes into OUTPUT.csv; at the end
OUTPUT.png shows them over time. A slope is that of least squares, after the first tenth, with its
standard error; exit code 1 where memory grows by more than 3 MB an hour and more than twice that
error, or where the descriptors do not end as many as they were.
"""

import argparse
import csv
import math
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from streamd.capacity.scrape import FRAMES, Samples, quantile_s, scrape
from streamd.demo.clips import write_clip
from streamd.linux.usage import memory_by_role, processes
from streamd.scenes import Scene
from streamd.testing.clip import Clip
from streamd.testing.daemon_process import Daemon
from streamd.testing.redis_server import RedisServer
from streamd.testing.rtsp_server import Mount, RtspServer

_FILES, _LIVE = 2, 6
_SAMPLE_EVERY_S = 10.0
_BREAK_EVERY = 6  # samples
_MB_AN_HOUR = 3.0
_ROLES = ("supervisor", "ingest", "inference")


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the CSV: hours since the start, MB by role, and what the last interval gave."""

    hours: float
    supervisor_mb: float
    ingest_mb: float
    inference_mb: float
    descriptors: int
    fps: float
    p50_ms: float
    p99_ms: float

    @property
    def memory_mb(self) -> float:
        """Of all roles."""
        return self.supervisor_mb + self.ingest_mb + self.inference_mb


@dataclass(frozen=True, slots=True)
class Slope:
    """Change an hour, and its standard error."""

    per_hour: float
    error: float


def main() -> None:
    """Soaks, writes the CSV and the picture, prints the slopes."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--hours", type=float, default=1.0)
    options.add_argument("--output", type=Path, default=Path("soak"), help="without an ending")
    asked = options.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamd-soak-")))
        redis_server = stack.enter_context(RedisServer())
        rtsp_server = stack.enter_context(RtspServer())
        mounts, settings = cameras(folder, rtsp_server)
        daemon = Daemon(
            folder / "config.yaml", settings, redis_server, (), redis_settings="max_entries: 10000"
        )
        stack.callback(daemon.close)
        daemon.wait_ready()
        samples = soak(daemon, mounts, asked.hours, asked.output.with_suffix(".csv"))
        code = daemon.stop()
    plot(samples, asked.output.with_suffix(".png"))
    sys.exit(not report(samples) or code != 0)


def cameras(folder: Path, server: RtspServer) -> tuple[list[Mount], str]:
    """The mounts of the live cameras, and the configuration of all."""
    file = write_clip(folder / "file.mp4", Scene(3, 1280, 720, fps=10), 10.0).path
    live = Clip.open(write_clip(folder / "live.mp4", Scene(5, 640, 360, fps=10), 10.0).path)
    mounts = [server.mount(f"/live-{number}", live) for number in range(_LIVE)]
    lines = [f"  - {{id: file-{n}, url: {file}, loop: true}}" for n in range(_FILES)]
    lines += [f"  - {{id: live-{n}, url: '{mount.url}', fps: 5}}" for n, mount in enumerate(mounts)]
    return mounts, "publish: all\ncameras:\n" + "\n".join(lines) + "\n"


def soak(daemon: Daemon, mounts: list[Mount], hours: float, path: Path) -> list[Sample]:
    """Samples until the time is over; each is in the file at once."""
    samples: list[Sample] = []
    began_s = time.monotonic()
    before, then_s = scrape(daemon.http), began_s
    with path.open("w", newline="", encoding="ascii") as file:
        writer = csv.DictWriter(file, list(Sample.__dataclass_fields__))
        writer.writeheader()
        while time.monotonic() - began_s < hours * 3600:
            time.sleep(_SAMPLE_EVERY_S)
            now, now_s = scrape(daemon.http), time.monotonic()
            samples.append(look(daemon, before, now, now_s - then_s, now_s - began_s))
            before, then_s = now, now_s
            writer.writerow({k: round(v, 4) for k, v in asdict(samples[-1]).items()})
            file.flush()
            if len(samples) % _BREAK_EVERY == 0:
                mounts[len(samples) // _BREAK_EVERY % len(mounts)].kill_clients()
    return samples


def look(
    daemon: Daemon, before: Samples, now: Samples, interval_s: float, elapsed_s: float
) -> Sample:
    """The daemon as it is, and what it did since `before`."""
    pid = daemon.process.pid
    memory = {role: size / 1e6 for role, size in memory_by_role(pid).items()}
    return Sample(
        hours=elapsed_s / 3600,
        supervisor_mb=memory["supervisor"],
        ingest_mb=memory["ingest"],
        inference_mb=memory["inference"],
        descriptors=sum(psutil.Process(process).num_fds() for process, _ in processes(pid)),
        fps=(now[FRAMES] - before[FRAMES]) / interval_s,
        p50_ms=1000 * quantile_s(before, now, 0.5),
        p99_ms=1000 * quantile_s(before, now, 0.99),
    )


def settled(samples: list[Sample]) -> list[Sample]:
    """Without the first tenth, in which all is allocated."""
    return samples[len(samples) // 10 :]


def slope_of(hours: list[float], values: list[float]) -> Slope:
    """By least squares."""
    x, y = np.asarray(hours), np.asarray(values)
    (rise, _), residuals, *_ = np.polyfit(x, y, 1, full=True)
    spread = float(((x - x.mean()) ** 2).sum())
    left = float(residuals[0]) if len(residuals) else 0.0
    return Slope(float(rise), math.sqrt(left / max(1, len(x) - 2) / spread))


def report(samples: list[Sample]) -> bool:
    """Prints one table; whether neither memory nor descriptors grew."""
    rest = settled(samples)
    hours = [sample.hours for sample in rest]
    print(f"{samples[-1].hours:.2f} hours, {len(samples)} samples\n")
    print("| value | median | slope an hour | standard error |\n|---|---|---|---|")
    names = [*(f"{role}_mb" for role in _ROLES), "memory_mb", "descriptors", "fps"]
    for name in (*names, "p50_ms", "p99_ms"):
        values = [float(getattr(sample, name)) for sample in rest]
        slope = slope_of(hours, values)
        middle = float(np.median(values))
        print(f"| {name} | {middle:.1f} | {slope.per_hour:+.2f} | {slope.error:.2f} |")
    memory = slope_of(hours, [sample.memory_mb for sample in rest])
    grows = memory.per_hour > max(_MB_AN_HOUR, 2 * memory.error)
    leaks = np.median([s.descriptors for s in rest[-20:]]) > np.median(
        [s.descriptors for s in rest[:20]]
    )
    print(f"\nmemory {'GROWS' if grows else 'is flat'}, descriptors {'LEAK' if leaks else 'stay'}")
    return not (grows or leaks)


def plot(samples: list[Sample], path: Path) -> None:
    """Three charts over time, below each other."""
    from matplotlib import pyplot  # noqa: PLC0415  # takes a second, which a wrong option need not

    figure, (memory, open_files, latency) = pyplot.subplots(3, sharex=True, figsize=(9, 8))
    hours = [sample.hours for sample in samples]
    for role in _ROLES:
        memory.plot(hours, [getattr(sample, f"{role}_mb") for sample in samples], label=role)
    memory.set_ylabel("memory, MB (PSS)")
    memory.set_ylim(bottom=0)
    memory.legend()
    open_files.plot(hours, [sample.descriptors for sample in samples])
    open_files.set_ylabel("open descriptors")
    open_files.set_ylim(bottom=0)
    latency.plot(hours, [sample.p50_ms for sample in samples], label="p50")
    latency.plot(hours, [sample.p99_ms for sample in samples], label="p99")
    latency.set_ylabel("slot to Redis, ms")
    latency.set_ylim(bottom=0)
    latency.set_xlabel("hours")
    latency.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
