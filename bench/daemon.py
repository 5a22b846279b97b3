"""The daemon against its own engine alone: throughput, latency, CPU by stage, memory, start-up.

    python -m bench.daemon --model yolov8n.onnx

Four generated 720p files go through `streamd run --until-done` into a real Redis. Before each run
the same engine is driven alone, with as many batches in flight and nothing else to do; the ratio
of the two is what the rest of the system costs. Runs alternate; medians are printed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import psutil
import redis

from streamd.config import ModelConfig
from streamd.demo.clips import write_clip
from streamd.demo.scenes import Scene
from streamd.engines import Runner, inspect_model, load_engine, runner_count
from streamd.testing.redis_server import RedisServer

CAMERAS = 4
_SAMPLE = re.compile(r"^(?P<name>[a-z_]+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$", re.MULTILINE)


def main() -> None:
    """Measures and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", required=True)
    options.add_argument("--batch-size", type=int, default=4)
    options.add_argument("--seconds", type=float, default=8.0, help="length of each file")
    options.add_argument("--rounds", type=int, default=3)
    asked = options.parse_args()
    config = ModelConfig(path=asked.model, batch_size=asked.batch_size)
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder, RedisServer() as server:
        clips = make_clips(Path(folder), asked.seconds)
        rounds = []
        for number in range(1, asked.rounds + 1):
            alone = engine_alone(config)
            run = daemon_run(Path(folder), clips, config, server)
            rounds.append((alone, run))
            print(
                f"round {number}: engine alone {alone:.1f} fps, daemon {run.fps:.1f} fps, "
                f"ratio {run.fps / alone:.3f}",
                flush=True,
            )
    report(rounds)


def make_clips(folder: Path, seconds: float) -> list[Path]:
    """Four 1280x720 files of 15 fps."""
    paths = []
    for number in range(CAMERAS):
        scene = Scene(seed=number + 1, width=1280, height=720)
        paths.append(write_clip(folder / f"{number}.mp4", scene, seconds).path)
    return paths


def engine_alone(config: ModelConfig, seconds: float = 10.0) -> float:
    """Frames a second of the engine with all runners busy, in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_drive_engine, (config, seconds))


def _drive_engine(config: ModelConfig, seconds: float) -> float:
    model = inspect_model(config.path, config.imgsz)
    runners = load_engine(model, config).runners(runner_count(config))
    rng = np.random.default_rng(0)
    shape = (model.shape.height, model.shape.width, 3)
    images = [rng.integers(0, 255, shape, np.uint8) for _ in range(config.batch_size)]
    for runner in runners:
        runner.load(images)
        runner.run()
    frames = [0] * len(runners)
    began_s = time.monotonic()

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
    return sum(frames) / (time.monotonic() - began_s)


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


def daemon_run(folder: Path, clips: list[Path], config: ModelConfig, server: RedisServer) -> Run:
    """One `streamd run --until-done`, watched from outside."""
    client: Any = redis.Redis.from_url(server.url)
    client.flushall()
    settings = {
        "redis": {"url": server.url},
        "http": {"port": 0},
        "model": {"path": config.path, "batch_size": config.batch_size},
        "publish": "all",
        "cameras": [{"id": f"c{i}", "url": str(clip)} for i, clip in enumerate(clips)],
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(settings))
    began_s = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "streamd", "run", str(path), "--until-done"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    http = json.loads(process.stderr.readline())["http"]
    threading.Thread(target=process.stderr.read, daemon=True).start()
    metrics, memory = "", dict[str, float]()
    while process.poll() is None:
        try:
            metrics = httpx.get(f"{http}/metrics", timeout=5).text
        except httpx.HTTPError:
            break
        memory = {k: max(v, memory.get(k, 0.0)) for k, v in memory_by_role(process.pid).items()}
        time.sleep(0.5)
    if process.wait() != 0:
        raise SystemExit("the daemon failed")
    entries = client.xrange("streamd:detections")
    stamps = [int(entry_id.split(b"-")[0]) / 1000 for entry_id, _ in entries]
    samples = parse(metrics)
    frames = samples["streamd_batch_frames_total", ""]
    return Run(
        fps=(len(stamps) - 1) / (stamps[-1] - stamps[0]),
        first_event_s=stamps[0] - began_s,
        p50_ms=1000 * quantile(samples, 0.5),
        p99_ms=1000 * quantile(samples, 0.99),
        stage_ms=stages(samples, frames),
        memory_mb=memory,
        mean_batch=frames / samples["streamd_batches_total", ""],
    )


def memory_by_role(pid: int) -> dict[str, float]:
    """Proportional set size of each process, MB: what is shared is divided."""
    found = {}
    for process in [psutil.Process(pid), *psutil.Process(pid).children()]:
        try:
            name = process.name()
            role = name.removeprefix("sd:") if name.startswith("sd:") else "supervisor"
            if role != "supervisor" or process.pid == pid:
                found[role] = process.memory_full_info().pss / 1e6
        except psutil.Error:
            continue
    return found


def parse(metrics: str) -> dict[tuple[str, str], float]:
    """Samples by name and labels; those of all cameras added up."""
    samples: dict[tuple[str, str], float] = {}
    for match in _SAMPLE.finditer(metrics):
        labels = re.sub(r'camera="[^"]*",?', "", match["labels"] or "")
        key = match["name"], labels
        samples[key] = samples.get(key, 0.0) + float(match["value"])
    return samples


def quantile(samples: dict[tuple[str, str], float], share: float) -> float:
    """Seconds from slot to Redis that `share` of the frames stay below; a bucket's upper bound."""
    buckets = sorted(
        (float(labels.split('"')[1]), count)
        for (name, labels), count in samples.items()
        if name == "streamd_slot_to_redis_seconds_bucket"
    )
    total = buckets[-1][1]
    return next(bound for bound, count in buckets if count >= share * total)


