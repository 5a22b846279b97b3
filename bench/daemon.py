"""The daemon against its own engine alone: throughput, latency, CPU by stage, memory, start-up.

    python -m bench.daemon --model yolov8n.onnx

Four generated 720p files go through `streamd run --until-done` into a real Redis. Before each run
the same engine is driven alone, with as many batches in flight and nothing else to do; the ratio
of the two is what the rest of the system costs. Files that are read as fast as they can be keep
every slot full, so latency is that of the queue; a third run paces the same files at half of what
the engine alone can do, as cameras would, and latency is taken from that. Runs alternate; medians
are printed.
"""

import argparse
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import redis

from streamd.capacity.scrape import FRAMES, Samples, quantile_s, scrape, stage_ms
from streamd.config import ModelConfig
from streamd.demo.clips import write_clip
from streamd.engines import Runner, runner_count
from streamd.engines.model_file import inspect_model
from streamd.ingest.letterbox import Letterbox
from streamd.linux.usage import memory_by_role
from streamd.models.engine_loader import load_engine
from streamd.scenes import Scene
from streamd.testing.daemon_run import DaemonRun, write_settings
from streamd.testing.redis_server import RedisServer

FILES = 4
SIZE = 1280, 720


def main() -> None:
    """Measures and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", required=True)
    options.add_argument("--batch-size", type=int, default=4)
    options.add_argument("--seconds", type=float, default=12.0, help="length of each file")
    options.add_argument("--rounds", type=int, default=3)
    asked = options.parse_args()
    config = ModelConfig(path=asked.model, batch_size=asked.batch_size)
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder, RedisServer() as server:
        clips = make_clips(Path(folder) / "short", asked.seconds)
        # Long enough that half of it is past what had to wait for the engine to load.
        long_clips = make_clips(Path(folder) / "long", 3 * asked.seconds)
        rounds = []
        for number in range(1, asked.rounds + 1):
            alone = engine_alone(config)
            flooded = daemon_run(Path(folder), cameras(clips), config, server)
            paced = daemon_run(Path(folder), cameras(long_clips, alone.fps / 2), config, server)
            rounds.append(Round(alone, flooded, paced))
            print(
                f"round {number}: engine alone {alone.fps:.1f} fps, daemon {flooded.fps:.1f} fps, "
                f"ratio {flooded.fps / alone.fps:.3f}",
                flush=True,
            )
    report(rounds)


def make_clips(folder: Path, seconds: float) -> list[Path]:
    """Four 1280x720 files of 10 fps in the new `folder`."""
    folder.mkdir()
    paths = []
    for number in range(FILES):
        scene = Scene(number + 1, *SIZE, fps=10)
        paths.append(write_clip(folder / f"{number}.mp4", scene, seconds).path)
    return paths


def cameras(clips: list[Path], fps: float | None = None) -> list[dict[str, Any]]:
    """The clips as cameras: as fast as they can be read, or paced at `fps` all together."""
    paced = {} if fps is None else {"paced": True, "fps": fps / len(clips)}
    return [{"id": f"c{i}", "url": str(clip), **paced} for i, clip in enumerate(clips)]


@dataclass(frozen=True)
class Alone:
    """The engine with nothing else to do: frames a second, CPU milliseconds a frame."""

    engine: str
    precision: str
    fps: float
    cpu_ms: float


def engine_alone(config: ModelConfig, seconds: float = 10.0) -> Alone:
    """The engine with all runners busy, in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_drive_engine, (config, seconds))


