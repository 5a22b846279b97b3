"""From candidates to detections in pixels of the source picture."""

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from streamd.detections import Detection
from streamd.engines.contract import ModelInfo

_FARTHEST = 1e6  # pixels; more is no place


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
        frames: Sequence[Placed],
        classes: Sequence[Collection[int] | None],
    ) -> list[tuple[Detection, ...]]:
        """The objects in each of B `frames`, best first.

        `candidates` are (B, K, 6) float32 in pixels of the engine's input. `classes` has the class
        ids to keep of each frame, None for all.
        """
        # Thresholding first: NMS is 50 times as expensive over 300 boxes as over 20.
        scores = candidates[:, :, 4]
        of, at = np.nonzero((scores >= self._confidence) & (scores > 0))
        rows = candidates[of, at].astype(np.float64)
        sound = self._are_sound(rows)
        if not sound.all():
            of, rows = of[sound], rows[sound]
        labels = rows[:, 5].astype(int).tolist()
        suppress = None if self._end_to_end else _Suppression(rows, labels, self._iou)
        kept: list[int] = []
        ends = [0]
        for numbers, wanted in zip(_numbers(of, len(frames)), classes, strict=True):
            of_frame: Sequence[int] = numbers
            if wanted is not None:
                of_frame = [i for i in numbers if labels[i] in wanted]
            if suppress is not None and len(of_frame) > 1:
                of_frame = suppress(of_frame)
            kept += of_frame[: self._max]
            ends.append(len(kept))
        found = self._detections(rows[kept], [frames[i] for i in of[kept]])
        return [tuple(found[begin:end]) for begin, end in pairwise(ends)]

    def _are_sound(self, rows: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Of each row, whether it holds none of what a broken model gives: NaN, no class, ..."""
        known = (rows[:, 5] >= 0) & (rows[:, 5] < len(self._labels))
        sound: NDArray[np.bool_] = known & (np.abs(rows).max(axis=1, initial=0.0) < _FARTHEST)
        return sound

    def _detections(self, rows: NDArray[np.float64], frames: Sequence[Placed]) -> list[Detection]:
        """The (N, 6) `rows`, each in pixels of its frame's source and within the picture."""
        placed = [(f.pad_x, f.pad_y, f.width, f.height, f.scale) for f in frames]
        placing = np.array(placed, np.float64).reshape(-1, 5)
        pads, sizes = placing[:, np.newaxis, :2], placing[:, np.newaxis, 2:4]
        corners = (rows[:, :4].reshape(-1, 2, 2) - pads) / placing[:, 4:, np.newaxis]
        boxes = corners.clip(0.0, sizes).round(2).reshape(-1, 4)
        return [
            Detection(self._labels[class_id], class_id, score, tuple(box))
            for class_id, score, box in zip(
                rows[:, 5].astype(int).tolist(),
                rows[:, 4].round(4).tolist(),
                boxes.tolist(),
                strict=True,
            )
        ]


class _Suppression:
    """Greedy non-maximum suppression within each class, of some of the (N, 6) `rows` at a time."""

    def __init__(self, rows: NDArray[np.float64], labels: list[int], iou: float) -> None:
        # OpenCV keeps classes apart by moving each beyond the last: that needs positive corners.
        corners = rows[:, :2] - rows[:, :2].min(initial=0.0)
        # As lists, which OpenCV takes faster than small arrays.
        self._boxes = np.hstack((corners, rows[:, 2:4] - rows[:, :2])).tolist()
        self._scores = rows[:, 4].tolist()
        self._labels = labels
        self._iou = iou

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        """Those of the rows with these numbers that are kept, best first."""
        scores = [self._scores[i] for i in numbers]
        boxes = [self._boxes[i] for i in numbers]
        labels = [self._labels[i] for i in numbers]
        # No score threshold: the rows are above ours, and OpenCV's excludes a score that equals it.
        kept = cv2.dnn.NMSBoxesBatched(boxes, scores, labels, 0.0, self._iou)
        return [numbers[i] for i in sorted(kept, key=lambda i: -scores[i])]


def _numbers(of: NDArray[np.intp], count: int) -> list[range]:
    """The numbers of each of `count` frames' rows, which are sorted by the frame they are `of`."""
    ends = np.searchsorted(of, np.arange(count + 1)).tolist()
    return [range(begin, end) for begin, end in pairwise(ends)]
