"""How far two sets of detections agree: the measure of every comparison in this project.

Every detection of either side whose score is at least confidence + 0.1 is looked for on the other
side; it agrees where that has one of the same class with an IoU of at least 0.5 and a score of at
least confidence. F1 at one threshold would punish what flickers around the threshold instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from streamd.detections import Detection, overlap

_MARGIN = 0.1
_SAME_OBJECT_IOU = 0.5

Frame = Sequence[Detection]


@dataclass(frozen=True, slots=True)
class Agreement:
    """`agreeing` of `compared` detections, both sides and all frames together."""

    compared: int
    agreeing: int

    @property
    def share(self) -> float:
        """From 0 to 1; 1 where there was nothing to compare."""
        return self.agreeing / self.compared if self.compared else 1.0


def agreement(first: Sequence[Frame], second: Sequence[Frame], *, confidence: float) -> Agreement:
    """Compares two runs over the same frames, one sequence of detections a frame."""
    compared = agreeing = 0
    for one, other in zip(first, second, strict=True):
        for side, opposite in ((one, other), (other, one)):
            for detection in side:
                if detection.confidence >= confidence + _MARGIN:
                    compared += 1
                    agreeing += _is_found(detection, opposite, confidence)
    return Agreement(compared, agreeing)


def _is_found(detection: Detection, frame: Frame, confidence: float) -> bool:
    return any(
        other.class_id == detection.class_id
        and other.confidence >= confidence
        and overlap(other.box, detection.box) >= _SAME_OBJECT_IOU
        for other in frame
    )
