"""Changes the precision of a model's own graph, for backends that take it from there.

Both use what ONNX Runtime ships for this (`pip install '.[onnxruntime]'`).
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.shape_inference import infer_shapes

from streamd.engines.onnx_batch import fixed_batch
from streamd.errors import EngineError

_WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with fp16 weights, arithmetic, input and output.

    What follows the last layer with weights stays float32: it turns distances into pixels, and
    fp16 has only half pixels beyond 512. Layers in int8 stay so, with scales in fp16: ONNX allows
    that from opset 19 on, TensorRT in any. A model that was exported so already stays as it is.
    Changes `model` in place.
    """
    if _is_half(model):
        return model
    _require("fp16")
    from onnxruntime.transformers.float16 import (  # noqa: PLC0415  # an extra
        convert_float_to_float16,
    )

    _use_float_biases(model.graph)
    tail = nodes_behind_weights(model.graph)
    try:
        # It casts by the types of what nodes hand on, which a model need not tell.
        half: onnx.ModelProto = convert_float_to_float16(
            infer_shapes(model), keep_io_types=False, node_block_list=tail, disable_shape_infer=True
        )
    except Exception as error:  # its errors share no base but Exception
        raise EngineError(f"cannot be converted to fp16: {_last_line(error)}") from None
    return half


def to_int8(
    model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]], *, symmetric: bool
) -> onnx.ModelProto:
    """`model` with its convolutions in int8 (Q/DQ nodes), scales taken from `images`.

    `images` are (height, width, 3) uint8 RGB of the input's size. Weights are int8 around zero, by
    channel; activations are by tensor, uint8 as CPUs multiply them, or with `symmetric` int8 around
    zero, the only form that TensorRT takes (and OpenVINO gets wrong). What is no convolution stays
    as it is.
    """
    if _is_half(model):
        raise EngineError("int8 needs the model in float32, exported without half=True")
    _require("int8")
    from onnxruntime import quantization as ort  # noqa: PLC0415  # an extra

    name, batch = model.graph.input[0].name, max(1, fixed_batch(model))
    with tempfile.TemporaryDirectory(prefix="streamd-int8-") as folder:
        source, prepared, target = (Path(folder) / f"{n}.onnx" for n in ("a", "b", "c"))
        onnx.save(model, str(source))
        quiet = logging.getLogger()
        level = quiet.level
        quiet.setLevel(logging.ERROR)
        try:
            ort.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            ort.quantize_static(
                str(prepared),
                str(target),
                _Calibration(name, batch, images),
                quant_format=ort.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                reduce_range=not symmetric and _sums_overflow(),
                activation_type=ort.QuantType.QInt8 if symmetric else ort.QuantType.QUInt8,
                weight_type=ort.QuantType.QInt8,
                extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
            )
            return onnx.load(str(target))
        except Exception as error:  # its errors share no base but Exception
            raise EngineError(f"cannot be quantised to int8: {_last_line(error)}") from None
        finally:
            quiet.setLevel(level)


class _Calibration:
    """What quantize_static reads images from."""

    def __init__(self, name: str, batch: int, images: Sequence[NDArray[np.uint8]]) -> None:
        self._feeds = self._feeds_of(name, batch, images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next input, None behind the last."""
        return next(self._feeds, None)

    @staticmethod
    def _feeds_of(
        name: str, batch: int, images: Sequence[NDArray[np.uint8]]
    ) -> Iterator[dict[str, NDArray[np.float32]]]:
        for image in images:
            nchw = np.divide(image.transpose(2, 0, 1)[None], 255, dtype=np.float32)
            yield {name: nchw.repeat(batch, axis=0)}


def nodes_behind_weights(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes from which no layer with weights is reached; unnamed nodes get names."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node)
    feeds_weights: dict[str, bool] = {}
    tail = []
    # Nodes of an ONNX graph are sorted: those that read a tensor come later.
    for number in range(len(graph.node) - 1, -1, -1):
        node = graph.node[number]
        node.name = node.name or f"sd_node_{number}"
        behind = [n for tensor in node.output for n in readers.get(tensor, ())]
        feeds_weights[node.name] = any(
            other.op_type in _WEIGHTED or feeds_weights[other.name] for other in behind
        )
        if not feeds_weights[node.name] and node.op_type not in _WEIGHTED:
            tail.append(node.name)
    return tail


def _is_half(model: onnx.ModelProto) -> bool:
    return bool(model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16)


def _sums_overflow() -> bool:
    """Whether this CPU adds pairs of int8 products in 16 bits, which 7-bit weights cannot fill.

    So do the x86 CPUs without VNNI, says "When and why do I need to try U8U8?" in
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    flags = Path("/proc/cpuinfo").read_text()
    return "avx2" in flags and "vnni" not in flags


def _use_float_biases(graph: onnx.GraphProto) -> None:
    """Biases in int32 become float32: fp16 cannot hold their scales, TensorRT takes no int32."""
    constants = {constant.name: constant for constant in graph.initializer}
    for node in [each for each in graph.node if each.op_type == "DequantizeLinear"]:
        bias, scale = (constants.get(name) for name in node.input[:2])
        if bias is not None and scale is not None and bias.data_type == onnx.TensorProto.INT32:
            value = (numpy_helper.to_array(bias) * numpy_helper.to_array(scale)).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            graph.node.remove(node)


def _require(precision: str) -> None:
    if not find_spec("onnxruntime"):
        raise EngineError(
            f"model.precision: {precision} needs onnxruntime to convert the model; "
            "pip install '.[onnxruntime]'"
        )


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
