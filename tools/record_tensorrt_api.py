"""Records what the TensorRT that is installed offers, as a stub that mypy checks calls against.

    python tools/record_tensorrt_api.py tensorrt_rtx > typings/tensorrt-rtx/tensorrt/__init__.pyi

Where only the bindings can be had (`pip install --no-deps tensorrt-cu12-bindings==11.4.0.106`),
name `tensorrt_bindings`, and --stand-ins to put empty libraries in the place of NVIDIA's own: no
call would work, but all signatures are there. That needs a C compiler.
"""

import argparse
import ctypes
import importlib
import inspect
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

CLASSES = (
    "DataType",
    "TensorIOMode",
    "NetworkDefinitionCreationFlag",
    "BuilderFlag",
    "Dims",
    "ILogger",
    "IProgressMonitor",
    "ITensor",
    "IHostMemory",
    "IOptimizationProfile",
    "INetworkDefinition",
    "IBuilderConfig",
    "Builder",
    "ParserError",
    "OnnxParser",
    "ExecutionContextAllocationStrategy",
    "IExecutionContext",
    "ICudaEngine",
    "Runtime",
)
LEFT_OUT = "INetworkDefinition.add_"  # layers come out of the ONNX parser
# What pybind11 does not tell: protocols, and which calls are documented to give None if they fail.
BASES = {"Dims": "tuple[int, ...]", "IHostMemory": "Buffer"}
NULLABLE = {"build_serialized_network", "deserialize_cuda_engine", "create_execution_context"}
TYPES = {
    "typing_extensions.Buffer": "Buffer",
    "buffer": "Buffer",
    "typing.SupportsInt": "SupportsInt",
    "typing.SupportsFloat": "SupportsFloat",
    "nvonnxparser::IParserError": "ParserError",
    "nvinfer1::ILogger::Severity": "ILogger.Severity",
    "tuple": "tuple[Any, ...]",
    "list": "list[Any]",
    **{name: name for name in ("None", "int", "str", "bool", "float", "bytes")},
}
HEAD = """\
# TensorRT {version} as its Python bindings describe themselves; what is not recorded is Any.
# Written by tools/record_tensorrt_api.py.

from collections.abc import Sequence
from typing import Any, ClassVar, SupportsFloat, SupportsInt, overload

from typing_extensions import Buffer

__version__: str
"""
LIBRARIES = {
    "libnvinfer": (
        "createInferBuilder_INTERNAL createInferRuntime_INTERNAL createInferRefitter_INTERNAL "
        "getBuilderPluginRegistry getPluginRegistry"
    ),
    "libnvinfer_plugin": "initLibNvInferPlugins",
    "libnvonnxparser": (
        "createNvOnnxParser_INTERNAL createNvOnnxParserRefitter_INTERNAL getNvOnnxParserVersion"
    ),
}
_SIGNATURE = re.compile(r"^(?:\d+\. )?(?P<name>\w*)\((?P<parameters>.*)\) -> (?P<result>.+)$")
_OWN = re.compile(r"\btensorrt(?:_rtx)?_bindings\.tensorrt(?:_rtx)?\.")


def main() -> None:
    """Prints the stub of the module that is named."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("module", help="tensorrt, tensorrt_rtx, or tensorrt_bindings")
    options.add_argument("--stand-ins", metavar="MAJOR", help="major version of the libraries")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.stand_ins:
            load_stand_ins(Path(folder), asked.stand_ins)
        print(record(importlib.import_module(asked.module)), end="")


def load_stand_ins(folder: Path, major: str) -> None:
    """Loads libraries that have the names and functions of NVIDIA's, and do nothing."""
    for name, functions in LIBRARIES.items():
        file = f"{name}.so.{major}"
        source = "".join(
            f"void *{function}(void) {{ return 0; }}\n" for function in functions.split()
        )
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{file}", "-o"]
        subprocess.run([*command, str(folder / file)], input=source, text=True, check=True)
        ctypes.CDLL(str(folder / file), ctypes.RTLD_GLOBAL)


def record(library: ModuleType) -> str:
    """The stub of a TensorRT module."""
    version = str(library.__version__)
    parts = [_class(name, getattr(library, name), "") for name in CLASSES]
    return "\n".join([HEAD.format(version=version), *parts])


def _class(name: str, kind: Any, indent: str) -> str:
    base = f"({BASES[name]})" if name in BASES else ""
    inner = indent + "    "
    lines = [f"{indent}class {name}{base}:"]
    if hasattr(kind, "__members__"):
        own = str(kind.__qualname__)
        lines += [f"{inner}{member}: ClassVar[{own}]" for member in kind.__members__]
        lines.append(f"{inner}def __int__(self) -> int: ...")
    for attribute, value in sorted(vars(kind).items()):
        if not f"{name}.{attribute}".startswith(LEFT_OUT):
            lines += _member(attribute, value, inner)
    if len(lines) == 1:
        lines.append(f"{inner}...")
    return "\n".join(lines) + "\n"


def _member(name: str, value: Any, indent: str) -> Iterator[str]:
    if name.startswith("_") and name != "__init__":
        return
    if isinstance(value, type):
        yield _class(name, value, indent).rstrip("\n")
    elif isinstance(value, property):
        yield from _property(name, value, indent)
    elif inspect.isroutine(value) or type(value).__name__ == "instancemethod":
        yield from _method(name, value.__doc__ or "", indent)


def _property(name: str, value: property, indent: str) -> Iterator[str]:
    match = _SIGNATURE.match((getattr(value.fget, "__doc__", None) or "").strip())
    kind = _type(match["result"]) if match else "Any"
    yield f"{indent}@property"
    yield f"{indent}def {name}(self) -> {kind}: ..."
    if value.fset is not None:
        yield f"{indent}@{name}.setter"
        yield f"{indent}def {name}(self, value: {_accepted(kind)}) -> None: ..."


def _method(name: str, text: str, indent: str) -> Iterator[str]:
    found = [match for line in text.splitlines() if (match := _SIGNATURE.match(line.strip()))]
    signatures = [match for match in found if match["name"] == name and "*args" not in match[0]]
    for match in signatures:
        if len(signatures) > 1:
            yield f"{indent}@overload"
        result = _type(match["result"])
        if name in NULLABLE:
            result += " | None"
        parameters = ", ".join(_parameters(match["parameters"]))
        yield f"{indent}def {name}({parameters}) -> {result}: ..."


def _parameters(text: str) -> Iterator[str]:
    for number, part in enumerate(re.split(r", (?=\w+: )", text)):
        name, _, rest = part.partition(": ")
        kind, _, default = rest.partition(" = ")
        if number == 0:
            yield "self"
        elif not default:
            yield f"{name}: {_accepted(_type(kind))}"
        else:
            empty = " | None" if default == "None" else ""
            yield f"{name}: {_accepted(_type(kind))}{empty} = ..."


def _accepted(kind: str) -> str:
    """Whatever can be iterated is taken for Dims."""
    return "Dims | Sequence[int]" if kind == "Dims" else kind


def _type(text: str) -> str:
    """As pybind11 writes it -> as a stub has it."""
    plain = _OWN.sub("", text.strip())
    item = re.fullmatch(r"list\[(.+)\]|List\[(.+)\]", plain)
    if item:
        return f"list[{_type(item[1] or item[2])}]"
    if plain.split(".")[0] in CLASSES:
        return plain
    return TYPES.get(plain, "Any")


if __name__ == "__main__":
    main()
