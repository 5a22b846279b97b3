"""From candidates to detections in pixels of the source picture."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from streamd.engines.contract import ModelInfo

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Detection:
    """An object in a frame: `box` is x1, y1, x2, y2 in pixels of the source frame."""

    label: str
    class_id: int
    confidence: float
    box: Box


class Placed(Protocol):
    """How a picture lies in the engine's input: see Letterbox, and FrameMeta, which has it too."""

    @property
    def width(self) -> int: ...  # noqa: D102  # of the source picture
    @property
    def height(self) -> int: ...  # noqa: D102
    @property
    def scale(self) -> float: ...  # noqa: D102
    @property
    def pad_x(self) -> int: ...  # noqa: D102
    @property
    def pad_y(self) -> int: ...  # noqa: D102


class Detector:
    """The last step of a model, on the CPU: threshold, class-aware NMS, source pixels.

    `max_detections` best ones of a frame are kept. End-to-end models have no overlaps to suppress.
    """

    def __init__(
        self, model: ModelInfo, *, confidence: float, iou: float, max_detections: int
    ) -> None:
        self._labels = model.labels
        self._end_to_end = model.end_to_end
        self._confidence = confidence
        self._iou = iou
        self._max = max_detections

    def detect(
        self,
        candidates: NDArray[np.float32],
        frame: Placed,
        classes: Collection[int] | None = None,
    ) -> tuple[Detection, ...]:
        """The objects among `candidates`, (K, 6) float32 in pixels of the engine's input.

        Best first. `classes` keeps only those class ids.
        """
        # Thresholding first: NMS is 50 times as expensive over 300 boxes as over 20.
        scores = candidates[:, 4]
        rows = candidates[(scores >= self._confidence) & (scores > 0)]
        if classes is not None:
            rows = rows[np.isin(rows[:, 5], list(classes))]
        kept = rows.tolist() if self._end_to_end else self._suppress(rows.tolist())
        return tuple(self._detection(row, frame) for row in kept[: self._max])

    def _suppress(self, rows: list[list[float]]) -> list[list[float]]:
        """Greedy non-maximum suppression within each class."""
        if len(rows) < 2:
            return rows
        # OpenCV keeps classes apart by moving each beyond the last: that needs positive corners.
        low = min(0.0, *(min(row[:2]) for row in rows))
        boxes = [(x1 - low, y1 - low, x2 - x1, y2 - y1) for x1, y1, x2, y2, _, _ in rows]
        scores = [row[4] for row in rows]
        labels = [int(row[5]) for row in rows]
        # No score threshold: the rows are above ours, and OpenCV's excludes a score that equals it.
        kept = cv2.dnn.NMSBoxesBatched(boxes, scores, labels, 0.0, self._iou)
        return sorted((rows[i] for i in kept), key=lambda row: -row[4])

    def _detection(self, row: list[float], frame: Placed) -> Detection:
        x1, y1, x2, y2, score, label = row
        class_id = int(label)
        box = (
            _unscale(x1, frame.pad_x, frame.scale, frame.width),
            _unscale(y1, frame.pad_y, frame.scale, frame.height),
            _unscale(x2, frame.pad_x, frame.scale, frame.width),
            _unscale(y2, frame.pad_y, frame.scale, frame.height),
        )
        return Detection(self._labels[class_id], class_id, round(score, 4), box)


def _unscale(position: float, pad_px: int, scale: float, limit_px: int) -> float:
    return round(min(max((position - pad_px) / scale, 0.0), limit_px), 2)


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (first, second))
    return width * height / (areas - width * height)
