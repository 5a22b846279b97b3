"""Runs TensorRT plans: slots go to the GPU as they are, and one launch does all the rest.

runner.load   slot -> its place in the batch on the GPU
runner.run    graph of that batch size: plan -> candidates -> pinned host memory
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamd.engines.contract import EngineSpec, Runner, rung
from streamd.engines.tensorrt_library import Log, trt
from streamd.errors import EngineError
from streamd.slots import InputShape

if TYPE_CHECKING:
    # Loads the driver's library; whoever makes a Device has looked for that.
    from streamd.engines.cuda import Device, DeviceMemory, Registration, Stream

_USER_MANAGED = trt.ExecutionContextAllocationStrategy.USER_MANAGED


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that was loaded, of one input and one output.

    `profiles` has the number of the optimisation profile for each batch size.
    """

    engine: trt.ICudaEngine
    log: Log
    input: str
    output: str
    profiles: Mapping[int, int]


def load_plan(
    runtime: trt.Runtime, log: Log, packed: bytes, profiles: Mapping[int, int], about: object
) -> Plan:
    """The plan in `packed`. Raises EngineError, which begins with `about`.

    TensorRT crashes here without a driver. It refuses what is damaged, or was built by another
    version, or for another GPU; its reason says which.
    """
    engine = runtime.deserialize_cuda_engine(packed)
    if engine is None:
        raise EngineError(f"{about}: TensorRT cannot load it: {log.take_cause()}")
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    outputs = [n for n in names if n not in inputs]
    if (len(inputs), len(outputs)) != (1, 1):
        found = ", ".join(names)
        raise EngineError(f"{about}: has not one input and one output, but {found}")
    return Plan(engine, log, inputs[0], outputs[0], profiles)


class TensorRtEngine:
    """For each input shape, the plans that turn a batch of it into candidates, in their order."""

    def __init__(
        self, device: "Device", plans: Mapping[InputShape, Sequence[Plan]], spec: EngineSpec
    ) -> None:
        self._device = device
        self._plans = plans
        self._slots: Registration | None = None
        self._runners: list[TensorRtRunner] = []
        self.spec = spec

    def adopt(self, memory: NDArray[np.uint8]) -> None:
        """See Engine."""
        with self._device.current():
            self._slots = self._device.register(memory)

    def runners(self, count: int) -> list[Runner]:
        """See Engine."""
        for _ in range(count):
            self._runners.append(TensorRtRunner(self._device, self._plans, self.spec))
        return list(self._runners[-count:])

    def close(self) -> None:
        """See Engine. The slots stay pinned: the engine after this one has them, too."""
        with self._device.current():
            while self._runners:
                self._runners.pop().close()
            self._plans = {}


