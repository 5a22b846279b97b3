from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamd.engines.onnx_model import Head, head_of, inspect_model, read_model
from streamd.errors import ModelError
from streamd.slots import InputShape

from .fakes import write_model

RAW, QUERIES, END_TO_END = (6, 9), (9, 6), (5, 6)


def inspected(path: Path, output_shape: tuple[int, int] = RAW, **changes: Any) -> Any:
    write_model(path, output_shape, **changes)
    return inspect_model(str(path))


def test_a_model_of_two_classes_with_nms_inside_is_not_taken_for_queries(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(path, (300, 6), end2end="False", args="{'half': False, 'nms': True}")
    assert head_of(read_model(str(path)), str(path)) is Head.END_TO_END
    write_model(path, (300, 6), end2end="False", args="{'half': False, 'nms': False}")
    assert head_of(read_model(str(path)), str(path)) is Head.QUERIES


def test_a_v10_of_two_classes_is_known_by_its_last_node_where_it_does_not_say(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.onnx"
    write_model(path, (300, 6))
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "all"
    sizes = numpy_helper.from_array(np.array([4, 1, 1]), "sizes")
    model.graph.initializer.append(sizes)
    parts = ["boxes", "scores", "classes"]
    model.graph.node.append(helper.make_node("Split", ["all", "sizes"], parts, axis=2))
    model.graph.node.append(helper.make_node("Concat", parts, ["output0"], axis=2))
    assert head_of(model, str(path)) is Head.END_TO_END


@pytest.mark.parametrize(("batch", "ladder"), [("1", (1,)), ("6", (1, 2, 4, 6)), ("0", (1,))])
def test_nms_inside_is_for_as_many_images_as_it_was_exported_for(
    tmp_path: Path, batch: str, ladder: tuple[int, ...]
) -> None:
    info = inspected(tmp_path / "m.onnx", (300, 6), args="{'nms': True}", batch=batch)
    assert info.ladder == ladder


def complaint(path: str | Path, imgsz: str | int | tuple[int, int] = "auto") -> str:
    """What is said of the file, in one line that begins with its name."""
    with pytest.raises(ModelError) as caught:
        inspect_model(str(path), imgsz)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_a_model_tells_its_name_labels_stride_and_size(tmp_path: Path) -> None:
    path = tmp_path / "yard.onnx"
    write_model(path, (7, 9), labels={0: "cat", 1: "dog", 2: "fork lift"}, stride="16")
    info = inspect_model(str(path))
    assert (info.path, info.name) == (str(path), "yard")
    assert info.labels == ("cat", "dog", "fork lift")
    assert (info.stride, info.shape, info.dynamic) == (16, InputShape(32, 64), False)
    assert not info.end_to_end


def test_classes_whose_numbers_are_texts_are_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    labels = [f"kind {number}" for number in range(12)]
    named = {str(number): label for number, label in enumerate(labels)}
    assert inspected(tmp_path / "m.onnx", (16, 9), labels=named).labels == tuple(labels)


def test_a_folder_is_called_one(tmp_path: Path) -> None:
    assert complaint(tmp_path) == "is a folder"


@pytest.mark.parametrize(
    ("output_shape", "changes", "end_to_end"),
    [
        (RAW, {}, False),
        ((7, 8400), {"labels": {0: "a", 1: "b", 2: "c"}}, False),
        ((300, 7), {"labels": {0: "a", 1: "b", 2: "c"}}, True),
        ((300, 6), {"labels": {0: "a", 1: "b", 2: "c"}}, True),
        ((300, 6), {"labels": {0: "a"}, "end2end": "True"}, True),
        ((300, 6), {"end2end": "True"}, True),
        ((300, 6), {"args": "{'batch': 1, 'nms': True}"}, True),
    ],
)
def test_only_models_that_give_final_boxes_need_no_suppression(
    tmp_path: Path, output_shape: tuple[int, int], changes: dict[str, Any], end_to_end: bool
) -> None:
    info = inspected(tmp_path / "m.onnx", output_shape, **changes)
    assert info.end_to_end is end_to_end


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({1: "dog", 0: "cat"}, ("cat", "dog")),
        (["cat", "dog"], ("cat", "dog")),
        (dict.fromkeys(range(12), "x") | {10: "ten"}, ("x",) * 10 + ("ten", "x")),
        (dict.fromkeys(map(str, range(12)), "x") | {"10": "ten"}, ("x",) * 10 + ("ten", "x")),
    ],
)
def test_labels_come_in_the_order_of_their_numbers(
    tmp_path: Path, labels: object, expected: tuple[str, ...]
) -> None:
    shape = (4 + len(expected), 9)
    assert inspected(tmp_path / "m.onnx", shape, labels=labels).labels == expected


