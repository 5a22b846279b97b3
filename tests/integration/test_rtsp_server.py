"""The test camera itself, as FFmpeg sees it: what it sends and how its faults look."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from av.container import InputContainer
from av.video.frame import VideoFrame

from streamd.testing.auth import Scheme
from streamd.testing.clip import Clip
from streamd.testing.rtsp_server import Mount, RtspServer

from .harness import Metronome
from .peers import FPS, write_pattern

FRAMES = 15
NTP_TO_UNIX_S = 2_208_988_800
FAST_OPEN = {"probesize": "20000", "analyzeduration": "100000"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    encoders = {"h264": "libx264", "hevc": "libx265", "mjpeg": "mjpeg"}
    paths = {codec: folder / f"{codec}.mp4" for codec in encoders}
    for codec, path in paths.items():
        write_pattern(path, encoders[codec], FRAMES)
    paths["large"] = folder / "large.mp4"
    write_pattern(paths["large"], "libx264", FRAMES, (320, 240))
    return paths


@pytest.fixture
def server() -> Iterator[RtspServer]:
    with RtspServer() as running:
        yield running


def opened(url: str, transport: str | None = "tcp", read_s: float = 3.0) -> InputContainer:
    options = FAST_OPEN | ({"rtsp_transport": transport} if transport else {})
    return av.open(url, options=options, timeout=(3.0, read_s))


def pictures(frames: Iterator[VideoFrame]) -> list[bytes]:
    return [frame.to_ndarray().tobytes() for frame in frames]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 3
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def raw_rtp(mount: Mount, packets: int) -> list[bytes]:
    """Play over TCP without FFmpeg's help and return the RTP packets as they come."""
    host, port = mount.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=3) as connection:
        stream = connection.makefile("rwb")
        for method, header in (
            ("SETUP", "Transport: RTP/AVP/TCP;interleaved=0-1\r\n"),
            ("PLAY", ""),
        ):
            stream.write(f"{method} {mount.url} RTSP/1.0\r\nCSeq: 1\r\n{header}\r\n".encode())
            stream.flush()
            assert stream.readline() == b"RTSP/1.0 200 OK\r\n"
            while stream.readline() != b"\r\n":
                pass
        received: list[bytes] = []
        while len(received) < packets:
            magic, channel, length = struct.unpack("!BBH", stream.read(4))
            assert magic == 0x24
            data = stream.read(length)
            if channel == 0:
                received.append(data)
        stream.close()
    return received


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("codec", ["h264", "hevc", "mjpeg"])
def test_pictures_arrive_unchanged(
    server: RtspServer, clips: dict[str, Path], codec: str, transport: str
) -> None:
    with av.open(str(clips[codec])) as container:
        expected = pictures(container.decode(video=0))
    mount = server.mount("/gate", clips[codec])
    with opened(mount.url, transport) as container:
        assert container.streams.video[0].codec_context.name == codec
        got = pictures(islice(container.decode(video=0), 2 * FRAMES))
    assert got == 2 * expected


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_clip_without_loop_ends(
    server: RtspServer, clips: dict[str, Path], transport: str
) -> None:
    mount = server.mount("/gate", clips["h264"], loop=False)
    with opened(mount.url, transport) as container:
        got = pictures(container.decode(video=0))
    # By UDP the goodbye, which comes by another socket, may overtake the last pictures.
    assert len(got) == FRAMES if transport == "tcp" else 0 < len(got) <= FRAMES


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_timestamps_go_on_over_loops(
    server: RtspServer, clips: dict[str, Path], codec: str
) -> None:
    mount = server.mount("/gate", clips[codec])
    mount.catch_up = True  # what is late keeps its time, as a camera's would
    with opened(mount.url) as container:
        decoded = container.decode(video=0)
        times = [frame.time for frame, _ in zip(decoded, range(2 * FRAMES + 5), strict=False)]
    known = [at for at in times if at is not None]
    assert len(known) >= len(times) - 1  # FFmpeg leaves the first one unset
    np.testing.assert_allclose(np.diff(known), 1 / FPS, atol=1e-3)


@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_credentials_are_asked_for(
    server: RtspServer, clips: dict[str, Path], scheme: Scheme
) -> None:
    mount = server.mount("/gate", clips["h264"], auth=("user", "p@ss:/"), auth_scheme=scheme)
    assert mount.url_with_credentials().startswith("rtsp://user:p%40ss%3A%2F@127.0.0.1:")
    with opened(mount.url_with_credentials()) as container:
        next(container.decode(video=0))
    for url in (mount.url, mount.url.replace("//", "//user:wrong@")):
        with pytest.raises(av.error.HTTPUnauthorizedError):
            opened(url)