def stages(samples: dict[tuple[str, str], float], frames: float) -> dict[str, float]:
    """CPU milliseconds a frame, by stage; inference is wall time over the batches in flight."""
    found = {
        stage: 1000 * samples["streamd_camera_cpu_seconds_total", f'stage="{stage}"'] / frames
        for stage in ("decode", "scale", "copy")
    }
    for stage in ("batch", "gather", "postprocess", "publish"):
        total = samples["streamd_inference_cpu_seconds_total", f'stage="{stage}"']
        found[stage] = 1000 * total / frames
    runners = runner_count(ModelConfig())
    wall = samples["streamd_inference_seconds_total", ""]
    found["infer (wall x cores / in flight)"] = (
        1000 * wall * (os.cpu_count() or 1) / runners / frames
    )
    return found


def report(rounds: list[tuple[float, Run]]) -> None:
    """Medians over the rounds."""
    runs = [run for _, run in rounds]
    print(f"\nmedians of {len(rounds)} alternating rounds, {CAMERAS} files of 1280x720")
    print(f"engine alone          {median(alone for alone, _ in rounds):8.1f} fps")
    print(f"daemon                {median(run.fps for run in runs):8.1f} fps")
    print(f"ratio                 {median(run.fps / alone for alone, run in rounds):8.3f}")
    print(f"mean batch            {median(run.mean_batch for run in runs):8.2f}")
    print(f"slot to Redis p50     {median(run.p50_ms for run in runs):8.1f} ms")
    print(f"slot to Redis p99     {median(run.p99_ms for run in runs):8.1f} ms")
    print(f"start to first event  {median(run.first_event_s for run in runs):8.2f} s")
    print("CPU a frame:")
    for stage in runs[0].stage_ms:
        print(f"  {stage:34} {median(run.stage_ms[stage] for run in runs):8.3f} ms")
    print("memory (proportional set size, highest seen):")
    for role in sorted(set.intersection(*(set(run.memory_mb) for run in runs))):
        print(f"  {role:34} {median(run.memory_mb[role] for run in runs):8.1f} MB")


if __name__ == "__main__":
    main()
