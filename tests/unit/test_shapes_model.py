"""The shipped model sees what scenes show, read without any of streamd's own code for models."""

import ast
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from streamd.engines.openvino_library import ov
from streamd.scenes import LABELS, Scene, Truth

MODEL = Path(__file__).parents[2] / "engines" / "shapes.onnx"
SIZE = 320
CONFIDENCE = 0.4
NMS_IOU = 0.7
SAME_OBJECT_IOU = 0.5
# Training draws its scenes from seeds above a million.
UNSEEN = range(5000, 5060)


@dataclass(frozen=True, slots=True)
class Counts:
    right: int
    found: int
    there: int


@pytest.fixture(scope="module")
def counts() -> Counts:
    network = ov.Core().compile_model(str(MODEL), "CPU")
    right = found = there = 0
    for seed in UNSEEN:
        image, truth = Scene(seed).frame(seed % 200)
        picture, scale = letterboxed(image)
        head = np.asarray(network(picture)[0], np.float32)[0]
        seen = decoded(head, scale)
        right += matched(seen, truth)
        found += len(seen)
        there += len(truth)
    return Counts(right, found, there)


def test_it_finds_what_is_there(counts: Counts) -> None:
    assert counts.there > 150
    assert counts.right >= 0.9 * counts.there


def test_what_it_finds_is_there(counts: Counts) -> None:
    assert counts.right >= 0.9 * counts.found > 0


def test_its_metadata_is_what_a_user_of_ultralytics_models_expects() -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(str(MODEL)).metadata_props}
    assert ast.literal_eval(metadata["names"]) == dict(enumerate(LABELS))
    assert ast.literal_eval(metadata["imgsz"]) == [SIZE, SIZE]
    assert (metadata["stride"], metadata["task"]) == ("32", "detect")


def test_it_takes_any_batch_and_size_and_is_small() -> None:
    shape = ov.Core().read_model(str(MODEL)).input(0).partial_shape
    assert [axis.is_dynamic for axis in shape] == [True, False, True, True]
    assert MODEL.stat().st_size <= 3_000_000


def letterboxed(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """(1, 3, SIZE, SIZE) of 0..1 with the picture at the top left, and its scale."""
    height, width = image.shape[:2]
    scale = SIZE / max(width, height)
    canvas = np.full((SIZE, SIZE, 3), 114, np.uint8)
    small = cv2.resize(image, (round(width * scale), round(height * scale)))
    canvas[: small.shape[0], : small.shape[1]] = small
    return np.asarray(canvas.transpose(2, 0, 1)[None] / 255, np.float32), scale


def decoded(head: NDArray[np.float32], scale: float) -> list[Truth]:
    """Objects, best first, of a (4 + labels, anchors) head: centre, size and scores."""
    scores = head[4:].max(axis=0)
    likely = head[:, scores >= CONFIDENCE].T
    corners = np.hstack([likely[:, :2] - likely[:, 2:4] / 2, likely[:, 2:4]]) / scale
    labels = likely[:, 4:].argmax(axis=1).tolist()
    best = likely[:, 4:].max(axis=1).tolist()
    kept = cv2.dnn.NMSBoxesBatched(corners.tolist(), best, labels, CONFIDENCE, NMS_IOU)
    objects = []
    for number in kept:
        x, y, width, height = corners[number].tolist()
        objects.append(Truth(LABELS[labels[number]], (x, y, x + width, y + height)))
    return objects


def matched(seen: list[Truth], truth: list[Truth]) -> int:
    """How many of `seen` have an object of their label to themselves."""
    left = list(truth)
    for item in seen:
        best = max(left, key=lambda other: overlap(item, other), default=None)
        if best is not None and overlap(item, best) >= SAME_OBJECT_IOU:
            left.remove(best)
    return len(truth) - len(left)


def overlap(one: Truth, other: Truth) -> float:
    """Intersection over union; 0 for different labels."""
    (a1, b1, a2, b2), (c1, d1, c2, d2) = one.box, other.box
    shared = max(0.0, min(a2, c2) - max(a1, c1)) * max(0.0, min(b2, d2) - max(b1, d1))
    together = (a2 - a1) * (b2 - b1) + (c2 - c1) * (d2 - d1) - shared
    return shared / together if one.label == other.label else 0.0