def test_unknown_paths_are_not_found(server: RtspServer, clips: dict[str, Path]) -> None:
    mount = server.mount("/gate", clips["h264"])
    with pytest.raises(av.error.HTTPNotFoundError):
        opened(mount.url + "way")
    server.unmount("/gate")
    with pytest.raises(av.error.HTTPNotFoundError):
        opened(mount.url)


def test_clients_fall_back_to_tcp(clips: dict[str, Path]) -> None:
    with RtspServer(tcp_only=True) as server:
        mount = server.mount("/gate", clips["h264"])
        with opened(mount.url, transport=None) as container:
            next(container.decode(video=0))
        with pytest.raises(av.error.FFmpegError):
            opened(mount.url, transport="udp")


def test_a_refusing_or_silent_mount_cannot_be_opened(
    server: RtspServer, clips: dict[str, Path], metronome: Metronome
) -> None:
    mount = server.mount("/gate", clips["h264"])
    mount.refuse = True
    with pytest.raises(av.error.HTTPServerError):
        opened(mount.url)
    mount.refuse, mount.silent = False, True
    started = time.monotonic()
    with pytest.raises(av.error.FFmpegError):
        av.open(mount.url, options={"rtsp_transport": "tcp"}, timeout=0.3)
    assert 0.3 <= time.monotonic() - started < 2 + metronome.late_s
    assert len(mount.attempts) == 2
    assert not mount.connects


def test_a_stalled_mount_sends_nothing_and_goes_on(
    server: RtspServer, clips: dict[str, Path], metronome: Metronome
) -> None:
    mount = server.mount("/gate", clips["h264"])
    with opened(mount.url, read_s=0.6) as container:
        before = [packet.pts for packet, _ in zip(container.demux(), range(5), strict=False)]
        mount.stall = True
        stalled = time.monotonic()
        with pytest.raises(av.error.ExitError):
            for _ in container.demux():
                pass
        assert mount.clients == 1
        mount.stall = False
        stall_s = time.monotonic() - stalled
        resumed = next(packet.pts for packet in container.demux() if packet.pts is not None)
    assert before[-1] is not None
    # The first of them may be a B-frame, shown two pictures before it is sent.
    assert (resumed - before[-1]) / 90_000 >= stall_s - 0.2 - metronome.late_s


def test_killed_clients_end_and_may_come_back(server: RtspServer, clips: dict[str, Path]) -> None:
    mount = server.mount("/gate", clips["h264"])
    for count in (1, 2):
        with opened(mount.url) as container:
            next(container.decode(video=0))
            assert mount.clients == 1
            assert len(mount.connects) == count
            mount.kill_clients()
            for _ in container.demux():  # ends as at the end of a file
                pass
        eventually(lambda: mount.clients == 0)


def test_a_power_cut_and_the_return_on_the_same_port(
    server: RtspServer, clips: dict[str, Path]
) -> None:
    mount = server.mount("/gate", clips["h264"])
    with opened(mount.url) as container:
        next(container.decode(video=0))
        server.stop()
        assert not [thread for thread in threading.enumerate() if "rtsp" in thread.name]
        for _ in container.demux():
            pass
    with pytest.raises(av.error.ConnectionRefusedError):
        opened(mount.url)
    server.start()
    with opened(mount.url) as container:
        next(container.decode(video=0))


def test_packets_get_lost_and_damaged(server: RtspServer, clips: dict[str, Path]) -> None:
    mount = server.mount("/gate", clips["h264"])
    payloads = {payload for unit in mount.footage.payloads for payload in unit}
    mount.drop = mount.corrupt = 0.3
    received = raw_rtp(mount, packets=40)
    numbers = [struct.unpack_from("!H", packet, 2)[0] for packet in received]
    sent = (numbers[-1] - numbers[0]) % 65536 + 1
    assert 0.5 < len(received) / sent < 0.9
    intact = sum(packet[12:] in payloads for packet in received)
    assert 0.5 < intact / len(received) < 0.9


def test_ffmpeg_goes_on_over_damage(server: RtspServer, clips: dict[str, Path]) -> None:
    mount = server.mount("/gate", clips["h264"])
    with opened(mount.url) as container:
        mount.corrupt = 0.2
        decoded = 0
        for packet in container.demux():
            try:
                decoded += len(packet.decode())
            except av.error.InvalidDataError:
                continue
            if decoded == FRAMES:
                break


