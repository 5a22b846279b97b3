"""Every kind of source and codec through the whole daemon."""

import contextlib
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
import trustme
from numpy.typing import NDArray

from streamd.clock import SystemClock
from streamd.config import CameraConfig
from streamd.demo.clips import Clip, write_clip
from streamd.errors import SourceError
from streamd.ingest.decoder import Decoder
from streamd.ingest.hwaccel import Accelerator
from streamd.ingest.letterbox import FastScaler, Letterbox
from streamd.ingest.source import source_for
from streamd.nvidia import decoder_missing, driver_missing
from streamd.scenes import Scene
from streamd.slots import InputShape
from streamd.testing.http_server import HttpServer
from streamd.testing.rtsp_server import RtspServer
from streamd.testing.tls_proxy import TlsProxy
from streamd.testing.watched_camera import WatchedCamera

from .harness import DaemonFactory, balanced
from .peers import gstreamer_server

SUFFIXES = {"h264": "mp4", "hevc": "mp4", "mjpeg": "avi", "av1": "mkv", "vp9": "webm"}


def turned_a_quarter(clip: Clip, path: Path) -> Path:
    """`clip` with the display matrix of a phone that was held upright: 90 degrees clockwise."""
    plain = b"".join(n.to_bytes(4, "big", signed=True) for n in (65536, 0, 0, 0, 65536, 0, 0, 0))
    turned = b"".join(
        n.to_bytes(4, "big", signed=True)
        for n in (0, 65536, 0, -65536, 0, 0, clip.height * 65536, 0)
    )
    data = clip.path.read_bytes()
    header = data.index(b"tkhd")
    place = data.index(plain, header)
    path.write_bytes(data[:place] + turned + data[place + len(turned) :])
    return path


def test_files_of_every_codec_and_orientation(
    daemon: DaemonFactory, clip: Clip, tmp_path: Path
) -> None:
    cameras = []
    for codec, suffix in SUFFIXES.items():
        made = write_clip(tmp_path / f"{codec}.{suffix}", Scene(4, 320, 180), 1.0, codec)
        cameras.append(f"  - {{id: {codec}, url: {made.path}}}")
    rotated = turned_a_quarter(clip, tmp_path / "rotated.mp4")
    cameras.append(f"  - {{id: rotated, url: {rotated}}}")
    running = daemon("publish: all\ncameras:\n" + "\n".join(cameras), "--until-done")
    assert running.wait() == 0
    for codec in SUFFIXES:
        events = running.events(codec)
        assert [event.seq for event in events] == list(range(15)), codec
        assert (events[0].data.width, events[0].data.height) == (320, 180)
        assert running.logged("camera_online", camera=codec)[0]["codec"] in (codec, "libdav1d")
    events = running.events("rotated")
    assert (events[0].data.width, events[0].data.height) == (clip.height, clip.width)
    assert len(events) == len(clip.truth)


def test_live_sources_of_every_kind(
    daemon: DaemonFactory, rtsp_server: RtspServer, clip: Clip, tmp_path: Path
) -> None:
    hevc = write_clip(tmp_path / "hevc.mp4", Scene(5, 320, 180), 2.0, "hevc")
    mjpeg = write_clip(tmp_path / "mjpeg.avi", Scene(6, 320, 176), 2.0, "mjpeg")
    mounts = {
        "tcp": rtsp_server.mount("/tcp", clip.path).url,
        "udp": rtsp_server.mount("/udp", clip.path).url,
        "hevc": rtsp_server.mount("/hevc", hevc.path).url,
        "jpeg": rtsp_server.mount("/jpeg", mjpeg.path).url,
    }
    with HttpServer() as web:
        mounts["multipart"] = web.mjpeg("/cam", clip.path)
        mounts["hls"] = web.hls("/live.m3u8", clip.path)
        mounts["recording"] = web.file("/clip.mp4", clip.path)
        cameras = "\n".join(
            f"  - {{id: {id_}, url: '{url}', transport: {'udp' if id_ == 'udp' else 'tcp'}}}"
            for id_, url in mounts.items()
        )
        running = daemon(f"publish: all\ncameras:\n{cameras}")
        running.wait_ready()
        for camera in mounts:
            running.wait_events(10, camera)
        running.wait_state("recording", "done")
        recording = running.wait_events(len(clip.truth), "recording")
        assert [event.seq for event in recording] == list(range(len(clip.truth)))
        sources = {event.camera: event.ts_source for event in running.events()}
        assert sources.pop("recording") == "pts"
        web_only = {camera: sources.pop(camera) for camera in ("multipart", "hls")}
        assert set(web_only.values()) == {"arrival"}
        assert set(sources.values()) == {"rtcp"}
        assert all(balanced(camera["frames"]) for camera in running.cameras().values())
        assert running.stop() == 0


