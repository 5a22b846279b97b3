from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from streamd.engines.precision import nodes_behind_weights, to_half, to_int8
from streamd.errors import EngineError


def small_network() -> onnx.ModelProto:
    """Two convolutions, and arithmetic behind them as in a detection head."""
    rng = np.random.default_rng(3)
    weights = [
        rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((8, 3, 3, 3), (6, 8, 1, 1))
    ]
    nodes = [
        helper.make_node("Conv", ["images", "w0"], ["a"], "conv0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w1"], ["c"], "conv1"),
        helper.make_node("Sigmoid", ["c"], ["d"], "sigmoid"),
        helper.make_node("Mul", ["d", "size"], ["out"], "to_pixels"),
    ]
    tensors = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    tensors.append(numpy_helper.from_array(np.array(640, np.float32), "size"))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 6, 16, 16])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def outputs_of(model: onnx.ModelProto, images: NDArray[Any]) -> Any:
    return ort.InferenceSession(model.SerializeToString()).run(None, {"images": images})


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_what_follows_the_last_weights_is_told_apart() -> None:
    assert set(nodes_behind_weights(small_network().graph)) == {"sigmoid", "to_pixels"}


def test_half_precision_stops_where_distances_become_pixels() -> None:
    half = to_half(small_network())
    types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert types["w0"] == types["w1"] == TensorProto.FLOAT16
    assert types["size"] == TensorProto.FLOAT
    assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16


def test_a_model_that_tells_no_types_between_its_nodes_is_halved_soundly() -> None:
    network = small_network()
    images = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    (expected,) = outputs_of(network, images)
    assert not network.graph.value_info
    (got,) = outputs_of(to_half(network), images.astype(np.float16))
    assert got.astype(np.float32) == pytest.approx(expected, abs=3)


def test_a_model_of_half_precision_stays_as_it_is_and_is_not_quantised() -> None:
    half = to_half(small_network())
    before = half.SerializeToString()
    assert to_half(half).SerializeToString() == before
    with pytest.raises(EngineError, match="int8 needs the model in float32, "):
        to_int8(half, [np.zeros((16, 16, 3), np.uint8)], symmetric=False)


def test_a_model_of_several_images_is_calibrated_with_as_many() -> None:
    network = small_network()
    for value in (network.graph.input[0], network.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    model = to_int8(network, [np.zeros((16, 16, 3), np.uint8)] * 2, symmetric=False)
    assert "QuantizeLinear" in kinds(model)


@pytest.mark.parametrize(
    ("symmetric", "activations"), [(False, TensorProto.UINT8), (True, TensorProto.INT8)]
)
def test_int8_surrounds_convolutions_only(symmetric: bool, activations: int) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (16, 16, 3), np.uint8) for _ in range(4)]
    model = to_int8(small_network(), images, symmetric=symmetric)
    assert kinds(model).count("Conv") == 2
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    read_by = {node.output[0]: node for node in model.graph.node}
    for conv in (node for node in model.graph.node if node.op_type == "Conv"):
        picture, weights = (read_by[name] for name in conv.input[:2])
        assert picture.op_type == weights.op_type == "DequantizeLinear"
        assert tensors[weights.input[0]].data_type == TensorProto.INT8
        zero = tensors[picture.input[2]]
        assert zero.data_type == activations
        assert not symmetric or not numpy_helper.to_array(zero).any()
    assert "QuantizeLinear" not in kinds(model)[kinds(model).index("Sigmoid") :]


def test_without_the_extra_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.engines.precision.find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"fp16 needs onnxruntime .* '.\[onnxruntime\]'"):
        to_half(small_network())


def test_a_graph_that_cannot_be_quantised_is_one_line(tmp_path: Path) -> None:
    broken = small_network()
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(EngineError, match=r"^cannot be quantised to int8: [^\n]+$"):
        to_int8(broken, [np.zeros((16, 16, 3), np.uint8)], symmetric=False)
