"""The TensorRT build path, for real: TensorRT for RTX parses and builds without a GPU."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip(
    "streamd.engines.tensorrt_library",
    reason="neither tensorrt nor tensorrt-rtx is installed",
)

from streamd.config import ModelConfig
from streamd.engines.contract import BuildOrder
from streamd.engines.model_file import inspect_model
from streamd.engines.onnx_contract import preamble, selection
from streamd.engines.onnx_model import Head
from streamd.engines.precision import to_half, to_int8
from streamd.engines.tensorrt_build import (
    Progress,
    build_order,
    build_plan,
    configure,
    parse,
    plan_file,
)
from streamd.engines.tensorrt_library import Log, library_version, new_builder, new_runtime, trt
from streamd.errors import EngineError
from streamd.models.build import build_order_for
from streamd.slots import InputShape

from .fakes import write_model
from .test_engines import SHAPE, pictures

SHIPPED = "engines/shapes.onnx"


def for_any_gpu(config: Any) -> None:
    """The GPU to build for has to be named where there is none; not all versions know this."""
    if hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)  # type: ignore[attr-defined]


def order_of(
    path: str, shapes: tuple[InputShape, ...] | None = None, **settings: Any
) -> BuildOrder:
    config = ModelConfig.model_validate({"path": path, **settings})
    model = inspect_model(path)
    return build_order_for(model, config, shapes or (model.shape,))


def network_of(graph: bytes) -> tuple[Any, Any]:
    """A network, and the builder that it belongs to."""
    log = Log()
    builder = new_builder(log)
    return parse(builder, graph, log), builder


def kinds_in(network: Any) -> set[Any]:
    """Types of all that layers give to each other."""
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    return {layer.get_output_type(n) for layer in layers for n in range(layer.num_outputs)}


class WatchedBuilder:
    """A builder that remembers the profiles it made."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder
        self.profiles: list[Any] = []

    def create_optimization_profile(self) -> Any:
        self.profiles.append(self._builder.create_optimization_profile())
        return self.profiles[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)


def test_a_network_takes_uint8_images_and_gives_float32_candidates() -> None:
    order = order_of(SHIPPED)
    network, _ = network_of(order.graph(order.shapes[0], half=True))
    source, target = network.get_input(0), network.get_output(0)
    assert (network.num_inputs, network.num_outputs) == (1, 1)
    assert (source.name, source.dtype) == ("sd_images", trt.DataType.UINT8)
    assert tuple(source.shape) == (-1, 320, 320, 3)
    assert (target.name, target.dtype) == ("candidates", trt.DataType.FLOAT)
    assert tuple(target.shape) == (-1, 300, 6)


def test_a_network_is_strongly_typed() -> None:
    order = order_of(SHIPPED)
    network, _ = network_of(order.graph(order.shapes[0]))
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


@pytest.mark.parametrize("half", [False, True])
def test_the_graph_decides_on_the_precision_of_the_layers(half: bool) -> None:
    order = order_of(SHIPPED)
    network, _ = network_of(order.graph(order.shapes[0], half=half))
    assert (trt.DataType.HALF in kinds_in(network)) == half


def test_an_int8_network_has_its_scales_from_the_graph_and_is_fp16_elsewhere() -> None:
    network, _ = network_of(to_half(quantised()).SerializeToString())
    assert {trt.DataType.INT8, trt.DataType.HALF} <= kinds_in(network)


def test_biases_of_an_int8_model_are_float_again_and_the_same() -> None:
    images = pictures(2).transpose(0, 3, 1, 2).astype(np.float32) / 255
    before = run(quantised(), images)
    after = run(to_half(quantised()), images.astype(np.float16))
    assert after == pytest.approx(before, abs=0.02 * float(np.abs(before).max()))