def test_a_dynamic_model_takes_the_size_it_was_trained_for_or_any_that_fits_its_stride(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.onnx"
    write_model(path, RAW, sides=("height", "width"), imgsz="[320, 640]")
    assert inspect_model(str(path)).shape == InputShape(320, 640)
    assert inspect_model(str(path), 96).shape == InputShape(96, 96)
    assert inspect_model(str(path), (32, 64)).shape == InputShape(32, 64)
    assert inspect_model(str(path)).dynamic
    assert complaint(path, (32, 72)) == "imgsz 32x72 is no multiple of the model's stride 32"


def test_a_static_model_takes_its_own_size_only(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(path, RAW)
    assert inspect_model(str(path), (32, 64)).shape == InputShape(32, 64)
    expected = "takes 32x64 only, not 64x64; export it with dynamic=True"
    assert complaint(path, 64) == expected


@pytest.mark.parametrize(
    ("output_shape", "changes", "expected"),
    [
        (RAW, {"task": "segment"}, "is a segment model, streamd runs detection models"),
        (RAW, {"channels": 16}, "its input has 16 channels, not 3"),
        (RAW, {"labels": False}, "names no classes; export it with ultralytics, which writes them"),
        (RAW, {"labels": "cat"}, "its class names cannot be read"),
        (RAW, {"labels": 5}, "its class names cannot be read"),
        (RAW, {"labels": ["cat", "\ud83d"]}, "its class names cannot be read"),
        (RAW, {"labels": {1: "cat", 2: "dog"}}, "its classes are not numbered from 0 on"),
        (RAW, {"labels": {0: "cat", 5: "dog"}}, "its classes are not numbered from 0 on"),
        (
            RAW,
            {"sides": ("height", "width"), "imgsz": "[0, 640]"},
            "its input of 0x640 pixels cannot be",
        ),
        (RAW, {"opset": 11}, "is of opset 11; export it with opset 13 or later"),
        (RAW, {"stride": "wide"}, "its stride 'wide' cannot be read"),
        (RAW, {"stride": "0"}, "its stride '0' cannot be read"),
        (
            RAW,
            {"sides": ("height", "width"), "imgsz": "big"},
            "its imgsz 'big' cannot be read",
        ),
        (
            RAW,
            {"more_outputs": ("masks", "protos")},
            "has 3 outputs (output0, masks, protos), expected one",
        ),
        (
            (10, 9),
            {},
            "is no detector that streamd knows: its output is (?, 10, 9), for 2 classes expected "
            "(batch, 6, anchors) or (batch, boxes, 6)",
        ),
        (
            RAW,
            {"shown_shape": ("batch", 6, 3, 3)},
            "is no detector that streamd knows: its output is (?, 6, 3, 3), for 2 classes expected "
            "(batch, 6, anchors) or (batch, boxes, 6)",
        ),
    ],
)
def test_a_model_that_cannot_be_run_says_what_was_found(
    tmp_path: Path, output_shape: tuple[int, int], changes: dict[str, Any], expected: str
) -> None:
    write_model(tmp_path / "m.onnx", output_shape, **changes)
    assert complaint(tmp_path / "m.onnx") == expected


@pytest.mark.parametrize("name", ["m.onnx", "m.pt", "m.json", "m.textproto", "m.onnxtxt", "m"])
@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)), b"{}"])
def test_a_file_of_another_kind_is_no_onnx_file(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert complaint(path) == "is no ONNX file"


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert complaint(tmp_path / "m.onnx") == "no such file"


def test_a_model_whose_weights_lie_elsewhere_and_are_missing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(path, RAW)
    model = onnx.load(str(path))
    onnx.save(
        model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=100
    )
    assert inspect_model(str(path)).labels == ("cat", "dog")
    (tmp_path / "weights.bin").unlink()
    assert complaint(path) == "its weights, kept in another file, cannot be read"


def test_a_model_of_half_precision_is_known_like_any_other(tmp_path: Path) -> None:
    info = inspected(tmp_path / "m.onnx", element=TensorProto.FLOAT16)
    assert info.labels == ("cat", "dog")
