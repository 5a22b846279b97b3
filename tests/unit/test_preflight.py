"""What an image promises to find."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from streamd import preflight
from streamd.config import ModelConfig, load_config
from streamd.errors import SetupError
from streamd.preflight import (
    check_mounted,
    check_surroundings,
    check_working_folder,
    missing_files,
    unreadable_tls_files,
    unwritable_log,
    unwritable_spool,
)

NOBODY = 65534
IN_IMAGE = {"STREAMD_VOLUMES": ""}


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be read or written."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "getuid", lambda: 1234)


@pytest.fixture
def no_root() -> Iterator[None]:
    """A folder without its bits is closed to root as well."""
    user = os.getuid()
    if user == 0:
        os.setresuid(NOBODY, NOBODY, 0)
    yield
    os.setresuid(user, user, user)


def test_without_an_image_nothing_is_checked(tmp_path: Path, nobody: None) -> None:
    check_mounted(tmp_path / "none.yaml", {})
    check_surroundings(ModelConfig(), {})


def test_a_missing_configuration_says_how_to_mount_one(tmp_path: Path) -> None:
    path = tmp_path / "streamd.yaml"
    with pytest.raises(SetupError, match=rf"^{path}: no such file; mount one: -v .*:{path}:ro"):
        check_mounted(path, IN_IMAGE)
    path.write_text("cameras: []")
    check_mounted(path, IN_IMAGE)


def test_an_unreadable_configuration_says_who_may_read_it(tmp_path: Path, nobody: None) -> None:
    path = tmp_path / "streamd.yaml"
    path.write_text("cameras: []")
    with pytest.raises(SetupError, match=rf"^{path}: user 1234 may not read it; .*--user \d+"):
        check_mounted(path, IN_IMAGE)


def test_volumes_must_be_there_and_writable(tmp_path: Path) -> None:
    check_surroundings(ModelConfig(), {"STREAMD_VOLUMES": f"{tmp_path}:{tmp_path}"})
    missing = tmp_path / "spool"
    with pytest.raises(SetupError, match=rf"^{missing}: no such folder; mount a volume there"):
        check_surroundings(ModelConfig(), {"STREAMD_VOLUMES": f"{tmp_path}:{missing}"})


def test_a_volume_of_somebody_else_names_both(tmp_path: Path, nobody: None) -> None:
    owner = tmp_path.stat().st_uid
    with pytest.raises(
        SetupError, match=rf"^{tmp_path}: user 1234 cannot write to it; it belongs to user {owner}"
    ):
        check_surroundings(ModelConfig(), {"STREAMD_VOLUMES": str(tmp_path)})


def test_a_read_only_volume_is_told_as_that(
    tmp_path: Path, nobody: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(SetupError, match=rf"^{tmp_path}: is read-only; mount a volume there"):
        check_surroundings(ModelConfig(), {"STREAMD_VOLUMES": str(tmp_path)})


def test_an_image_for_gpus_wants_one_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wants = {"STREAMD_GPU": "required"}
    monkeypatch.setattr(preflight, "driver_missing", lambda: "no NVIDIA driver is installed")
    with pytest.raises(SetupError, match=r"^no NVIDIA driver is installed: .*--gpus all"):
        check_surroundings(ModelConfig(), wants)
    check_surroundings(ModelConfig(backend="openvino"), wants)
    check_surroundings(ModelConfig(), {"STREAMD_GPU": ""})
    monkeypatch.setattr(preflight, "driver_missing", lambda: None)
    check_surroundings(ModelConfig(), wants)


def test_a_log_that_cannot_be_written_is_a_fault_and_nothing_is_made(tmp_path: Path) -> None:
    def faults(file: Path) -> list[str]:
        text = f"log: {{file: '{file}'}}\ncameras: [{{id: a, url: 'rtsp://h/x'}}]\n"
        (tmp_path / "c.yaml").write_text(text)
        return [str(fault) for fault in unwritable_log(load_config(tmp_path / "c.yaml"))]

    assert faults(tmp_path / "new" / "log.jsonl") == []
    (fault,) = faults(tmp_path)
    assert f"c.yaml:1: log.file: {tmp_path}: user" in fault
    (fault,) = faults(tmp_path / "c.yaml" / "log.jsonl")
    assert "cannot write it" in fault
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_a_spool_that_could_not_be_used_is_told_before_it_is_needed(tmp_path: Path) -> None:
    def what(folder: Path | str) -> str | None:
        text = f"redis: {{spool: {{path: {folder}}}}}\ncameras: [{{id: a, url: 'rtsp://h/x'}}]\n"
        (tmp_path / "c.yaml").write_text(text)
        fault = unwritable_spool(load_config(tmp_path / "c.yaml"))
        return None if fault is None else str(fault)

    assert what("null") is None
    assert what(tmp_path) is None
    assert what(tmp_path / "new" / "spool") is None
    found = what(tmp_path / "c.yaml" / "spool")
    assert found is not None
    assert "c.yaml:1: redis.spool.path: " in found
    assert "events would wait in memory alone" in found
    assert what(tmp_path / "c.yaml") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_files_of_tls_that_cannot_be_read_are_faults(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    text = (
        f"redis: {{url: 'rediss://h', tls_ca: {tmp_path}/ca.pem, tls_cert: {tmp_path}, "
        f"tls_key: {tmp_path}/none.pem}}\ncameras: [{{id: a, url: 'rtsp://h/x'}}]\n"
    )
    (tmp_path / "c.yaml").write_text(text)
    faults = unreadable_tls_files(load_config(tmp_path / "c.yaml"))
    assert [(fault.key, fault.what) for fault in faults] == [
        ("redis.tls_cert", f"{tmp_path}: user {os.getuid()} cannot read it"),
        ("redis.tls_key", f"{tmp_path}/none.pem: no such file"),
    ]


def test_what_is_in_a_folder_that_is_closed_to_this_user_is_a_fault(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    text = f"log: {{file: {closed}/x.jsonl}}\ncameras: [{{id: a, url: {closed}/clip.mp4}}]\n"
    (tmp_path / "c.yaml").write_text(text)
    config = load_config(tmp_path / "c.yaml")
    request.getfixturevalue("no_root")
    (log,) = unwritable_log(config)
    (camera,) = missing_files(config)
    assert log.what == f"{closed}/x.jsonl: user {os.getuid()} cannot write it"
    told = f"{closed}/clip.mp4: user {os.getuid()} cannot read it: Permission denied"
    assert (camera.key, camera.what) == ("cameras[0].url", told)


def test_a_working_folder_that_is_closed_to_this_user_is_told_before_workers_die_of_it(
    tmp_path: Path, nobody: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError, match=rf"^{tmp_path}: user 1234 may not enter this folder; "):
        check_working_folder()
