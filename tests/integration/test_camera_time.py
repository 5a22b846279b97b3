"""Whose clock an event's time is taken from, with a real RTSP peer whose own plays tricks."""

import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from streamd.demo.clips import Clip, write_clip
from streamd.processes.messages import CameraState
from streamd.scenes import Scene
from streamd.slots import TsSource
from streamd.testing.rtsp_server import Mount, RtspServer
from streamd.testing.watched_camera import SeenFrame, WatchedCamera

from .harness import Metronome

# Delays of the machine that runs the tests; a jump is far longer.
PROMPT_S = 1.0
RTCP, ARRIVAL = TsSource.RTCP, TsSource.ARRIVAL


def error_s(frame: SeenFrame, offset_s: float = 0.0) -> float:
    """By how much a frame's time is ahead of this host's when it came, less `offset_s`."""
    since_s = time.monotonic() - frame.capture.monotonic_ns / 1e9
    return frame.capture.wall_ns / 1e9 - (time.time() - since_s) - offset_s


def sources(frames: list[SeenFrame]) -> list[TsSource]:
    """Without repetitions."""
    seen = [frame.capture.ts_source for frame in frames]
    return [source for n, source in enumerate(seen) if n == 0 or source is not seen[n - 1]]


def assert_age_and_order(frames: list[SeenFrame], within_s: float) -> None:
    times_ns = [frame.capture.monotonic_ns for frame in frames]
    assert all(sooner < later for sooner, later in pairwise(times_ns))
    assert all(0 <= frame.at_s - frame.capture.monotonic_ns / 1e9 < within_s for frame in frames)


def watched(mount: Mount, frames: int, **settings: object) -> list[SeenFrame]:
    with WatchedCamera(mount.url, **settings) as camera:  # type: ignore[arg-type]
        camera.wait_frames(frames)
    return camera.frames


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("offset_s", [0.0, 100.0])
def test_ts_is_the_cameras_own_from_its_first_report_on(
    rtsp_server: RtspServer, clip: Clip, transport: str, offset_s: float
) -> None:
    mount = rtsp_server.mount("/gate", clip.path)
    mount.clock_offset_s = offset_s
    captured_s: list[float] = []
    mount.on_frame = lambda _, wall_s: captured_s.append(wall_s)
    frames = watched(mount, 10, transport=transport)
    assert sources(frames) == [RTCP]
    times_s = [frame.capture.wall_ns / 1e9 for frame in frames]
    assert times_s[:10] == pytest.approx([at + offset_s for at in captured_s[:10]], abs=1e-3)


def test_jpegs_whose_reports_ffmpeg_keeps_to_itself_have_the_cameras_time_too(
    rtsp_server: RtspServer, tmp_path: Path, metronome: Metronome
) -> None:
    clip = write_clip(tmp_path / "jpeg.avi", Scene(6, 320, 176), 1.0, "mjpeg")
    mount = rtsp_server.mount("/gate", clip.path)
    mount.clock_offset_s = 100.0
    frames = watched(mount, 10)
    assert sources(frames) == [RTCP]
    assert all(abs(error_s(frame, 100.0)) < PROMPT_S + metronome.late_s for frame in frames)


def test_reports_that_begin_late_are_used_from_then_on(
    rtsp_server: RtspServer, clip: Clip, metronome: Metronome
) -> None:
    mount = rtsp_server.mount("/gate", clip.path)
    mount.sender_reports = False
    mount.clock_offset_s = 60.0
    with WatchedCamera(mount.url) as camera:
        camera.wait_frames(5)
        mount.sender_reports = True
        camera.wait_frames(20)
    assert sources(camera.frames) == [ARRIVAL, RTCP]
    for frame in camera.frames:
        offset_s = 60.0 if frame.capture.ts_source is RTCP else 0.0
        assert abs(error_s(frame, offset_s)) < PROMPT_S + metronome.late_s
    assert_age_and_order(camera.frames, PROMPT_S + metronome.late_s)


def test_a_clock_of_1970_is_ignored_with_one_line_and_used_once_it_is_set(
    rtsp_server: RtspServer, clip: Clip, capsys: pytest.CaptureFixture[str], metronome: Metronome
) -> None:
    mount = rtsp_server.mount("/gate", clip.path)
    mount.clock_offset_s = -time.time() + 1000
    with WatchedCamera(mount.url) as camera:
        camera.wait_frames(10)
        mount.clock_offset_s = 0.0
        camera.wait_frames(32)
    assert sources(camera.frames) == [ARRIVAL, RTCP]
    assert all(abs(error_s(frame)) < PROMPT_S + metronome.late_s for frame in camera.frames)
    said = "".join(capsys.readouterr())
    assert (said.count("camera_clock_ignored"), said.count("camera_clock_used")) == (1, 1)


def test_rtp_timestamps_that_jump_leave_time_age_and_order_right(
    rtsp_server: RtspServer, clip: Clip, metronome: Metronome
) -> None:
    mounts = {jump_s: rtsp_server.mount(f"/{jump_s}", clip.path) for jump_s in (7200, -7200, 5)}
    cameras = [WatchedCamera(mount.url) for mount in mounts.values()]
    with ExitStack() as stack:
        for camera in cameras:
            stack.enter_context(camera)
        for camera in cameras:
            camera.wait_frames(10)
        for jump_s, mount in mounts.items():
            mount.timestamp_jump_s = jump_s
        for camera in cameras:
            camera.wait_frames(40)
    for camera in cameras:
        frames = camera.frames
        pts_s = [frame.pts_s for frame in frames if frame.pts_s is not None]
        # FFmpeg takes a step back for a wrap of its 32 bits.
        assert any(abs(later - sooner) > 4 for sooner, later in pairwise(pts_s))
        assert sources(frames) in ([RTCP, ARRIVAL, RTCP], [RTCP])  # the report may come just then
        assert all(abs(error_s(frame)) < PROMPT_S + metronome.late_s for frame in frames)
        assert_age_and_order(frames, PROMPT_S + metronome.late_s)
        assert not camera.said(CameraState.OFFLINE)


def test_a_camera_that_stamps_25_fps_and_delivers_21(
    rtsp_server: RtspServer, clip: Clip, metronome: Metronome
) -> None:
    mount = rtsp_server.mount("/gate", clip.path)
    mount.timestamp_rate = 25 / 21
    frames = watched(mount, 30)
    assert all(abs(error_s(frame)) < PROMPT_S + metronome.late_s for frame in frames)
    assert_age_and_order(frames, PROMPT_S + metronome.late_s)
