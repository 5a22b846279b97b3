"""A GPU made of host memory, and plans that ONNX Runtime runs on it.

Work waits in its stream until that is synchronised, as it may on a GPU.
"""

import ctypes
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from streamd.engines.tensorrt_library import Log, trt
from streamd.engines.tensorrt_runner import Plan
from streamd.errors import EngineError

_HANDLES = itertools.count(1)
_STREAMS: dict[int, "FakeStream"] = {}
_KINDS = {"float": (trt.DataType.FLOAT, np.float32), "uint8": (trt.DataType.UINT8, np.uint8)}


class FakeMemory:
    def __init__(self, device: "FakeDevice", size: int) -> None:
        self._device = device
        self.size = size
        self._bytes = np.zeros(size, np.uint8)
        self.address = self._bytes.ctypes.data
        device.in_use += size

    def close(self) -> None:
        self._device.in_use -= self._bytes.nbytes


class FakePinned:
    def __init__(self, device: "FakeDevice", shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._device = device
        self.array = np.zeros(shape, dtype)
        device.pinned_bytes += self.array.nbytes

    def close(self) -> None:
        self._device.pinned_bytes -= self.array.nbytes


class FakeGraph:
    def __init__(self, work: list[Callable[[], None]]) -> None:
        self._work = work

    def launch(self, stream: "FakeStream") -> None:
        stream.waiting += self._work

    def close(self) -> None:
        self._work = []


class FakeStream:
    def __init__(self, records: bool) -> None:
        self.handle = next(_HANDLES)
        self.waiting: list[Callable[[], None]] = []
        self._records = records
        _STREAMS[self.handle] = self

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        self.waiting.append(lambda: _copy(address, array.ctypes.data, array.nbytes))

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        self.waiting.append(lambda: _copy(array.ctypes.data, address, array.nbytes))

    def synchronize(self) -> None:
        work, self.waiting = self.waiting, []
        for each in work:
            each()

    def close(self) -> None:
        del _STREAMS[self.handle]

    def record(self, work: Callable[[], None]) -> FakeGraph | None:
        if not self._records:
            return None
        before, self.waiting = self.waiting, []
        work()
        graph, self.waiting = FakeGraph(self.waiting), before
        return graph


class FakeDevice:
    """`room` is its memory in bytes; `records` says whether work can become a graph."""

    def __init__(self, room: float = math.inf, *, records: bool = True) -> None:
        self.in_use = self.pinned_bytes = 0
        self.registered: list[NDArray[np.uint8]] = []
        self._room = room
        self._records = records
        self._users = 0

    @contextmanager
    def current(self) -> Iterator[None]:
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1

    def memory(self, size: int) -> FakeMemory:
        assert self._users
        if self.in_use + size > self._room:
            raise EngineError("CUDA: cuMemAlloc failed: out of memory")
        return FakeMemory(self, size)

    def stream(self) -> FakeStream:
        assert self._users
        return FakeStream(self._records)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> FakePinned:
        assert self._users
        return FakePinned(self, shape, dtype)

    def register(self, memory: NDArray[np.uint8]) -> object:
        assert self._users
        self.registered.append(memory)
        return memory


class FakeEngine:
    """In place of ICudaEngine: an ONNX graph with an exact profile for each batch size."""

    device_memory_size_v2 = 1000

    def __init__(self, graph: bytes, ladder: Sequence[int]) -> None:
        self.session = ort.InferenceSession(graph)
        self.ladder = ladder
        self.contexts = 0

    def get_tensor_dtype(self, name: str) -> trt.DataType:
        return _KINDS[self._element(name)][0]

    def create_execution_context(
        self, strategy: trt.ExecutionContextAllocationStrategy
    ) -> "FakeContext":
        assert strategy is trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.contexts += 1
        return FakeContext(self)

    def _element(self, name: str) -> str:
        tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        kind: str = next(tensor.type for tensor in tensors if tensor.name == name)
        return kind.removeprefix("tensor(").removesuffix(")")

    def dtype(self, name: str) -> Any:
        return _KINDS[self._element(name)][1]


class FakeContext:
    """In place of IExecutionContext."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._profile = -1
        self._dims: tuple[int, ...] = ()
        self._scratch = 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        if profile not in range(len(self._engine.ladder)):
            raise RuntimeError("Error in set optimization profile async.")  # as the binding does
        self._profile = profile
        return stream in _STREAMS

    def set_input_shape(self, name: str, dims: tuple[int, ...]) -> bool:
        self._name, self._dims = name, dims
        return dims[0] == self._engine.ladder[self._profile]

    def set_device_memory(self, address: int, size: int) -> None:
        assert address
        self._scratch = size

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._run(np.zeros(self._dims, self._engine.dtype(self._name)), name).shape

    def execute_async_v3(self, stream: int) -> bool:
        if self._scratch < self._engine.device_memory_size_v2:
            return False
        _STREAMS[stream].waiting.append(self._execute)
        return True

    def _execute(self) -> None:
        (output,) = set(self._addresses) - {self._name}
        images = np.zeros(self._dims, self._engine.dtype(self._name))
        _copy(images.ctypes.data, self._addresses[self._name], images.nbytes)
        result = np.ascontiguousarray(self._run(images, output))
        _copy(self._addresses[output], result.ctypes.data, result.nbytes)

    def _run(self, images: NDArray[Any], output: str) -> NDArray[Any]:
        (result,) = self._engine.session.run([output], {self._name: images})
        return np.asarray(result)


def fake_plan(graph: bytes, ladder: Sequence[int], profiles: dict[int, int] | None = None) -> Plan:
    """`graph` as a plan that a FakeDevice runs, with a profile for each size of `ladder`."""
    engine: Any = FakeEngine(graph, ladder)
    (source,), (target,) = engine.session.get_inputs(), engine.session.get_outputs()
    in_order = {size: number for number, size in enumerate(ladder)}
    return Plan(engine, Log(), source.name, target.name, profiles or in_order)


def _copy(target: int, source: int, size: int) -> None:
    ctypes.memmove(target, source, size)
