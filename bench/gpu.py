"""All that a machine with an NVIDIA GPU can show, in one run and one table.

    python -m bench.gpu --model yolov8n.onnx

Says what is here, builds and proves the TensorRT engine, runs the tests that need a GPU, and then
measures: each batch size with its images on the GPU already (the bare engine) and copied there,
for one runner and several; copying from pinned slots and from ordinary memory; how many 1080p
streams NVDEC decodes in real time. What cannot run here is named with its reason, and is no
failure; a part that can run and fails makes the exit code 1.
"""

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from statistics import quantiles
from typing import Any

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel
from numpy.typing import NDArray

from streamd.config import ModelConfig
from streamd.demo.clips import write_clip
from streamd.engine_loader import LoadedEngine, load_engine
from streamd.engines import Runner, installed_backends
from streamd.engines.model_file import inspect_model
from streamd.errors import StreamdError
from streamd.nvidia import driver_missing
from streamd.scenes import Scene
from streamd.slots import SlotPool

PACKAGES = ("tensorrt", "tensorrt-rtx", "pycuda", "onnxruntime", "av", "numpy")
VIDEO_FPS = 25
Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    what: str
    figure: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the run: `missing` says what it lacks on this machine, None if nothing."""

    name: str
    missing: Callable[[], str | None]
    measure: Callable[["Bench"], Iterator[Row]]


class Bench:
    """What the parts share; the engine is made by the first that asks for it."""

    def __init__(self, model: str, batch_size: int, runners: int, seconds: float) -> None:
        self.config = ModelConfig(path=model, backend="tensorrt", batch_size=batch_size)
        self.most_runners = runners
        self.seconds = seconds

    @cached_property
    def loaded(self) -> LoadedEngine:
        """The proved engine, out of the cache or built. Raises StreamdError."""
        model = inspect_model(self.config.path, self.config.imgsz)
        return load_engine(model, self.config, lambda step: print(f"  {step}", flush=True))

    @cached_property
    def slots(self) -> list[NDArray[np.uint8]]:
        """Pinned slots for the largest batch, full of noise."""
        spec = self.loaded.engine.spec
        pool = SlotPool(spec.ladder[-1], spec.shapes[0])
        self.loaded.engine.adopt(pool.images)
        slots = [pool.image(number, spec.shapes[0]) for number in range(pool.count)]
        for slot in slots:
            slot[...] = np.random.default_rng(0).integers(0, 255, slot.shape, np.uint8)
        return slots


def main() -> None:
    """Runs every part that can run here, and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", default="engines/shapes.onnx")
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--runners", type=int, default=3, help="most batches in flight")
    options.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    asked = options.parse_args()
    bench = Bench(asked.model, asked.batch_size, asked.runners, asked.seconds)
    rows, failures = list(inventory()), 0
    for part in PARTS:
        print(f"{part.name} ...", flush=True)
        reason = part.missing()
        if reason:
            rows.append(Row(part.name, f"did not run: {reason}"))
            continue
        try:
            rows += part.measure(bench)
        except (StreamdError, av.error.FFmpegError) as error:
            rows.append(Row(part.name, f"FAILED: {error}"))
            failures += 1
    width = max(len(row.what) for row in rows)
    print("\n" + "\n".join(f"{row.what:{width}}  {row.figure}" for row in rows))
    sys.exit(1 if failures else 0)