def test_rtsp_through_tls(daemon: DaemonFactory, rtsp_server: RtspServer, clip: Clip) -> None:
    rtsp_server.mount("/gate", clip.path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with TlsProxy(context, rtsp_server.port) as proxy:
        url = f"rtsps://localhost:{proxy.port}/gate"
        running = daemon(
            "publish: all\ncameras:\n"
            f"  - {{id: trusting, url: '{url}'}}\n"
            f"  - {{id: careful, url: '{url}', tls_verify: true}}\n"
        )
        running.wait_events(5, "trusting")
        told = running.wait_for_log("camera_offline", camera="careful", reason="unreachable")
        assert "a certificate that is not trusted" in told["detail"]
        assert not running.events("careful")


def test_of_the_variants_of_an_hls_stream_the_largest_is_read(tmp_path: Path) -> None:
    with HttpServer() as web:
        lines = ["#EXTM3U"]
        for width, height in ((320, 180), (640, 360)):
            clip = write_clip(tmp_path / f"{width}.mp4", Scene(3, width, height), 2.0)
            lines.append(f"#EXT-X-STREAM-INF:BANDWIDTH={width * 1000},RESOLUTION={width}x{height}")
            lines.append(web.hls(f"/{width}/live.m3u8", clip.path))
        (tmp_path / "master.m3u8").write_text("\n".join(lines))
        url = web.file("/master.m3u8", tmp_path / "master.m3u8")
        with WatchedCamera(url) as camera:
            camera.wait_frames(20)
            assert {frame.width for frame in camera.frames} == {640}


def test_a_live_stream_of_segments_is_read_at_its_own_pace(clip: Clip) -> None:
    segment_s = 2.0
    with HttpServer() as web:
        url = web.hls("/live.m3u8", clip.path, segment_s=segment_s)
        with WatchedCamera(url) as camera:
            camera.wait_frames(1)
            frames = int(3 * segment_s * clip.fps)
            camera.wait_frames(frames)
            shown = [frame.capture.media_s for frame in camera.frames[:frames]]
    gaps = [after - before for before, after in itertools.pairwise(shown)]
    assert max(gaps) < 0.75 * segment_s
    assert sum(gap > 0.5 / clip.fps for gap in gaps) > 0.8 * len(gaps)


def television(path: Path) -> list[bytes]:
    """A transport stream in parts of 0.1 s: ten seconds of sound, of which two have a picture."""
    with av.open(str(path), "w", format="mpegts") as container:
        video = container.add_stream("libx264", rate=10, options={"tune": "zerolatency"})
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        audio = container.add_stream("aac", rate=48000)
        for at in range(100):
            if at < 20:
                picture = av.VideoFrame.from_ndarray(np.full((120, 160, 3), at, np.uint8), "rgb24")
                picture.pts, picture.time_base = at, Fraction(1, 10)
                container.mux(video.encode(picture))
            noise = np.random.default_rng(at).integers(-3000, 3000, (1, 4800), np.int16)
            sound = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 48000, 4800 * at, Fraction(1, 48000)
            container.mux(audio.encode(sound))
    data = path.read_bytes()
    step = 188 * max(1, len(data) // 188 // 100)
    return [data[at : at + step] for at in range(0, len(data), step)]


def fragments(path: Path) -> bytes:
    """An MP4 as cameras send it while they make it: a header without frames, then fragments."""
    options = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(50):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("size", ["", "Content-Length: {}\r\n"])
def test_an_mp4_whose_size_nobody_knows_is_live_and_any_other_a_recording(
    tmp_path: Path, size: str
) -> None:
    data = fragments(tmp_path / "a.mp4")

    def serve(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client, contextlib.suppress(OSError):
            client.recv(4096)
            client.sendall(f"HTTP/1.1 200 OK\r\n{size.format(len(data))}\r\n".encode() + data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.mp4"
        feed = source_for(CameraConfig(id="gate", url=url)).open()
        assert feed.info.live == (not size)
        feed.close()
        server.join()


@contextlib.contextmanager
def one_answer(answer: bytes) -> Iterator[str]:
    """The URL of a web server that gives `answer` once, and closes the connection."""

    def serve(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client, contextlib.suppress(OSError):
            client.recv(4096)
            client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        server.join()


def recorded(path: Path) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(50):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def test_a_recording_whose_length_is_not_told_is_read_to_its_end(tmp_path: Path) -> None:
    with one_answer(b"HTTP/1.0 200 OK\r\n\r\n" + recorded(tmp_path / "a.mkv")) as url:
        feed = source_for(CameraConfig(id="clip", url=url)).open()
        decoder = Decoder(feed.stream, SystemClock())
        frames = sum(len(decoder.decode(picture).frames) for picture in feed.pictures())
        feed.close()
    assert frames == 50


def test_a_recording_that_breaks_off_says_so(tmp_path: Path) -> None:
    data = recorded(tmp_path / "a.mkv")
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n"
    with one_answer(head.encode() + data[: len(data) * 3 // 4]) as url:
        feed = source_for(CameraConfig(id="clip", url=url)).open()
        with pytest.raises(SourceError, match="ended: the connection broke"):
            list(feed.pictures())
        feed.close()


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("200 OK", "invalid_data: what the server sent is no video"),
        ("429 Too Many Requests", "refused: Server returned 429"),
        ("410 Gone", "refused: Server returned 4XX"),
    ],
)
def test_a_web_server_that_gives_no_video_is_not_unreachable(status: str, told: str) -> None:
    answer = f"HTTP/1.1 {status}\r\n\r\n<html>who are you?</html>"
    with one_answer(answer.encode()) as url, pytest.raises(SourceError) as raised:
        source_for(CameraConfig(id="gate", url=url)).open()
    assert str(raised.value).startswith(told)


def test_a_camera_that_does_not_take_the_transport_says_which_to_try(clip: Clip) -> None:
    with RtspServer(tcp_only=True) as server:
        url = server.mount("/gate", clip.path).url
        with pytest.raises(SourceError) as raised:
            source_for(CameraConfig(id="gate", url=url, transport="udp")).open()
    assert str(raised.value) == "refused: gives no video over udp; try transport: tcp"


def test_a_picture_that_stops_while_its_sound_goes_on_is_a_stall(tmp_path: Path) -> None:
    parts = television(tmp_path / "a.ts")

    def serve(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client, contextlib.suppress(OSError):
            client.recv(4096)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
            for number, part in enumerate(parts):
                client.sendall(part)
                time.sleep(0.1 if number > 60 else 0)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.ts"
        feed = source_for(CameraConfig(id="gate", url=url, stall_timeout_s=1.0)).open()
        with pytest.raises(SourceError, match="stalled: no packet for 1 s"):
            list(feed.pictures())
        assert server.is_alive(), "it was noticed only when the sound ended, too"
        feed.close()
        server.join()


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["h264", "hevc", "mjpeg"])
def test_a_picture_is_there_before_the_next_one_is_sent(
    rtsp_server: RtspServer, tmp_path: Path, codec: str
) -> None:
    suffix = "avi" if codec == "mjpeg" else "mp4"
    clip = write_clip(tmp_path / f"gate.{suffix}", Scene(1, 320, 240, fps=25), 4.0, codec)
    mount = rtsp_server.mount("/gate", clip.path)
    sent: list[int] = []
    mount.on_frame = lambda picture, _: sent.append(picture)
    feed = source_for(CameraConfig(id="gate", url=mount.url)).open()
    newer = []
    for number, _ in enumerate(feed.pictures()):
        newer.append(len(sent) - 1 > number)
        if len(newer) == 100:
            break
    feed.close()
    # The keyframes of the first three seconds show how the camera cuts its pictures.
    assert np.mean(newer[80:]) < 0.5


def test_an_independent_rtsp_server(daemon: DaemonFactory, clip: Clip) -> None:
    with gstreamer_server(clip.path) as address:
        running = daemon(
            "publish: all\ncameras:\n"
            f"  - {{id: tcp, url: '{address}/0'}}\n"
            f"  - {{id: udp, url: '{address}/pattern', transport: udp}}\n"
        )
        running.wait_ready()
        for camera in ("tcp", "udp"):
            running.wait_events(20, camera)
        assert running.stop() == 0


def test_where_a_gpu_was_asked_for_in_vain_one_line_says_so(
    daemon: DaemonFactory, clip: Clip
) -> None:
    if driver_missing() is None:
        pytest.skip("this machine has a GPU: nothing is in vain")
    running = daemon(
        f"""cameras:
  - {{id: asked, url: {clip.path}, loop: true, decode: cuda}}
  - {{id: auto, url: {clip.path}, loop: true}}"""
    )
    running.wait_state("asked", "online")
    running.wait_state("auto", "online")
    assert {camera["decode"] for camera in running.cameras().values()} == {"cpu"}
    warning = running.wait_for_log("decode_on_cpu")
    assert len(running.logged("decode_on_cpu")) == 1
    assert (warning["camera"], warning["level"]) == ("asked", "warning")
    assert "NVIDIA" in warning["reason"]
    path = 'streamd_camera_decode_path{camera="asked",path="cpu"} 1.0'
    assert path in running.get("/metrics").text


@pytest.mark.gpu
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_gpu_decodes_the_same_picture(tmp_path: Path, codec: str) -> None:
    missing = decoder_missing()
    if missing:
        pytest.skip(missing)
    clip = write_clip(tmp_path / "clip.mp4", Scene(seed=3, width=640, height=360), 2, codec)
    pictures = {path: first_picture(clip, path) for path in ("cpu", "cuda")}
    difference = np.abs(pictures["cpu"].astype(int) - pictures["cuda"].astype(int))
    assert difference.mean() < 1


def first_picture(clip: Clip, path: Literal["cpu", "cuda"]) -> NDArray[np.uint8]:
    """(180, 320, 3) RGB of the clip's first frame, decoded there."""
    accelerator = Accelerator(path)
    feed = source_for(CameraConfig(id="clip", url=str(clip.path)), accelerator).open()
    try:
        decoder = Decoder(feed.stream, SystemClock())
        frames = (f.image for picture in feed.pictures() for f in decoder.decode(picture).frames)
        image = next(frames)
        assert accelerator.path_of(feed.stream, image) == path
        return FastScaler().scale(image, Letterbox.fit(640, 360, InputShape(180, 320)))
    finally:
        feed.close()
