"""The OpenVINO backend: CPUs, and Intel's GPUs."""

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamd.engines.contract import (
    BuildOrder,
    Built,
    Engine,
    EngineOrder,
    EngineSpec,
    Platform,
    Runner,
    rung,
)
from streamd.engines.openvino_library import opset13, ov, properties
from streamd.errors import EngineError
from streamd.linux.cores import available_cores
from streamd.slots import InputShape

_TYPES = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16, "fp16": ov.Type.f16}
# A setting must be so many times as fast to be preferred to those before it. Fewer streams more so:
# with decoding on the same cores, an inference on several of them waits at each step for the one
# that is late, which a machine that does nothing else does not show.
_FASTER = 1.03
_FASTER_WITH_FEWER_STREAMS = 1.25
_TRIAL_S = 0.6
# Compiling keeps one core busy, and several times the model's weights in memory.
_COMPILED_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class _Setting:
    """A way to run a network: on which device, in which arithmetic, how many at once."""

    device: str
    arithmetic: str
    streams: int

    def __str__(self) -> str:
        return f"{self.device} {self.arithmetic}, {self.streams} at once"


class OpenVinoBackend:
    """Compiles a network for each shape and each rung of the ladder.

    Device, arithmetic and the number of streams are measured, since no rule foretells them.
    """

    name = "openvino"

    def __init__(self) -> None:
        self._core = ov.Core()

    def platform(self) -> Platform:
        """See Backend."""
        names = [f"{device}: {self._name(device)}" for device in self._devices()]
        version = str(ov.get_version()).partition("-")[0]
        return Platform(version, f"{'; '.join(names)}; {available_cores()} cores")

    def _name(self, device: str) -> str:
        name: str = self._core.get_property(device, properties.device.full_name()).strip()
        if device != "CPU":
            return name
        # Virtual CPUs share names ("AMD EPYC"), and what is compiled for one set of instructions
        # is refused where there is another.
        value = opset13.parameter([1], ov.Type.f32)
        compiled = self._core.compile_model(ov.Model([opset13.relu(value)], [value]), device)
        try:
            needs = str(compiled.get_property("RUNTIME_REQUIREMENTS"))
        except RuntimeError:  # a version that does not look at that either
            return name
        return f"{name}, {needs.partition('isa=')[2]}"

    def build(self, order: BuildOrder, folder: Path, tell: Callable[[str], None]) -> Built:
        """See Backend."""
        graphs = {shape: order.graph(shape) for shape in order.shapes}
        try:
            chosen = self._fastest(order, graphs[order.shapes[0]], tell)

            def compile_one(size: tuple[InputShape, int]) -> str:
                shape, batch = size
                network = self._sized(graphs[shape], batch)
                compiled = self._core.compile_model(network, chosen.device, _properties(chosen))
                _file(folder, shape, batch).write_bytes(compiled.export_model().getvalue())
                return f"compiled {shape}, batch {batch}"

            with ThreadPoolExecutor(min(_COMPILED_AT_ONCE, available_cores())) as threads:
                for step in threads.map(compile_one, product(order.shapes, order.ladder)):
                    tell(step)
        except RuntimeError as error:
            raise _failure(f"{order.model.path}: OpenVINO cannot build it", error) from None
        precision = "int8" if order.precision == "int8" else chosen.arithmetic
        settings: dict[str, str | int] = {
            "device": chosen.device,
            "arithmetic": chosen.arithmetic,
            "streams": chosen.streams,
        }
        return Built(precision, settings)

    def load(self, order: EngineOrder, built: Built, folder: Path) -> Engine:
        """See Backend."""
        setting = _Setting(
            str(built.settings["device"]),
            str(built.settings["arithmetic"]),
            int(built.settings["streams"]),
        )
        spec = EngineSpec(
            self.name,
            setting.device,
            built.precision,
            order.shapes,
            order.ladder,
            setting.streams,
            lazy=True,
        )
        networks = _Networks(self._core, setting, spec, folder)
        networks.of(order.shapes[0])
        return OpenVinoEngine(networks, spec)

    def _devices(self) -> list[str]:
        return [d for d in self._core.available_devices if d == "CPU" or d.startswith("GPU")]

    def _fastest(self, order: EngineOrder, graph: bytes, tell: Callable[[str], None]) -> _Setting:
        """The setting with the most frames a second at the largest batch."""
        network = self._sized(graph, order.ladder[-1])
        settings = list(self._settings(order.precision))
        if len(settings) == 1:
            return settings[0]
        best, best_fps = settings[0], 0.0
        for setting in settings:
            fps = self._trial(network, setting) * order.ladder[-1]
            tell(f"{setting}: {fps:.1f} frames/s")
            fewer = setting.streams < best.streams
            if fps > best_fps * (_FASTER_WITH_FEWER_STREAMS if fewer else _FASTER):
                best, best_fps = setting, fps
        return best

    def _settings(self, precision: str) -> Iterator[_Setting]:
        """Every setting to be tried, those to be preferred first: exact ones, with many streams.

        Raises EngineError where there is none.
        """
        cores = available_cores()
        counts = {1, 2, max(1, cores // 4), max(1, cores // 2)} & set(range(1, cores + 1))
        streams = sorted(counts, reverse=True)
        found = False
        for device in self._devices():
            able = self._core.get_property(device, properties.device.capabilities())
            # What runs beside int8 layers is measured too.
            wanted = list(_TYPES) if precision in ("auto", "int8") else [precision]
            for arithmetic in (kind for kind in wanted if kind.upper() in able):
                found = True
                yield from (_Setting(device, arithmetic, count) for count in streams)
        if not found:
            raise EngineError(f"model.precision: this machine has no {precision} for OpenVINO")

    def _trial(self, network: ov.Model, setting: _Setting) -> float:
        """Batches a second with every stream busy, from as many threads as an engine's runners."""
        compiled = self._core.compile_model(network, setting.device, _properties(setting))
        requests = [compiled.create_infer_request() for _ in range(max(2, setting.streams))]
        for request in requests:
            request.infer()
        with ThreadPoolExecutor(len(requests)) as threads:
            return sum(threads.map(_rate, requests))

    def _sized(self, graph: bytes, batch: int) -> ov.Model:
        network = self._core.read_model(graph, b"")
        shape = network.input(0).partial_shape
        shape[0] = batch
        network.reshape(shape)
        return network


class _Networks:
    """The compiled networks by batch size, of each shape from its first use on.

    A shape costs a third of a second and a hundred megabytes or more, and few fleets have all. The
    files are open from the start, so that they can be loaded also after they were removed.
    """

    def __init__(self, core: ov.Core, setting: _Setting, spec: EngineSpec, folder: Path) -> None:
        self._core = core
        self._setting = setting
        self._ladder = spec.ladder
        self._folder = folder
        self._lock = threading.Lock()
        self._loaded: dict[InputShape, dict[int, ov.CompiledModel]] = {}
        try:
            self._files = {
                (shape, batch): _file(folder, shape, batch).open("rb")
                for shape, batch in product(spec.shapes, spec.ladder)
            }
        except OSError as error:
            raise _failure(f"{folder}: OpenVINO cannot load it", error) from None

    def of(self, shape: InputShape) -> dict[int, ov.CompiledModel]:
        """Those of `shape`; any thread may ask. Raises EngineError."""
        with self._lock:
            if shape not in self._loaded:
                self._loaded[shape] = {batch: self._load(shape, batch) for batch in self._ladder}
            return self._loaded[shape]

    def _load(self, shape: InputShape, batch: int) -> ov.CompiledModel:
        try:
            with self._files.pop((shape, batch)) as file:
                blob = io.BytesIO(file.read())
            return self._core.import_model(blob, self._setting.device, _properties(self._setting))
        except (RuntimeError, OSError) as error:
            raise _failure(f"{self._folder}: OpenVINO cannot load it", error) from None


class OpenVinoEngine:
    """The compiled networks, by shape and batch size."""

    def __init__(self, networks: _Networks, spec: EngineSpec) -> None:
        self._networks = networks
        self.spec = spec

    def adopt(self, memory: NDArray[np.uint8]) -> None:
        """See Engine."""

    def runners(self, count: int) -> list[Runner]:
        """See Engine."""
        return [OpenVinoRunner(self._networks, self.spec) for _ in range(count)]

    def close(self) -> None:
        """See Engine. Nothing: host memory goes with the last reference to it."""


class OpenVinoRunner:
    """An infer request for each network, with its input tensor allocated once."""

    def __init__(self, networks: _Networks, spec: EngineSpec) -> None:
        self._networks = networks
        self._ladder = spec.ladder
        self._requests: dict[tuple[InputShape, int], ov.InferRequest] = {}
        self._inputs: dict[tuple[InputShape, int], NDArray[np.uint8]] = {}
        self._loaded = (spec.shapes[0], spec.ladder[0])
        self._open(spec.shapes[0])
        self._count = 0

    def load(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """See Runner."""
        self._count = len(images)
        height, width, _ = images[0].shape
        self._loaded = (InputShape(height, width), rung(self._ladder, self._count))
        if self._loaded not in self._requests:
            self._open(self._loaded[0])
        for row, image in zip(self._inputs[self._loaded], images, strict=False):
            row[...] = image

    def run(self) -> NDArray[np.float32]:
        """See Runner."""
        request = self._requests[self._loaded]
        try:
            request.infer()
        except RuntimeError as error:
            raise _failure("OpenVINO failed", error) from None
        candidates: NDArray[np.float32] = request.get_output_tensor().data[: self._count].copy()
        return candidates

    def _open(self, shape: InputShape) -> None:
        for batch, network in self._networks.of(shape).items():
            request = self._requests[shape, batch] = network.create_infer_request()
            self._inputs[shape, batch] = request.get_input_tensor().data


def _rate(request: ov.InferRequest) -> float:
    """Inferences a second of one request, over a while."""
    done, began_s = 0, time.monotonic()
    while (took_s := time.monotonic() - began_s) < _TRIAL_S:
        request.infer()
        done += 1
    return done / took_s


def _properties(setting: _Setting) -> dict[str, Any]:
    found: dict[str, Any] = {
        properties.hint.inference_precision(): _TYPES[setting.arithmetic],
        properties.num_streams(): setting.streams,
        properties.hint.performance_mode(): properties.hint.PerformanceMode.THROUGHPUT,
    }
    if setting.device == "CPU":
        found[properties.inference_num_threads()] = available_cores()
        # Each network would pin its first stream to the same core: two shapes would share one.
        found[properties.hint.enable_cpu_pinning()] = False
    return found


def _file(folder: Path, shape: InputShape, batch: int) -> Path:
    return folder / f"{shape}-{batch}.blob"


def _failure(what: str, error: Exception) -> EngineError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # Of operations that it lacks only this line has the names.
    line = next((line for line in lines if "No conversion rule" in line), lines[-1])
    return EngineError(f"{what}: {line.removeprefix('-- ')}")
