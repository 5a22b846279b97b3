"""What a model file says of itself, whatever its kind."""

from dataclasses import replace

from streamd.engines.contract import ModelInfo
from streamd.engines.engine_file import is_engine_file, read_engine_file
from streamd.engines.onnx_model import inspect_model as inspect_onnx


def inspect_model(path: str, imgsz: str | int | tuple[int, int] = "auto") -> ModelInfo:
    """Of an ONNX file or a TensorRT engine of ultralytics; `imgsz` in place of its own size.

    Raises ModelError where it is no detector, or cannot take that size.
    """
    foreign = is_engine_file(path)
    info = read_engine_file(path, imgsz).info if foreign else inspect_onnx(path, imgsz)
    found = [file.stat() for file in info.files]
    stamp = max(each.st_mtime_ns for each in found), sum(each.st_size for each in found)
    return replace(info, stamp=stamp)