def inventory() -> Iterator[Row]:
    """What is here."""
    missing = driver_missing()
    yield Row("driver", f"none: {missing}" if missing else _driver_version())
    for name in PACKAGES:
        try:
            yield Row(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Row(name, "not installed")


def tensorrt_missing() -> str | None:
    """What TensorRT lacks here."""
    if missing := driver_missing():
        return missing
    return None if "tensorrt" in installed_backends() else "tensorrt or pycuda is not installed"


def build_and_prove(bench: Bench) -> Iterator[Row]:
    """The engine, and how it compares with its model."""
    began_s = time.monotonic()
    loaded = bench.loaded
    spec, proof = loaded.engine.spec, loaded.proof
    origin = "out of the cache" if loaded.cached else "built"
    yield Row("engine", f"{spec.device}, {spec.precision}, {spec.shapes[0]}, {spec.ladder}")
    yield Row("engine is ready after", f"{time.monotonic() - began_s:.1f} s ({origin})")
    yield Row("agreement with its model", str(proof["agreement"]))
    yield Row("mean IoU", str(proof.get("mean_iou")))
    yield Row("mean score difference", str(proof.get("mean_score_difference")))


def gpu_tests(_: Bench) -> Iterator[Row]:
    """The tests that need a GPU; raises StreamdError if one fails."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "tests"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
    if done.returncode:
        print(done.stdout)
        raise StreamdError(lines[-1])
    yield Row("gpu tests", lines[-1].strip("= "))


def ladder(bench: Bench) -> Iterator[Row]:
    """Throughput and latency by batch size and runners in flight."""
    engine, slots = bench.loaded.engine, bench.slots
    for count in range(1, bench.most_runners + 1):
        runners = engine.runners(count)
        for size, copied in product(engine.spec.ladder, (False, True)):
            batch_s = drive(runners, slots[:size], bench.seconds, copied=copied)
            fps = size * len(batch_s) / bench.seconds
            p50, p99 = (1000 * quantiles(batch_s, n=100)[at] for at in (49, 98))
            what = "with copies" if copied else "bare engine"
            name = f"{what}, batch {size}, {count} in flight"
            yield Row(name, f"{fps:9.0f} fps  {p50:8.3f} ms p50  {p99:8.3f} ms p99")


def drive(
    runners: Sequence[Runner], images: Images, seconds: float, *, copied: bool
) -> list[float]:
    """Keeps all `runners` busy; returns how long each batch took, in seconds."""
    taken_s: list[float] = []
    for runner in runners:
        runner.load(images)
        runner.run()
    until_s = time.monotonic() + seconds

    def work(runner: Runner) -> None:
        while (began_s := time.monotonic()) < until_s:
            if copied:
                runner.load(images)
            runner.run()
            taken_s.append(time.monotonic() - began_s)

    in_threads([partial(work, runner) for runner in runners])
    return taken_s


def copies(bench: Bench) -> Iterator[Row]:
    """Slot to GPU, out of pinned and out of ordinary memory."""
    pinned = bench.slots
    size = len(pinned)
    (runner,) = bench.loaded.engine.runners(1)
    ordinary = [slot.copy() for slot in pinned]
    for what, images in (("ordinary memory", ordinary), ("pinned slots", pinned)):
        runner.load(images)
        began_s, cpu_s, loads = time.monotonic(), time.thread_time(), 0
        while time.monotonic() - began_s < bench.seconds:
            runner.load(images)
            loads += 1
        each_s = (time.monotonic() - began_s) / loads
        cpu_us = (time.thread_time() - cpu_s) / loads / size * 1e6
        rate = size * images[0].nbytes / each_s / 1e9
        name = f"H2D, {what}, batch {size}"
        yield Row(name, f"{each_s * 1e3:8.3f} ms  {rate:6.2f} GB/s  {cpu_us:6.1f} us CPU a frame")


def nvdec(bench: Bench) -> Iterator[Row]:
    """How many 1080p streams are decoded in real time, frames staying on the GPU."""
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
        scene = Scene(seed=1, width=1920, height=1080, fps=VIDEO_FPS)
        for codec in ("h264", "hevc"):
            clip = write_clip(Path(folder) / f"{codec}.mp4", scene, 4.0, codec).path
            best, count = 0.0, 1
            while (fps := decode_together(clip, count, bench.seconds)) > 1.05 * best:
                best, count = fps, 2 * count
            figure = f"{best:9.0f} fps, {best / VIDEO_FPS:.0f} streams of {VIDEO_FPS} fps"
            yield Row(f"NVDEC, {codec} 1080p", figure)


def decode_together(clip: Path, count: int, seconds: float) -> float:
    """Frames a second of `count` decoders that read `clip` again and again."""
    frames: list[int] = []
    until_s = time.monotonic() + seconds

    def work() -> None:
        done = 0
        while time.monotonic() < until_s:
            with av.open(str(clip), hwaccel=HWAccel("cuda", is_hw_owned=True)) as container:
                for _ in container.decode(video=0):
                    done += 1
                    if time.monotonic() >= until_s:
                        break
        frames.append(done)

    in_threads([work] * count)
    return sum(frames) / seconds


def in_threads(jobs: Sequence[Callable[[], Any]]) -> None:
    """Runs all `jobs` at the same time; an error of one is raised once all have ended."""
    errors: list[BaseException] = []

    def guarded(job: Callable[[], Any]) -> None:
        try:
            job()
        except (StreamdError, av.error.FFmpegError) as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _driver_version() -> str:
    told = Path("/proc/driver/nvidia/version")  # containers may not show it
    return told.read_text().splitlines()[0] if told.exists() else "is here"


PARTS = (
    Part("build and proof", tensorrt_missing, build_and_prove),
    Part("gpu tests", tensorrt_missing, gpu_tests),
    Part("throughput and latency", tensorrt_missing, ladder),
    Part("H2D", tensorrt_missing, copies),
    Part("NVDEC", driver_missing, nvdec),
)

if __name__ == "__main__":
    main()
