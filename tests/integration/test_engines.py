"""Engines as users meet them: `streamd build`, `streamd engines`, and the daemon's cache."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest

from streamd.demo.clips import Clip
from streamd.engines.backends import installed_backends
from streamd.engines.model_file import inspect_model

from .harness import DaemonFactory, eventually
from .test_bad_input import streamd

SHAPES = "engines/shapes.onnx"
SMALL = ("--imgsz", "320", "--batch-size", "2", "--precision", "fp32")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A cache with one engine in it, and what `streamd build` said of that."""
    cache = tmp_path_factory.mktemp("cache")
    code, out, errors = streamd("build", SHAPES, *SMALL, "--output", str(cache), "--json")
    assert (code, errors) == (0, [])
    return cache, json.loads(out)


def copied(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the cache, and the folder of the engine in it."""
    cache = tmp_path / "cache"
    shutil.copytree(built[0], cache)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    return cache, folder


def files_of(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_what_was_built_is_told_proved_and_listed(built: tuple[Path, dict[str, Any]]) -> None:
    cache, result = built
    assert (result["precision"], result["ladder"], result["shapes"]) == (
        "fp32",
        [1, 2],
        ["320x320"],
    )
    assert result["agreement"] >= 0.99
    assert result["proof"]["compared"] > 100
    assert result["size_mb"] > 1
    code, out, _ = streamd("engines", "--cache", str(cache), "--json")
    (listed,) = json.loads(out)
    assert (code, listed["fits"], listed["folder"]) == (0, True, result["folder"])
    code, out, _ = streamd("engines", "--cache", str(cache))
    assert out.count("\n") == 1
    assert out.rstrip().endswith("fits")


def test_building_again_takes_what_is_there(built: tuple[Path, dict[str, Any]]) -> None:
    cache, result = built
    options = (*SMALL, "--output", str(cache), "--json")
    assert json.loads(streamd("build", SHAPES, *options)[1]) == result


def test_a_damaged_engine_is_built_again(
    built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    cache, folder = copied(built, tmp_path)
    blob = folder / "320x320-1.blob"
    whole = blob.stat().st_size
    os.truncate(blob, whole // 2)
    options = (*SMALL, "--output", str(cache))
    code, _, errors = streamd("build", SHAPES, *options)
    assert code == 0
    assert any("320x320-1.blob: its checksum is wrong" in line for line in errors)
    assert blob.stat().st_size == whole
    assert streamd("build", SHAPES, *options)[::2] == (0, [])  # and now it is taken as it is


@pytest.mark.parametrize(
    ("option", "value", "what"),
    [
        ("--min-agreement", "1.5", "less than or equal to 1"),
        ("--precision", "fp8", "'bf16', 'fp16' or 'int8'"),
        ("--imgsz", "big", "none of auto, N, HEIGHTxWIDTH with sides of 32 or more"),
        ("--imgsz", "16x640", "none of auto, N, HEIGHTxWIDTH with sides of 32 or more"),
        ("--backend", "magic", "'openvino' or 'onnxruntime'"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path: Path, option: str, value: str, what: str) -> None:
    code, out, errors = streamd("build", SHAPES, "--output", str(tmp_path), option, value)
    assert (code, out) == (2, "")
    (line,) = errors
    assert line.startswith(f"{option}: '{value}': ")
    assert what in line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--precision", "int8"], "--calibrate: int8 needs pictures to calibrate with"),
        (["--calibrate", "none/"], "--calibrate: no such file or folder: none/"),
        (["--calibrate", "ftp://u:q7@h/x"], "--calibrate: 'ftp://***@h/x': scheme 'ftp' is none"),
        (["--backend", "tensorrt"], "--backend: tensorrt "),
        (["--backend", "onnxruntime", "--precision", "bf16"], "--precision: onnxruntime runs "),
    ],
)
def test_what_cannot_be_built_as_asked_is_said_of_the_option(
    built: tuple[Path, dict[str, Any]], options: list[str], line: str
) -> None:
    if "tensorrt" in options and "tensorrt" in installed_backends():
        pytest.skip("there is TensorRT")
    cache = ("--output", str(built[0]))
    code, out, errors = streamd("build", SHAPES, *SMALL, *cache, *options)
    assert (code, out) == (2, "")
    assert errors[-1].startswith(line)
    assert "q7" not in errors[-1]


def test_an_engine_that_is_kept_is_held_to_what_is_asked_now(
    built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    cache, folder = copied(built, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["proof"] |= {"agreement": 0.985, "bar": 0.9}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    options = (*SMALL, "--output", str(cache))
    for asked, bar in (("auto", "0.99"), ("0.986", "0.986")):
        code, out, errors = streamd("build", SHAPES, *options, "--min-agreement", asked)
        assert (code, out) == (1, "")
        assert errors == [
            f"{folder}: the fp32 engine that is kept is not accurate enough "
            f"(bar {bar}): agreement 0.985; it was built for less"
        ]
    assert streamd("build", SHAPES, *options, "--min-agreement", "0.98")[0] == 0


def test_prune_removes_what_does_not_fit_and_what_was_not_finished(
    built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    cache, folder = copied(built, tmp_path)
    other = cache / "other-0123456789ab"
    shutil.copytree(folder, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["key"]["version"] = "1999.1"
    (other / "manifest.json").write_text(json.dumps(manifest))
    (cache / ".building-shapes-xyz").mkdir()
    code, out, errors = streamd("engines", "--cache", str(cache), "--prune", "--json")
    assert code == 0
    assert [Path(listed["folder"]).name for listed in json.loads(out)] == [folder.name]
    assert "built with openvino 1999.1" in errors[0]
    assert errors[1].endswith(".building-shapes-xyz: was not finished")
    assert files_of(cache) == [folder.name]


def test_a_build_that_is_killed_leaves_the_cache_whole(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "streamd",
            "build",
            SHAPES,
            *SMALL,
            "--output",
            str(tmp_path),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        eventually(lambda: list(tmp_path.glob(".building-*/*.blob")), what="a first file")
        (child,) = psutil.Process(process.pid).children()
        child.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    last = errors.splitlines()[-1]
    assert last == f"{SHAPES}: the process that built the engine was ended by SIGKILL"
    assert json.loads(streamd("engines", "--cache", str(tmp_path), "--json")[1]) == []
    assert streamd("build", SHAPES, *SMALL, "--output", str(tmp_path))[0] == 0
    streamd("engines", "--cache", str(tmp_path), "--prune")
    assert len(files_of(tmp_path)) == 1


def test_two_at_once_build_once(tmp_path: Path) -> None:
    options = (*SMALL, "--output", str(tmp_path), "--json")
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(streamd("build", SHAPES, *options)[1]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    assert len(files_of(tmp_path)) == 1


def test_an_engine_of_a_cpu_of_that_name_with_other_instructions_is_none_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Virtual CPUs share names; OpenVINO does not load what was compiled for another one."""
    options = (SHAPES, *SMALL, "--backend", "openvino", "--output", str(tmp_path))
    assert streamd("build", *options)[0] == 0
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    (engine,) = json.loads(streamd("engines", "--cache", str(tmp_path), "--json")[1])
    if "Intel AVX2; " in engine["device"]:
        pytest.skip("this CPU has no more than AVX2")
    assert "Intel AVX2; " in engine["misfit"]
    assert streamd("build", *options)[0] == 0
    assert len(files_of(tmp_path)) == 2


def test_no_space_left_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=False
    )
    if mounted.returncode:
        pytest.skip("this system does not let a file system be mounted")
    try:
        code, _, errors = streamd("build", SHAPES, *SMALL, "--output", str(tmp_path))
        assert code == 1
        assert errors[-1].startswith(f"{tmp_path}: no space left for the engine")
        assert files_of(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_daemon_builds_once_and_says_why_it_builds_again(
    daemon: DaemonFactory, clip: Clip, tmp_path: Path
) -> None:
    def run(batch_size: int) -> Any:
        running = daemon(
            f"model: {{cache: {tmp_path}/cache, batch_size: {batch_size}, imgsz: 320, "
            "precision: fp32}\n"
            f"cameras: [{{id: a, url: {clip.path}}}]",
            "--until-done",
        )
        assert running.wait() == 0
        return running

    first, again, other = run(2), run(2), run(1)
    assert first.logged("engine_build")[0]["step"].endswith("no engine of shapes was built yet")
    assert not first.logged("engine_ready")[0]["cached"]
    assert not again.logged("engine_build")
    assert again.logged("engine_ready")[0]["cached"]
    assert again.logged("engine_ready")[0]["agreement"] >= 0.99
    assert other.logged("engine_build")[0]["step"].endswith("ladder was 1 2, is 1")


def test_a_stop_ends_a_build_and_leaves_nothing(
    daemon: DaemonFactory, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "file").write_text("")
    running = daemon(
        f"model: {{cache: {tmp_path}/file}}\ncameras: [{{id: a, url: {clip.path}, loop: true}}]"
    )
    eventually(lambda: len(running.logged("engine_build")) > 2)
    assert list((tmp_path / "tmp").iterdir())
    running.process.send_signal(signal.SIGTERM)
    assert running.wait() == 0
    assert not running.logged("worker_killed")
    assert not running.logged("worker_ended")
    assert not list((tmp_path / "tmp").iterdir())


def test_a_cache_that_cannot_be_written_costs_the_build_only(
    daemon: DaemonFactory, clip: Clip, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    running = daemon(
        f"model: {{cache: {tmp_path}/file, batch_size: 1, imgsz: 320, precision: fp32}}\n"
        f"cameras: [{{id: a, url: {clip.path}}}]",
        "--until-done",
    )
    assert running.wait() == 0
    assert "engines are not kept" in running.logged("engine_build")[0]["step"]
    assert running.events()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("cat.pt", "cat.pt: is no checkpoint of PyTorch"),
        ("none.pt", "none.pt: no such file"),
        ("none.onnx", "none.onnx: no such file"),
        ("wide.onnx", "wide.onnx: its input has 16 channels, not 3"),
        ("own.engine", "own.engine: is built already; name it as model.path"),
    ],
)
def test_what_cannot_be_built_is_one_line(tmp_path: Path, name: str, line: str) -> None:
    if name == "cat.pt":
        (tmp_path / name).write_bytes(b"meow" * 100)
    if name == "wide.onnx":
        model = onnx.load(str(Path(__file__).parents[2] / SHAPES))
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 16
        onnx.save(model, str(tmp_path / name))
    code, out, errors = streamd("build", str(tmp_path / name), "--output", str(tmp_path / "cache"))
    assert (code, out) == (2, "")
    assert errors == [f"{tmp_path}/{line}"]


