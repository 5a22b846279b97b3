"""All that a machine with an NVIDIA GPU can show, in one run, line by line as it is known.

    python -m bench.gpu --model yolov8n.onnx

Says what is here; tries the calls of CUDA; copies from pinned slots and from ordinary memory;
counts the 1080p streams that NVDEC decodes in real time, with their pictures on the GPU and copied
to the host; builds the TensorRT engine for the model's own input size and compares it with the
model; measures each batch size with its images on the GPU already (the bare engine) and copied
there, for one runner and several; and runs the tests that need a GPU.

Each part is a process of its own: one that crashes, hangs or fails makes the exit code 1, and the
next one runs all the same. What cannot run here is named with its reason, and is no failure.
`--part NAME` runs one alone, without a limit of its time.
"""

import argparse
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
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

from bench.parts import Part, Row, run_all, run_one, show, this_module
from streamd.config import ModelConfig
from streamd.demo.clips import write_clip
from streamd.engines import Runner, installed_backends
from streamd.engines.model_file import inspect_model
from streamd.errors import StreamdError
from streamd.models.engine_loader import LoadedEngine, load_engine
from streamd.nvidia import decoder_missing, driver_missing
from streamd.scenes import Scene
from streamd.slots import InputShape, SlotPool

PACKAGES = ("tensorrt", "tensorrt-rtx", "pycuda", "onnxruntime", "openvino", "onnx", "av", "numpy")
ASKED_OF_THE_DRIVER = "name,driver_version,memory.total,compute_cap,compute_mode,mig.mode.current"
VIDEO_FPS = 25
DECODERS = (1, 4, 16, 48)
# Not the daemon's own: what is proved badly is measured here all the same.
CACHE = f"{tempfile.gettempdir()}/streamd-bench-engines"
BAR = 0.99  # the agreement that the daemon asks of fp16
Images = Sequence[NDArray[np.uint8]]


class Bench:
    """What a part may ask for."""

    def __init__(self, model: str, batch_size: int, runners: int, seconds: float) -> None:
        self.model, self.batch_size = model, batch_size
        self.most_runners = runners
        self.seconds = seconds

    @cached_property
    def loaded(self) -> LoadedEngine:
        """The engine, out of the cache or built, whatever its proof says. Raises StreamdError."""
        shape = inspect_model(self.model).shape
        config = ModelConfig.model_validate(
            {
                "path": self.model,
                "backend": "tensorrt",
                "batch_size": self.batch_size,
                "imgsz": [shape.height, shape.width],
                "min_agreement": 0,
                "cache": CACHE,
            }
        )
        model = inspect_model(self.model, config.imgsz)
        return load_engine(model, config, lambda step: print(f"  {step}", flush=True))

    @cached_property
    def slots(self) -> list[NDArray[np.uint8]]:
        """Slots for the largest batch, pinned if the driver does it, full of noise."""
        spec = self.loaded.engine.spec
        pool = SlotPool(spec.ladder[-1], spec.shapes[0])
        try:
            self.loaded.engine.adopt(pool.images)
        except StreamdError as error:
            print(f"slots are not pinned: {error}", flush=True)
        return noise(pool, spec.shapes[0])