class TensorRtRunner:
    """A stream of its own, with contexts, memory and a graph for each shape and batch size."""

    def __init__(
        self, device: "Device", plans: Mapping[InputShape, Sequence[Plan]], spec: EngineSpec
    ) -> None:
        self._device = device
        self._ladder = spec.ladder
        self._passes: dict[tuple[InputShape, int], Pass] = {}
        with device.current(), ExitStack() as held:
            self._stream = held.enter_context(closing(device.stream()))
            # One pass runs at a time. TensorRT would give each as much as the largest needs.
            most = max(
                plan.engine.device_memory_size_v2 for chain in plans.values() for plan in chain
            )
            scratch = held.enter_context(closing(device.memory(max(1, most))))
            for shape, size in product(spec.shapes, spec.ladder):
                made = Pass(device, self._stream, scratch, plans[shape], shape, size)
                self._passes[shape, size] = held.enter_context(closing(made))
            self._held = held.pop_all()
        self._pass = self._passes[spec.shapes[0], spec.ladder[0]]
        self._count = 0

    @property
    def passes(self) -> int:
        """The shapes and batch sizes that it is ready for."""
        return len(self._passes)

    @property
    def recorded(self) -> int:
        """How many of those are graphs."""
        return sum(each.is_recorded for each in self._passes.values())

    def load(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """See Runner."""
        self._count = len(images)
        height, width, _ = images[0].shape
        self._pass = self._passes[InputShape(height, width), rung(self._ladder, self._count)]
        with self._device.current():
            for number, image in enumerate(images):
                self._stream.copy_in(self._pass.images + number * image.nbytes, image)
            self._stream.synchronize()

    def run(self) -> NDArray[np.float32]:
        """See Runner."""
        with self._device.current():
            self._pass.launch()
            self._stream.synchronize()
        return self._pass.candidates[: self._count].copy()

    def close(self) -> None:
        """Gives back what it holds of the GPU; it cannot be used any more."""
        with self._device.current():
            self._held.close()


class Pass:
    """A batch of one shape and size on its way through the plans, with all that it needs.

    `images` is the address of the batch on the GPU, uint8 (size, height, width, 3); `candidates`
    is (size, K, 6) float32 in pinned memory, valid once the stream was synchronised.
    """

    def __init__(
        self,
        device: "Device",
        stream: "Stream",
        scratch: "DeviceMemory",
        plans: Sequence[Plan],
        shape: InputShape,
        size: int,
    ) -> None:
        self._stream = stream
        self._contexts: list[tuple[trt.IExecutionContext, Log]] = []
        dims: tuple[int, ...] = (size, shape.height, shape.width, 3)
        with ExitStack() as held:
            self.images = held.enter_context(closing(device.memory(_volume(dims)))).address
            address = self.images
            for plan in plans:
                context = context_of(plan, stream, dims, size)
                context.set_device_memory(scratch.address, scratch.size)
                dims = output_dims(plan, context)
                bytes_each = plan.engine.get_tensor_dtype(plan.output).itemsize
                output = held.enter_context(closing(device.memory(_volume(dims) * bytes_each)))
                _accepted(context.set_tensor_address(plan.input, address), plan.log)
                _accepted(context.set_tensor_address(plan.output, output.address), plan.log)
                self._contexts.append((context, plan.log))
                address = output.address
            self._output = address
            pinned = held.enter_context(closing(device.pinned(dims, np.float32)))
            self.candidates: NDArray[np.float32] = pinned.array
            # TensorRT allocates and compiles at a first run, which cannot be recorded.
            self._enqueue()
            stream.synchronize()
            self._graph = stream.record(self._enqueue)
            if self._graph is not None:
                held.callback(self._graph.close)
            self._held = held.pop_all()

    @property
    def is_recorded(self) -> bool:
        """Whether it is a graph; else each launch goes through all calls of TensorRT."""
        return self._graph is not None

    def launch(self) -> None:
        """Gives the work to the stream; what cannot be a graph goes there step by step."""
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch(self._stream)

    def close(self) -> None:
        """Gives back its memory on the GPU."""
        self._contexts.clear()
        self._held.close()

    def _enqueue(self) -> None:
        for context, log in self._contexts:
            _accepted(context.execute_async_v3(self._stream.handle), log)
        self._stream.copy_out(self.candidates, self._output)


def context_of(
    plan: Plan, stream: "Stream", dims: tuple[int, ...], size: int
) -> trt.IExecutionContext:
    """A context of `plan` for an input of `dims`. It runs once it was given memory to work in."""
    context = plan.engine.create_execution_context(_USER_MANAGED)
    if context is None:
        raise EngineError(f"TensorRT: {plan.log.take_cause()}")
    try:
        context.set_optimization_profile_async(plan.profiles[size], stream.handle)
    except RuntimeError:  # the binding's word for no; all others return False
        raise EngineError(f"TensorRT: {plan.log.take_cause()}") from None
    stream.synchronize()
    _accepted(context.set_input_shape(plan.input, dims), plan.log)
    return context


def output_dims(plan: Plan, context: trt.IExecutionContext) -> tuple[int, ...]:
    """The size of what comes out of `context`. Raises EngineError where it is not fixed."""
    dims = tuple(context.get_tensor_shape(plan.output))
    if min(dims) < 1:
        raise EngineError(f"TensorRT: the size of {plan.output} depends on its values: {dims}")
    return dims


def _volume(dims: Sequence[int]) -> int:
    return int(np.prod(dims))


def _accepted(accepted: bool, log: Log) -> None:
    """Raises EngineError where TensorRT says no."""
    if not accepted:
        raise EngineError(f"TensorRT: {log.take_cause()}")
