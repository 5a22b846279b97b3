"""All that a machine with an NVIDIA GPU can show, in one run, line by line as it is known.

    python -m bench.gpu --model yolov8n.onnx

Says what is here and how many 1080p streams NVDEC decodes in real time; builds and proves the
TensorRT engine, for the model's own input size; measures each batch size with its images on the GPU
already (the bare engine) and copied there, for one runner and several, and copying from pinned
slots and from ordinary memory; and runs the tests that need a GPU, for so long as `--tests` says.
What cannot run here is named with its reason, and is no failure; a part that can run and fails
makes the exit code 1.
"""

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import quantiles
from typing import Any

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from numpy.typing import NDArray

from streamd.config import ModelConfig
from streamd.demo.clips import write_clip
from streamd.engines import Runner, installed_backends
from streamd.engines.model_file import inspect_model
from streamd.errors import StreamdError
from streamd.models.engine_loader import LoadedEngine, load_engine
from streamd.nvidia import driver_missing
from streamd.scenes import Scene
from streamd.slots import SlotPool

PACKAGES = ("tensorrt", "tensorrt-rtx", "pycuda", "onnxruntime", "av", "numpy")
VIDEO_FPS = 25
DECODERS = (1, 4, 16, 48)
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

    def __init__(
        self, model: str, batch_size: int, runners: int, seconds: float, tests_s: float
    ) -> None:
        self.model, self.batch_size = model, batch_size
        self.most_runners = runners
        self.seconds = seconds
        self.tests_s = tests_s

    @property
    def loaded(self) -> LoadedEngine:
        """The proved engine, out of the cache or built. Raises StreamdError."""
        if isinstance(self._engine, StreamdError):
            raise self._engine
        return self._engine

    @cached_property
    def _engine(self) -> LoadedEngine | StreamdError:
        """A build that fails takes minutes, too: it is not tried again."""
        try:
            shape = inspect_model(self.model).shape
            config = ModelConfig.model_validate(
                {
                    "path": self.model,
                    "backend": "tensorrt",
                    "batch_size": self.batch_size,
                    "imgsz": [shape.height, shape.width],
                }
            )
            model = inspect_model(self.model, config.imgsz)
            return load_engine(model, config, lambda step: print(f"  {step}", flush=True))
        except StreamdError as error:
            return error

    @cached_property
    def slots(self) -> list[NDArray[np.uint8]]:
        """Slots for the largest batch, pinned if the driver does it, full of noise."""
        spec = self.loaded.engine.spec
        pool = SlotPool(spec.ladder[-1], spec.shapes[0])
        try:
            self.loaded.engine.adopt(pool.images)
        except StreamdError as error:
            print(f"slots are not pinned: {error}", flush=True)
        slots = [pool.image(number, spec.shapes[0]) for number in range(pool.count)]
        for slot in slots:
            slot[...] = np.random.default_rng(0).integers(0, 255, slot.shape, np.uint8)
        return slots


def main() -> None:
    """Runs every part that can run here."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", default="engines/shapes.onnx")
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--runners", type=int, default=3, help="most batches in flight")
    options.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    options.add_argument("--tests", type=float, default=240.0, help="seconds for the gpu tests")
    asked = options.parse_args()
    bench = Bench(asked.model, asked.batch_size, asked.runners, asked.seconds, asked.tests)
    failures = 0
    for row in inventory():
        _show(row)
    for part in PARTS:
        print(f"{part.name} ...", flush=True)
        reason = part.missing()
        if reason:
            _show(Row(part.name, f"did not run: {reason}"))
            continue
        try:
            for row in part.measure(bench):
                _show(row)
        except Exception as error:  # libraries raise what they like; the other parts still run
            _show(Row(part.name, f"FAILED: {type(error).__name__}: {error}"))
            failures += 1
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


def tests_missing() -> str | None:
    """What the tests lack here."""
    return tensorrt_missing() or (None if find_spec("pytest") else "pytest is not installed")


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


def gpu_tests(bench: Bench) -> Iterator[Row]:
    """The tests that need a GPU; raises StreamdError if one fails. Those of all families last."""
    families = "tests/unit/test_families.py"
    for what, where in (("tests", ["tests", f"--ignore={families}"]), ("families", [families])):
        command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu and not slow", "-rs", *where]
        try:
            code = subprocess.run(command, check=False, timeout=bench.tests_s).returncode
        except subprocess.TimeoutExpired:
            yield Row(f"gpu {what}", f"not all ran in {bench.tests_s:.0f} s")
            continue
        if code:
            raise StreamdError(f"gpu {what}: pytest ended with {code}")
        yield Row(f"gpu {what}", "passed")


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
            for count in DECODERS:
                fps = decode_together(clip, count, bench.seconds)
                figure = f"{fps:9.0f} fps, {fps / VIDEO_FPS:.0f} streams of {VIDEO_FPS} fps"
                yield Row(f"NVDEC, {codec} 1080p, {count} at once", figure)


def decode_together(clip: Path, count: int, seconds: float) -> float:
    """Frames a second of `count` decoders that read `clip` again and again."""
    frames: list[int] = []

    def work(container: InputContainer) -> None:
        done, until_s = 0, time.monotonic() + seconds
        while time.monotonic() < until_s:
            container.seek(0)
            for _ in container.decode(video=0):
                done += 1
                if time.monotonic() >= until_s:
                    break
        frames.append(done)

    with ExitStack() as held:
        device = partial(HWAccel, "cuda", is_hw_owned=True, allow_software_fallback=False)
        opened = [held.enter_context(av.open(str(clip), hwaccel=device())) for _ in range(count)]
        for container in opened:
            kind = next(container.decode(video=0)).format.name
            if kind != "cuda":
                raise StreamdError(f"a frame is {kind}: not decoded by the GPU")
        in_threads([partial(work, container) for container in opened])
    return sum(frames) / seconds


def in_threads(jobs: Sequence[Callable[[], Any]]) -> None:
    """Runs all `jobs` at the same time; an error of one is raised once all have ended."""
    errors: list[Exception] = []

    def guarded(job: Callable[[], Any]) -> None:
        try:
            job()
        except Exception as error:  # whatever a library raises is for the caller
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _show(row: Row) -> None:
    print(f"{row.what:36}  {row.figure}", flush=True)


def _driver_version() -> str:
    told = Path("/proc/driver/nvidia/version")  # containers may not show it
    return told.read_text().splitlines()[0] if told.exists() else "is here"


PARTS = (
    Part("NVDEC", driver_missing, nvdec),
    Part("build and proof", tensorrt_missing, build_and_prove),
    Part("throughput and latency", tensorrt_missing, ladder),
    Part("H2D", tensorrt_missing, copies),
    Part("gpu tests", tests_missing, gpu_tests),
)

if __name__ == "__main__":
    main()
