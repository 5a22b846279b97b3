"""What `streamd check` says of a configuration before anything runs."""

from pathlib import Path

import pytest

from streamd.checks import faults_of
from streamd.config import Config, load_config
from streamd.daemon import run_daemon
from streamd.errors import ConfigError

CAMERA = "cameras: [{id: gate, url: 'rtsp://camera-1.example/stream'}]\n"


def loaded(folder: Path, model: str) -> Config:
    path = folder / "streamd.yaml"
    path.write_text(f"model: {model}\n{CAMERA}")
    return load_config(path, {})


def faults(folder: Path, model: str) -> list[str]:
    file = f"{folder / 'streamd.yaml'}:"
    found = faults_of(loaded(folder, model), connect=False)
    return [str(fault).removeprefix(file) for fault in found]


def test_nothing_is_wrong_with_the_least(tmp_path: Path) -> None:
    assert faults(tmp_path, "{}") == []


def test_int8_without_pictures_is_told_before_a_worker_stumbles_over_it(tmp_path: Path) -> None:
    expected = "1: model.calibrate: int8 needs pictures to calibrate with"
    assert faults(tmp_path, "{precision: int8}") == [expected]
    absent = f"{{precision: int8, calibrate: {tmp_path}/none}}"
    assert faults(tmp_path, absent) == [
        f"1: model.calibrate: no such file or folder: {tmp_path}/none"
    ]
    with pytest.raises(ConfigError, match="int8 needs pictures"):
        run_daemon(loaded(tmp_path, "{precision: int8}"))


def test_a_backend_that_is_not_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.engines.backends.find_spec", lambda _: None)
    (fault,) = faults(tmp_path, "{backend: openvino}")
    assert fault.startswith("1: model.backend: openvino is not installed; pip install")
