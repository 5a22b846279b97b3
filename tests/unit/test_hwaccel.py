from dataclasses import dataclass, field
from typing import Any, cast

import av
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel
from av.video.stream import VideoStream

from streamd.ingest.hwaccel import Accelerator
from streamd.ingest.letterbox import FastScaler, Letterbox
from streamd.slots import InputShape


@dataclass
class Machine:
    """A machine whose driver and device are played; `opened` counts how often it was tried."""

    missing: str | None = None
    error: OSError | None = None
    opened: int = 0

    def accelerator(self, wanted: Any) -> Accelerator:
        return Accelerator(wanted, missing=lambda: self.missing, open_device=self._open)

    def _open(self) -> HWAccel:
        self.opened += 1
        if self.error:
            raise self.error
        return HWAccel("cuda")


@dataclass
class Context:
    is_hwaccel: bool
    name: str = "h264"


@dataclass
class Stream:
    """As much of a stream as decides where it was decoded."""

    codec_context: Context = field(default_factory=lambda: Context(is_hwaccel=True))


def stream(*, is_hwaccel: bool = True) -> VideoStream:
    return cast(VideoStream, Stream(Context(is_hwaccel)))


def frame(pixel_format: str) -> av.VideoFrame:
    return av.VideoFrame(64, 48, pixel_format)


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_gpu_that_is_there_is_used(wanted: str) -> None:
    accelerator = Machine().accelerator(wanted)
    assert accelerator.hwaccel() is not None
    assert accelerator.path_of(stream(), frame("nv12")) == "cuda"
    assert accelerator.path_of(stream(), frame("p010le")) == "cuda"
    assert (accelerator.in_use, accelerator.note) == (True, "")


def test_where_the_cpu_is_wanted_no_gpu_is_looked_for() -> None:
    machine = Machine()
    accelerator = machine.accelerator("cpu")
    assert accelerator.hwaccel() is None
    assert accelerator.path_of(stream(is_hwaccel=False), frame("yuv420p")) == "cpu"
    assert (machine.opened, accelerator.note) == (0, "")


@pytest.mark.parametrize(("wanted", "note"), [("auto", ""), ("cuda", "no driver")])
def test_that_there_is_no_gpu_is_news_only_where_one_was_asked_for(wanted: str, note: str) -> None:
    machine = Machine(missing="no driver")
    accelerator = machine.accelerator(wanted)
    assert accelerator.hwaccel() is None
    assert (accelerator.note, accelerator.in_use, machine.opened) == (note, False, 0)


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_gpu_that_cannot_be_opened_is_tried_once_and_told(wanted: str) -> None:
    machine = Machine(error=PermissionError(1, "Operation not permitted"))
    accelerator = machine.accelerator(wanted)
    assert accelerator.hwaccel() is None
    assert accelerator.hwaccel() is None
    assert machine.opened == 1
    assert accelerator.note == "the GPU cannot be opened: Operation not permitted"


@pytest.mark.parametrize(
    ("wanted", "note"), [("auto", ""), ("cuda", "the GPU does not decode this h264 stream")]
)
def test_a_stream_that_the_gpu_does_not_know_is_seen_by_its_frames(wanted: str, note: str) -> None:
    accelerator = Machine().accelerator(wanted)
    assert accelerator.hwaccel() is not None
    assert accelerator.path_of(stream(), frame("yuv422p")) == "cpu"
    assert (accelerator.in_use, accelerator.note) == (False, note)
    assert accelerator.hwaccel() is None


def test_a_device_that_was_lost_is_not_opened_again() -> None:
    machine = Machine()
    accelerator = machine.accelerator("auto")
    assert accelerator.hwaccel() is not None
    accelerator.lost("the GPU decoded no frame")
    assert (accelerator.hwaccel(), accelerator.in_use) == (None, False)
    assert (machine.opened, accelerator.note) == (1, "the GPU decoded no frame")


def test_frames_as_they_come_from_the_device_are_scaled_like_any_other() -> None:
    rng = np.random.default_rng(4)
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = av.VideoFrame.from_ndarray(coarse.repeat(20, 0).repeat(20, 1), format="rgb24")
    planar = picture.reformat(format="yuv420p")
    semi_planar = planar.reformat(format="nv12")
    box = Letterbox.fit(320, 240, InputShape(96, 128))
    expected = FastScaler().scale(planar, box).astype(int)
    found = FastScaler().scale(semi_planar, box).astype(int)
    assert np.abs(found - expected).max() <= 2
