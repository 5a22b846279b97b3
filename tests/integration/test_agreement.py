"""A real video and a real model through the daemon, against what ultralytics' predict gives."""

import gzip
import json
from pathlib import Path

import av
import pytest

from streamd.detections import Detection
from streamd.models.agreement import agreement

from .harness import DaemonFactory

FRAMES = 120
CONFIDENCE, IOU = 0.25, 0.7


def expected_frames(path: Path) -> list[list[Detection]]:
    with gzip.open(path) as packed:
        frames = json.load(packed)
    return [
        [Detection("", int(c), score, (x1, y1, x2, y2)) for c, score, x1, y1, x2, y2 in frame]
        for frame in frames
    ]


def head_of(video: Path, path: Path) -> Path:
    """The first two groups of pictures of `video`, not encoded again: 128 frames."""
    with av.open(str(video)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        keyframes = 0
        for packet in source.demux(video=0):
            keyframes += packet.is_keyframe
            if keyframes > 2 or packet.dts is None:
                break
            packet.stream = stream
            out.mux(packet)
    return path


@pytest.mark.assets
@pytest.mark.parametrize(
    ("settings", "expectation", "bar"),
    [
        ("imgsz: auto", "pedestrians.rect.json.gz", 0.99),
        ("imgsz: 640", "pedestrians.json.gz", 0.99),
        pytest.param(
            "imgsz: 640, precision: fp32, resample: exact",
            "pedestrians.json.gz",
            0.999,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_daemon_agrees_with_ultralytics(
    daemon: DaemonFactory,
    assets: Path,
    tmp_path: Path,
    settings: str,
    expectation: str,
    bar: float,
) -> None:
    video = head_of(assets / "videos" / "pedestrians.mp4", tmp_path / "pedestrians.mp4")
    model = assets / "models" / "yolov8n_coco.onnx"
    running = daemon(
        f"model: {{path: {model}, batch_size: 2, confidence: {CONFIDENCE}, iou: {IOU}, {settings}}}"
        f"\npublish: all\ncameras: [{{id: street, url: {video}}}]",
        "--until-done",
    )
    assert running.wait(within_s=240) == 0
    events = running.events()
    assert [event.seq for event in events] == list(range(len(events)))
    assert len(events) >= FRAMES
    expected = expected_frames(assets / "expected" / expectation)
    found = [event.data.objects for event in events[:FRAMES]]
    result = agreement(found, expected, confidence=CONFIDENCE)
    print(f"{settings}: {result.share:.4f} of {result.compared}")  # docs/benchmarks.md
    assert result.compared > 1000
    assert result.share >= bar
