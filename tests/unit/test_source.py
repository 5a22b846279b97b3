from pathlib import Path

import av
import numpy as np
import pytest

from streamd.config import CameraConfig
from streamd.config.section import local_path
from streamd.errors import SourceError
from streamd.ingest import backoff_of
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
    ("url", "host"),
    [
        ("rtsp://h/s", "h"),
        ("rtsps://ann:p%40ss@h:322/s?a=b@c", "h:322"),
        ("http://h:8080", "h:8080"),
        ("clips/gate.mp4", ""),
        ("file:///srv/gate.mp4", ""),
    ],
)
def test_the_channels_of_a_recorder_have_one_host(url: str, host: str) -> None:
    assert CameraConfig(id="gate", url=url).host == host


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


@pytest.mark.parametrize(("channels", "first_s"), [(1, 1.0), (4, 1.0), (16, 4.0)])
def test_the_first_step_is_longer_for_the_channels_of_a_recorder(
    channels: int, first_s: float
) -> None:
    assert backoff_of(channels).first_s == first_s


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_host_that_is_unknown_is_named(scheme: str) -> None:
    camera = CameraConfig(id="a", url=f"{scheme}://ann:q7@camera.invalid/x")
    with pytest.raises(SourceError) as raised:
        source_for(camera).open()
    assert str(raised.value) == "unreachable: unknown host camera.invalid"


def test_a_title_that_is_no_utf8_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "gate.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "XXXXXX"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"XXXXXX", b"Einf\xfch"))
    feed = source_for(CameraConfig(id="gate", url=str(path))).open()
    assert feed.info.codec == "mpeg4"
    feed.close()
