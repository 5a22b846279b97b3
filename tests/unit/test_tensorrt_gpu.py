"""What only a GPU can show of TensorRT; the contract that every backend meets is in
test_engines.py."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from streamd.config import ModelConfig
from streamd.engines import Engine, installed_backends, load_backend
from streamd.engines.model_file import inspect_model
from streamd.errors import EngineError
from streamd.models.build import build_order_for
from streamd.nvidia import driver_missing

from .fakes import TinyModel, write_model
from .test_engine_file import write_engine
from .test_engines import SHAPE, best_of, infer, pictures

# What the driver may keep for streams and graphs to come.
POOLED_BYTES = 8_000_000

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _device() -> None:
    if "tensorrt" not in installed_backends():
        pytest.skip("tensorrt, or pycuda, is not installed")
    if missing := driver_missing():
        pytest.skip(missing)


def write_own_engine(tmp_path: Path, model: TinyModel, ladder: tuple[int, ...]) -> str:
    """An engine file as ultralytics exports it, of `model` as it is, for this GPU."""
    from streamd.engines.cuda import Device  # noqa: PLC0415  # loads the driver
    from streamd.engines.tensorrt_build import build_plan  # noqa: PLC0415

    with Device().current():
        plan = build_plan(Path(model.path).read_bytes(), ladder)
    return write_engine(
        tmp_path / "own.engine",
        plan,
        imgsz=[SHAPE.height, SHAPE.width],
        names={"0": "a", "1": "b", "2": "c"},
        batch=ladder[-1],
        args={},
    )


def load_file(path: str, folder: Path) -> Engine:
    """The engine file at `path`, built around and loaded as the daemon does it."""
    folder.mkdir()
    order = build_order_for(inspect_model(path), ModelConfig(path=path))
    backend = load_backend("tensorrt")
    return backend.load(order, backend.build(order, folder, lambda _: None), folder)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_engine_file_gives_what_its_model_gives(tmp_path: Path, batch: int) -> None:
    model = write_model(tmp_path / "raw.onnx", (7, 40), labels=["a", "b", "c"])
    engine = load_file(write_own_engine(tmp_path, model, (batch,)), tmp_path / "around")
    assert engine.spec.ladder == (batch,)
    images = pictures(batch)
    expected = best_of(model.output(images).transpose(0, 2, 1), np.ones(2, np.float32))
    assert infer(engine.runners(1)[0], images) == pytest.approx(expected, abs=1e-4)


def test_a_damaged_engine_file_is_told_in_one_line(tmp_path: Path) -> None:
    model = write_model(tmp_path / "raw.onnx", (7, 40), labels=["a", "b", "c"])
    path = Path(write_own_engine(tmp_path, model, (1,)))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(EngineError) as caught:
        load_file(str(path), tmp_path / "around")
    assert str(caught.value).startswith(f"{path}: TensorRT cannot load it: ")
    assert "\n" not in str(caught.value)


def test_an_engine_file_that_is_not_what_its_header_says_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "raw.onnx", (7, 40), labels=["a", "b", "c"])
    path = write_own_engine(tmp_path, model, (2,))
    order = build_order_for(inspect_model(path), ModelConfig(path=path))
    wrong = dataclasses.replace(order, ladder=(8,))
    with pytest.raises(EngineError, match="but its header says"):
        load_backend("tensorrt").build(wrong, tmp_path, lambda _: None)


def test_engines_give_back_the_memory_of_the_gpu(tmp_path: Path) -> None:
    from pycuda import driver  # noqa: PLC0415  # loads the driver

    from streamd.engines.cuda import Device  # noqa: PLC0415

    path = write_model(tmp_path / "m.onnx", (6, 9)).path
    order = build_order_for(inspect_model(path), ModelConfig(path=path, batch_size=8))
    backend, device = load_backend("tensorrt"), Device()
    built = backend.build(order, tmp_path, lambda _: None)

    def free_bytes() -> int:
        with device.current():
            return driver.mem_get_info()[0]

    def take_and_give_back() -> None:
        engine = backend.load(order, built, tmp_path)
        engine.runners(2)
        engine.close()

    take_and_give_back()
    before = free_bytes()
    for _ in range(8):
        take_and_give_back()
    assert free_bytes() >= before - POOLED_BYTES
