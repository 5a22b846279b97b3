"""TensorRT engines that ultralytics built, used as they are between two small plans.

preamble    uint8 (batch, height, width, 3) -> the engine's input
engine      its own plan
selection   the engine's output -> candidates (batch, K, 6)
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from streamd.engines.contract import Built, EngineOrder
from streamd.engines.engine_file import EngineFile, read_engine_file
from streamd.engines.onnx_contract import preamble, selection
from streamd.engines.onnx_model import head_of_output
from streamd.engines.tensorrt_build import build_plan
from streamd.engines.tensorrt_library import Log, new_runtime, trt
from streamd.engines.tensorrt_runner import Plan, context_of, load_plan, output_dims
from streamd.errors import EngineError

if TYPE_CHECKING:
    from streamd.engines.cuda import Device

_PREAMBLE, _SELECTION = "preamble.plan", "selection.plan"


def build_around(
    device: "Device", order: EngineOrder, folder: Path, tell: Callable[[str], None]
) -> Built:
    """Writes what fits the engine of `order` to the contract into `folder`; see Backend."""
    file = read_engine_file(order.model.path)
    log = Log()
    plan = _engine_plan(new_runtime(log), log, file, order)
    dims = _raw_dims(device, plan, file, order)
    head = head_of_output(
        dims,
        len(file.info.labels),
        end_to_end=file.info.end_to_end,
        head_name=file.head,
        path=order.model.path,
    )
    tell(f"fitting {file.info.shape}, output {dims[1]} x {dims[2]} ({head})")
    before = preamble(file.info.shape, half=_is_half(plan, plan.input, file))
    behind = selection(
        (dims[1], dims[2]), head, file.info.shape, half=_is_half(plan, plan.output, file)
    )
    (folder / _PREAMBLE).write_bytes(build_plan(before, order.ladder))
    (folder / _SELECTION).write_bytes(build_plan(behind, order.ladder))
    return Built(file.precision)


def load_around(order: EngineOrder, folder: Path) -> tuple[Plan, ...]:
    """The plans that images go through, in their order. Raises EngineError."""
    file = read_engine_file(order.model.path)
    log = Log()
    runtime = new_runtime(log)
    profiles = {size: number for number, size in enumerate(order.ladder)}
    before, behind = (
        load_plan(runtime, log, (folder / name).read_bytes(), profiles, folder / name)
        for name in (_PREAMBLE, _SELECTION)
    )
    return before, _engine_plan(runtime, log, file, order), behind


def _engine_plan(runtime: trt.Runtime, log: Log, file: EngineFile, order: EngineOrder) -> Plan:
    """The engine's own plan. Raises EngineError where it does not take what its header says."""
    path = order.model.path
    plan = load_plan(runtime, log, file.plan(), dict.fromkeys(order.ladder, 0), path)
    least, _, most = (tuple(d) for d in plan.engine.get_tensor_profile_shape(plan.input, 0))
    shape = file.info.shape
    for size in (order.ladder[0], order.ladder[-1]):
        dims = (size, 3, shape.height, shape.width)
        sides = zip(least, dims, most, strict=False)
        if len(least) != len(dims) or not all(low <= side <= high for low, side, high in sides):
            raise EngineError(f"{path}: takes {least} to {most}, but its header says {dims}")
    return plan


def _raw_dims(
    device: "Device", plan: Plan, file: EngineFile, order: EngineOrder
) -> tuple[int, ...]:
    """What the engine's own output is for a batch."""
    size, shape = order.ladder[-1], file.info.shape
    context = context_of(plan, device.stream(), (size, 3, shape.height, shape.width), size)
    return output_dims(plan, context)


def _is_half(plan: Plan, tensor: str, file: EngineFile) -> bool:
    """Whether `tensor` is fp16. Raises EngineError where it is not float32 either."""
    kind = plan.engine.get_tensor_dtype(tensor)
    if kind not in (trt.DataType.FLOAT, trt.DataType.HALF):
        raise EngineError(f"{file.info.path}: its {tensor} is {kind.name}, not float32 or fp16")
    return kind == trt.DataType.HALF