def main() -> None:
    """Runs every part that can run here, or the one that was asked for."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", default="engines/shapes.onnx")
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--runners", type=int, default=3, help="most batches in flight")
    options.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    options.add_argument("--minutes", type=float, default=9.5, help="for all parts together")
    options.add_argument("--part", choices=[part.name for part in PARTS])
    options.add_argument("--limit", type=float, default=3600.0, help="seconds for --part")
    asked = options.parse_args()
    if asked.part:
        bench = Bench(asked.model, asked.batch_size, asked.runners, asked.seconds)
        part = next(part for part in PARTS if part.name == asked.part)
        sys.exit(run_one(part, bench, asked.limit))
    for row in inventory():
        show(row)
    sys.exit(1 if run_all(PARTS, this_module("bench.gpu"), asked.minutes * 60) else 0)


def inventory() -> Iterator[Row]:
    """What is here."""
    yield Row("driver", driver_missing() or "starts")
    for line in _driver_says():
        yield Row("GPU", line)
    for name in PACKAGES:
        try:
            yield Row(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Row(name, "not installed")


def cuda_missing() -> str | None:
    """What the calls of CUDA lack here."""
    return driver_missing() or (None if find_spec("pycuda") else "pycuda is not installed")


def tensorrt_missing() -> str | None:
    """What TensorRT lacks here."""
    if missing := cuda_missing():
        return missing
    return None if "tensorrt" in installed_backends() else "tensorrt is not installed"


def tests_in(where: str, lacking: Callable[[], str | None], most_s: float) -> Part:
    """The tests of a file that need a GPU."""

    def missing() -> str | None:
        return lacking() or (None if find_spec("pytest") else "pytest is not installed")

    return Part(where, missing, partial(gpu_tests, where), most_s)


def gpu_tests(where: str, _: Bench) -> Iterator[Row]:
    """Runs the tests in the file `where` that need a GPU; raises StreamdError if one fails."""
    # What a library warns of is no fault of a card; which test hangs is told after a minute.
    command = [sys.executable, "-m", "pytest", "-v", "-rs", "-m", "gpu and not slow", where]
    command += ["--tb=short", "-W", "default", "-o", "faulthandler_timeout=60"]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise StreamdError(f"pytest ended with {code}")
    yield Row(where, "passed")


def build(bench: Bench) -> Iterator[Row]:
    """The engine."""
    began_s = time.monotonic()
    loaded = bench.loaded
    spec = loaded.engine.spec
    origin = "out of the cache" if loaded.cached else "built"
    yield Row("engine", f"{spec.device}, {spec.precision}, {spec.shapes[0]}, {spec.ladder}")
    yield Row("engine is ready after", f"{time.monotonic() - began_s:.1f} s ({origin})")


def proof(bench: Bench) -> Iterator[Row]:
    """How the engine compared with its model. Raises StreamdError where the daemon refuses it."""
    found = bench.loaded.proof
    yield Row("agreement with its model", f"{found['agreement']} of {found.get('compared')}")
    yield Row("mean IoU", str(found.get("mean_iou")))
    yield Row("mean score difference", str(found.get("mean_score_difference")))
    if found.get("compared") and found["agreement"] < BAR:
        raise StreamdError(f"the daemon would not take it: its agreement is below {BAR}")


def ladder(bench: Bench) -> Iterator[Row]:
    """Throughput and latency by batch size and runners in flight."""
    engine, slots = bench.loaded.engine, bench.slots
    for count in range(1, bench.most_runners + 1):
        runners = engine.runners(count)
        if count == 1:
            yield Row("recorded as CUDA graphs", _recorded(runners[0]))
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
    """Slot to GPU, out of pinned and out of ordinary memory, without an engine."""
    from streamd.engines.cuda import Device  # noqa: PLC0415  # loads the driver

    pool = SlotPool(bench.batch_size, InputShape(640, 640))
    pinned = noise(pool, InputShape(640, 640))
    size, each_bytes = len(pinned), pinned[0].nbytes
    device = Device()
    with device.current():
        stream, memory = device.stream(), device.memory(size * each_bytes)
        device.register(pool.images)
        ordinary = [slot.copy() for slot in pinned]
        for what, images in (("ordinary memory", ordinary), ("pinned slots", pinned)):
            began_s, cpu_s, loads = time.monotonic(), time.thread_time(), 0
            while not loads or time.monotonic() - began_s < bench.seconds:
                for number, image in enumerate(images):
                    stream.copy_in(memory.address + number * each_bytes, image)
                stream.synchronize()
                loads += 1
            each_s = (time.monotonic() - began_s) / loads
            cpu_us = (time.thread_time() - cpu_s) / loads / size * 1e6
            rate = size * each_bytes / each_s / 1e9
            figure = f"{each_s * 1e3:8.3f} ms  {rate:6.2f} GB/s  {cpu_us:6.1f} us CPU a frame"
            yield Row(f"H2D, {what}, batch {size}", figure)


def nvdec(codec: str, bench: Bench) -> Iterator[Row]:
    """How many 1080p streams are decoded in real time, on the GPU alone and as the daemon does."""
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
        scene = Scene(seed=1, width=1920, height=1080, fps=VIDEO_FPS)
        clip = write_clip(Path(folder) / f"{codec}.mp4", scene, 4.0, codec).path
        av.logging.restore_default_callback()  # what FFmpeg says of a GPU is in its log alone
        for stays, count in product((True, False), DECODERS):
            fps = decode_together(clip, count, bench.seconds, stays=stays)
            where = "on the GPU" if stays else "to the host"
            figure = f"{fps:9.0f} fps, {fps / VIDEO_FPS:.0f} streams of {VIDEO_FPS} fps"
            yield Row(f"{codec} 1080p, {where}, {count} at once", figure)


def decode_together(clip: Path, count: int, seconds: float, *, stays: bool) -> float:
    """Frames a second of `count` decoders that read `clip` again and again, in one context.

    Where a frame `stays` on the GPU, nobody sees it; else it is copied to the host.
    """
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

    device = partial(
        HWAccel,
        "cuda",
        is_hw_owned=stays,
        allow_software_fallback=False,
        options={"primary_ctx": "1"},
    )
    with ExitStack() as held:
        opened = [held.enter_context(av.open(str(clip), hwaccel=device())) for _ in range(count)]
        for container in opened:
            kind = next(container.decode(video=0)).format.name
            if kind != ("cuda" if stays else "nv12"):
                raise StreamdError(f"a frame is {kind}: not decoded by the GPU")
        in_threads([partial(work, container) for container in opened])
    return sum(frames) / seconds


def noise(pool: SlotPool, shape: InputShape) -> list[NDArray[np.uint8]]:
    """All slots of `pool`, for images of `shape`, which are noise."""
    slots = [pool.image(number, shape) for number in range(pool.count)]
    for slot in slots:
        slot[...] = np.random.default_rng(0).integers(0, 255, slot.shape, np.uint8)
    return slots


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


def _recorded(runner: Any) -> str:
    return f"{runner.recorded} of {runner.passes}"


def _driver_says() -> list[str]:
    """What nvidia-smi says of each GPU; nothing where it is not there, as in some containers."""
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    command = [program, f"--query-gpu={ASKED_OF_THE_DRIVER}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return (done.stdout or done.stderr).strip().splitlines()


PARTS = (
    tests_in("tests/unit/test_cuda_gpu.py", cuda_missing, 90.0),
    Part("copies", cuda_missing, copies, 60.0),
    Part("NVDEC h264", decoder_missing, partial(nvdec, "h264"), 75.0),
    Part("NVDEC hevc", decoder_missing, partial(nvdec, "hevc"), 75.0),
    tests_in("tests/integration/test_sources.py", decoder_missing, 60.0),
    tests_in("tests/unit/test_tensorrt_gpu.py", tensorrt_missing, 120.0),
    Part("engine", tensorrt_missing, build, 300.0),
    Part("proof", tensorrt_missing, proof, 60.0, needs="engine"),
    Part("throughput and latency", tensorrt_missing, ladder, 150.0, needs="engine"),
    tests_in("tests/unit/test_engines.py", tensorrt_missing, 180.0),
    tests_in("tests/unit/test_families.py", tensorrt_missing, 300.0),
)

if __name__ == "__main__":
    main()
