"""The stubs that mypy checks calls of TensorRT against are what its bindings say of themselves."""

import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tools.record_tensorrt_api import record

ROOT = Path(__file__).parent.parent.parent
RECORDED = sorted(ROOT.glob("typings/tensorrt-*/tensorrt/__init__.pyi"))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="bindings name more types there")
def test_the_recorded_stub_is_that_of_the_installed_bindings() -> None:
    installed = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    version = ".".join(installed.__version__.split(".")[:2])
    stub = ROOT / f"typings/tensorrt-rtx-{version}/tensorrt/__init__.pyi"
    if not stub.exists():
        pytest.skip(f"tensorrt-rtx {version} was not recorded; see tools/record_tensorrt_api.py")
    assert without_version(record(importlib.import_module("tensorrt_rtx"))) == without_version(
        stub.read_text()
    )


def test_calls_are_checked_against_every_version_that_was_recorded() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    others = re.search(r"^OTHER_TENSORRT := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert others is not None
    checked = {f"typings/tensorrt-{version}" for version in others[1].split()}
    checked |= set(settings["mypy_path"]) - {"typings"}
    assert checked == {str(path.parent.parent.relative_to(ROOT)) for path in RECORDED}


@pytest.mark.parametrize("stub", RECORDED, ids=lambda path: path.parent.parent.name)
def test_a_stub_tells_whose_it_is(stub: Path) -> None:
    version = stub.parent.parent.name.rpartition("-")[2]
    assert stub.read_text().startswith(f"# TensorRT {version}.")


def without_version(stub: str) -> str:
    return stub.partition("\n")[2]
