import itertools

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from streamd.detections import Detection
from streamd.engines.contract import CANDIDATES, ModelInfo
from streamd.ingest.letterbox import Letterbox
from streamd.postprocess import Detector, Placed
from streamd.slots import FrameMeta, InputShape

from .fakes import SQUARE, frame_meta

LABELS = ("cat", "dog", "cow")
Row = tuple[float, float, float, float, float, float]


def model(*, end_to_end: bool = False) -> ModelInfo:
    return ModelInfo("tiny.onnx", "tiny", LABELS, 32, SQUARE, True, end_to_end)


def detector(
    *,
    confidence: float = 0.25,
    iou: float = 0.5,
    max_detections: int = 300,
    end_to_end: bool = False,
) -> Detector:
    return Detector(
        model(end_to_end=end_to_end),
        confidence=confidence,
        iou=iou,
        max_detections=max_detections,
    )


def detect(
    detector: Detector,
    rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    frame: Placed,
    classes: frozenset[int] | None = None,
) -> tuple[Detection, ...]:
    (found,) = detector.detect(rows[np.newaxis], [frame], [classes])
    return found


def candidates(*rows: Row) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """`rows` best first, as an engine gives them, with empty rows behind."""
    padded = [*sorted(rows, key=lambda row: -row[4]), *[(0.0,) * 6] * 3]
    return np.array(padded, np.float32)


def overlap(a: Row, b: Row) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return common / (sum(areas) - common)


