"""One model takes over from another, whatever comes in between."""

from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from streamd.config import Config, ModelConfig
from streamd.engines.contract import ModelInfo
from streamd.engines.model_file import inspect_model
from streamd.processes.messages import EngineReport, ModelRefused, UseModel
from streamd.supervision.crew import Crew
from streamd.supervision.layout import Layout
from streamd.supervision.model_swap import ModelSwap

SHIPPED = Path(__file__).parents[2] / "engines" / "shapes.onnx"


class Inference:
    """Stands for the crew: writes down which models it was told to use."""

    def __init__(self) -> None:
        self.told: list[UseModel] = []

    def use_model(self, order: UseModel) -> bool:
        self.told.append(order)
        return True


def warm(order: UseModel) -> EngineReport:
    name, number = order.model.name, order.number
    return EngineReport(name, "b", "", "", "", (), (1,), True, 1.0, 1.0, number)


@pytest.fixture
def model() -> ModelInfo:
    return inspect_model(str(SHIPPED))


@pytest.fixture
def layout(model: ModelInfo) -> Layout:
    return Layout(Config.model_validate({"cameras": [{"id": "a", "url": "rtsp://h/0"}]}), model)


def test_a_model_that_was_overtaken_and_is_used_is_what_the_next_worker_starts_with(
    layout: Layout, model: ModelInfo
) -> None:
    inference = Inference()
    swap = ModelSwap(layout, cast(Crew, cast(Any, inference)))
    for confidence in (0.3, 0.4):
        swap.want(model, ModelConfig(confidence=confidence))
    first, second = inference.told
    swap.heard(warm(first))
    swap.heard(ModelRefused(second.number, "no such file"))
    assert layout.config.model.confidence == 0.3
    swap.want(model, ModelConfig(confidence=0.5))
    swap.heard(warm(inference.told[-1]))
    assert layout.config.model.confidence == 0.5


def test_a_refused_model_names_the_cameras_whose_labels_went_with_it(model: ModelInfo) -> None:
    wanted = {"old": ["circle"], "new": ["person", "car"], "both": ["person", "circle"]}
    cameras = [{"id": id_, "url": "rtsp://h/0", "classes": c} for id_, c in wanted.items()]
    layout = Layout(Config.model_validate({"cameras": cameras}), model)
    inference = Inference()
    swap = ModelSwap(layout, cast(Crew, cast(Any, inference)))
    swap.want(model, ModelConfig(confidence=0.3))
    with capture_logs() as lines:
        swap.heard(ModelRefused(inference.told[0].number, "no such file"))
    assert lines[0]["cameras_without_labels"] == ["new"]
