"""Scenes: the same from the same seed, and their truth is what can be seen."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from streamd.demo.clips import Clip, write_clip
from streamd.scenes import LABELS, Scene, Truth

SUFFIXES = {"h264": "mp4", "hevc": "mp4", "mjpeg": "avi", "av1": "mkv", "vp9": "webm"}
STROKE_PX = 4  # half of the widest outline, which is drawn around the truth, and its soft edge


def test_a_frame_depends_on_seed_and_index_alone() -> None:
    first, again = Scene(7, 320, 240), Scene(7, 320, 240)
    again.frame(3)
    (image, truth), (same_image, same_truth) = first.frame(40), again.frame(40)
    assert np.array_equal(image, same_image)
    assert truth == same_truth


def test_seeds_and_indices_make_a_difference() -> None:
    image, truth = Scene(1, 320, 240).frame(0)
    for other_image, other_truth in (Scene(2, 320, 240).frame(0), Scene(1, 320, 240).frame(9)):
        assert not np.array_equal(image, other_image)
        assert truth != other_truth


@pytest.mark.parametrize(("width", "height"), [(640, 360), (480, 480), (270, 480)])
def test_a_frame_has_the_size_asked_for(width: int, height: int) -> None:
    image, _ = Scene(1, width, height).frame(0)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8


def test_truth_lies_within_the_frame_and_knows_its_labels() -> None:
    seen = set()
    for seed in range(20):
        scene = Scene(seed, 320, 240)
        for index in (0, 100, 1000):
            _, truth = scene.frame(index)
            assert len(truth) <= 5
            for item in truth:
                x1, y1, x2, y2 = item.box
                assert 0 <= x1 < x2 <= 320
                assert 0 <= y1 < y2 <= 240
                seen.add(item.label)
    assert seen == set(LABELS)


def test_truth_is_where_the_pixels_differ_from_the_background() -> None:
    outside = foreground = found = boxes = 0
    for seed in (20, 21, 22, 23):
        scene = Scene(seed, 320, 240)
        background = median_of(scene)
        for index in (10, 160, 310):
            image, truth = scene.frame(index)
            differs = np.abs(image.astype(np.int16) - background).max(axis=2) > 60
            inside = covered(truth, 320, 240)
            foreground += int(np.count_nonzero(differs))
            outside += int(np.count_nonzero(differs & ~inside))
            boxes += len(truth)
            found += sum(fills(differs, item) for item in truth)
    assert foreground > 10_000
    assert outside < 0.03 * foreground  # what is nearly hidden is drawn, but not in the truth
    assert found >= 0.9 * boxes  # some are of nearly the background's colour


def median_of(scene: Scene) -> NDArray[np.int16]:
    """The picture without what moves."""
    frames = [scene.frame(index)[0] for index in range(0, 1500, 100)]
    return np.asarray(np.median(np.stack(frames), axis=0), np.int16)


def covered(truth: list[Truth], width: int, height: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), np.bool_)
    for item in truth:
        x1, y1, x2, y2 = (int(edge) for edge in item.box)
        left, top = max(0, x1 - STROKE_PX), max(0, y1 - STROKE_PX)
        mask[top : y2 + STROKE_PX, left : x2 + STROKE_PX] = True
    return mask


def fills(differs: NDArray[np.bool_], item: Truth) -> bool:
    """Whether pixels differ in the box of `item` all the way to each of its sides."""
    x1, y1, x2, y2 = (int(edge) for edge in item.box)
    rows, columns = np.nonzero(differs[y1:y2, x1:x2])
    if not len(rows):
        return False
    gaps = (rows.min(), columns.min(), y2 - y1 - 1 - rows.max(), x2 - x1 - 1 - columns.max())
    return bool(max(gaps) <= STROKE_PX)


@pytest.mark.parametrize("codec", SUFFIXES)
def test_a_clip_decodes_to_the_frames_that_were_drawn(tmp_path: Path, codec: str) -> None:
    scene = Scene(3, 160, 120, fps=10.0)  # vivid: mistaken colours show
    clip = write_clip(tmp_path / f"clip.{SUFFIXES[codec]}", scene, 1.5, codec)
    shown = decoded(clip, codec)
    assert len(shown) == len(clip.truth) == 15
    assert (clip.fps, clip.width, clip.height) == (10.0, 160, 120)
    for index, (pts_s, image) in enumerate(shown):
        drawn, truth = scene.frame(index)
        assert pts_s == pytest.approx(index / 10, abs=0.002)  # Matroska counts milliseconds
        assert clip.truth[index] == tuple(truth)
        # A wrong matrix or range shifts the mean of some channel by 7 or more.
        shift = np.abs((image.astype(np.int16) - drawn).mean(axis=(0, 1)))
        assert shift.max() < 3


@pytest.mark.parametrize("codec", SUFFIXES)
def test_writing_a_clip_leaves_the_policy_of_its_thread(tmp_path: Path, codec: str) -> None:
    before = os.sched_getscheduler(0)
    write_clip(tmp_path / f"clip.{SUFFIXES[codec]}", Scene(3, 160, 120, fps=10.0), 0.5, codec)
    assert os.sched_getscheduler(0) == before


def decoded(clip: Clip, codec: str) -> list[tuple[float, NDArray[np.uint8]]]:
    """Time in seconds and RGB picture of each frame."""
    full_range = codec == "mjpeg"
    frames = []
    with av.open(str(clip.path)) as container:
        for frame in container.decode(video=0):
            assert frame.time is not None
            rgb = frame.reformat(
                format="rgb24",
                src_colorspace=Colorspace.ITU601 if full_range else Colorspace.ITU709,
                src_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
                dst_color_range=ColorRange.JPEG,
            )
            frames.append((frame.time, np.asarray(rgb.to_ndarray(), np.uint8)))
    return frames


def test_an_h264_clip_is_tagged_and_has_a_keyframe_each_second(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", Scene(5, 160, 120, fps=10.0), 3.0)
    with av.open(str(clip.path)) as container:
        stream = container.streams.video[0]
        keys = [packet.pts for packet in container.demux(stream) if packet.is_keyframe]
        context = stream.codec_context
        assert stream.average_rate == 10
        assert (context.colorspace, context.color_range) == (Colorspace.ITU709, ColorRange.MPEG)
        assert not context.has_b_frames
    assert len(keys) == 3


def test_truth_is_looked_up_by_the_nearest_frame_and_repeats() -> None:
    truth = tuple((Truth("star", (n, 0, n + 1, 1)),) for n in range(4))
    clip = Clip(Path("clip.mp4"), 10.0, 64, 48, truth)
    assert clip.truth_at(0.0) == truth[0]
    assert clip.truth_at(0.24) == truth[2]
    assert clip.truth_at(0.26) == truth[3]
    assert clip.truth_at(0.41) == truth[0]
    assert clip.truth_at(7.1) == truth[3]
