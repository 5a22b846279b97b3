import pytest

from streamd.config import CameraConfig
from streamd.config.section import local_path
from streamd.source import FileSource, HttpSource, RtspSource, source_for


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("rtsp://h/s", RtspSource),
        ("RTSPS://h/s", RtspSource),
        ("rtsp://ann:p[x@h/s", RtspSource),
        ("https://h/s.m3u8", HttpSource),
        ("clips/gate.mp4", FileSource),
        ("rtsp:gate.mp4", FileSource),
        ("file:///srv/gate.mp4", FileSource),
        ("//[x", FileSource),
    ],
)
def test_the_url_decides_what_reads_a_camera(url: str, kind: type) -> None:
    assert isinstance(source_for(CameraConfig(id="gate", url=url)), kind)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("clips/100%25 a.mp4", "clips/100%25 a.mp4"),
        ("file:///srv/north%20gate.mp4", "/srv/north gate.mp4"),
        ("file://localhost/srv/a.mp4", "/srv/a.mp4"),
        ("file:///srv/a#1.mp4", "/srv/a#1.mp4"),
        ("file://[x", "/"),
    ],
)
def test_a_file_url_names_a_path(url: str, path: str) -> None:
    assert local_path(url) == path
