from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from streamd.config import ModelConfig
from streamd.engines import EngineSpec, ModelInfo, Runner
from streamd.engines.contract import Built, Engine, EngineOrder, Platform
from streamd.engines.model_file import inspect_model
from streamd.errors import EngineError
from streamd.models.build import build, build_order_for
from streamd.models.engine_order import bar_for, key_of
from streamd.models.proof import Proof, prove
from streamd.processes.child import Tell
from streamd.slots import InputShape

from .fakes import write_model

SHAPE = InputShape(64, 64)
MODEL = ModelInfo("m.onnx", "m", ("cat", "dog"), 32, SHAPE, dynamic=False, end_to_end=False)
Candidates = NDArray[np.float32]


def candidates(image: NDArray[np.uint8], score: float = 0.9) -> Candidates:
    """Two objects that lie apart, whose place is told by the image's first pixel."""
    x = float(image[0, 0, 0])
    rows = [[x, 4, x + 10, 14, score, 0], [x, 40, x + 10, 50, score - 0.1, 1]]
    return np.array(rows, np.float32)


class PlayedEngine:
    """Gives what `candidates` gives, changed by `change`; keeps the sizes of its batches."""

    def __init__(self, spoil: float = 0.0, worse: float = 0.0, score: float = 0.9) -> None:
        self.spec = EngineSpec("played", "CPU", "fp16", (SHAPE,), (1, 2, 4))
        self.spoil, self.worse, self.score = spoil, worse, score
        self.batches: list[int] = []
        self.seen = 0

    def adopt(self, memory: NDArray[np.uint8]) -> None:
        raise AssertionError("a proof has no slots")

    def close(self) -> None:
        raise AssertionError("whoever loaded it closes it")

    def runners(self, count: int) -> list[Runner]:
        assert count == 1
        return [self]

    def load(self, images: Sequence[NDArray[np.uint8]]) -> None:
        self.images = list(images)
        self.batches.append(len(images))

    def run(self) -> Candidates:
        found = []
        for image in self.images:
            self.seen += 1
            rows = candidates(image, self.score)
            rows[:, 4] -= self.worse
            if self.seen <= self.spoil * 30:
                rows[:, :4] += 30
            found.append(rows)
        return np.array(found)


def pictures(_: InputShape) -> list[NDArray[np.uint8]]:
    return [np.full((64, 64, 3), number, np.uint8) for number in range(30)]


def proof_of(engine: PlayedEngine, bar: float = 0.99, score: float = 0.9) -> Proof:
    return prove(
        engine,
        MODEL,
        lambda _: lambda image: candidates(image, score),
        pictures,
        confidence=0.25,
        iou=0.7,
        bar=bar,
    )


def test_an_engine_that_does_as_its_model_agrees_wholly() -> None:
    proof = proof_of(PlayedEngine())
    assert (proof.frames, proof.compared, proof.agreement) == (30, 120, 1.0)
    assert (proof.mean_iou, proof.mean_score_difference) == (1.0, 0.0)
    assert proof.passed


def test_every_rung_of_the_ladder_is_used() -> None:
    engine = PlayedEngine()
    proof_of(engine)
    assert set(engine.batches) >= {1, 2, 4}


def test_boxes_that_lie_elsewhere_count_on_both_sides() -> None:
    proof = proof_of(PlayedEngine(spoil=0.1), bar=0.9)
    assert proof.agreement == pytest.approx(0.9)
    assert proof.passed
    assert not proof_of(PlayedEngine(spoil=0.1), bar=0.91).passed


def test_scores_that_differ_are_told() -> None:
    proof = proof_of(PlayedEngine(worse=0.05))
    assert proof.mean_score_difference == pytest.approx(0.05, abs=1e-4)
    assert proof.agreement == 1.0


def test_with_nothing_above_the_threshold_it_is_lowered() -> None:
    proof = proof_of(PlayedEngine(score=0.3), score=0.3)
    assert (proof.confidence, proof.compared) == (0.1, 120)


def test_where_nothing_is_seen_at_all_scores_alone_decide() -> None:
    good, bad = PlayedEngine(score=0.05), PlayedEngine(score=0.09)
    assert proof_of(good, score=0.05).compared == 0
    assert proof_of(good, score=0.05).passed
    assert "nothing to detect" in str(proof_of(good, score=0.05))
    assert not proof_of(bad, score=0.05).passed


@pytest.mark.parametrize(
    ("precision", "wanted", "bar"),
    [("fp16", "auto", 0.99), ("int8", "auto", 0.97), ("int8", 0.5, 0.5), ("fp32", 1.0, 1.0)],
)
def test_the_bar_follows_the_precision_unless_it_is_set(
    precision: str, wanted: Literal["auto"] | float, bar: float
) -> None:
    assert bar_for(precision, ModelConfig(min_agreement=wanted)) == bar


class WrongBackend:
    """Builds engines that see everything 30 pixels off."""

    name = "played"

    def platform(self) -> Platform:
        return Platform("1", "CPU")

    def build(self, order: EngineOrder, folder: Path, tell: Tell) -> Built:
        (folder / "engine").write_text("wrong")
        return Built("fp16")

    def load(self, order: EngineOrder, built: Built, folder: Path) -> Engine:
        return PlayedEngine(spoil=1.0)


def test_an_engine_below_the_bar_is_refused_and_not_kept(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx", (6, 9), sides=(64, 64))
    cache = tmp_path / "engines"
    config = ModelConfig(path=model.path, cache=str(cache))
    order = build_order_for(inspect_model(model.path), config)
    backend = WrongBackend()
    key = key_of(order, config, backend.name, backend.platform())
    steps: list[str] = []
    with pytest.raises(EngineError, match="is not accurate enough") as caught:
        build(order, config, key, backend, steps.append)
    assert str(caught.value).startswith(f"{model.path}: the fp16 engine of played")
    assert [path for path in cache.iterdir() if path.is_dir()] == []
