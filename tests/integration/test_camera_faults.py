"""Every fault of a camera, shown by a real peer to a real Camera; recovery is measured.

Back-offs are scaled down, always to the longest delay that they may draw: the bounds hold for
every draw. Faults that the daemon's tests show are not repeated here.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from streamd.clock import Backoff
from streamd.demo.clips import Clip, write_clip
from streamd.errors import Reason
from streamd.ingest.worker import backoff_of
from streamd.processes.messages import CameraState
from streamd.scenes import Scene
from streamd.testing.auth import Access
from streamd.testing.http_server import HttpServer
from streamd.testing.rtsp_server import RtspServer
from streamd.testing.tcp_proxy import TcpProxy
from streamd.testing.watched_camera import WatchedCamera

from .harness import Metronome, eventually

# Connecting, the first keyframe, and what a busy machine takes for it.
OPENING_S = 1.0
# A time-out that has passed, on a busy machine.
LATE_S = 0.5


class LongestDelay(random.Random):
    """Draws the longest delay that is allowed."""

    def uniform(self, a: float, b: float) -> float:
        return b


def quick(longest_s: float = 0.4, stable_s: float = 30.0) -> Backoff:
    return Backoff(first_s=0.1, longest_s=longest_s, stable_s=stable_s, rng=LongestDelay())


def test_a_camera_that_appears_late_is_online_within_one_step(
    rtsp_server: RtspServer, clip: Clip, metronome: Metronome
) -> None:
    mount = rtsp_server.mount("/gate", clip.path)
    rtsp_server.stop()
    with WatchedCamera(mount.url, quick()) as camera:
        camera.wait_offline(Reason.REFUSED)
        time.sleep(1.0)
        appeared_s = time.monotonic()
        rtsp_server.start()
        first = camera.wait_frames()
    assert first.at_s - appeared_s < 0.4 + OPENING_S + metronome.late_s
    assert len(camera.said(CameraState.OFFLINE)) >= 3


def test_a_refused_password_is_asked_for_seldom_and_taken_once_it_is_right(
    rtsp_server: RtspServer, clip: Clip, metronome: Metronome
) -> None:
    mount = rtsp_server.mount("/gate", clip.path, auth=("user", "new"))
    with WatchedCamera(mount.url.replace("//", "//user:old@"), quick(0.8)) as camera:
        camera.wait_offline(Reason.AUTH_FAILED)
        eventually(lambda: len(mount.attempts) == 3, 10)
        mended_s = time.monotonic()
        mount.access = Access("user", "old", scheme="digest")
        first = camera.wait_frames()
    assert all(later - sooner >= 0.8 for sooner, later in pairwise(mount.attempts))
    assert first.at_s - mended_s < 0.8 + OPENING_S + metronome.late_s


def test_an_unknown_path_is_not_found_until_it_is_there(
    rtsp_server: RtspServer, clip: Clip, metronome: Metronome
) -> None:
    with WatchedCamera(f"rtsp://127.0.0.1:{rtsp_server.port}/gate", quick()) as camera:
        camera.wait_offline(Reason.NOT_FOUND)
        mended_s = time.monotonic()
        rtsp_server.mount("/gate", clip.path)
        assert camera.wait_frames().at_s - mended_s < 0.4 + OPENING_S + metronome.late_s


def test_a_camera_that_accepts_and_says_nothing_is_a_timeout(metronome: Metronome) -> None:
    began_s = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        WatchedCamera(
            f"rtsp://127.0.0.1:{listener.getsockname()[1]}/gate", quick(), open_timeout_s=0.5
        ) as camera,
    ):
        told = camera.wait_offline(Reason.TIMEOUT)
    assert 0.5 <= told.at_s - began_s < 0.5 + OPENING_S + metronome.late_s


def test_a_silence_shorter_than_the_stall_timeout_is_waited_out(
    rtsp_server: RtspServer, clip: Clip, metronome: Metronome
) -> None:
    """Some cameras need 40 s: the same silence is a stall for one, and none for the other."""
    mount = rtsp_server.mount("/gate", clip.path)
    with (
        WatchedCamera(mount.url, quick(), stall_timeout_s=3.0) as patient,
        WatchedCamera(mount.url, quick(), stall_timeout_s=0.5) as hasty,
    ):
        patient.wait_frames()
        hasty.wait_frames()
        stalled_s = time.monotonic()
        mount.stall = True
        told = hasty.wait_offline(Reason.STALLED)
        time.sleep(0.5)
        mended_s = time.monotonic()
        mount.stall = False
        patient.wait_frames(5, mended_s)
        back = hasty.wait_frames(1, mended_s)
    assert 0.4 <= told.at_s - stalled_s < 0.5 + LATE_S + metronome.late_s
    assert back.at_s - mended_s < 0.4 + OPENING_S + metronome.late_s
    assert not patient.said(CameraState.OFFLINE)


def test_a_camera_that_keeps_dropping_is_asked_ever_less_often_until_it_is_stable(
    rtsp_server: RtspServer, clip: Clip, metronome: Metronome
) -> None:
    mount = rtsp_server.mount("/gate", clip.path)
    with WatchedCamera(mount.url, quick(0.8, stable_s=1.0)) as camera:
        for drops in range(4):
            camera.wait_frames(1, mount.connects[-1] if mount.connects else 0.0)
            mount.kill_clients()
            eventually(lambda n=drops: len(mount.connects) == n + 2, 10)  # type: ignore[misc]
        gaps_s = [later - sooner for sooner, later in pairwise(mount.connects)]
        assert all(gap >= step for gap, step in zip(gaps_s, (0.1, 0.2, 0.4, 0.8), strict=True))
        stable_s = time.monotonic()
        eventually(lambda: camera.frames[-1].at_s > stable_s + 1.2)
        dropped_s = time.monotonic()
        mount.kill_clients()
        eventually(lambda: len(mount.connects) == 6)
        delays = [r.report.retry_in_s for r in camera.said(CameraState.OFFLINE)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 0.1]
    assert mount.connects[-1] - dropped_s < 0.1 + OPENING_S + metronome.late_s


def test_the_channels_of_a_recorder_do_not_come_back_in_the_same_second(
    rtsp_server: RtspServer, clip: Clip, metronome: Metronome
) -> None:
    channels = 16
    first = rtsp_server.mount("/0", clip.path)
    mounts = [first, *(rtsp_server.mount(f"/{n}", clip.path) for n in range(1, channels))]
    with ExitStack() as stack:
        for number, mount in enumerate(mounts):
            backoff = backoff_of(channels)
            backoff.rng.seed(number)
            stack.enter_context(WatchedCamera(mount.url, backoff))
        eventually(lambda: all(mount.clients for mount in mounts), what="all online")
        rtsp_server.stop()
        rtsp_server.start()
        back_s = time.monotonic()
        eventually(lambda: all(mount.clients for mount in mounts), what="all back")
    delays_s = sorted(mount.connects[1] - back_s for mount in mounts)
    in_a_second = [sum(0 <= d - start_s < 1 for d in delays_s) for start_s in delays_s]
    assert max(in_a_second) <= channels / 2
    assert delays_s[-1] < channels / 4 + OPENING_S + metronome.late_s


def pictures(path: Path) -> NDArray[np.int16]:
    """(frames, height, width) luma of the file."""
    with av.open(str(path)) as container:
        luma = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    return np.stack(luma).astype(np.int16)


def test_damaged_frames_are_counted_and_not_shown_as_if_they_were_whole(
    rtsp_server: RtspServer, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", Scene(7, 480, 272, fps=30), 2.0)
    originals = pictures(clip.path)[:, ::4, ::4]
    errors: dict[str, list[float]] = {"drop": [], "corrupt": []}

    def compare(fault: str, image: av.VideoFrame) -> None:
        seen = image.to_ndarray(format="gray")[::4, ::4]
        errors[fault].append(float(np.abs(originals - seen).mean(axis=(1, 2)).min()))

    cameras: dict[str, WatchedCamera] = {}
    with ExitStack() as stack:
        for fault in errors:
            mount = rtsp_server.mount(f"/{fault}", clip.path)
            setattr(mount, fault, 0.05)
            camera = WatchedCamera(mount.url, quick(), look=partial(compare, fault))
            cameras[fault] = stack.enter_context(camera)
        for fault, camera in cameras.items():
            eventually(
                lambda c=camera, f=fault: c.damaged > 5 and len(errors[f]) > 20,  # type: ignore[misc]
                15,
                f"damaged and whole ones: {fault}",
            )
    for fault, camera in cameras.items():
        assert max(errors[fault]) < 0.5, fault
        assert not camera.said(CameraState.OFFLINE)


@pytest.mark.parametrize("fault", ["drop", "stall"])
def test_a_web_camera_comes_back(clip: Clip, fault: str, metronome: Metronome) -> None:
    with HttpServer() as web:
        url = web.mjpeg("/cam", clip.path)
        with WatchedCamera(url, quick(), stall_timeout_s=1.0) as camera:
            camera.wait_frames(3)
            began_s = time.monotonic()
            if fault == "drop":
                web.kill_clients()
                told = camera.wait_offline(Reason.ENDED)
                mended_s = began_s
            else:
                web.stall = True
                told = camera.wait_offline(Reason.STALLED)
                mended_s = time.monotonic()
                web.stall = False
            back = camera.wait_frames(1, told.at_s)
    assert told.at_s - began_s < 1.0 + OPENING_S + metronome.late_s
    assert back.at_s - mended_s < 0.4 + OPENING_S + metronome.late_s


def noticed_and_back(url: str, cut: Callable[[bool], None]) -> tuple[float, float]:
    """Seconds from the cut to `stalled`, and from its end to the first frame."""
    with WatchedCamera(url, quick(), stall_timeout_s=1.0, open_timeout_s=1.0) as camera:
        camera.wait_frames(5)
        cut_s = time.monotonic()
        cut(True)
        told = camera.wait_offline(Reason.STALLED)
        time.sleep(1.5)  # some tries fail meanwhile
        mended_s = time.monotonic()
        cut(False)
        back = camera.wait_frames(1, mended_s)
    return told.at_s - cut_s, back.at_s - mended_s


def test_a_network_that_is_cut_without_a_fin_is_noticed(
    rtsp_server: RtspServer, clip: Clip, metronome: Metronome
) -> None:
    rtsp_server.mount("/gate", clip.path)
    with TcpProxy(rtsp_server.port) as proxy:

        def cut(down: bool) -> None:
            proxy.cut = down

        noticed_s, back_s = noticed_and_back(f"rtsp://127.0.0.1:{proxy.port}/gate", cut)
    assert 0.9 <= noticed_s < 1.0 + LATE_S + metronome.late_s
    # A try that hangs in the cut goes on where it was when the network is back, or times out.
    assert back_s < 1.0 + 0.4 + OPENING_S + metronome.late_s


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def namespace_camera(clip: Path) -> Iterator[tuple[str, str]]:
    """A camera in a network namespace: its URL, and the namespace, whose link is `inside`."""
    name, outside = f"streamd-{os.getpid()}", f"sd{os.getpid()}"
    if shutil.which("ip") is None:
        pytest.skip("no ip command: cannot make a network namespace")
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot make a network namespace: {error.stderr.strip()}")
    try:
        ip("link", "add", outside, "type", "veth", "peer", "name", "inside", "netns", name)
        ip("addr", "add", "169.254.77.1/30", "dev", outside)
        ip("link", "set", outside, "up")
        ip("-n", name, "addr", "add", "169.254.77.2/30", "dev", "inside")
        for link in ("lo", "inside"):
            ip("-n", name, "link", "set", link, "up")
        script = Path(__file__).with_name("netns_camera.py")
        command = ["ip", "netns", "exec", name, sys.executable, str(script)]
        with subprocess.Popen(
            [*command, "169.254.77.2", str(clip)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        ) as process:
            assert process.stdout
            try:
                port = int(process.stdout.readline())
                yield f"rtsp://169.254.77.2:{port}/gate", name
            finally:
                process.kill()
    finally:
        ip("netns", "del", name)


def test_a_link_that_goes_down_is_noticed(clip: Clip, metronome: Metronome) -> None:
    with namespace_camera(clip.path) as (url, namespace):

        def cut(down: bool) -> None:
            ip("-n", namespace, "link", "set", "inside", "down" if down else "up")

        noticed_s, back_s = noticed_and_back(url, cut)
    assert 0.9 <= noticed_s < 1.0 + LATE_S + metronome.late_s
    assert back_s < 1.0 + 0.4 + OPENING_S + metronome.late_s


def test_pictures_upon_which_none_builds_are_not_decoded_above_the_cap(
    rtsp_server: RtspServer, tmp_path: Path
) -> None:
    path = tmp_path / "b-frames.mp4"
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "bf": "2", "x264-params": "b-adapt=0:b-pyramid=none"}
        stream = container.add_stream("libx264", rate=15, options=options)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(60):
            image, _ = Scene(3, 320, 240, 15).frame(number)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with WatchedCamera(rtsp_server.mount("/b", path).url, fps=1) as camera:
        eventually(lambda: camera.skipped > 15, 60, "packets are skipped")
        began, skipped = len(camera.frames), camera.skipped
        eventually(lambda: camera.skipped > skipped + 30, 20, "more are")
        decoded = len(camera.frames) - began
    assert camera.damaged == 0
    # Of 15 a second ten are B-frames; one is wanted, and what comes until it is shown.
    assert 0.5 * 30 * 5 / 10 <= decoded <= 30


def test_of_a_camera_that_is_asked_for_one_frame_a_second_only_keyframes_are_decoded(
    rtsp_server: RtspServer, clip: Clip, metronome: Metronome
) -> None:
    mount = rtsp_server.mount("/gate", clip.path)  # 15 fps, a keyframe every second
    with WatchedCamera(mount.url, fps=1) as camera:
        eventually(lambda: camera.skipped > 30, 60, "packets are skipped")
        began = len(camera.frames)
        camera.wait_frames(began + 2)
        frames = camera.frames[began:]
    between_s = [later.at_s - sooner.at_s for sooner, later in pairwise(frames)]
    assert between_s == pytest.approx([1.0] * len(between_s), abs=LATE_S + metronome.late_s)
