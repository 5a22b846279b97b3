"""Which backend runs the model on this machine, and why."""

from importlib.util import find_spec

from streamd.engines.contract import Backend
from streamd.errors import EngineError
from streamd.nvidia import driver_missing

_TENSORRT = ("tensorrt", "tensorrt_rtx")


def choose_backend(wanted: str, *, foreign_engine: bool = False) -> tuple[str, str]:
    """The backend's name for what the configuration asks for, and why.

    `foreign_engine` says that the model is a TensorRT engine already. Raises EngineError where
    nothing that is installed fits.
    """
    if foreign_engine:
        _check_tensorrt("model.path")
        return "tensorrt", "the model is a TensorRT engine"
    if wanted == "tensorrt":
        _check_tensorrt("model.backend")
        return wanted, "configured"
    if wanted != "auto":
        if not find_spec(wanted):
            raise EngineError(
                f"model.backend: {wanted} is not installed; pip install '.[{wanted}]'"
            )
        return wanted, "configured"
    return _best_installed()


def load_backend(name: str) -> Backend:
    """The backend of that name; only now is its library imported. Raises EngineError."""
    # Only the process that infers pays for a backend, and only for the one that it uses.
    if name == "tensorrt":
        _check_tensorrt("model.backend")
        return _tensorrt()
    if name == "openvino":
        from streamd.engines.openvino_engine import OpenVinoBackend  # noqa: PLC0415

        return OpenVinoBackend()
    from streamd.engines.onnxruntime_engine import OnnxRuntimeBackend  # noqa: PLC0415

    return OnnxRuntimeBackend()


def installed_backends() -> list[str]:
    """Names of the backends whose library is installed."""
    found = ["tensorrt"] if _tensorrt_installed() else []
    return [*found, *(name for name in ("openvino", "onnxruntime") if find_spec(name))]


def _best_installed() -> tuple[str, str]:
    missing = driver_missing()
    if missing is None and _tensorrt_installed():
        return "tensorrt", "auto: an NVIDIA GPU is here"
    why = "auto: tensorrt is not installed" if missing is None else f"auto: {missing}"
    if find_spec("openvino"):
        return "openvino", why
    if find_spec("onnxruntime"):
        return "onnxruntime", f"{why}, openvino is not installed"
    raise EngineError("model.backend: none of tensorrt, openvino, onnxruntime is installed")


def _tensorrt_installed() -> bool:
    return any(find_spec(name) for name in _TENSORRT) and find_spec("pycuda") is not None


def _tensorrt() -> Backend:
    try:
        from streamd.engines.tensorrt_engine import TensorRtBackend  # noqa: PLC0415
    except (ImportError, OSError) as error:  # a library of CUDA that they need is not found
        raise EngineError(f"model.backend: tensorrt cannot be loaded: {error}") from None
    return TensorRtBackend()


def _check_tensorrt(what: str) -> None:
    if not _tensorrt_installed():
        raise EngineError(f"{what}: tensorrt is not installed; pip install '.[tensorrt]'")
    missing = driver_missing()
    if missing:
        raise EngineError(f"{what}: tensorrt cannot run here: {missing}")
