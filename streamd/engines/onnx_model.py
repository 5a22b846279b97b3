"""Detection models as ultralytics exports them, and what they say of themselves.

There are four kinds of head:

    raw         (batch, 4 + classes, anchors)   YOLOv5u, v8, v9, 11, 12: cx, cy, w, h, scores
    end to end  (batch, boxes, 6)               YOLOv10, 26, any with nms=True: x1, y1, x2, y2,
                                                score, class
    queries     (batch, queries, 4 + classes)   RT-DETR: cx, cy, w, h in 0..1, scores
    selected    (batch, queries, 6)             newer RT-DETR: cx, cy, w, h in 0..1, score, class
"""

import ast
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from streamd.engines.contract import ModelInfo, batch_ladder
from streamd.engines.model_path import find_model
from streamd.engines.onnx_batch import fixed_batch, with_free_batch
from streamd.errors import ModelError
from streamd.slots import InputShape, aspect_shapes

_OLDEST_OPSET = 13
_NMS_INSIDE = "'nms': True"  # in what ultralytics writes of the arguments of an export


class Head(StrEnum):
    """The layout of a model's output."""

    RAW = "raw"
    END_TO_END = "end to end"
    QUERIES = "queries"
    SELECTED = "selected queries"


def inspect_model(path: str, imgsz: str | int | tuple[int, int] = "auto") -> ModelInfo:
    """What the ONNX file at `path` says of itself, with `imgsz` in place of its own input size.

    Raises ModelError where it is no detector, or cannot take that size.
    """
    model, weights = _read(path)
    head = head_of(model, path)
    metadata = _metadata(model)
    own = _own_shape(model, metadata, path)
    if min(own.height, own.width) < 1:
        raise ModelError(f"{path}: its input of {own} pixels cannot be")
    stride = _stride(metadata, path)
    dynamic = not all(_input_sides(model))
    adapts = imgsz == "auto" and dynamic
    return ModelInfo(
        path=path,
        name=Path(path).stem,
        labels=_labels(metadata, path),
        stride=stride,
        shape=_chosen_shape(own, imgsz, stride, dynamic, path),
        dynamic=dynamic,
        ladder=_bound_ladder(model, metadata),
        end_to_end=head is not Head.RAW,
        aspects=aspect_shapes(own, stride) if adapts else (),
        weights=weights,
    )


def read_model(path: str) -> onnx.ModelProto:
    """The ONNX file at `path`. Raises ModelError where it is none."""
    return _read(path)[0]


