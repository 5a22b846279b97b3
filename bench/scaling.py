"""What a way to scale costs, and how true it is: the daemon's beside one pass of FAST_BILINEAR.

    python -m bench.scaling --model yolov8n.onnx --video street.mp4

Pictures of the video, cut to 16:9, are made as large as common cameras send them. Each way brings
them to the input of the model; its detections are compared with those of `resample: exact`, which
are ultralytics' own. Cost is CPU time a frame, medians of alternating rounds.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from numpy.typing import NDArray

from streamd.config import ModelConfig
from streamd.detections import Detection
from streamd.engines.model_file import inspect_model
from streamd.ingest.letterbox import (
    FastScaler,
    Letterbox,
    Scaler,
    packed_view,
    source_color_range,
    source_colorspace,
)
from streamd.ingest.letterbox_exact import ExactScaler
from streamd.models.agreement import Agreement, agreement
from streamd.models.engine_loader import load_engine
from streamd.postprocess import Detector
from streamd.slots import InputShape

_SIZES = (480, 270), (1280, 720), (1920, 1080), (2560, 1440), (3840, 2160)
_CONFIDENCE = 0.25
_ROUNDS = 5


class OnePass:
    """Scales and converts to RGB in one pass of swscale, with FAST_BILINEAR."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def scale(self, frame: av.VideoFrame, box: Letterbox) -> NDArray[np.uint8]:
        """See Scaler; for pictures that are upright."""
        rgb = self._reformatter.reformat(
            frame,
            box.inner_width,
            box.inner_height,
            "rgb24",
            src_colorspace=source_colorspace(frame),
            src_color_range=source_color_range(frame),
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.FAST_BILINEAR,
            threads=1,
        )
        return packed_view(rgb, 3)


@dataclass
class Way:
    """A way to scale, and what was seen of it at one size."""

    name: str
    scaler: Scaler
    found: list[tuple[Detection, ...]] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)
    costs_ms: list[float] = field(default_factory=list)


def main() -> None:
    """Measures and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", required=True)
    options.add_argument("--video", required=True)
    options.add_argument("--frames", type=int, default=100)
    asked = options.parse_args()
    cv2.setNumThreads(1)  # what other threads do would not be counted
    pictures = list(_pictures(asked.video, asked.frames))
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as cache:
        eye = Eye(ModelConfig(path=asked.model, precision="fp32", batch_size=1, cache=cache))
    print("| picture | way | agreement | of | difference, levels | CPU, ms | exact, ms |")
    print("|---|---|---|---|---|---|---|")
    for size in _SIZES:
        _compare(size, pictures, eye)


def _pictures(video: str, count: int) -> Iterator[NDArray[np.uint8]]:
    """Some pictures of the whole video as BGR, cut to 16:9."""
    with av.open(video) as container:
        stream = container.streams.video[0]
        step = max(1, stream.frames // count)
        for number, frame in enumerate(container.decode(stream)):
            if number % step == 0:
                height = frame.width * 9 // 16
                top = (frame.height - height) // 2
                yield np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)[top : top + height]


class Eye:
    """What the model sees in a picture, in fp32 and one by one."""

    def __init__(self, config: ModelConfig) -> None:
        model = inspect_model(config.path, config.imgsz)
        self.shapes: tuple[InputShape, ...] = model.shapes
        (self._runner,) = load_engine(model, config).engine.runners(1)
        self._detector = Detector(model, confidence=_CONFIDENCE, iou=0.7, max_detections=300)

    def sees(self, scaled: NDArray[np.uint8], box: Letterbox) -> tuple[Detection, ...]:
        """Detections in the inner part of an input."""
        image = np.empty((box.shape.height, box.shape.width, 3), np.uint8)
        box.paint_padding(image)
        box.inner(image)[...] = scaled
        self._runner.load([image])
        return self._detector.detect(self._runner.run(), [box], [None])[0]


def _compare(size: tuple[int, int], pictures: Sequence[NDArray[np.uint8]], eye: Eye) -> None:
    frames = [_frame(picture, size) for picture in pictures]
    box = Letterbox.best(*size, eye.shapes)
    exact = Way("exact", ExactScaler())
    ways = [Way("as YUV, then to RGB", FastScaler()), Way("one pass", OnePass())]
    for frame in frames:
        wanted = exact.scaler.scale(frame, box)
        exact.found.append(eye.sees(wanted, box))
        for way in ways:
            scaled = way.scaler.scale(frame, box)
            way.found.append(eye.sees(scaled, box))
            way.differences.append(float(np.abs(scaled.astype(int) - wanted).mean()))
    for _ in range(_ROUNDS):
        for way in (*ways, exact):
            way.costs_ms.append(_cost_ms(way.scaler, frames, box))
    for way in ways:
        result: Agreement = agreement(way.found, exact.found, confidence=_CONFIDENCE)
        print(
            f"| {size[0]}x{size[1]} | {way.name} | {result.share:.4f} | {result.compared} "
            f"| {fmean(way.differences):.2f} | {median(way.costs_ms):.3f} "
            f"| {median(exact.costs_ms):.3f} |",
            flush=True,
        )


def _frame(picture: NDArray[np.uint8], size: tuple[int, int]) -> av.VideoFrame:
    larger = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    frame = av.VideoFrame.from_ndarray(np.asarray(larger, np.uint8), format="bgr24")
    return frame.reformat(
        format="yuv420p",
        interpolation=Interpolation.BICUBIC,
        dst_colorspace=source_colorspace(frame),
        dst_color_range=ColorRange.MPEG,
    )


def _cost_ms(scaler: Scaler, frames: Sequence[av.VideoFrame], box: Letterbox) -> float:
    began_s = time.thread_time()
    for frame in frames:
        scaler.scale(frame, box)
    return 1000 * (time.thread_time() - began_s) / len(frames)


if __name__ == "__main__":
    main()