def test_a_replaced_clip_changes_the_size_in_mid_stream(
    server: RtspServer, clips: dict[str, Path]
) -> None:
    mount = server.mount("/gate", clips["h264"])
    sizes: list[tuple[int, int]] = []
    with opened(mount.url) as container:
        for frame in container.decode(video=0):
            if not sizes:
                mount.replace(clips["large"])
            sizes.append((frame.width, frame.height))
            if sizes[-1] == (320, 240):
                break
    assert sizes[0] == (160, 120)
    with pytest.raises(ValueError, match="serves h264, not hevc"):
        mount.replace(clips["hevc"])


def test_sender_reports_tell_the_wall_clock_of_a_packet(
    server: RtspServer, clips: dict[str, Path]
) -> None:
    mount = server.mount("/gate", clips["h264"])
    captured: dict[int, float] = {}
    mount.on_frame = captured.__setitem__
    mount.clock_offset_s = 100.0
    reports, wall_s = [], []
    with opened(mount.url, transport="udp") as container:
        for packet in container.demux():
            if packet.has_sidedata("rtcp_sr"):
                reports.append(struct.unpack("=I4xQIII4x", bytes(packet.get_sidedata("rtcp_sr"))))
            (microseconds,) = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))
            wall_s.append(microseconds / 1e6)
            if len(reports) == 2:
                break
    expected = [captured[index] + 100.0 for index in range(len(wall_s))]
    np.testing.assert_allclose(wall_s, expected, rtol=0, atol=1e-4)
    between_s = (reports[1][1] - reports[0][1]) / 2**32
    assert between_s == pytest.approx((reports[1][2] - reports[0][2]) / 90_000, abs=1e-3)
    # One a second, ahead of the next picture: the one before that was captured within the second.
    assert between_s >= 0.999
    first_s = reports[0][1] / 2**32 - NTP_TO_UNIX_S - 100.0
    assert captured[len(wall_s) - 2] < first_s + 1.001


def test_sessions_live_by_their_clients_keepalives(clips: dict[str, Path]) -> None:
    with RtspServer(session_timeout_s=2) as server:
        mount = server.mount("/gate", clips["h264"])
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=3) as silent,
            opened(mount.url, transport="udp") as container,
        ):
            started = time.monotonic()
            for _ in container.demux():
                if time.monotonic() - started > 2.5:
                    break
            assert mount.clients == 1
            assert silent.recv(1) == b""


def test_requests_may_come_in_pieces_and_between_interleaved_packets(server: RtspServer) -> None:
    request = b"OPTIONS * RTSP/1.0\r\nCSeq: 7\r\nContent-Length: 2\r\n\r\nab"
    with socket.create_connection(("127.0.0.1", server.port), timeout=3) as connection:
        for byte in b"$\x01\x00\x03\r\n\r" + request:
            connection.sendall(bytes((byte,)))
        answer = connection.recv(4096).decode()
    assert answer.startswith("RTSP/1.0 200 OK\r\nCSeq: 7\r\nPublic: OPTIONS, DESCRIBE")


def test_what_is_not_rtsp_is_disconnected(server: RtspServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=3) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert connection.recv(1) == b""


def test_what_cannot_be_served_is_refused(server: RtspServer, tmp_path: Path) -> None:
    for name, encoder, options in (
        ("a.mp4", "mjpeg", {"huffman": "optimal", "threads": "1"}),
        ("b.mp4", "mpeg4", {}),
    ):
        write_pattern(tmp_path / name, encoder, frames=1, options=options)
    with pytest.raises(ValueError, match="standard Huffman tables"):
        server.mount("/gate", tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="cannot serve mpeg4"):
        server.mount("/gate", tmp_path / "b.mp4")
    with pytest.raises(ValueError, match="a mount's path"):
        server.mount("gate/", tmp_path / "a.mp4")


def test_a_clip_may_be_shared(server: RtspServer, clips: dict[str, Path]) -> None:
    clip = Clip.open(clips["h264"])
    mounts = [server.mount(f"/cam{number}", clip) for number in range(3)]
    assert (clip.width, clip.height, clip.fps, len(clip.units)) == (160, 120, FPS, FRAMES)
    assert [unit.keyframe for unit in clip.units].count(True) >= 2
    for mount in mounts:
        assert len(raw_rtp(mount, packets=3)) == 3
