"""A camera whose picture does not move: its frames have events, and cost no inference."""

from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from streamd.demo.clips import Clip, write_images
from streamd.events import Event
from streamd.testing.rtsp_server import RtspServer

from .harness import DaemonFactory, balanced, eventually

STILL, MOVING = 25, 15


@pytest.fixture(scope="module")
def rarely_moving(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that stands, then moves, then stands."""
    path = tmp_path_factory.mktemp("clips") / "still.mp4"
    with av.open(str(clip.path)) as source:
        frames = islice(source.decode(video=0), MOVING)
        images: list[np.ndarray] = [frame.to_ndarray(format="rgb24") for frame in frames]
    shown = [images[0]] * STILL + images + [images[-1]] * STILL
    write_images(path, shown, (clip.width, clip.height), 25)
    return path


def run(daemon: DaemonFactory, video: Path, motion: str) -> tuple[list[Event], dict[str, int]]:
    """Events and outcomes of a camera that reads `video` once."""
    settings = f"publish: all\ncameras: [{{id: a, url: {video}, motion: {motion}}}]"
    running = daemon(settings, "--until-done")
    assert running.wait() == 0
    return running.events(), running.wait_for_log("stopped")["frames"]


def test_still_frames_carry_on_with_the_last_result(
    daemon: DaemonFactory, rarely_moving: Path
) -> None:
    events, frames = run(daemon, rarely_moving, "auto")
    assert [event.seq for event in events] == list(range(2 * STILL + MOVING))
    still = [event.seq for event in events if event.data.still]
    assert len(still) >= 2 * STILL - 6
    for before, after in pairwise(events):
        if after.data.still:
            assert after.data.objects == before.data.objects
            assert after.data.model == before.data.model
    assert any(event.data.objects for event in events if event.data.still)
    assert balanced(frames)
    assert (frames["still"], frames["inferred"]) == (len(still), len(events) - len(still))


def test_without_the_gate_every_frame_is_inferred(
    daemon: DaemonFactory, rarely_moving: Path
) -> None:
    _, frames = run(daemon, rarely_moving, "off")
    assert (frames["still"], frames["inferred"]) == (0, 2 * STILL + MOVING)


def test_a_live_camera_goes_on_while_nothing_moves(
    daemon: DaemonFactory, rtsp_server: RtspServer, rarely_moving: Path
) -> None:
    mount = rtsp_server.mount("/gate", rarely_moving)
    settings = f"publish: all\ncameras: [{{id: gate, url: '{mount.url}', motion: auto}}]"
    running = daemon(settings)
    running.wait_ready()
    eventually(lambda: running.cameras()["gate"]["frames"]["still"] > 60, what="still frames")
    assert running.stop() == 0
    events = running.events()
    assert any(event.data.still for event in events)
    assert all(after.seq > before.seq for before, after in pairwise(events))
    assert all(
        after.data.objects == before.data.objects
        for before, after in pairwise(events)
        if after.data.still
    )
    assert balanced(running.wait_for_log("stopped")["frames"])


def test_a_camera_where_nothing_moves_is_told_of_after_inference_was_started_again(
    daemon: DaemonFactory, clip: Clip, tmp_path: Path, rtsp_server: RtspServer
) -> None:
    with av.open(str(clip.path)) as source:
        image: np.ndarray = next(source.decode(video=0)).to_ndarray(format="rgb24")
    write_images(tmp_path / "still.mp4", [image] * 25, (clip.width, clip.height), 25)
    mount = rtsp_server.mount("/gate", tmp_path / "still.mp4")
    often = "motion: auto, idle_interval_s: 3600"
    running = daemon(f"publish: all\ncameras: [{{id: gate, url: '{mount.url}', {often}}}]")
    running.wait_events(20)
    running.children("inference")[0].kill()
    running.wait_for_log("worker_restarted")
    before = len(running.events())
    running.wait_events(before + 20)
