"""What a model file says of itself, whatever its kind."""

from streamd.engines.contract import ModelInfo
from streamd.engines.engine_file import is_engine_file, read_engine_file
from streamd.engines.onnx_model import inspect_model as inspect_onnx


def inspect_model(path: str, imgsz: str | int | tuple[int, int] = "auto") -> ModelInfo:
    """Of an ONNX file or a TensorRT engine of ultralytics; `imgsz` in place of its own size.

    Raises ModelError where it is no detector, or cannot take that size.
    """
    if is_engine_file(path):
        return read_engine_file(path, imgsz).info
    return inspect_onnx(path, imgsz)
