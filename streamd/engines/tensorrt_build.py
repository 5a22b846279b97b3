"""Builds TensorRT plans. Makes no CUDA call itself: TensorRT for RTX builds without a GPU.

A plan has an optimisation profile for each rung of the ladder, each for exactly that batch size:
a size is tuned for by itself, and no shape is left to be found out while it runs. Networks are
strongly typed, in every version: the precision of each layer is that of the ONNX graph.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import SupportsInt

from streamd.engines.contract import BuildOrder, Built
from streamd.engines.tensorrt_library import Log, new_builder, trt
from streamd.errors import EngineError
from streamd.slots import InputShape

_PRECISIONS = ("fp32", "fp16", "int8")
_TELL_EVERY_S = 5.0
Adjust = Callable[[trt.IBuilderConfig], None]


def build_order(
    order: BuildOrder, folder: Path, tell: Callable[[str], None], adjust: Adjust | None = None
) -> Built:
    """Writes a plan for each shape of `order` into `folder`; see Backend.

    `adjust` may change the builder's configuration. Raises EngineError.
    """
    precision = "fp16" if order.precision == "auto" else order.precision
    if precision not in _PRECISIONS:
        raise EngineError(f"model.precision: tensorrt runs fp32, fp16 or int8, not {precision}")
    for shape in order.shapes:
        sizes = ", ".join(str(size) for size in order.ladder)
        tell(f"building {shape} in {precision} for batches of {sizes}")
        # What is not in int8 is faster in fp16, too.
        graph = order.graph(shape, half=precision != "fp32", symmetric=True)
        try:
            exact = precision == "fp32"
            plan = build_plan(graph, order.ladder, adjust, exact=exact, tell=tell)
        except EngineError as error:
            raise EngineError(f"{order.model.path}: TensorRT cannot build it: {error}") from None
        plan_file(folder, shape).write_bytes(plan)
    return Built(precision)


def plan_file(folder: Path, shape: InputShape) -> Path:
    """Where the plan for `shape` is."""
    return folder / f"{shape}.plan"


class Progress(trt.IProgressMonitor):
    """Tells every few seconds how far a build is. TensorRT calls it, from any of its threads."""

    def __init__(
        self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        trt.IProgressMonitor.__init__(self)
        self._tell, self._clock = tell, clock
        self._steps: dict[str, int] = {}
        self._told_s = clock()

    def phase_start(
        self,
        phase_name: str,
        parent_phase: str,  # noqa: ARG002  # TensorRT passes it
        num_steps: SupportsInt,
    ) -> None:
        """A phase of `num_steps` steps begins."""
        self._steps[phase_name] = int(num_steps)

    def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
        """A step is done. False would end the build."""
        now_s = self._clock()
        if now_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            self._tell(f"{phase_name.lower()}: {int(step) + 1} of {self._steps[phase_name]}")
        return True

    def phase_finish(self, phase_name: str) -> None:
        """All steps of a phase are done, or left out."""


def build_plan(
    graph: bytes,
    ladder: Sequence[int],
    adjust: Adjust | None = None,
    *,
    exact: bool = True,
    tell: Callable[[str], None] | None = None,
) -> bytes:
    """The plan of a serialised ONNX `graph` whose first axis is the batch.

    Unless `exact`, what is float32 in the graph may be multiplied as TF32, which has the mantissa
    of fp16. `tell` hears how far it is. Raises EngineError with TensorRT's own reason.
    """
    log = Log()
    builder = new_builder(log)
    network = parse(builder, graph, log)
    config = configure(builder, network, ladder)
    if exact:
        config.clear_flag(trt.BuilderFlag.TF32)
    progress = Progress(tell) if tell else None  # the builder does not keep it alive
    if progress:
        config.progress_monitor = progress
    if adjust:
        adjust(config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(log.take_cause())
    return bytes(plan)


def parse(builder: trt.Builder, graph: bytes, log: Log) -> trt.INetworkDefinition:
    """The network of a serialised ONNX `graph`. Raises EngineError where an operator is foreign."""
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        error = parser.get_error(0)
        # The first line says that there is a fault, the second which.
        what = " ".join(error.desc().strip().splitlines()[:2])
        raise EngineError(f"{error.node_operator()} {error.node_name()!r}: {what}")
    return network


def configure(
    builder: trt.Builder, network: trt.INetworkDefinition, ladder: Sequence[int]
) -> trt.IBuilderConfig:
    """A configuration with a profile for each rung of `ladder`, in its order."""
    config = builder.create_builder_config()
    # For RTX only: no plan allocates while it runs, so that each can be recorded as a graph.
    if flag := getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None):
        config.set_flag(flag)
    tensor = network.get_input(0)
    for size in ladder:
        shape = (size, *tuple(tensor.shape)[1:])
        profile = builder.create_optimization_profile()
        profile.set_shape(tensor.name, shape, shape, shape)
        config.add_optimization_profile(profile)
    return config
