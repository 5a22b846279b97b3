"""Which backend runs the model on this machine, and why."""

from importlib.util import find_spec

from streamd.engines.contract import Backend
from streamd.errors import EngineError


def choose_backend(wanted: str) -> tuple[str, str]:
    """The backend's name for what the configuration asks for, and why.

    Raises EngineError where nothing that is installed fits.
    """
    if wanted != "auto":
        if not find_spec(wanted):
            raise EngineError(
                f"model.backend: {wanted} is not installed; pip install 'streamd[{wanted}]'"
            )
        return wanted, "configured"
    return _best_installed()


def load_backend(name: str) -> Backend:
    """The backend of that name; only now is its library imported."""
    # Only the process that infers pays for a backend, and only for the one that it uses.
    if name == "openvino":
        from streamd.engines.openvino_engine import OpenVinoBackend  # noqa: PLC0415

        return OpenVinoBackend()
    from streamd.engines.onnxruntime_engine import OnnxRuntimeBackend  # noqa: PLC0415

    return OnnxRuntimeBackend()


def installed_backends() -> list[str]:
    """Names of the backends whose library is installed."""
    return [name for name in ("openvino", "onnxruntime") if find_spec(name)]


def _best_installed() -> tuple[str, str]:
    if find_spec("openvino"):
        return "openvino", "auto: it is installed"
    if find_spec("onnxruntime"):
        return "onnxruntime", "auto: openvino is not installed"
    raise EngineError("model.backend: none of openvino, onnxruntime is installed")
