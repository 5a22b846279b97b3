"""How many processes and places a configuration gets."""

from collections import Counter
from dataclasses import replace

import pytest

from streamd.config import CameraConfig, Config, IngestConfig
from streamd.engines import ModelInfo
from streamd.errors import SetupError
from streamd.slots import InputShape
from streamd.supervision.layout import Layout

MODEL = ModelInfo("m.onnx", "m", ("cat",), 32, InputShape(64, 64), dynamic=False, end_to_end=False)


def test_there_are_no_more_ingest_workers_than_cameras_may_come() -> None:
    config = Config(cameras=(CameraConfig(id="a", url="rtsp://h/a"),))
    asked = config.model_copy(update={"ingest": IngestConfig(workers=1000)})
    assert Layout(asked, MODEL).ingest_workers == 17  # the camera and room for 16


def test_no_worker_has_more_cameras_than_a_crash_report_can_tell_apart() -> None:
    cameras = tuple(CameraConfig(id=f"c{n}", url="rtsp://h/a") for n in range(1000))
    layout = Layout(Config(cameras=cameras), MODEL)
    load = Counter(place.ingest for place in layout.places.values())
    assert max(load.values()) <= 90


@pytest.mark.parametrize("side", [960_000, 10**12])
def test_slots_that_no_memory_could_hold_are_told_in_one_line(side: int) -> None:
    config = Config(cameras=(CameraConfig(id="a", url="rtsp://h/a"),))
    with pytest.raises(SetupError, match=f"no shared memory for 68 slots of {side}x{side} "):
        Layout(config, replace(MODEL, shape=InputShape(side, side)))
