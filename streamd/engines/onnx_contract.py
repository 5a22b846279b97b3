"""Wraps a model's graph so that every backend takes uint8 NHWC and gives K candidates."""

from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import TensorProto, helper, numpy_helper

from streamd.engines.contract import candidates_of
from streamd.engines.onnx_model import Head, head_of, opset_of
from streamd.slots import InputShape

_END = 2**31 - 1  # of an axis, whatever its length
_OPSET, _IR_VERSION = 17, 8


def with_contract(model: onnx.ModelProto, path: str, shape: InputShape) -> onnx.ModelProto:
    """`model` with uint8 NHWC input `images` and (batch, K, 6) float32 output `candidates`.

    The selection of the K best boxes by their best class is part of the graph. The batch stays
    dynamic; `shape` is fixed. Changes `model` in place.
    """
    head = head_of(model, path)
    wrapper = _Wrapper(model)
    wrapper.take_uint8_images(shape)
    wrapper.give_candidates(head, shape)
    return model


def preamble(shape: InputShape, *, half: bool) -> bytes:
    """What stands before a model that cannot be changed any more, as a serialised model.

    `sd_images` (batch, height, width, 3) uint8 -> `sd_input` (batch, 3, height, width), 0 to 1.
    """
    model = _identity("sd_input", (3, shape.height, shape.width), half=half)
    _Wrapper(model).take_uint8_images(shape)
    return model.SerializeToString()


def selection(dims: tuple[int, int], head: Head, shape: InputShape, *, half: bool) -> bytes:
    """What stands behind a model that cannot be changed any more, as a serialised model.

    `sd_output` (batch, *dims) of a `head` -> `candidates` (batch, K, 6) float32.
    """
    model = _identity("sd_output", dims, half=half)
    _Wrapper(model).give_candidates(head, shape)
    return model.SerializeToString()


def _identity(name: str, dims: tuple[int, ...], *, half: bool) -> onnx.ModelProto:
    """A model whose output is its input, `name` (batch, *dims)."""
    element = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    tensor = helper.make_tensor_value_info(name, element, ["batch", *dims])
    graph = helper.make_graph([], "streamd", [tensor], [tensor])
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)


