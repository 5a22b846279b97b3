"""Lets a model that was exported for one image take any number of them at once.

`yolo export format=onnx` fixes the batch at 1 unless told otherwise. Convolutions do not care;
what ties such a graph to its batch are reshapes to a constant shape, and their first number can be
replaced by 0, which means "as in the input".
"""

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import InferenceError, infer_shapes

_SEVERAL = 2


def fixed_batch(model: onnx.ModelProto) -> int:
    """The number of images that `model` always takes; 0 where it takes any."""
    return int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def with_free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, taking any number of images if it took one and its shapes allow it.

    What the graph then computes is for the proof to see: shapes alone cannot tell.
    """
    if fixed_batch(model) != 1:
        return model
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    try:
        _free_reshapes(freed)
        free = _output_batch(freed, _SEVERAL) == _SEVERAL
    except InferenceError:
        return model
    if not free:
        return model
    _set_batch(freed, "batch")
    return freed


def _free_reshapes(model: onnx.ModelProto) -> None:
    """Has every reshape of something with a first dimension of 1 keep that dimension."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    first = _first_dimensions(model)
    for number, node in enumerate(n for n in graph.node if n.op_type == "Reshape"):
        data, shape_name = node.input[0], node.input[1]
        if data in constants or first.get(data) != 1 or shape_name not in constants:
            continue
        shape = numpy_helper.to_array(constants[shape_name]).copy()
        keeps_zero = any(a.name == "allowzero" and a.i for a in node.attribute)
        if len(shape) and shape[0] == 1 and not keeps_zero:
            shape[0] = 0
            # The constant may serve other nodes, too.
            node.input[1] = f"sd_shape_{number}"
            graph.initializer.append(numpy_helper.from_array(shape, node.input[1]))


def _first_dimensions(model: onnx.ModelProto) -> dict[str, int]:
    """The first dimension of each tensor where it is known."""
    inferred = infer_shapes(model, data_prop=True).graph
    return {
        value.name: value.type.tensor_type.shape.dim[0].dim_value
        for value in [*inferred.input, *inferred.value_info]
        if value.type.tensor_type.shape.dim
    }


def _output_batch(model: onnx.ModelProto, batch: int) -> int:
    """The first dimension of the output for `batch` images; 0 where that is not to be known."""
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    _set_batch(trial, batch)
    inferred = infer_shapes(trial, strict_mode=True, data_prop=True)
    dims = inferred.graph.output[0].type.tensor_type.shape.dim
    return int(dims[0].dim_value) if dims else 0


def _set_batch(model: onnx.ModelProto, batch: int | str) -> None:
    """Changes the first dimension of the input, and of the output; forgets all others between."""
    graph = model.graph
    del graph.value_info[:]
    _set_dimension(graph.input[0].type.tensor_type.shape.dim[0], batch)
    output = graph.output[0]
    rank = len(output.type.tensor_type.shape.dim)
    if isinstance(batch, str):
        _set_dimension(output.type.tensor_type.shape.dim[0], batch)
    else:
        free = helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [None] * rank)
        free.type.tensor_type.elem_type = output.type.tensor_type.elem_type
        output.CopyFrom(free)


def _set_dimension(dimension: onnx.TensorShapeProto.Dimension, size: int | str) -> None:
    if isinstance(size, str):
        dimension.dim_param = size
    else:
        dimension.dim_value = size
