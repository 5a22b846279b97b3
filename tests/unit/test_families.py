"""Every family of models that ultralytics ships, as it exports them, with weights from a seed."""

import gzip
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from streamd.config import ModelConfig
from streamd.engines import ModelInfo, load_backend
from streamd.engines.model_file import inspect_model
from streamd.engines.reference import Reference
from streamd.models.build import build_order_for
from streamd.slots import InputShape
from streamd.testing.random_weights import draw_weights

from .test_engines import BACKENDS

FAMILIES = Path(__file__).parent.parent / "families"


@dataclass(frozen=True)
class Expected:
    """What a family's file must be understood as."""

    classes: int
    end_to_end: bool
    dynamic: bool = True
    shape: tuple[int, int] = (64, 96)


EXPECTED = {
    "yolov5nu": Expected(80, end_to_end=False),
    "yolov8n": Expected(1, end_to_end=False),
    "yolov8n-p2": Expected(3, end_to_end=False),
    "yolov9t": Expected(20, end_to_end=False),
    "yolov10n": Expected(80, end_to_end=True),
    "yolo11n": Expected(80, end_to_end=False),
    "yolo11n-fixed": Expected(2, end_to_end=False, dynamic=False, shape=(96, 64)),
    "yolo12n": Expected(7, end_to_end=False),
    "yolo26n-raw": Expected(80, end_to_end=False),
    "yolo26n": Expected(80, end_to_end=True),
    "rtdetr-l": Expected(80, end_to_end=True, shape=(320, 320)),
}


SLOW = {"rtdetr-l"}  # its 32 million weights take half a minute
PARAMS = [pytest.param(f, marks=pytest.mark.slow) if f in SLOW else f for f in EXPECTED]


@pytest.fixture(scope="module", params=PARAMS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    packed = (FAMILIES / f"{family}.onnx.gz").read_bytes()
    model = onnx.load_model_from_string(gzip.decompress(packed))
    draw_weights(model)
    path = tmp_path_factory.mktemp("families") / f"{family}.onnx"
    onnx.save(model, path)
    return path


def shapes_of(model: ModelInfo) -> tuple[InputShape, ...]:
    """Where the model takes any, a wide one and an upright one."""
    return (InputShape(64, 96), InputShape(96, 64)) if model.dynamic else (model.shape,)


def picture(shape: InputShape) -> NDArray[np.uint8]:
    """Blurred noise: not so even that all boxes are alike."""
    rng = np.random.default_rng(11)
    coarse = rng.integers(0, 256, (shape.height // 8, shape.width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


def share_found(expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    """Share of the expected rows that `got` holds: within half a pixel, and 0.002 in score.

    The order of boxes of almost the same score may differ.
    """
    tolerance = np.array([0.5] * 4 + [0.002], np.float32)
    apart = np.abs(expected[:, None, :5] - got[None, :, :5]) / tolerance
    return float((apart.max(axis=2).min(axis=1) <= 1).mean())


def test_every_recorded_family_is_tested() -> None:
    recorded = {file.name.partition(".")[0] for file in FAMILIES.glob("*.onnx.gz")}
    assert recorded == set(EXPECTED)


def test_a_family_is_understood(family: str, path: Path) -> None:
    expected = EXPECTED[family]
    model = inspect_model(str(path))
    assert len(model.labels) == expected.classes
    assert model.ladder is None
    assert (model.end_to_end, model.dynamic) == (expected.end_to_end, expected.dynamic)
    assert (model.shape, model.stride) == (InputShape(*expected.shape), 32)


def test_any_family_runs_in_half_precision(path: Path) -> None:
    model = inspect_model(str(path))
    order = build_order_for(model, ModelConfig(path=str(path)))
    (shape, *_) = shapes_of(model)
    ort.InferenceSession(order.graph(shape, half=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_engine_of_any_family_gives_what_the_model_gives(
    family: str, path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "streamd.engines.openvino_engine.available_cores", lambda: 1
    )  # then OpenVINO has nothing to measure
    model = inspect_model(str(path))
    config = ModelConfig(path=str(path), precision="fp32", batch_size=2)
    # Every batch is one of two, the first image of which is another.
    order = replace(build_order_for(model, config, shapes_of(model)), ladder=(2,))
    folder = Path(mkdtemp(dir=path.parent))
    built = load_backend(backend).build(order, folder, lambda _: None)
    (runner,) = load_backend(backend).load(order, built, folder).runners(1)
    for shape in order.shapes:
        image = picture(shape)
        runner.load([np.zeros_like(image), image])
        _, candidates = runner.run()
        expected = Reference(model, shape).infer(image)
        assert candidates.shape == expected.shape
        assert np.isfinite(candidates).all()
        assert share_found(expected, candidates) >= 0.98
