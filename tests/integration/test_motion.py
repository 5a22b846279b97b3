"""A camera whose picture does not move: its frames have events, and cost no inference."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from streamd.demo.clips import Clip

from .harness import DaemonFactory, balanced

STILL, MOVING = 25, 15


@pytest.fixture(scope="module")
def rarely_moving(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that stands, then moves, then stands."""
    path = tmp_path_factory.mktemp("clips") / "still.mp4"
    with av.open(str(clip.path)) as source:
        images = [image for _, image in zip(range(MOVING), source.decode(video=0), strict=False)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = images[0].width, images[0].height, "yuv420p"
        for number, image in enumerate([images[0]] * STILL + images + [images[-1]] * STILL):
            image.pts, image.time_base = number, Fraction(1, 25)
            image.pict_type = 0
            out.mux(stream.encode(image.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    return path


def test_still_frames_carry_on_with_the_last_result(
    daemon: DaemonFactory, rarely_moving: Path
) -> None:
    settings = f"publish: all\ncameras: [{{id: a, url: {rarely_moving}, motion: auto}}]"
    running = daemon(settings, "--until-done")
    assert running.wait() == 0
    events = running.events()
    assert [event.seq for event in events] == list(range(2 * STILL + MOVING))
    still = [event.seq for event in events if event.data.still]
    assert len(still) >= 2 * STILL - 6
    for before, after in pairwise(events):
        if after.data.still:
            assert after.data.objects == before.data.objects
            assert after.data.latency_ms.infer >= 0
    assert any(event.data.objects for event in events if event.data.still)
    frames = running.wait_for_log("stopped")["frames"]
    assert balanced(frames)
    assert (frames["still"], frames["inferred"]) == (len(still), len(events) - len(still))


def test_without_the_gate_every_frame_is_inferred(
    daemon: DaemonFactory, rarely_moving: Path
) -> None:
    settings = f"publish: all\ncameras: [{{id: a, url: {rarely_moving}, motion: off}}]"
    running = daemon(settings, "--until-done")
    assert running.wait() == 0
    frames = running.wait_for_log("stopped")["frames"]
    assert (frames["still"], frames["inferred"]) == (0, 2 * STILL + MOVING)
