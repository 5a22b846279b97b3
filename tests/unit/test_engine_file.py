import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from streamd.config import ModelConfig
from streamd.engines.engine_file import read_engine_file
from streamd.engines.model_file import inspect_model
from streamd.errors import EngineError, ModelError
from streamd.models.engine_loader import load_engine
from streamd.models.engine_order import order_for
from streamd.slots import InputShape

PLAN = b"a plan, bound to one GPU"
HEADER: dict[str, Any] = {
    "description": "Ultralytics YOLO11n model",
    "author": "Ultralytics",
    "version": "8.4.190",
    "stride": 32,
    "task": "detect",
    "head": "Detect",
    "batch": 4,
    "imgsz": [384, 640],
    "names": {"0": "person", "1": "car", "10": "van", "2": "bus"},
    "args": {"batch": 4, "half": True, "int8": False, "dynamic": False, "nms": False},
    "channels": 3,
    "end2end": False,
}


def write_engine(path: Path, plan: bytes = PLAN, **changes: Any) -> str:
    """An engine as ultralytics writes it, its header changed by `changes`; None takes a key out."""
    values = {**HEADER, **changes}
    header = json.dumps({key: value for key, value in values.items() if value is not None}).encode()
    path.write_bytes(len(header).to_bytes(4, "little") + header + plan)
    return str(path)


def complaint(path: str | Path, imgsz: Any = "auto") -> str:
    """What is said of the engine at `path`, without its name."""
    with pytest.raises(ModelError) as caught:
        inspect_model(str(path), imgsz)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_an_engine_tells_what_any_model_tells(tmp_path: Path) -> None:
    info = inspect_model(write_engine(tmp_path / "gate.engine"))
    assert (info.name, info.stride, info.shape) == ("gate", 32, InputShape(384, 640))
    assert info.labels == ("person", "car", "bus", "van")
    assert (info.dynamic, info.end_to_end, info.ladder) == (False, False, (4,))


def test_behind_the_header_is_the_plan(tmp_path: Path) -> None:
    file = read_engine_file(write_engine(tmp_path / "m.engine"))
    assert file.plan() == PLAN


def test_a_dynamic_engine_takes_every_batch_up_to_its_own(tmp_path: Path) -> None:
    arguments = {"dynamic": True}
    info = inspect_model(write_engine(tmp_path / "m.engine", batch=6, args=arguments))
    assert info.ladder == (1, 2, 4, 6)


def test_its_batches_are_those_of_the_engine_not_those_configured(tmp_path: Path) -> None:
    path = write_engine(tmp_path / "m.engine")
    config = ModelConfig(path=path, batch_size=16)
    assert order_for(inspect_model(path), config).ladder == (4,)


@pytest.mark.parametrize(
    ("arguments", "precision"),
    [({"half": True}, "fp16"), ({"int8": True, "half": True}, "int8"), ({}, "fp32")],
)
def test_its_precision_is_what_it_was_exported_with(
    tmp_path: Path, arguments: dict[str, bool], precision: str
) -> None:
    path = write_engine(tmp_path / "m.engine", args=arguments)
    assert read_engine_file(path).precision == precision


@pytest.mark.parametrize(
    "changes", [{"end2end": True}, {"args": {"nms": True}}, {"head": "RTDETRDecoder"}]
)
def test_an_engine_that_gives_final_boxes_needs_no_suppression(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert inspect_model(write_engine(tmp_path / "m.engine", **changes)).end_to_end


def test_a_header_of_an_older_ultralytics_is_read_as_well(tmp_path: Path) -> None:
    path = write_engine(tmp_path / "m.engine", args=None, channels=None, end2end=None, head=None)
    info = inspect_model(path)
    assert (info.end_to_end, info.ladder) == (False, (4,))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "segment"}, "is a segment model, streamd runs detection models"),
        ({"task": "pose"}, "is a pose model, streamd runs detection models"),
        ({"channels": 16}, "its input has 16 channels, not 3"),
        ({"names": None}, "its header cannot be used: names is missing or wrong"),
        ({"imgsz": 640}, "its header cannot be used: imgsz is missing or wrong"),
        ({"imgsz": [0, 640]}, "its header cannot be used: imgsz.0 is missing or wrong"),
        ({"imgsz": [640, 10**9]}, "its header cannot be used: imgsz.1 is missing or wrong"),
        ({"batch": 10**9}, "its header cannot be used: batch is missing or wrong"),
        ({"batch": 0}, "its header cannot be used: batch is missing or wrong"),
        ({"args": {"half": "maybe"}}, "its header cannot be used: args.half is missing or wrong"),
        ({"plan": b""}, "is truncated, or no TensorRT engine of ultralytics"),
    ],
)
def test_an_engine_that_cannot_be_run_says_what_was_found(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    assert complaint(write_engine(tmp_path / "m.engine", **changes)) == said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no header of ultralytics"),
        (b"ptrt\0\0\0\0 a plan alone", "has no header of ultralytics"),
        ((200).to_bytes(4, "little") + b'{"task": "det', "is truncated, or no TensorRT engine"),
        ((8).to_bytes(4, "little") + b"no JSON!plan", "is no TensorRT engine of ultralytics"),
        ((4).to_bytes(4, "little") + b"\xff\xfe\xfd\xfcplan", "is no TensorRT engine"),
        ((2).to_bytes(4, "little") + b"[]plan", "its header cannot be used: header is missing"),
    ],
)
def test_a_file_of_another_kind_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "m.engine"
    path.write_bytes(content)
    assert complaint(path).startswith(said)


def test_an_engine_has_the_size_that_it_was_built_for(tmp_path: Path) -> None:
    path = write_engine(tmp_path / "m.engine")
    assert inspect_model(path, (384, 640)).shape == InputShape(384, 640)
    assert complaint(path, 640) == "takes 384x640 only, not 640x640; export it with that imgsz"


def test_a_missing_engine_is_told(tmp_path: Path) -> None:
    assert complaint(tmp_path / "none.engine") == "no such file"


def test_an_engine_needs_tensorrt_whatever_backend_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.engines.backends.driver_missing", lambda: "no GPU was found")
    monkeypatch.setattr("streamd.engines.backends.find_spec", lambda _: object())
    path = write_engine(tmp_path / "m.engine")
    config = ModelConfig(path=path, backend="openvino", cache=str(tmp_path / "cache"))
    with pytest.raises(EngineError, match="tensorrt cannot run here: no GPU was found"):
        load_engine(inspect_model(path), config)


def read_damaged(folder: Path, rounds: int) -> None:
    whole = Path(write_engine(folder / "whole.engine")).read_bytes()
    path = folder / "damaged.engine"
    for seed in range(rounds):
        rng = random.Random(seed)
        data = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.2 else whole)
        for _ in range(rng.randint(1, 4)):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with suppress(ModelError):
            info = inspect_model(str(path), "auto")
            assert info.shape.height > 0
            assert info.ladder


def test_a_damaged_header_is_read_or_refused(tmp_path: Path) -> None:
    read_damaged(tmp_path, 300)


@pytest.mark.slow
def test_thousands_of_damaged_headers_are_read_or_refused(tmp_path: Path) -> None:
    read_damaged(tmp_path, 20_000)
