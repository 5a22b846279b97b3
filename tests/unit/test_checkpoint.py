import errno
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest

from streamd.config import ModelConfig
from streamd.errors import ModelError
from streamd.models.checkpoint import as_onnx, check_checkpoint, exported_path, is_checkpoint


def write_checkpoint(path: Path, *names: str) -> str:
    """A file in PyTorch's format whose pickle refers to each `module name`."""
    references = b"".join(b"c" + name.replace(" ", "\n").encode() + b"\n0" for name in names)
    pickled = b"\x80\x02" + references + pickle.dumps(OrderedDict(), protocol=2)[2:]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickled)
    return str(path)


def test_a_checkpoint_is_told_by_its_suffix() -> None:
    assert is_checkpoint("yolo11n.pt")
    assert not is_checkpoint("yolo11n.onnx")


def test_a_checkpoint_that_would_run_something_is_not_loaded(tmp_path: Path) -> None:
    detector = "ultralytics.nn.tasks DetectionModel"
    path = write_checkpoint(tmp_path / "evil.pt", detector, "os system")
    with pytest.raises(ModelError, match=rf"^{path}: .* refers to os\.system; it was not loaded$"):
        check_checkpoint(path)


def test_names_written_the_newer_way_are_seen_too(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(pickle.loads, protocol=4))
    with pytest.raises(ModelError, match=r"refers to _pickle\.loads; it was not loaded$"):
        check_checkpoint(str(path))


@pytest.mark.parametrize(
    ("model", "task"),
    [("SegmentationModel", "segment"), ("PoseModel", "pose"), ("ClassificationModel", "classify")],
)
def test_a_model_of_another_task_is_refused_by_its_name(
    tmp_path: Path, model: str, task: str
) -> None:
    path = write_checkpoint(tmp_path / "m.pt", f"ultralytics.nn.tasks {model}")
    with pytest.raises(ModelError, match=rf"^{path}: is a {task} model"):
        check_checkpoint(path)


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "weights.pt", "torch.nn.modules.conv Conv2d")
    with pytest.raises(ModelError, match="is no checkpoint of an ultralytics model"):
        check_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken"])
def test_what_is_no_checkpoint_at_all_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"^{path}: is no checkpoint of PyTorch$"):
        check_checkpoint(str(path))


def test_a_truncated_checkpoint_is_one_line(tmp_path: Path) -> None:
    path = Path(write_checkpoint(tmp_path / "m.pt", "ultralytics.nn.tasks DetectionModel"))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelError, match=r"is no checkpoint of PyTorch$"):
        check_checkpoint(str(path))


def test_without_the_extra_the_line_says_two_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.models.checkpoint.find_spec", lambda _: None)
    path = write_checkpoint(tmp_path / "m.pt", "ultralytics.nn.tasks DetectionModel")
    said = r"'.\[export\]' in streamd's source, or elsewhere: yolo export"
    with pytest.raises(ModelError, match=said):
        check_checkpoint(path)


def test_a_checkpoint_that_may_not_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(b"")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(ModelError, match=f"^{path}: Permission denied$"):
        exported_path(ModelConfig(path=str(path), cache=str(tmp_path)))


def test_an_exported_checkpoint_is_used_again_until_it_changes(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m.pt", "ultralytics.nn.tasks DetectionModel")
    config = ModelConfig(path=path, cache=str(tmp_path / "engines"))
    target = exported_path(config)
    target.parent.mkdir(parents=True)
    target.write_bytes(b"exported before")
    assert as_onnx(config, lambda _: None) == str(target)
    write_checkpoint(Path(path), "ultralytics.nn.tasks DetectionModel", "torch Size")
    assert exported_path(config) != target
    assert exported_path(config).name == "m.onnx"


def test_another_model_is_no_checkpoint_and_needs_nothing() -> None:
    assert as_onnx(ModelConfig(path="m.onnx"), lambda _: None) == "m.onnx"