def test_each_rung_of_the_ladder_has_a_profile_for_just_that_batch() -> None:
    order = order_of(SHIPPED, batch_size=5)
    network, builder = network_of(order.graph(order.shapes[0]))
    watched: Any = WatchedBuilder(builder)
    config = configure(watched, network, order.ladder)
    assert config.num_optimization_profiles == len(order.ladder)
    for size, profile in zip((1, 2, 4, 5), watched.profiles, strict=True):
        shapes = [tuple(dims) for dims in profile.get_shape("sd_images")]
        assert shapes == [(size, 320, 320, 3)] * 3


def test_the_shipped_model_is_built_in_fp16_unless_told_otherwise(tmp_path: Path) -> None:
    order = order_of(SHIPPED, batch_size=2)
    told: list[str] = []
    built = build_order(order, tmp_path, told.append, for_any_gpu)
    assert built.precision == "fp16"
    assert told[0] == "building 320x320 in fp16 for batches of 1, 2"
    assert plan_file(tmp_path, order.shapes[0]).stat().st_size > 1_000_000


def test_a_long_build_tells_every_few_seconds_how_far_it_is() -> None:
    told: list[str] = []
    now_s = [100.0]
    progress = Progress(told.append, lambda: now_s[0])
    progress.phase_start("Timing graph nodes", "Timing tactics", 90)
    for step in range(90):
        now_s[0] += 0.125
        assert progress.step_complete("Timing graph nodes", step)
    progress.phase_finish("Timing graph nodes")
    assert told == ["timing graph nodes: 40 of 90", "timing graph nodes: 80 of 90"]


def test_the_builder_reports_its_progress() -> None:
    seen: set[str] = set()

    class Watched(Progress):
        def phase_start(self, phase_name: str, parent_phase: str, num_steps: Any) -> None:
            seen.add(phase_name)
            super().phase_start(phase_name, parent_phase, num_steps)

    watched = Watched(lambda _: None)

    def watch(config: Any) -> None:
        for_any_gpu(config)
        config.progress_monitor = watched

    assert build_plan(preamble(SHAPE, half=False), (1,), watch)
    assert "Building engine" in seen


def test_there_is_a_plan_for_each_shape(tmp_path: Path) -> None:
    model = write_model(tmp_path / "any.onnx", (6, 9), sides=("height", "width"))
    shapes = (InputShape(32, 64), InputShape(64, 32))
    folder = tmp_path / "engine"
    folder.mkdir()
    order = order_of(model.path, shapes, precision="fp32", batch_size=2)
    assert build_order(order, folder, lambda _: None, for_any_gpu).precision == "fp32"
    assert sorted(path.name for path in folder.iterdir()) == ["32x64.plan", "64x32.plan"]


@pytest.mark.parametrize("shape", [(7, 40), (20, 7), (12, 6)])
def test_every_kind_of_head_is_built(tmp_path: Path, shape: tuple[int, int]) -> None:
    end_to_end = str(shape[1] == 6)
    model = write_model(tmp_path / "m.onnx", shape, labels=["a", "b", "c"], end2end=end_to_end)
    graph = order_of(model.path).graph(SHAPE)
    assert build_plan(graph, (1, 2), for_any_gpu)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("head", "dims"), [(Head.RAW, (7, 40)), (Head.QUERIES, (20, 7)), (Head.END_TO_END, (12, 6))]
)
def test_what_stands_around_somebody_elses_engine_is_built(
    head: Head, dims: tuple[int, int], half: bool
) -> None:
    kind = trt.DataType.HALF if half else trt.DataType.FLOAT
    before, _first = network_of(preamble(SHAPE, half=half))
    behind, _second = network_of(selection(dims, head, SHAPE, half=half))
    given, taken = before.get_output(0), behind.get_input(0)
    assert (given.dtype, tuple(given.shape)) == (kind, (-1, 3, 32, 64))
    assert (taken.dtype, tuple(taken.shape)) == (kind, (-1, *dims))
    assert behind.get_output(0).dtype == trt.DataType.FLOAT
    assert build_plan(selection(dims, head, SHAPE, half=half), (1,), for_any_gpu)
    assert build_plan(preamble(SHAPE, half=half), (1,), for_any_gpu)