def _read(path: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """As `read_model`, and the names of the other files that its weights are in."""
    try:
        file = find_model(path)
        # Else the format would follow from the file's suffix, each with errors of its own.
        model: onnx.ModelProto = onnx.load(str(file), format="protobuf", load_external_data=False)
        places = {
            e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"
        }
        onnx.load_external_data_for_model(model, str(file.parent))
    except onnx.checker.ValidationError:
        raise ModelError(f"{path}: its weights, kept in another file, cannot be read") from None
    except (DecodeError, OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or "is no ONNX file"
        raise ModelError(f"{path}: {what}") from None
    if not model.graph.input or not model.graph.output:
        raise ModelError(f"{path}: is no ONNX file")
    return model, tuple(sorted(places))


def head_of(model: onnx.ModelProto, path: str) -> Head:
    """The kind of detection head. Raises ModelError where it is none, saying what was found."""
    metadata = _metadata(model)
    _check_task(metadata, path)
    _check_input(model, path)
    if opset_of(model) < _OLDEST_OPSET:
        raise ModelError(
            f"{path}: is of opset {opset_of(model)}; export it with opset {_OLDEST_OPSET} or later"
        )
    classes = len(_labels(metadata, path))
    if len(model.graph.output) != 1:
        found = ", ".join(output.name for output in model.graph.output)
        raise ModelError(f"{path}: has {len(model.graph.output)} outputs ({found}), expected one")
    dims = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    return head_of_output(
        dims,
        classes,
        end_to_end=_gives_final_boxes(model, metadata),
        head_name=metadata.get("head", ""),
        path=path,
    )


def head_of_output(
    dims: Sequence[int], classes: int, *, end_to_end: bool, head_name: str, path: str
) -> Head:
    """The kind of head by the sizes of its output, 0 or less where they vary.

    `end_to_end` and `head_name` are what the metadata says, "" where it names no head. Raises
    ModelError where it is none.
    """
    if len(dims) == 3:
        # Only since ultralytics writes the head's name does RT-DETR select.
        if head_name == "RTDETRDecoder":
            return Head.SELECTED
        if end_to_end and dims[2] == 6:
            return Head.END_TO_END
        if dims[1] == 4 + classes:
            return Head.RAW
        if dims[2] == 4 + classes:
            return Head.QUERIES
        if dims[2] == 6:
            return Head.END_TO_END
    shape = ", ".join(str(size) if size > 0 else "?" for size in dims)
    raise ModelError(
        f"{path}: is no detector that streamd knows: its output is ({shape}), "
        f"for {classes} classes expected (batch, {4 + classes}, anchors) or (batch, boxes, 6)"
    )


def _gives_final_boxes(model: onnx.ModelProto, metadata: dict[str, str]) -> bool:
    """Whether boxes, scores and classes come out: by what it says of itself, else by its last node.

    Only newer versions of ultralytics write `end2end`.
    """
    if metadata.get("end2end") == "True" or _NMS_INSIDE in metadata.get("args", ""):
        return True
    output = model.graph.output[0].name
    last = next((node for node in model.graph.node if output in node.output), None)
    return last is not None and last.op_type == "Concat" and len(last.input) == 3


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that `model` uses; 0 where it names none."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def _bound_ladder(model: onnx.ModelProto, metadata: dict[str, str]) -> tuple[int, ...] | None:
    batch = fixed_batch(with_free_batch(model))
    if batch:
        return (batch,)
    if _NMS_INSIDE not in metadata.get("args", ""):
        return None
    # Its NMS was written out for so many images, whatever its input says; others get no boxes.
    most = metadata.get("batch", "1")
    return batch_ladder(int(most) if most.isdecimal() and int(most) else 1)


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _check_task(metadata: dict[str, str], path: str) -> None:
    task = metadata.get("task", "detect")
    if task != "detect":
        raise ModelError(f"{path}: is a {task} model, streamd runs detection models")


def _check_input(model: onnx.ModelProto, path: str) -> None:
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    if len(dims) != 4:
        raise ModelError(f"{path}: is no image model: its input has {len(dims)} dimensions, not 4")
    if dims[1] != 3:
        raise ModelError(f"{path}: its input has {dims[1] or 'any number of'} channels, not 3")


def _labels(metadata: dict[str, str], path: str) -> tuple[str, ...]:
    try:
        names = ast.literal_eval(metadata["names"])
        items = names.items() if isinstance(names, dict) else enumerate(names)
        labels = {int(number): str(name) for number, name in items}
        "".join(labels.values()).encode()  # half of a character, as "\ud83d", goes into no event
        return tuple(labels[number] for number in range(len(labels)))
    except KeyError:
        if "names" in metadata:
            raise ModelError(f"{path}: its classes are not numbered from 0 on") from None
        raise ModelError(
            f"{path}: names no classes; export it with ultralytics, which writes them"
        ) from None
    except (ValueError, SyntaxError, TypeError):
        raise ModelError(f"{path}: its class names cannot be read") from None


def _stride(metadata: dict[str, str], path: str) -> int:
    stride = metadata.get("stride", "32")
    if not stride.isdecimal() or not int(stride):
        raise ModelError(f"{path}: its stride {stride!r} cannot be read")
    return int(stride)


def _input_sides(model: onnx.ModelProto) -> tuple[int, int]:
    """Height and width of the input; 0 where it takes any."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return dims[2].dim_value, dims[3].dim_value


def _own_shape(model: onnx.ModelProto, metadata: dict[str, str], path: str) -> InputShape:
    height, width = _input_sides(model)
    if height and width:
        return InputShape(height, width)
    try:
        height, width = ast.literal_eval(metadata.get("imgsz", "[640, 640]"))
        return InputShape(int(height), int(width))
    except (ValueError, SyntaxError, TypeError):
        raise ModelError(f"{path}: its imgsz {metadata['imgsz']!r} cannot be read") from None


def _chosen_shape(
    own: InputShape, imgsz: str | int | tuple[int, int], stride: int, dynamic: bool, path: str
) -> InputShape:
    if isinstance(imgsz, str):
        return own
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    shape = InputShape(height, width)
    if not dynamic and shape != own:
        raise ModelError(f"{path}: takes {own} only, not {shape}; export it with dynamic=True")
    if height % stride or width % stride:
        raise ModelError(f"{path}: imgsz {shape} is no multiple of the model's stride {stride}")
    return shape