def _drive_engine(config: ModelConfig, seconds: float) -> Alone:
    model = inspect_model(config.path, config.imgsz)
    engine = load_engine(model, config).engine
    runners = engine.runners(runner_count(config, engine.spec))
    rng = np.random.default_rng(0)
    shape = Letterbox.best(*SIZE, model.shapes).shape
    size = (shape.height, shape.width, 3)
    images = [rng.integers(0, 255, size, np.uint8) for _ in range(config.batch_size)]
    for runner in runners:
        runner.load(images)
        runner.run()
    frames = [0] * len(runners)
    began_s, cpu_s = time.monotonic(), time.process_time()

    def drive(number: int, runner: Runner) -> None:
        while time.monotonic() - began_s < seconds:
            runner.load(images)
            runner.run()
            frames[number] += len(images)

    threads = [threading.Thread(target=drive, args=pair) for pair in enumerate(runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spec = engine.spec
    return Alone(
        engine=f"{spec.backend} {spec.device} {spec.precision} {shape}, {len(runners)} runners",
        precision=spec.precision,
        fps=sum(frames) / (time.monotonic() - began_s),
        cpu_ms=1000 * (time.process_time() - cpu_s) / sum(frames),
    )


@dataclass(frozen=True)
class Run:
    """What was seen of one run of the daemon. Times are milliseconds a frame, memory is MB."""

    fps: float
    first_event_s: float
    p50_ms: float
    p99_ms: float
    stage_ms: dict[str, float]
    memory_mb: dict[str, float]
    mean_batch: float


@dataclass(frozen=True)
class Round:
    """The engine alone, and the daemon right behind it."""

    alone: Alone
    flooded: Run
    paced: Run


def daemon_run(
    folder: Path, cameras: list[dict[str, Any]], config: ModelConfig, server: RedisServer
) -> Run:
    """One `streamd run --until-done`, watched from outside."""
    client: Any = redis.Redis.from_url(server.url)
    client.flushall()
    settings = {
        "redis": {"url": server.url},
        "http": {"port": 0},
        "model": config.model_dump(mode="json", include={"path", "batch_size", "imgsz"}),
        "publish": "all",
        "cameras": cameras,
    }
    began_s = time.time()
    scrapes, memory = list[Samples](), dict[str, float]()
    with closing(DaemonRun(write_settings(folder, settings), "--until-done")) as daemon:
        while daemon.process.poll() is None:
            try:
                scrapes.append(scrape(daemon.http))
            except OSError:
                break
            for role, size in memory_by_role(daemon.process.pid).items():
                memory[role] = max(size / 1e6, memory.get(role, 0.0))
            time.sleep(2.0)  # each look costs CPU that the daemon then lacks
        if daemon.wait() != 0:
            raise SystemExit("the daemon failed")
    entries = client.xrange("streamd:detections")
    stamps = [int(entry_id.split(b"-")[0]) / 1000 for entry_id, _ in entries]
    samples = scrapes[-1]
    frames = samples[FRAMES]
    # The first frames waited for the engine to load.
    half = next(one for one in scrapes if one.get(FRAMES, 0) >= frames / 2)
    return Run(
        fps=(len(stamps) - 1) / (stamps[-1] - stamps[0]),
        first_event_s=stamps[0] - began_s,
        p50_ms=1000 * quantile_s(half, samples, 0.5),
        p99_ms=1000 * quantile_s(half, samples, 0.99),
        stage_ms=stage_ms({}, samples),
        memory_mb=memory,
        mean_batch=frames / samples["streamd_batch_size_count", ""],
    )


def report(rounds: list[Round]) -> None:
    """Medians over the rounds."""
    runs, paced = [one.flooded for one in rounds], [one.paced for one in rounds]
    print(f"\nmedians of {len(rounds)} alternating rounds, {FILES} files of 1280x720")
    print(f"engine                {rounds[0].alone.engine}")
    print(f"engine alone          {median(one.alone.fps for one in rounds):8.1f} fps")
    print(f"daemon                {median(run.fps for run in runs):8.1f} fps")
    print(f"ratio                 {median(one.flooded.fps / one.alone.fps for one in rounds):8.3f}")
    print(f"mean batch            {median(run.mean_batch for run in runs):8.2f}")
    print(f"paced: daemon         {median(run.fps for run in paced):8.1f} fps")
    print(f"paced: slot to Redis  {median(run.p50_ms for run in paced):8.1f} ms p50")
    print(f"paced: slot to Redis  {median(run.p99_ms for run in paced):8.1f} ms p99")
    print(f"paced: mean batch     {median(run.mean_batch for run in paced):8.2f}")
    print(f"start to first event  {median(run.first_event_s for run in runs):8.2f} s")
    print("CPU a frame:")
    for stage in runs[0].stage_ms:
        print(f"  {stage:19} {median(run.stage_ms[stage] for run in runs):8.3f} ms")
    print(f"  {'infer (alone)':19} {median(one.alone.cpu_ms for one in rounds):8.3f} ms")
    print("memory (proportional set size, highest seen):")
    for role in sorted(set.intersection(*(set(run.memory_mb) for run in runs))):
        print(f"  {role:19} {median(run.memory_mb[role] for run in runs):8.1f} MB")


if __name__ == "__main__":
    main()