def test_an_operator_that_tensorrt_lacks_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    write_model(path, (6, 9))
    proto = onnx.load(str(path))
    proto.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(proto, str(path))
    order = order_of(str(path), precision="fp32")
    with pytest.raises(EngineError) as caught:
        build_order(order, tmp_path, lambda _: None, for_any_gpu)
    message = str(caught.value)
    assert message.startswith(f"{path}: TensorRT cannot build it: NoSuchOperator")
    assert "\n" not in message


def test_what_is_no_onnx_is_told_in_one_line() -> None:
    with pytest.raises(EngineError) as caught:
        build_plan(b"no model", (1,), for_any_gpu)
    assert "\n" not in str(caught.value)


def test_bf16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="tensorrt runs fp32, fp16 or int8, not bf16"):
        build_order(order_of(SHIPPED, precision="bf16"), tmp_path, lambda _: None)


def test_garbage_with_a_builder_in_it_does_not_stop_the_next_one() -> None:
    """TensorRT logs under a lock, within which the end of a builder would wait for itself."""
    script = """
from streamd.engines.tensorrt_library import Log, new_builder
class Littering(Log):
    def log(self, severity, msg):
        if old:
            cycle = [old.pop()]
            cycle.append(cycle)
            del cycle
        kept.extend([] for _ in range(5000))  # enough for a collection
old, kept = [], []
builder = new_builder(Littering())
old.append(builder)
del builder
new_builder(Littering())
assert not old
print("built")
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120)
    assert done.stdout == b"built\n"


def test_a_tensorrt_that_lacks_a_part_is_not_taken_for_none(tmp_path: Path) -> None:
    package = tmp_path / "tensorrt"
    package.mkdir()
    (package / "__init__.py").write_text("import tensorrt_bindings_of_another_day\n")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    command = [sys.executable, "-c", "import streamd.engines.tensorrt_library"]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    said = done.stderr.strip().splitlines()[-1]
    assert said == "ModuleNotFoundError: No module named 'tensorrt_bindings_of_another_day'"


@pytest.mark.parametrize(("make", "kind"), [(new_builder, "Builder"), (new_runtime, "Runtime")])
def test_a_driver_that_tensorrt_cannot_use_is_told_in_its_words(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[Log], Any], kind: str
) -> None:
    def refuse(log: Log) -> None:
        log.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt, kind, refuse)
    with pytest.raises(EngineError, match=r"^CUDA initialization failure with error: 35$"):
        make(Log())


def test_a_complaint_is_given_once() -> None:
    log = Log()
    log.log(trt.ILogger.Severity.INFO, "hello")
    log.log(trt.ILogger.Severity.ERROR, "Skipping tactic 0x0 due to exception")
    log.log(trt.ILogger.Severity.ERROR, "first\nand more")
    log.log(trt.ILogger.Severity.INTERNAL_ERROR, "second")
    assert [log.take_cause(), log.take_cause()] == ["first", "TensorRT gives no reason"]


def test_the_version_tells_tensorrt_for_rtx_apart() -> None:
    version = library_version()
    assert version.endswith(trt.__version__)
    assert version.startswith("rtx ") == (trt.__name__ == "tensorrt_rtx")


def quantised() -> onnx.ModelProto:
    """A model of one convolution with a bias over an image of SHAPE, in int8."""
    rng = np.random.default_rng(3)
    constants = {
        "weights": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "bias": rng.normal(size=8).astype(np.float32),
    }
    dims: list[str | int | None] = ["batch", 3, SHAPE.height, SHAPE.width]
    node = helper.make_node("Conv", ["images", *constants], ["output0"], pads=[1, 1, 1, 1])
    graph = helper.make_graph(
        [node, helper.make_node("Relu", ["output0"], ["output1"])],
        "convolution",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("output1", TensorProto.FLOAT, ["batch", 8, 32, 64])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 19)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    return to_int8(model, list(pictures(4)), symmetric=True)


def run(model: onnx.ModelProto, images: Any) -> Any:
    """What ONNX Runtime makes of `images`, as float32, layer by layer."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    (output,) = session.run(None, {"images": images})
    return np.asarray(output, np.float32)
