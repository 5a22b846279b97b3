"""TensorRT, or TensorRT for RTX where that is what is installed: `trt` is either of them.

They differ in nothing that streamd calls. typings/ has what was recorded of each version.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from streamd.errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt
else:
    try:
        import tensorrt as trt
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":  # it is there, but something that it needs is not
            raise
        import tensorrt_rtx as trt

__all__ = ["Log", "library_version", "new_builder", "new_runtime", "trt"]

_FAULTS = ("ERROR", "INTERNAL_ERROR")
_HARMLESS = "Skipping tactic"  # one of many ways to run a layer; the others are tried


class Log(trt.ILogger):
    """Keeps what TensorRT complains of, in place of printing it."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._faults: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, from any of its threads."""
        if severity.name in _FAULTS and _HARMLESS not in msg:
            self._faults.append(msg)

    def take_cause(self) -> str:
        """The first complaint since this was last asked, in one line; others follow from it."""
        faults, self._faults = self._faults, []
        first = faults[0].strip() if faults else "TensorRT gives no reason"
        return first.splitlines()[0]


def new_builder(log: Log) -> trt.Builder:
    """A builder that complains to `log`. Raises EngineError, without a driver for one."""
    with _making(log):
        return trt.Builder(log)


def new_runtime(log: Log) -> trt.Runtime:
    """A runtime that complains to `log`. Raises EngineError, as with a driver that is too old."""
    with _making(log):
        return trt.Runtime(log)


@contextmanager
def _making(log: Log) -> Iterator[None]:
    """Collects no garbage, and raises EngineError where TensorRT gives nothing.

    TensorRT logs while it holds a lock that the end of a builder or runtime takes as well. If
    garbage were collected within our log, and one of them were in it, all would wait for ever.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    except TypeError:  # pybind11's word for a null pointer
        raise EngineError(log.take_cause()) from None
    finally:
        if collects:
            gc.enable()


def library_version() -> str:
    """As the cache knows it: `11.4.0.106`, or `rtx 1.7.1.116`."""
    version = str(trt.__version__)
    return f"rtx {version}" if trt.__name__ == "tensorrt_rtx" else version
