import os
from pathlib import Path

import pytest

from streamd.config import CameraConfig, HttpConfig
from streamd.config.admission import admit
from streamd.errors import AdmissionError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that cameras may be read from, with what one might try in it and beside it."""
    folder = tmp_path / "recordings"
    (folder / "monday").mkdir(parents=True)
    (folder / "gate.mp4").write_text("a recording")
    (folder / "monday" / "north gate.mp4").write_text("a recording")
    (tmp_path / "secret.mp4").write_text("another's")
    (tmp_path / "recordings-2").mkdir()
    (tmp_path / "recordings-2" / "gate.mp4").write_text("another's")
    (folder / "inside.mp4").symlink_to(folder / "gate.mp4")
    (folder / "outside.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "passwd.mp4").symlink_to("/etc/passwd")
    (folder / "null.mp4").symlink_to("/dev/null")
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    os.mkfifo(folder / "pipe.mp4")
    return folder


def admitted(url: str, *folders: Path, schemes: tuple[str, ...] = ("rtsp", "https")) -> str:
    settings = {"camera_folders": [str(f) for f in folders], "camera_schemes": schemes}
    http = HttpConfig.model_validate(settings)
    return admit(CameraConfig(id="new", url=url), http).url


def refusal(url: str, *folders: Path) -> str:
    with pytest.raises(AdmissionError) as caught:
        admitted(url, *folders)
    text = str(caught.value)
    assert text.startswith("url: ")
    assert "\n" not in text
    return text.removeprefix("url: ")


def test_a_camera_of_a_configured_scheme_is_admitted_as_it_is() -> None:
    for url in ("rtsp://ann:s3cret@h:554/s?x=1", "https://h/s.m3u8", "RTSP://h/s"):
        assert admitted(url) == url.replace("RTSP", "rtsp")


def test_other_schemes_are_refused_without_a_password() -> None:
    said = refusal("http://ann:s3cret@h/s")
    assert said == "http:// is not taken; http.camera_schemes are rtsp://, https://"


@pytest.mark.parametrize("url", ["rtsp://h/a b", "rtsp:// h"])
def test_an_address_holds_no_blank(url: str) -> None:
    assert refusal(url) == "holds a blank"


def test_without_folders_no_file_is_taken(folder: Path) -> None:
    assert refusal(str(folder / "gate.mp4")) == "files are not taken: http.camera_folders is empty"


def test_a_file_of_a_folder_is_admitted_by_its_path_without_links(folder: Path) -> None:
    real = folder.resolve()
    for url in (f"{folder}/gate.mp4", f"file://{folder}/gate.mp4", f"{folder}/inside.mp4"):
        assert admitted(url, folder) == f"{real}/gate.mp4"
    url = f"file://{folder}/monday/north%20gate.mp4"
    assert admitted(url, Path("/nowhere"), folder) == f"{real}/monday/north gate.mp4"


def test_relative_paths_start_where_those_of_the_file_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert admitted("recordings/gate.mp4", Path("recordings")) == f"{folder.resolve()}/gate.mp4"
    assert refusal("secret.mp4", Path("recordings")) == "lies in none of http.camera_folders"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "/dev/video0",
        "/proc/self/environ",
        "{folder}-2/gate.mp4",
        "{folder}/../secret.mp4",
        "file://{folder}/%2e%2e/secret.mp4",
        "{folder}/outside.mp4",
        "{folder}/passwd.mp4",
        "{folder}/up/secret.mp4",
        "{folder}/null.mp4",
        "{folder}/loop.mp4",
        "{folder}/pipe.mp4",
        "{folder}/monday",
        "{folder}/none.mp4",
        "{folder}/gate.mp4/x",
        "file://{folder}/gate%00.mp4",
        "file:{folder}/gate.mp4",
        "concat:{folder}/gate.mp4",
        "subfile,,start,0,end,9,,:{folder}/gate.mp4",
        "crypto:{folder}/gate.mp4",
        "pipe:0",
        "fd:",
        "data:video/mp4;base64,AAAA",
        "lavfi:testsrc",
        "tcp:h:6379",
    ],
)
def test_nothing_else_of_this_machine_can_be_named(folder: Path, path: str) -> None:
    refusal(path.format(folder=folder), folder)


def test_an_answer_does_not_tell_which_files_exist_elsewhere(folder: Path) -> None:
    assert refusal("/etc/passwd", folder) == refusal("/etc/no-such-file", folder)
