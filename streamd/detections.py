"""From candidates to detections in pixels of the source picture."""

from collections.abc import Collection
from typing import Protocol

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from streamd.engines.contract import ModelInfo

Box = tuple[float, float, float, float]


class Detection(msgspec.Struct, frozen=True):
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
        kept = rows if self._end_to_end else self._suppress(rows)
        return self._detections(kept[: self._max].astype(np.float64), frame)

    def _suppress(self, candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Greedy non-maximum suppression within each class; best first."""
        if len(candidates) < 2:
            return candidates
        rows = candidates.tolist()
        # OpenCV keeps classes apart by moving each beyond the last: that needs positive corners.
        low = min(0.0, *(min(row[:2]) for row in rows))
        boxes = [(x1 - low, y1 - low, x2 - x1, y2 - y1) for x1, y1, x2, y2, _, _ in rows]
        scores = [row[4] for row in rows]
        labels = [int(row[5]) for row in rows]
        # No score threshold: the rows are above ours, and OpenCV's excludes a score that equals it.
        kept = cv2.dnn.NMSBoxesBatched(boxes, scores, labels, 0.0, self._iou)
        return candidates[sorted(kept, key=lambda i: -scores[i])]

    def _detections(self, rows: NDArray[np.float64], frame: Placed) -> tuple[Detection, ...]:
        """The (K, 6) `rows` in pixels of the source, kept within the picture."""
        pads = (frame.pad_x, frame.pad_y, frame.pad_x, frame.pad_y)
        limits = (frame.width, frame.height, frame.width, frame.height)
        boxes = ((rows[:, :4] - pads) / frame.scale).clip(0.0, limits).round(2)
        return tuple(
            Detection(self._labels[class_id], class_id, score, tuple(box))
            for class_id, score, box in zip(
                rows[:, 5].astype(int).tolist(),
                rows[:, 4].round(4).tolist(),
                boxes.tolist(),
                strict=True,
            )
        )


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (first, second))
    return width * height / (areas - width * height)