def suppress(rows: list[Row], iou: float) -> list[Row]:
    """Non-maximum suppression as the textbook has it."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: -row[4]):
        if not any(row[5] == other[5] and overlap(row, other) > iou for other in kept):
            kept.append(row)
    return kept


WHOLE = frame_meta(InputShape(2000, 2000), width=2000, height=2000)


@st.composite
def boxes(draw: st.DrawFn) -> list[Row]:
    """Boxes on a coarse grid, so that many overlap; some reach beyond the picture."""
    scores = draw(st.lists(st.integers(1, 999), max_size=14, unique=True))
    rows = []
    for score in scores:
        x, y = draw(st.tuples(st.integers(-4, 10), st.integers(-4, 10)))
        width, height = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
        label = draw(st.integers(0, len(LABELS) - 1))
        corners = (10.0 * x, 10.0 * y, 10.0 * (x + width), 10.0 * (y + height))
        rows.append((*corners, score / 1000, float(label)))
    return rows


@given(boxes(), st.floats(0.05, 0.95), st.floats(0.0, 0.6))
@example([(50, 50, 100, 100, 0.9, 0), (-51, -51, 0, 0, 0.6, 1)], 0.5, 0.25)
@settings(max_examples=150, deadline=None)
def test_what_is_left_equals_textbook_suppression_within_each_class(
    rows: list[Row], iou: float, confidence: float
) -> None:
    assume(all(abs(overlap(a, b) - iou) > 1e-4 for a, b in itertools.combinations(rows, 2)))
    assume(all(abs(row[4] - confidence) > 1e-4 for row in rows))
    found = detect(detector(confidence=confidence, iou=iou), candidates(*rows), WHOLE)
    expected = suppress([row for row in rows if row[4] > confidence], iou)
    assert [(d.confidence, d.class_id) for d in found] == [(r[4], int(r[5])) for r in expected]
    clipped = [tuple(min(max(side, 0.0), 2000.0) for side in row[:4]) for row in expected]
    assert [d.box for d in found] == clipped


@pytest.mark.parametrize("end_to_end", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_a_score_at_the_threshold_is_a_detection(end_to_end: bool, count: int) -> None:
    rows: list[Row] = [(100.0 * n, 0, 100.0 * n + 50, 50, 0.5, 0) for n in range(count)]
    found = detect(detector(confidence=0.5, end_to_end=end_to_end), candidates(*rows), WHOLE)
    assert len(found) == count


@pytest.mark.parametrize("end_to_end", [False, True])
def test_a_threshold_of_zero_lets_no_empty_row_through(end_to_end: bool) -> None:
    rows = candidates((0, 0, 50, 50, 0.01, 1))
    found = detect(detector(confidence=0.0, end_to_end=end_to_end), rows, WHOLE)
    assert found == (Detection("dog", 1, 0.01, (0.0, 0.0, 50.0, 50.0)),)


def test_an_end_to_end_model_keeps_boxes_that_overlap() -> None:
    rows = candidates((0, 0, 50, 50, 0.9, 0), (1, 0, 51, 50, 0.8, 0))
    assert len(detect(detector(end_to_end=True), rows, WHOLE)) == 2
    assert len(detect(detector(end_to_end=False), rows, WHOLE)) == 1


def test_only_the_classes_asked_for_are_told() -> None:
    rows = candidates(*[(100.0 * n, 0, 100.0 * n + 50, 50, 0.9 - n / 10, n) for n in range(3)])
    found = detect(detector(), rows, WHOLE, classes=frozenset({0, 2}))
    assert [d.label for d in found] == ["cat", "cow"]
    assert detect(detector(), rows, WHOLE, classes=frozenset()) == ()


def test_at_most_max_detections_are_told_the_best_first() -> None:
    rows: list[Row] = [(60.0 * n, 0, 60.0 * n + 50, 50, 0.3 + n / 100, n % 3) for n in range(30)]
    found = detect(detector(max_detections=4), candidates(*rows), WHOLE)
    assert [d.confidence for d in found] == [0.59, 0.58, 0.57, 0.56]


def test_a_full_house_of_separate_objects_is_told_whole() -> None:
    rows: list[Row] = [
        (20.0 * (n % 20), 20.0 * (n // 20), 20.0 * (n % 20) + 10, 20.0 * (n // 20) + 10, 0.9, 0)
        for n in range(CANDIDATES)
    ]
    assert len(detect(detector(), candidates(*rows), WHOLE)) == CANDIDATES


def letterboxed(width: int, height: int, shape: InputShape) -> FrameMeta:
    box = Letterbox.fit(width, height, shape)
    return frame_meta(
        shape, width=width, height=height, scale=box.scale, pad_x=box.pad_x, pad_y=box.pad_y
    )


@given(
    st.integers(16, 4000),
    st.integers(16, 4000),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.sampled_from([InputShape(384, 640), InputShape(640, 640), InputShape(640, 384)]),
)
@settings(max_examples=60, deadline=None)
def test_a_box_comes_back_to_where_it_was_in_the_source_picture(
    width: int, height: int, shares: tuple[float, float, float, float], shape: InputShape
) -> None:
    meta = letterboxed(width, height, shape)
    sides = (width, height, width, height)
    source = [share * side for share, side in zip(shares, sides, strict=True)]
    pads = (meta.pad_x, meta.pad_y) * 2
    x1, y1, x2, y2 = (p * meta.scale + pad for p, pad in zip(source, pads, strict=True))
    (found,) = detect(detector(), candidates((x1, y1, x2, y2, 0.9, 0)), meta)
    assert found.box == pytest.approx(source, abs=0.01 + 1e-4 / meta.scale)


def test_a_box_that_reaches_into_the_padding_ends_at_the_pictures_edge() -> None:
    meta = letterboxed(1920, 1080, InputShape(640, 640))
    (found,) = detect(detector(), candidates((-5, 100, 645, 600, 0.9, 0)), meta)
    assert found.box == (0.0, 0.0, 1920.0, 1080.0)


def test_each_frame_of_a_batch_has_its_own_objects() -> None:
    one = candidates((0, 0, 50, 50, 0.9, 0), (100, 0, 150, 50, 0.8, 1))
    two = candidates((20, 20, 60, 60, 0.7, 2), (100, 0, 150, 50, 0.8, 1))
    none = candidates((0, 0, 50, 50, 0.1, 0), (100, 0, 150, 50, 0.1, 1))
    metas: list[Placed] = [WHOLE, WHOLE, Letterbox.fit(1000, 1000, SQUARE)]
    rows = np.stack([one, none, two])
    found = detector().detect(rows, metas, [None, None, frozenset({2})])
    alone = [
        detect(detector(), each, meta, classes)
        for each, meta, classes in zip(rows, metas, [None, None, frozenset({2})], strict=True)
    ]
    assert found == alone
    assert [[d.label for d in each] for each in found] == [["cat", "dog"], [], ["cow"]]
    assert detector().detect(rows[:0], [], []) == []


@pytest.mark.parametrize(
    "broken",
    [
        (np.nan, 10, 60, 60, 0.9, 0),
        (10, 10, np.inf, 60, 0.9, 0),
        (-1e30, 10, 60, 60, 0.9, 0),
        (10, 10, 60, 60, np.inf, 0),
        (10, 10, 60, 60, 0.9, np.nan),
        (10, 10, 60, 60, 0.9, 3),
        (10, 10, 60, 60, 0.9, -1),
    ],
)
@pytest.mark.parametrize("end_to_end", [True, False])
def test_what_a_broken_model_gives_is_left_out_and_costs_no_other_frame_a_box(
    broken: Row, end_to_end: bool
) -> None:
    sound = candidates((10, 10, 60, 60, 0.9, 0), (100, 100, 160, 160, 0.8, 1))
    other = candidates(broken, (200, 10, 260, 60, 0.8, 2))
    both = detector(end_to_end=end_to_end).detect(np.stack([sound, other]), [WHOLE] * 2, [None] * 2)
    assert both[0] == detect(detector(), sound, WHOLE)
    assert [found.label for found in both[1]] == ["cow"]
