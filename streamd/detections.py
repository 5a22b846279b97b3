"""What is seen in a frame."""

import msgspec

Box = tuple[float, float, float, float]


class Detection(msgspec.Struct, frozen=True):
    """An object in a frame: `box` is x1, y1, x2, y2 in pixels of the source frame."""

    label: str
    class_id: int
    confidence: float
    box: Box


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (first, second))
    return width * height / (areas - width * height)
