"""How many processes and places a configuration gets."""

from streamd.config import CameraConfig, Config, IngestConfig
from streamd.engines import ModelInfo
from streamd.layout import Layout
from streamd.slots import InputShape

MODEL = ModelInfo("m.onnx", "m", ("cat",), 32, InputShape(64, 64), dynamic=False, end_to_end=False)


def test_there_are_no_more_ingest_workers_than_cameras_may_come() -> None:
    config = Config(cameras=(CameraConfig(id="a", url="rtsp://h/a"),))
    asked = config.model_copy(update={"ingest": IngestConfig(workers=1000)})
    assert Layout(asked, MODEL).ingest_workers == 17  # the camera and room for 16
