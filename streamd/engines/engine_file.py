"""TensorRT engines as ultralytics exports them:

4 bytes     length of the header, little-endian
header      JSON: task, names, stride, imgsz, batch, ...
the rest    a plan, bound to one version of TensorRT and one kind of GPU
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from streamd.engines.contract import ModelInfo, batch_ladder
from streamd.engines.model_path import find_model
from streamd.errors import ModelError
from streamd.slots import InputShape

_SUFFIX = ".engine"
_LENGTH_BYTES = 4
_LONGEST_HEADER = 1_000_000  # that of 1000 classes has some 30,000


@dataclass(frozen=True, slots=True)
class EngineFile:
    """A TensorRT engine of ultralytics: what its header says, and where its plan begins.

    `head` is ultralytics' name of the model's last layer, "" where the header has none.
    """

    info: ModelInfo
    precision: str
    head: str
    plan_at: int

    def plan(self) -> bytes:
        """The plan, for TensorRT. Raises ModelError where the file cannot be read."""
        try:
            return find_model(self.info.path).read_bytes()[self.plan_at :]
        except OSError as error:
            raise ModelError(f"{self.info.path}: {error.strerror}") from None


# What a damaged header says beyond this would be taken for memory.
Side = Annotated[int, Field(ge=32, le=8192)]


class _Arguments(BaseModel):
    """How it was exported."""

    dynamic: bool = False
    half: bool = False
    int8: bool = False
    nms: bool = False


class _Header(BaseModel):
    """What ultralytics writes before the plan; keys that streamd has no use for are left out."""

    task: str
    names: dict[int, str]
    imgsz: tuple[Side, Side]
    stride: int = Field(32, ge=1, le=1024)
    batch: int = Field(1, ge=1, le=1024)
    channels: int = 3
    end2end: bool = False
    head: str = ""
    args: _Arguments = _Arguments()


def is_engine_file(path: str) -> bool:
    """Whether `path` is to be taken for a TensorRT engine, by its name."""
    return path.endswith(_SUFFIX)


def read_engine_file(path: str, imgsz: str | int | tuple[int, int] = "auto") -> EngineFile:
    """The engine at `path`, whose own size `imgsz` has to be.

    Raises ModelError where it is none of ultralytics, no detector, or of another size.
    """
    packed = _packed_header(path)
    header = _header(packed, path)
    _check(header, imgsz, path)
    plan_at = _LENGTH_BYTES + len(packed)
    return EngineFile(_info(header, path), _precision(header), header.head, plan_at)


def _packed_header(path: str) -> bytes:
    try:
        with find_model(path).open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            packed = file.read(length) if length <= _LONGEST_HEADER else b""
            has_plan = bool(file.read(1))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    if not packed:
        raise ModelError(
            f"{path}: has no header of ultralytics, which names its classes; "
            "export it with ultralytics, or give streamd its ONNX file"
        )
    if not has_plan:
        raise ModelError(f"{path}: is truncated, or no TensorRT engine of ultralytics")
    return packed


def _header(packed: bytes, path: str) -> _Header:
    try:
        values: Any = json.loads(packed)
        return _Header.model_validate(values)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"]) or "header"
        raise ModelError(f"{path}: its header cannot be used: {key} is missing or wrong") from None
    except ValueError:
        raise ModelError(f"{path}: is no TensorRT engine of ultralytics") from None


def _check(header: _Header, imgsz: str | int | tuple[int, int], path: str) -> None:
    if header.task != "detect":
        raise ModelError(f"{path}: is a {header.task} model, streamd runs detection models")
    if header.channels != 3:
        raise ModelError(f"{path}: its input has {header.channels} channels, not 3")
    wanted = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    if not isinstance(wanted, str) and wanted != header.imgsz:
        own, other = InputShape(*header.imgsz), InputShape(*wanted)
        raise ModelError(f"{path}: takes {own} only, not {other}; export it with that imgsz")


def _info(header: _Header, path: str) -> ModelInfo:
    final = header.end2end or header.args.nms or header.head == "RTDETRDecoder"
    return ModelInfo(
        path=path,
        name=Path(path).stem,
        labels=tuple(name for _, name in sorted(header.names.items())),
        stride=header.stride,
        shape=InputShape(*header.imgsz),
        dynamic=False,
        end_to_end=final,
        ladder=batch_ladder(header.batch) if header.args.dynamic else (header.batch,),
    )


def _precision(header: _Header) -> str:
    if header.args.int8:
        return "int8"
    return "fp16" if header.args.half else "fp32"