def test_an_engine_of_ultralytics_that_is_cut_off_is_one_line(tmp_path: Path, clip: Clip) -> None:
    engine = tmp_path / "own.engine"
    engine.write_bytes((3000).to_bytes(4, "little") + b'{"task": "detect", "names": {')
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {{path: {engine}}}\ncameras: [{{id: a, url: {clip.path}}}]\n")
    code, _, errors = streamd("check", str(config))
    what = "is truncated, or no TensorRT engine of ultralytics"
    assert (code, errors) == (2, [f"{config}:1: model.path: {engine}: {what}"])


def test_a_pickle_of_something_else_is_not_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path}/exploded",)

    with zipfile.ZipFile(tmp_path / "bomb.pt", "w") as archive:
        archive.writestr("bomb/data.pkl", pickle.dumps(Bomb(), protocol=2))
    code, _, errors = streamd("build", str(tmp_path / "bomb.pt"), "--output", str(tmp_path))
    assert code == 2
    (line,) = errors
    assert "is no checkpoint of ultralytics: it refers to posix.system" in line
    assert not (tmp_path / "exploded").exists()


@pytest.mark.assets
def test_a_checkpoint_without_the_extra_says_what_to_install(tmp_path: Path, assets: Path) -> None:
    if find_spec("ultralytics"):
        pytest.skip("ultralytics is installed")
    checkpoint = assets / "models" / "yolov8n_coco.pt"
    code, _, errors = streamd("build", str(checkpoint), "--output", str(tmp_path))
    assert code == 2
    assert "pip install '.[export]'" in errors[-1]


@pytest.mark.slow
@pytest.mark.assets
def test_a_checkpoint_becomes_an_engine(assets: Path, tmp_path: Path) -> None:
    if not find_spec("ultralytics"):
        pytest.skip("ultralytics is not installed: pip install '.[export]'")
    checkpoint = assets / "models" / "yolov8n_coco.pt"
    pictures = assets / "videos" / "pedestrians.mp4"
    options = ("--output", str(tmp_path), "--batch-size", "1", "--calibrate", str(pictures))
    code, out, errors = streamd("build", str(checkpoint), *options, "--json", within_s=300)
    assert (code, errors) == (0, [])
    built = json.loads(out)
    assert built["agreement"] >= 0.99
    assert built["proof"]["compared"] > 100
    (exported,) = tmp_path.glob("exported-*/yolov8n_coco.onnx")
    given = inspect_model(str(assets / "models" / "yolov8n_coco.onnx"))
    assert inspect_model(str(exported)).labels == given.labels
