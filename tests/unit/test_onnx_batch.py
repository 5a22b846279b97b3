import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from streamd.engines.onnx_batch import fixed_batch, with_free_batch


def network(batch: int | str, first: int = 1) -> onnx.ModelProto:
    """(batch, 3, 4, 8) -> (batch, 6, 16): a convolution, and a reshape to (`first`, 6, 16)."""
    weights = np.random.default_rng(1).normal(size=(6, 3, 1, 2)).astype(np.float32)
    tensors = [
        numpy_helper.from_array(weights, "w"),
        numpy_helper.from_array(np.array([first, 6, 16]), "shape"),
    ]
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["features"], strides=[1, 2]),
        helper.make_node("Reshape", ["features", "shape"], ["output"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 4, 8])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, 6, 16])
    graph = helper.make_graph(nodes, "network", [images], [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    output: NDArray[np.float32] = session.run(None, {"images": images})[0]
    return output


def test_a_model_for_one_image_takes_several_and_gives_the_same() -> None:
    model = network(1)
    images = np.random.default_rng(2).random((3, 3, 4, 8), dtype=np.float32)
    expected = np.concatenate([run(model, image[None]) for image in images])
    freed = with_free_batch(model)
    assert (fixed_batch(model), fixed_batch(freed)) == (1, 0)
    assert run(freed, images) == pytest.approx(expected, abs=1e-5)


def test_a_model_for_any_number_of_images_stays_as_it_is() -> None:
    model = network("batch", first=-1)
    assert fixed_batch(model) == 0
    assert with_free_batch(model) is model


def test_a_model_for_several_images_stays_as_it_is() -> None:
    model = network(4, first=4)
    assert fixed_batch(with_free_batch(model)) == 4


def test_a_model_that_mixes_its_batch_with_the_rest_keeps_it() -> None:
    model = network(1)
    # (1, 6, 4, 4) -> (96, 1) -> (1, 6, 16): what the second reshape begins from is not the batch.
    flat = helper.make_node("Reshape", ["features", "column"], ["flat"])
    model.graph.initializer.append(numpy_helper.from_array(np.array([96, 1]), "column"))
    model.graph.node.insert(1, flat)
    model.graph.node[2].input[0] = "flat"
    assert with_free_batch(model) is model
