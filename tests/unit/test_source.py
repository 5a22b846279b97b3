import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import av.error
import numpy as np
import pytest
from av.stream import Disposition

from streamd.config import CameraConfig
from streamd.config.section import local_path
from streamd.errors import Reason, SourceError
from streamd.ingest.feed import ContainerFeed, StreamInfo, _video_stream
from streamd.ingest.source import FileSource, HttpSource, RtspSource, source_for
from streamd.ingest.worker import backoff_of


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


OURS = SimpleNamespace(name="the video")
OTHERS = SimpleNamespace(name="its sound")


def played(
    monkeypatch: pytest.MonkeyPatch, packets: Iterator[Any], *, live: bool = True
) -> Iterator[Any]:
    """The pictures of a feed, whose every read takes a second and which stalls after five."""
    now_s = itertools.count()
    monkeypatch.setattr("streamd.ingest.feed.time.monotonic", lambda: float(next(now_s)))
    container = SimpleNamespace(
        demux=lambda: packets, format=SimpleNamespace(name="mpegts"), name="file:a.ts", size=9
    )
    info = StreamInfo("mpeg2video", 25.0, live)
    return ContainerFeed(cast("Any", container), cast("Any", OURS), info, 5.0).pictures()


def packet_of(stream: object) -> Any:
    return SimpleNamespace(stream=stream, pts=0, size=9, is_keyframe=True)


def test_a_stream_whose_others_flow_on_has_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = itertools.chain([packet_of(OURS)], itertools.repeat(packet_of(OTHERS)))
    pictures = played(monkeypatch, flow)
    assert next(pictures).first.stream is OURS
    with pytest.raises(SourceError, match="stalled: no packet for 5 s"):
        next(pictures)


def breaks_off(after_reads: int) -> Iterator[Any]:
    yield from [packet_of(OTHERS)] * (after_reads - 1)
    raise av.error.OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("after_reads", "live", "reason"),
    [(5, True, Reason.STALLED), (1, True, Reason.ENDED), (5, False, Reason.UNREACHABLE)],
)
def test_whatever_error_comes_of_a_read_that_timed_out_it_is_a_stall(
    monkeypatch: pytest.MonkeyPatch, after_reads: int, live: bool, reason: Reason
) -> None:
    with pytest.raises(SourceError) as raised:
        next(played(monkeypatch, breaks_off(after_reads), live=live))
    assert raised.value.reason is reason


def video(width: int = 64, *, cover: bool = False) -> Any:
    return SimpleNamespace(
        codec_context=SimpleNamespace(width=width, height=48),
        disposition=Disposition.attached_pic if cover else Disposition.default,
    )


def container_of(format_name: str, *videos: Any) -> Any:
    return SimpleNamespace(
        streams=SimpleNamespace(video=videos), format=SimpleNamespace(name=format_name)
    )


@pytest.mark.parametrize(
    ("format_name", "videos", "chosen"),
    [
        ("mov,mp4,m4a,3gp,3g2,mj2", [video(cover=True), video(), video()], 1),
        ("mpegts", [video(), video(128)], 0),
        ("hls", [video(), video(128), video(128), video(32)], 1),
        ("hls", [video(), video(128, cover=True)], 0),
    ],
)
def test_of_several_videos_it_is_no_cover_and_of_variants_the_largest(
    format_name: str, videos: list[Any], chosen: int
) -> None:
    assert _video_stream(container_of(format_name, *videos)) is videos[chosen]


def test_a_recording_goes_on_where_its_recorder_began_anew(tmp_path: Path) -> None:
    """As where one file was appended to another: in MPEG-TS the video may have another number."""
    parts = []
    for number in ("256", "400"):
        path = tmp_path / f"{number}.ts"
        with av.open(str(path), "w", options={"mpegts_start_pid": number}) as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(10):
                container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
            container.mux(stream.encode(None))
        parts.append(path.read_bytes())
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(parts))
    feed = source_for(CameraConfig(id="x", url=str(both))).open()
    assert sum(picture.size > 0 for picture in feed.pictures()) == 20
    feed.close()


@pytest.mark.parametrize("format_name", ["mp4", "hls"])
def test_a_cover_or_a_video_that_cannot_be_decoded_is_no_video(format_name: str) -> None:
    with pytest.raises(SourceError, match="has no video stream"):
        _video_stream(container_of(format_name, video(cover=True)))
    unknown = SimpleNamespace(codec_context=None, disposition=Disposition.default)
    with pytest.raises(SourceError, match="has video of an unknown codec"):
        _video_stream(container_of(format_name, unknown))
