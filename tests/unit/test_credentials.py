"""Passwords in files of a service manager."""

from pathlib import Path

import pytest

from streamd.config import load_config
from streamd.config.credentials import variables
from streamd.errors import ConfigError


def test_files_stand_behind_the_environment(tmp_path: Path) -> None:
    (tmp_path / "secrets.env").write_text(
        "# cameras\nCAM_USER = admin\nCAM_PASSWORD='p@ss word'\n\nEMPTY=\nREDIS=a=b\n"
    )
    (tmp_path / "TOKEN").write_text("of one line\n")
    found = variables({"CREDENTIALS_DIRECTORY": str(tmp_path), "CAM_USER": "root"})
    assert found["CAM_USER"] == "root"
    assert found["CAM_PASSWORD"] == "p@ss word"
    assert (found["EMPTY"], found["REDIS"], found["TOKEN"]) == ("", "a=b", "of one line")


def test_without_a_folder_there_is_the_environment_alone() -> None:
    environ = {"A": "b"}
    assert variables(environ) is environ


def test_what_is_no_variable_is_told_with_its_line_and_without_its_text(tmp_path: Path) -> None:
    (tmp_path / "secrets.env").write_text("A=1\nsecret password\n")
    with pytest.raises(ConfigError) as caught:
        variables({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert str(caught.value) == f"{tmp_path}/secrets.env:2: is no NAME=value"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        variables({"CREDENTIALS_DIRECTORY": str(tmp_path / "none")})


def test_a_configuration_takes_them(tmp_path: Path) -> None:
    (tmp_path / "secrets.env").write_text("CAM_PASSWORD=right\n")
    path = tmp_path / "streamd.yaml"
    path.write_text('cameras: [{id: a, url: "rtsp://u:${CAM_PASSWORD}@host/s"}]\n')
    config = load_config(path, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert config.cameras[0].url == "rtsp://u:right@host/s"
    assert not config.literal_secrets
