"""Proof before use: an engine beside the model that it was built from, on the same pictures."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamd.detections import Detection, overlap
from streamd.engines.contract import Engine, ModelInfo, Runner
from streamd.ingest.letterbox import Letterbox
from streamd.models.agreement import agreement
from streamd.postprocess import Detector
from streamd.slots import InputShape

Image = NDArray[np.uint8]

# Below the configured confidence, should the pictures hold too little to compare.
_LOWER = (0.1, 0.05, 0.02, 0.01, 0.0)
_ENOUGH = 40
_SCORE_BAR = 0.02


@dataclass(frozen=True, slots=True)
class Proof:
    """How an engine compared with its model.

    `agreement` is the share that agreement.py defines, over `compared` detections with a score of
    at least `confidence` + 0.1; `mean_iou` and `mean_score_difference` are over pairs of the same
    object. Where no picture held a detection, `compared` is 0, and the difference is that of the
    best scores of each picture.
    """

    frames: int
    confidence: float
    compared: int
    agreement: float
    mean_iou: float
    mean_score_difference: float
    bar: float

    @property
    def passed(self) -> bool:
        """Whether the engine may be used."""
        if not self.compared:
            return self.mean_score_difference <= _SCORE_BAR
        return self.agreement >= self.bar

    def as_dict(self) -> dict[str, Any]:
        """For the engine's manifest."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        if not self.compared:
            return (
                f"nothing to detect in {self.frames} frames, "
                f"scores differ by {self.mean_score_difference:.4f}"
            )
        return (
            f"agreement {self.agreement:.4f} over {self.compared} detections "
            f"(confidence {self.confidence:g}, {self.frames} frames), "
            f"mean IoU {self.mean_iou:.4f}, mean score difference {self.mean_score_difference:.4f}"
        )


def prove(
    engine: Engine,
    model: ModelInfo,
    reference: Callable[[InputShape], Callable[[Image], NDArray[np.float32]]],
    images: Callable[[InputShape], Sequence[Image]],
    *,
    confidence: float,
    iou: float,
    bar: float,
) -> Proof:
    """Compares `engine` with `reference` on `images`, (height, width, 3) uint8 RGB, by shape."""
    pairs = []
    (runner,) = engine.runners(1)
    shapes = engine.spec.shapes
    for turn, shape in enumerate(shapes):
        # The arithmetic is the same at each shape: they share the pictures.
        pictures = images(shape)[turn :: len(shapes)]
        infer = reference(shape)
        found = _infer_all(runner, pictures, engine.spec.ladder)
        pairs += [(got, infer(image), shape) for got, image in zip(found, pictures, strict=True)]
    for threshold in (confidence, *(lower for lower in _LOWER if lower < confidence)):
        proof = _compare(pairs, model, threshold, iou, bar)
        if proof.compared >= _ENOUGH:
            break
    return proof


def _infer_all(
    runner: Runner, images: Sequence[Image], ladder: Sequence[int]
) -> list[NDArray[np.float32]]:
    """Candidates of each image; every rung of the ladder takes its turn."""
    found: list[NDArray[np.float32]] = []
    turn = 0
    while len(found) < len(images):
        batch = images[len(found) :][: ladder[turn % len(ladder)]]
        runner.load(batch)
        found += list(runner.run())
        turn += 1
    return found


def _compare(
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], InputShape]],
    model: ModelInfo,
    confidence: float,
    iou: float,
    bar: float,
) -> Proof:
    detector = Detector(model, confidence=confidence, iou=iou, max_detections=300)

    def detect(candidates: NDArray[np.float32], shape: InputShape) -> tuple[Detection, ...]:
        placed = Letterbox.fit(shape.width, shape.height, shape)
        return detector.detect(candidates[np.newaxis], [placed], [None])[0]

    got = [detect(candidates, shape) for candidates, _, shape in pairs]
    expected = [detect(candidates, shape) for _, candidates, shape in pairs]
    result = agreement(got, expected, confidence=confidence)
    matches = [
        match for one, other in zip(got, expected, strict=True) for match in _same(one, other)
    ]
    if result.compared and matches:
        difference = fmean(abs(a.confidence - b.confidence) for a, b in matches)
    else:
        difference = fmean(abs(float(a[:, 4].max()) - float(b[:, 4].max())) for a, b, _ in pairs)
    return Proof(
        frames=len(pairs),
        confidence=confidence,
        compared=result.compared,
        agreement=round(result.share, 5),
        mean_iou=round(fmean(overlap(a.box, b.box) for a, b in matches), 5) if matches else 0.0,
        mean_score_difference=round(difference, 5),
        bar=bar,
    )


def _same(
    found: Sequence[Detection], expected: Sequence[Detection]
) -> list[tuple[Detection, Detection]]:
    """Each expected detection with the one of its class that overlaps it most, if by half."""
    pairs = []
    for wanted in expected:
        rivals = [each for each in found if each.class_id == wanted.class_id]
        best = max(rivals, key=lambda each: overlap(each.box, wanted.box), default=None)
        if best is not None and overlap(best.box, wanted.box) >= 0.5:
            pairs.append((best, wanted))
    return pairs
