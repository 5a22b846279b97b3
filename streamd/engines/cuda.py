"""Every CUDA call of streamd: a GPU, its memory, streams of work, and recorded work.

pycuda has the context, memory and streams. It has no CUDA graphs, and its registration of host
memory fails with NumPy 2 (inducer/pycuda issue 459), so those few calls go to the driver itself.

A CUDA context belongs to the thread that pushed it: everything here but `Device` itself is to be
called, and closed, within `device.current()`. That also turns CUDA's errors into EngineError.
"""

import atexit
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pycuda import driver

from streamd.errors import EngineError

_LIBRARY = ctypes.CDLL("libcuda.so.1")
_BLOCKING_SYNC = 4  # CU_CTX_SCHED_BLOCKING_SYNC
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: the stream that libraries use by default goes on, too
_REGISTER_PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE: pinned for every context of the process
_ALREADY_REGISTERED = 712  # CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED
_CAPTURE_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads go on as they like


class Device:
    """A GPU, with the primary context that TensorRT uses as well."""

    def __init__(self, number: int = 0) -> None:
        try:
            driver.init()
            self._device = driver.Device(number)
            # Who waits for a stream would keep a core busy, else. FFmpeg, which decodes in the same
            # context, asks for it as well.
            handle, flags = ctypes.c_int(), ctypes.c_uint(_BLOCKING_SYNC)
            _check("cuDeviceGet", ctypes.byref(handle), ctypes.c_int(number))
            _check("cuDevicePrimaryCtxSetFlags_v2", handle, flags)
            self._context = self._device.retain_primary_context()
            # Left to its destructor, pycuda would end it as if it were no primary context.
            atexit.register(self._context.detach)
        except driver.Error as error:
            raise EngineError(f"CUDA: {error}") from None

    @property
    def name(self) -> str:
        """As the cache knows it: `NVIDIA L4 sm_89`."""
        major, minor = self._device.compute_capability()
        return f"{self._device.name()} sm_{major}{minor}"

    @contextmanager
    def current(self) -> Iterator[None]:
        """The calling thread may use this GPU. Raises EngineError for what CUDA refuses."""
        try:
            self._context.push()
            try:
                yield
            finally:
                driver.Context.pop()
        except driver.Error as error:
            raise EngineError(f"CUDA: {error}") from None

    def memory(self, size: int) -> "DeviceMemory":
        """`size` bytes on the GPU."""
        return DeviceMemory(size)

    def stream(self) -> "Stream":
        """A stream of its own."""
        return Stream()

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> "PinnedArray":
        """An array in host memory that the GPU reaches without the CPU."""
        return PinnedArray(shape, dtype)

    def register(self, memory: NDArray[np.uint8]) -> "Registration":
        """Makes existing host memory such that the GPU reaches it without the CPU."""
        return Registration(memory)


class DeviceMemory:
    """`size` bytes on the GPU, from `address` on."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._allocation = driver.mem_alloc(size)
        self.address = int(self._allocation)

    def close(self) -> None:
        """Gives the memory back."""
        self._allocation.free()


class PinnedArray:
    """An `array` that is there until this is closed."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.array: NDArray[Any] = driver.pagelocked_empty(shape, dtype)

    def close(self) -> None:
        """Gives the memory back."""
        self.array.base.free()  # type: ignore[union-attr]  # it is pycuda's, not numpy's


class Stream:
    """Work in its order; that of other streams goes on beside it."""

    def __init__(self) -> None:
        self._stream = driver.Stream(_NON_BLOCKING)
        self.handle = self._stream.handle

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Copies contiguous `array` to the GPU; it must stay until `synchronize` returns.

        What is not pinned the driver takes through a buffer of its own, at the CPU's cost.
        """
        driver.memcpy_htod_async(address, array, self._stream)

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """Copies from the GPU into pinned, contiguous `array`."""
        driver.memcpy_dtoh_async(array, address, self._stream)

    def synchronize(self) -> None:
        """Returns once all work is done."""
        self._stream.synchronize()

    def record(self, work: Callable[[], None]) -> "Graph | None":
        """What `work` gives to this stream, as a graph; None where it cannot be one.

        `work` is not carried out by this.
        """
        return _capture(self.handle, work)

    def close(self) -> None:
        """Lets go of it; what is in it is carried out."""
        del self._stream


class Graph:
    """Recorded work, launched as one: the CPU's part is one call whatever is in it."""

    def __init__(self, executable: ctypes.c_void_p) -> None:
        self._executable = executable

    def launch(self, stream: Stream) -> None:
        """Puts the work into `stream`."""
        _check("cuGraphLaunch", self._executable, ctypes.c_void_p(stream.handle))

    def close(self) -> None:
        """Lets go of it."""
        _check("cuGraphExecDestroy", self._executable)


class Registration:
    """Host memory that is pinned as long as this is open."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self._memory = memory
        self._address = ctypes.c_void_p(memory.ctypes.data)
        size = ctypes.c_size_t(memory.nbytes)
        register = _LIBRARY.cuMemHostRegister_v2
        code = int(register(self._address, size, ctypes.c_uint(_REGISTER_PORTABLE)))
        # The engine before this one has pinned the same slots; that holds until the process ends.
        if code != _ALREADY_REGISTERED:
            _raise_for("cuMemHostRegister_v2", code)

    def close(self) -> None:
        """Makes it ordinary memory again."""
        _check("cuMemHostUnregister", self._address)


def _capture(stream: int, work: Callable[[], None]) -> Graph | None:
    handle, graph, executable = ctypes.c_void_p(stream), ctypes.c_void_p(), ctypes.c_void_p()
    _check("cuStreamBeginCapture_v2", handle, ctypes.c_int(_CAPTURE_THREAD_LOCAL))
    refused = False
    try:
        work()
    except (EngineError, driver.Error):
        refused = True
    finally:
        # A stream left in capture would refuse all work from here on.
        ended = int(_LIBRARY.cuStreamEndCapture(handle, ctypes.byref(graph)))
    try:
        if refused or ended:
            return None
        options = ctypes.c_ulonglong(0)
        _check("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, options)
    finally:
        if graph:
            _check("cuGraphDestroy", graph)
    return Graph(executable)


def _check(function: str, *arguments: Any) -> None:
    """Calls the driver. Raises EngineError where it refuses."""
    _raise_for(function, int(getattr(_LIBRARY, function)(*arguments)))


def _raise_for(function: str, code: int) -> None:
    if code:
        name = ctypes.c_char_p()
        _LIBRARY.cuGetErrorName(ctypes.c_int(code), ctypes.byref(name))
        raise EngineError(f"CUDA: {function}: {(name.value or b'unknown error').decode()} ({code})")
