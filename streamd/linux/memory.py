"""Memory and wake-ups that processes share: memfd_create(2) and eventfd(2), both without a name.

Nothing here can be left over: the kernel frees both when the last process that holds them ends,
however it ends. Unlike /dev/shm, a memfd is not bound by a container's 64 MB default. Both travel
to a child as an argument of its `multiprocessing.Process`.
"""

import mmap
import os
import select
import weakref
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

PAGE = mmap.PAGESIZE


def page_aligned(size: int) -> int:
    """`size` in bytes, rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


class SharedBlock:
    """`size` bytes of zeroed shared memory; pages are only taken once they are written."""

    def __init__(self, name: str, size: int) -> None:
        self.size = page_aligned(size)
        fd = os.memfd_create(f"streamd-{name}", os.MFD_CLOEXEC)
        os.ftruncate(fd, self.size)
        self._hold(fd)

    def _hold(self, fd: int) -> None:
        self._fd = fd
        weakref.finalize(self, os.close, fd)
        self._map = mmap.mmap(fd, self.size)

    def array(self, offset: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A view of the block as an array of `shape` and `dtype`, `offset` bytes into it."""
        return np.ndarray(shape, dtype, buffer=self._map, offset=offset)

    def fileno(self) -> int:
        """For who writes to it as to a file."""
        return self._fd

    def __getstate__(self) -> tuple[Any, int]:
        return reduction.DupFd(self._fd), self.size

    def __setstate__(self, state: tuple[Any, int]) -> None:
        handle, self.size = state
        self._hold(handle.detach())


class Doorbell:
    """Wakes one waiting thread, in this process or another."""

    def __init__(self) -> None:
        self._open(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def _open(self, fd: int) -> None:
        self._fd = fd
        weakref.finalize(self, os.close, fd)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def fileno(self) -> int:
        """For select and the like."""
        return self._fd

    def ring(self) -> None:
        """Wakes the waiter; rings are not counted."""
        os.eventfd_write(self._fd, 1)

    def wait(self, timeout_s: float | None) -> bool:
        """Blocks until rung, at most `timeout_s` seconds (None: for ever). True if it rang."""
        if not self._poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000):
            return False
        return self.clear()

    def clear(self) -> bool:
        """Takes a ring that has come. True if there was one."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return False
        return True

    def __getstate__(self) -> Any:
        return reduction.DupFd(self._fd)

    def __setstate__(self, state: Any) -> None:
        self._open(state.detach())
