"""The runner's own logic, on a GPU made of host memory; what it does on a real one is for
test_engines.py with `-m gpu`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip(
    "streamd.engines.tensorrt_library",
    reason="neither tensorrt nor tensorrt-rtx is installed",
)

from streamd.config import ModelConfig
from streamd.engines import EngineSpec
from streamd.engines.contract import BuildOrder
from streamd.engines.model_file import inspect_model
from streamd.engines.onnx_contract import preamble, selection
from streamd.engines.onnx_model import Head
from streamd.engines.tensorrt_runner import Plan, TensorRtEngine
from streamd.errors import EngineError
from streamd.models.build import build_order_for
from streamd.slots import InputShape

from .fake_gpu import FakeDevice, fake_plan
from .fakes import TinyModel, write_model
from .test_engines import SHAPE, best_of, infer, pictures

LADDER = (1, 2, 4)
TALL = InputShape(64, 32)


def engine_of(device: FakeDevice, plans: Mapping[InputShape, Sequence[Plan]]) -> TensorRtEngine:
    spec = EngineSpec("tensorrt", "fake", "fp32", tuple(plans), LADDER)
    on: Any = device
    return TensorRtEngine(on, plans, spec)


def order_of(model: TinyModel, *shapes: InputShape) -> BuildOrder:
    config = ModelConfig.model_validate({"path": model.path, "precision": "fp32"})
    return build_order_for(inspect_model(model.path), config, shapes)


def built(model: TinyModel, *shapes: InputShape) -> dict[InputShape, tuple[Plan, ...]]:
    order = order_of(model, *shapes)
    return {shape: (fake_plan(order.graph(shape), LADDER),) for shape in order.shapes}


def expected_of(model: TinyModel, images: Any) -> Any:
    return best_of(model.output(images).transpose(0, 2, 1), np.ones(2, np.float32))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    path = tmp_path_factory.mktemp("models") / "m.onnx"
    return write_model(path, (6, 9), sides=("height", "width"))


@pytest.mark.parametrize("records", [True, False])
def test_a_partial_batch_gives_what_each_image_would_give_alone(
    model: TinyModel, records: bool
) -> None:
    engine = engine_of(FakeDevice(records=records), built(model, SHAPE))
    (runner,) = engine.runners(1)
    for count in (4, 3, 1, 2, 4):
        images = pictures(count, seed=count)
        assert infer(runner, images) == pytest.approx(expected_of(model, images), abs=1e-4)


def test_images_may_be_overwritten_once_they_are_loaded(model: TinyModel) -> None:
    (runner,) = engine_of(FakeDevice(), built(model, SHAPE)).runners(1)
    images = pictures(3)
    expected = expected_of(model, images)
    runner.load(list(images))
    images[...] = 0
    assert runner.run() == pytest.approx(expected, abs=1e-4)


def test_runners_do_not_share_their_images_or_their_results(model: TinyModel) -> None:
    runners = engine_of(FakeDevice(), built(model, SHAPE)).runners(2)
    batches = [pictures(2, seed=n) for n in range(2)]
    for runner, images in zip(runners, batches, strict=True):
        runner.load(list(images))
    results = [runner.run() for runner in runners]
    infer(runners[0], pictures(2, seed=9))
    for images, result in zip(batches, results, strict=True):
        assert result == pytest.approx(expected_of(model, images), abs=1e-4)


def test_a_runner_takes_every_shape_of_its_engine_in_turn(model: TinyModel) -> None:
    (runner,) = engine_of(FakeDevice(), built(model, SHAPE, TALL)).runners(1)
    for shape in (SHAPE, TALL, SHAPE):
        images = pictures(2, shape=shape)
        assert infer(runner, images) == pytest.approx(expected_of(model, images), abs=1e-4)


def test_a_runner_has_a_context_for_each_rung_and_enqueues_no_more_once_it_is_recorded(
    model: TinyModel,
) -> None:
    plans = built(model, SHAPE)
    (runner,) = engine_of(FakeDevice(), plans).runners(1)
    engine: Any = plans[SHAPE][0].engine
    assert engine.contexts == len(LADDER)
    infer(runner, pictures(4))
    assert engine.contexts == len(LADDER)


def test_an_engine_of_somebody_else_runs_between_its_preamble_and_its_selection(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path / "raw.onnx", (7, 40), labels=["a", "b", "c"])
    chain = (
        fake_plan(preamble(SHAPE, half=False), LADDER),
        fake_plan(Path(model.path).read_bytes(), LADDER),
        fake_plan(selection((7, 40), Head.RAW, SHAPE, half=False), LADDER),
    )
    (runner,) = engine_of(FakeDevice(), {SHAPE: chain}).runners(1)
    images = pictures(3)
    assert infer(runner, images) == pytest.approx(expected_of(model, images), abs=1e-4)


def test_final_boxes_of_somebody_elses_engine_are_passed_on(tmp_path: Path) -> None:
    model = write_model(tmp_path / "final.onnx", (12, 6), end2end="True")
    chain = (
        fake_plan(preamble(SHAPE, half=False), LADDER),
        fake_plan(Path(model.path).read_bytes(), LADDER),
        fake_plan(selection((12, 6), Head.END_TO_END, SHAPE, half=False), LADDER),
    )
    (runner,) = engine_of(FakeDevice(), {SHAPE: chain}).runners(1)
    images = pictures(2)
    assert infer(runner, images) == pytest.approx(model.output(images), abs=1e-4)


def test_the_slots_are_pinned_where_they_are(model: TinyModel) -> None:
    device = FakeDevice()
    memory = np.zeros(4096, np.uint8)
    engine_of(device, built(model, SHAPE)).adopt(memory)
    assert [each is memory for each in device.registered] == [True]


def test_a_runner_that_does_not_fit_gives_back_all_that_it_took(model: TinyModel) -> None:
    fits = FakeDevice()
    engine_of(fits, built(model, SHAPE)).runners(1)
    taken = fits.in_use
    assert taken > SHAPE.height * SHAPE.width * 3 * sum(LADDER)
    for room in range(0, taken, taken // 5):
        device = FakeDevice(room)
        with pytest.raises(EngineError, match="out of memory"):
            engine_of(device, built(model, SHAPE)).runners(1)
        assert device.in_use == device.pinned_bytes == 0


def test_an_engine_that_is_closed_gives_back_what_its_runners_took(model: TinyModel) -> None:
    device = FakeDevice()
    engine = engine_of(device, built(model, SHAPE, TALL))
    engine.runners(2)
    taken = device.in_use
    engine.runners(1)
    assert device.in_use == 1.5 * taken
    assert device.pinned_bytes
    engine.close()
    assert device.in_use == device.pinned_bytes == 0
    engine.close()


def test_the_passes_of_a_runner_share_what_they_work_in(model: TinyModel) -> None:
    plans = built(model, SHAPE, TALL)
    plain, large = FakeDevice(), FakeDevice()
    engine_of(plain, plans).runners(1)
    wants: Any = plans[TALL][0].engine
    wants.device_memory_size_v2 = 50_000
    (runner,) = engine_of(large, plans).runners(1)
    assert large.in_use - plain.in_use == 50_000 - 1000
    images = pictures(3, shape=TALL)
    assert infer(runner, images) == pytest.approx(expected_of(model, images), abs=1e-4)


def test_a_size_that_its_profile_was_not_built_for_is_told(model: TinyModel) -> None:
    graph = order_of(model).graph(SHAPE)
    plans = {SHAPE: (fake_plan(graph, (1, 2, 8), profiles={1: 0, 2: 1, 4: 2}),)}
    with pytest.raises(EngineError, match="TensorRT gives no reason"):
        engine_of(FakeDevice(), plans).runners(1)


def test_a_profile_that_is_not_there_is_told(model: TinyModel) -> None:
    graph = order_of(model).graph(SHAPE)
    plans = {SHAPE: (fake_plan(graph, LADDER, profiles={1: 0, 2: 1, 4: 7}),)}
    with pytest.raises(EngineError, match=r"^TensorRT: TensorRT gives no reason$"):
        engine_of(FakeDevice(), plans).runners(1)


def test_the_preamble_is_what_the_contract_puts_before_a_model() -> None:
    alone = onnx.load_from_string(preamble(SHAPE, half=True))
    assert [node.op_type for node in alone.graph.node] == ["Cast", "Mul", "Transpose"]
    assert alone.graph.output[0].name == "sd_input"