class _Wrapper:
    """Adds nodes before and behind a model's own graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._input = model.graph.input[0]
        self._half = self._input.type.tensor_type.elem_type == TensorProto.FLOAT16
        self.output = model.graph.output[0].name
        self._rows = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        self._opset = opset_of(model)
        self._front: list[onnx.NodeProto] = []

    def take_uint8_images(self, shape: InputShape) -> None:
        """images (batch, height, width, 3) uint8 -> the model's own (batch, 3, height, width)."""
        own = self._input.name
        to = TensorProto.FLOAT16 if self._half else TensorProto.FLOAT
        scale = self._constant("sd_scale", [1 / 255], np.float16 if self._half else np.float32)
        self._front = [
            # TensorRT takes uint8 into a Cast, and nowhere else.
            helper.make_node("Cast", ["sd_images"], ["sd_float"], to=to),
            helper.make_node("Mul", ["sd_float", scale], ["sd_scaled"]),
            helper.make_node("Transpose", ["sd_scaled"], [own], perm=[0, 3, 1, 2]),
        ]
        nodes = [*self._front, *self._graph.node]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        del self._graph.input[:]
        dims: list[str | int | None] = ["batch", shape.height, shape.width, 3]
        images = helper.make_tensor_value_info("sd_images", TensorProto.UINT8, dims)
        self._graph.input.append(images)
        del self._graph.value_info[:]

    def give_candidates(self, head: Head, shape: InputShape) -> None:
        """The output of a `head` -> candidates (batch, K, 6) float32."""
        if head is Head.END_TO_END:
            self._finish(self.output)
        elif head is Head.SELECTED:
            self._rescale_selected(shape)
        else:
            self._select_best(transposed=head is Head.RAW, shape=shape)

    def _select_best(self, *, transposed: bool, shape: InputShape) -> None:
        """Keeps the boxes with the best class scores, as corners."""
        values = 1 if transposed else 2  # the axis of a box's values
        keep = partial(self._kept, columns=transposed)
        parts = self._boxes_and_logits(values)
        scores = parts[1] if parts else self._slice(self.output, 4, _END, "sd_scores", axis=values)
        best = self._reduce_max(scores, axis=values)
        k = self._clamped_k(best, candidates_of(shape))
        self._append(helper.make_node("TopK", [best, k], ["sd_top", "sd_index"], axis=1))
        if parts:
            kept_boxes = keep(parts[0], 4, "sd_kept_boxes")
            kept_scores = keep(parts[1], self._rows - 4, "sd_kept_logits")
            top = self._node("Sigmoid", ["sd_top"], "sd_top_score")
        else:
            # Not each by itself: OpenVINO leaves out a Slice before a GatherElements, and fails.
            kept = keep(self.output, self._rows, "sd_kept")
            kept_boxes = self._slice(kept, 0, 4, "sd_kept_boxes")
            kept_scores = self._slice(kept, 4, _END, "sd_kept_scores")
            top = "sd_top"
        labels = self._node("ArgMax", [kept_scores], "sd_labels", axis=2, keepdims=1)
        found = [
            self._corners(kept_boxes, shape, normalised=not transposed),
            self._float(self._unsqueeze(top, "sd_top3"), "sd_top_float"),
            self._float(labels, "sd_labels_float"),
        ]
        self._finish(self._node("Concat", found, "sd_out", axis=2))

    def _boxes_and_logits(self, axis: int) -> tuple[str, str] | None:
        """What the output is made of where it is Concat(boxes, Sigmoid(logits)) along `axis`.

        Heads of ultralytics are. The largest logit is that of the largest score: what is done to
        the scores of thousands of boxes that are not kept can be left out. (Every backend drops a
        node whose output nobody asks for.)
        """
        makers = {output: node for node in self._graph.node for output in node.output}
        last = makers.get(self.output)
        if last is None or last.op_type != "Concat" or len(last.input) != 2:
            return None
        joint = next(attribute.i for attribute in last.attribute if attribute.name == "axis")
        boxes, scores = last.input
        before = makers.get(scores)
        if joint not in (axis, axis - 3) or before is None or before.op_type != "Sigmoid":
            return None
        return boxes, before.input[0]

    def _kept(self, name: str, values: int, out: str, *, columns: bool) -> str:
        """The boxes of `sd_index` out of (batch, boxes, values).

        Where they are `columns`, out of (batch, values, boxes): there are thousands, of which only
        those that are kept are worth transposing.
        """
        if not columns:
            rows = self._unsqueeze("sd_index", f"{out}_index")
            return self._node("GatherND", [name, rows], out, batch_dims=1)
        index = self._unsqueeze("sd_index", f"{out}_index", axis=1)
        shape = self._constant(f"{out}_shape", [1, values, 1], np.int64)
        everywhere = self._node("Expand", [index, shape], f"{out}_everywhere")
        kept = self._node("GatherElements", [name, everywhere], f"{out}_columns", axis=2)
        return self._node("Transpose", [kept], out, perm=[0, 2, 1])

    def _rescale_selected(self, shape: InputShape) -> None:
        """(batch, queries, 6) of cx, cy, w, h in 0..1, score, class -> corners in pixels."""
        boxes = self._slice(self.output, 0, 4, "sd_kept_boxes")
        rest = self._float(self._slice(self.output, 4, 6, "sd_rest"), "sd_rest_float")
        corners = self._corners(boxes, shape, normalised=True)
        self._finish(self._node("Concat", [corners, rest], "sd_out", axis=2))

    def _finish(self, output: str) -> None:
        """Makes `output` the graph's only output, `candidates`."""
        self._node("Cast", [output], "candidates", to=TensorProto.FLOAT)
        del self._graph.output[:]
        dims: list[str | int | None] = ["batch", "boxes", 6]
        candidates = helper.make_tensor_value_info("candidates", TensorProto.FLOAT, dims)
        self._graph.output.append(candidates)

    def _slice(self, name: str, start: int, end: int, out: str, *, axis: int = 2) -> str:
        """What lies from `start` to `end` along `axis`."""
        bounds = [
            self._constant(f"{out}_{part}", [value], np.int64)
            for part, value in (("start", start), ("end", end), ("axis", axis))
        ]
        return self._node("Slice", [name, *bounds], out)

    def _clamped_k(self, best: str, most: int) -> str:
        """`most`, or all boxes where the model has fewer."""
        shape = self._node("Shape", [best], "sd_best_shape")
        one = self._constant("sd_one", [1], np.int64)
        count = self._node("Gather", [shape, one], "sd_count", axis=0)
        limit = self._constant("sd_limit", [most], np.int64)
        return self._node("Min", [count, limit], "sd_k")

    def _reduce_max(self, scores: str, *, axis: int) -> str:
        if self._opset >= 18:
            axes = self._constant("sd_axes", [axis], np.int64)
            return self._node("ReduceMax", [scores, axes], "sd_best", keepdims=0)
        return self._node("ReduceMax", [scores], "sd_best", axes=[axis], keepdims=0)

    def _unsqueeze(self, name: str, out: str, *, axis: int = 2) -> str:
        place = self._constant(f"{out}_axis", [axis], np.int64)
        return self._node("Unsqueeze", [name, place], out)

    def _corners(self, boxes: str, shape: InputShape, *, normalised: bool) -> str:
        """cx, cy, w, h -> x1, y1, x2, y2 in pixels.

        Without a matrix product: a backend that runs those in bf16 would round the pixels.
        """
        pixels = self._float(boxes, "sd_boxes_float")
        if normalised:
            size = [shape.width, shape.height, shape.width, shape.height]
            factor = self._constant("sd_size", size, np.float32)
            pixels = self._node("Mul", [pixels, factor], "sd_boxes_px")
        centre = self._slice(pixels, 0, 2, "sd_centre")
        size_px = self._slice(pixels, 2, 4, "sd_size_px")
        two = self._constant("sd_two", [2.0], np.float32)
        reach = self._node("Div", [size_px, two], "sd_reach")
        first = self._node("Sub", [centre, reach], "sd_first")
        last = self._node("Add", [centre, reach], "sd_last_corner")
        return self._node("Concat", [first, last], "sd_corners", axis=2)

    def _float(self, name: str, out: str) -> str:
        return self._node("Cast", [name], out, to=TensorProto.FLOAT)

    def _constant(self, name: str, value: Any, dtype: DTypeLike) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _append(self, node: onnx.NodeProto) -> None:
        self._graph.node.append(node)
