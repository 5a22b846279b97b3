from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from streamd.config import ModelConfig
from streamd.engines import CANDIDATES, Engine, Runner, installed_backends, load_backend
from streamd.engines.contract import candidates_of
from streamd.engines.model_file import inspect_model
from streamd.errors import EngineError
from streamd.models.build import build_order_for
from streamd.nvidia import driver_missing
from streamd.slots import InputShape, SlotPool

from .fakes import TinyModel, write_model

SHAPE = InputShape(32, 64)
NAMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}
BACKENDS = ["openvino", "onnxruntime", pytest.param("tensorrt", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend; every test that asks for it runs once for each."""
    name = str(request.param)
    if name not in installed_backends():
        pytest.skip(f"{name} is not installed")
    if name == "tensorrt" and (missing := driver_missing()):
        pytest.skip(missing)
    return name


def engine_of(
    model: TinyModel,
    backend: str,
    *,
    batch_size: int = 1,
    imgsz: Any = "auto",
    shapes: tuple[InputShape, ...] | None = None,
    **settings: Any,
) -> Engine:
    """Built and loaded as the daemon does it, without the cache and the proof."""
    config = ModelConfig.model_validate(
        {"path": model.path, "precision": "fp32", "batch_size": batch_size, **settings}
    )
    order = build_order_for(inspect_model(model.path, imgsz), config, shapes)
    folder = Path(mkdtemp(dir=Path(model.path).parent))
    built = load_backend(backend).build(order, folder, lambda _: None)
    return load_backend(backend).load(order, built, folder)


def pictures(count: int, seed: int = 1, shape: InputShape = SHAPE) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, shape.height, shape.width, 3), dtype=np.uint8)


def infer(runner: Runner, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    runner.load(list(images))
    return runner.run()


def best_of(boxes_first: NDArray[np.float32], size: NDArray[np.float32]) -> NDArray[np.float32]:
    """Candidates out of (n, boxes, 4 + classes): best class, best boxes, corners in pixels."""
    kept = []
    for rows in boxes_first:
        scores = rows[:, 4:].max(axis=1)
        order = np.argsort(-scores)[:CANDIDATES]
        centre, extent = rows[order, :2] * size, rows[order, 2:4] * size
        labels = rows[order, 4:].argmax(axis=1)
        parts = [centre - extent / 2, centre + extent / 2, scores[order, None], labels[:, None]]
        kept.append(np.concatenate(parts, axis=1))
    return np.array(kept, np.float32)


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_a_raw_head_gives_its_best_boxes_as_corners(
    tmp_path: Path, backend: str, opset: int
) -> None:
    model = write_model(tmp_path / "raw.onnx", (7, 40), labels=["a", "b", "c"], opset=opset)
    images = pictures(1)
    (runner,) = engine_of(model, backend).runners(1)
    expected = best_of(model.output(images).transpose(0, 2, 1), np.ones(2, np.float32))
    assert infer(runner, images) == pytest.approx(expected, abs=1e-4)


def with_sigmoid(model: TinyModel, axis: int) -> None:
    """Ends `model` as heads of ultralytics end: in Concat(boxes, Sigmoid(logits)) along `axis`."""
    proto = onnx.load(model.path)
    proto.graph.node[-1].output[0] = "whole"
    classes = model.output_shape[axis - 1] - 4
    sizes = numpy_helper.from_array(np.array([4, classes], np.int64), "sizes")
    proto.graph.initializer.append(sizes)
    proto.graph.node.extend(
        [
            helper.make_node("Split", ["whole", "sizes"], ["boxes", "logits"], axis=axis),
            helper.make_node("Sigmoid", ["logits"], ["scores"]),
            helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=axis - 3),
        ]
    )
    onnx.save(proto, model.path)


@pytest.mark.parametrize(("output_shape", "axis"), [((7, 500), 1), ((500, 7), 2)])
def test_boxes_are_chosen_by_logits_as_by_their_scores(
    tmp_path: Path, backend: str, output_shape: tuple[int, int], axis: int
) -> None:
    model = write_model(tmp_path / "sigmoid.onnx", output_shape, labels=["a", "b", "c"])
    with_sigmoid(model, axis)
    images = pictures(2)
    (runner,) = engine_of(model, backend, batch_size=2).runners(1)
    rows = model.output(images) if axis == 2 else model.output(images).transpose(0, 2, 1)
    rows[..., 4:] = 1 / (1 + np.exp(-rows[..., 4:]))
    size = np.array([64, 32] if axis == 2 else [1, 1], np.float32)
    candidates = infer(runner, images)
    assert candidates[..., 4].max() < 1
    assert candidates == pytest.approx(best_of(rows, size), abs=1e-3)


def test_no_more_than_the_contracts_number_of_boxes_leave_the_graph(
    tmp_path: Path, backend: str
) -> None:
    model = write_model(tmp_path / "raw.onnx", (6, 500))
    images = pictures(1)
    (runner,) = engine_of(model, backend).runners(1)
    candidates = infer(runner, images)
    assert candidates.shape == (1, CANDIDATES, 6)
    expected = best_of(model.output(images).transpose(0, 2, 1), np.ones(2, np.float32))
    assert candidates == pytest.approx(expected, abs=1e-4)


def test_a_larger_input_tells_so_many_more_boxes() -> None:
    sizes = [(384, 640), (640, 640), (736, 1280), (1280, 1280), (8192, 8192)]
    told = [candidates_of(InputShape(*size)) for size in sizes]
    assert told == [CANDIDATES, CANDIDATES, 690, 4 * CANDIDATES, 3840]


def test_a_crowd_in_a_large_input_leaves_the_graph_whole(tmp_path: Path, backend: str) -> None:
    model = write_model(tmp_path / "raw.onnx", (6, 700), sides=("height", "width"))
    (runner,) = engine_of(model, backend, imgsz=(736, 1280)).runners(1)
    assert infer(runner, np.zeros((1, 736, 1280, 3), np.uint8)).shape == (1, 690, 6)


def test_queries_give_their_best_boxes_in_pixels(tmp_path: Path, backend: str) -> None:
    model = write_model(tmp_path / "queries.onnx", (20, 7), labels=["a", "b", "c"])
    images = pictures(1)
    (runner,) = engine_of(model, backend).runners(1)
    expected = best_of(model.output(images), np.array([64, 32], np.float32))
    assert infer(runner, images) == pytest.approx(expected, abs=1e-3)


def test_queries_that_the_model_selected_itself_are_brought_to_pixels(
    tmp_path: Path, backend: str
) -> None:
    model = write_model(tmp_path / "selected.onnx", (20, 6), head="RTDETRDecoder")
    images = pictures(1)
    (runner,) = engine_of(model, backend).runners(1)
    rows = model.output(images)
    size = np.array([64, 32], np.float32)
    centre, reach = rows[..., :2] * size, rows[..., 2:4] * size / 2
    expected = np.concatenate([centre - reach, centre + reach, rows[..., 4:]], axis=2)
    assert infer(runner, images) == pytest.approx(expected, abs=1e-3)


def test_an_end_to_end_head_is_passed_on_as_it_is(tmp_path: Path, backend: str) -> None:
    model = write_model(tmp_path / "final.onnx", (12, 6), end2end="True")
    images = pictures(1)
    (runner,) = engine_of(model, backend).runners(1)
    assert infer(runner, images) == pytest.approx(model.output(images), abs=1e-4)


def test_a_model_of_half_precision_takes_and_gives_what_the_others_do(
    tmp_path: Path, backend: str
) -> None:
    half = write_model(tmp_path / "half.onnx", (6, 9), element=TensorProto.FLOAT16)
    images = pictures(1)
    (runner,) = engine_of(half, backend).runners(1)
    candidates = infer(runner, images)
    expected = best_of(half.output(images).transpose(0, 2, 1), np.ones(2, np.float32))
    assert candidates.dtype == np.float32
    assert candidates[..., 4] == pytest.approx(expected[..., 4], abs=0.02)


def test_a_dynamic_model_is_built_for_the_size_that_was_asked_for(
    tmp_path: Path, backend: str
) -> None:
    model = write_model(tmp_path / "any.onnx", (6, 9), sides=("height", "width"))
    engine = engine_of(model, backend, imgsz=(64, 32))
    assert engine.spec.shapes == (InputShape(64, 32),)
    images = pictures(1, shape=InputShape(64, 32))
    expected = best_of(model.output(images).transpose(0, 2, 1), np.ones(2, np.float32))
    assert infer(engine.runners(1)[0], images) == pytest.approx(expected, abs=1e-4)


def test_one_engine_takes_several_shapes(tmp_path: Path, backend: str) -> None:
    model = write_model(tmp_path / "any.onnx", (6, 9), sides=("height", "width"))
    shapes = (InputShape(32, 64), InputShape(64, 64), InputShape(64, 32))
    engine = engine_of(model, backend, batch_size=2, shapes=shapes)
    assert engine.spec.shapes == shapes
    (runner,) = engine.runners(1)
    for shape in (*shapes, *shapes):
        images = pictures(2, shape=shape)
        expected = best_of(model.output(images).transpose(0, 2, 1), np.ones(2, np.float32))
        assert infer(runner, images) == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def laddered(tmp_path_factory: pytest.TempPathFactory, backend: str) -> tuple[TinyModel, Engine]:
    model = write_model(tmp_path_factory.mktemp("models") / "m.onnx", (6, 9))
    return model, engine_of(model, backend, batch_size=5)


def test_an_engine_tells_what_it_is(laddered: tuple[TinyModel, Engine], backend: str) -> None:
    spec = laddered[1].spec
    assert (spec.backend, spec.precision) == (backend, "fp32")
    assert ("sm_" in spec.device) if backend == "tensorrt" else (spec.device == "CPU")
    assert spec.streams >= 1
    assert (spec.shapes, spec.ladder) == ((SHAPE,), (1, 2, 4, 5))


def test_a_partial_batch_gives_what_each_image_would_give_alone(
    laddered: tuple[TinyModel, Engine],
) -> None:
    model, engine = laddered
    (runner,) = engine.runners(1)
    for count in (5, 3, 1, 4, 2, 5):
        images = pictures(count, seed=count)
        expected = best_of(model.output(images).transpose(0, 2, 1), np.ones(2, np.float32))
        assert infer(runner, images) == pytest.approx(expected, abs=1e-4)


def test_images_may_be_overwritten_once_they_are_loaded(
    laddered: tuple[TinyModel, Engine],
) -> None:
    model, engine = laddered
    (runner,) = engine.runners(1)
    images = pictures(2)
    expected = best_of(model.output(images).transpose(0, 2, 1), np.ones(2, np.float32))
    runner.load(list(images))
    images[...] = 0
    assert runner.run() == pytest.approx(expected, abs=1e-4)


def test_runners_do_not_share_their_images_or_their_results(
    laddered: tuple[TinyModel, Engine],
) -> None:
    model, engine = laddered
    runners = engine.runners(3)
    batches = [pictures(2, seed=n) for n in range(3)]
    for runner, images in zip(runners, batches, strict=True):
        runner.load(list(images))
    results = [runner.run() for runner in runners]
    infer(runners[0], pictures(2, seed=9))
    for images, result in zip(batches, results, strict=True):
        expected = best_of(model.output(images).transpose(0, 2, 1), np.ones(2, np.float32))
        assert result == pytest.approx(expected, abs=1e-4)


def test_images_may_lie_in_memory_that_the_engine_adopted(tmp_path: Path, backend: str) -> None:
    model = write_model(tmp_path / "m.onnx", (6, 9))
    engine = engine_of(model, backend, batch_size=2)
    pool = SlotPool(4, SHAPE)
    engine.adopt(pool.images)
    slots = [pool.image(number, SHAPE) for number in (3, 1)]
    images = pictures(2)
    for slot, image in zip(slots, images, strict=True):
        slot[...] = image
    (runner,) = engine.runners(1)
    runner.load(slots)
    pool.images[...] = 0
    expected = best_of(model.output(images).transpose(0, 2, 1), np.ones(2, np.float32))
    assert runner.run() == pytest.approx(expected, abs=1e-4)


def test_a_model_that_cannot_be_built_is_an_engine_error_that_names_it(
    tmp_path: Path,
    backend: str,
) -> None:
    path = tmp_path / "odd.onnx"
    model = write_model(path, (6, 9))
    proto = onnx.load(str(path))
    proto.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(proto, str(path))
    with pytest.raises(EngineError) as caught:
        engine_of(model, backend)
    message = str(caught.value)
    assert message.startswith(f"{path}: {NAMES[backend]} cannot ")
    assert "\n" not in message
