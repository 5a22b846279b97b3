"""The search of `streamd bench`, and what it says."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.capacity.kind import CameraKind
from streamd.capacity.ramp import next_count
from streamd.capacity.run import CapacityOptions, run_capacity, sentence
from streamd.capacity.trial import Trial
from streamd.errors import SetupError

KIND = CameraKind("1080p25", 1920, 1080, 25.0)
GOOD = Trial(
    cameras=41,
    wanted_fps=205.0,
    fps=204.8,
    p50_ms=90.0,
    p99_ms=180.0,
    target_ms=300.0,
    infer_busy=0.5,
    sent=1.0,
    cpu={"infer": 0.6, "decode": 0.3, "simulated cameras": 0.05},
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1080p25", (1920, 1080, 25.0)),
        ("720p", (1280, 720, 25.0)),
        ("4K15", (3840, 2160, 15.0)),
        ("640x480@10", (640, 480, 10.0)),
        ("2048x1536", (2048, 1536, 25.0)),
        ("360p12.5", (640, 360, 12.5)),
    ],
)
def test_a_kind_is_a_size_and_a_rate(text: str, kind: tuple[int, int, float]) -> None:
    parsed = CameraKind.parse(text)
    assert (parsed.width, parsed.height, parsed.fps) == kind


@pytest.mark.parametrize("text", ["", "big", "1080p0", "99p25", "0x480@10", "1080p1000", "640x"])
def test_what_is_no_kind_is_told(text: str) -> None:
    with pytest.raises(SetupError, match=r"^--camera .*no kind of camera; such are 1080p25"):
        CameraKind.parse(text)


@given(fits=st.integers(0, 600), most=st.integers(1, 512))
def test_the_search_ends_close_below_what_fits(fits: int, most: int) -> None:
    met: dict[int, bool] = {}
    while (count := next_count(met, most)) is not None:
        assert 1 <= count <= most
        assert count not in met
        met[count] = count <= fits
    best = max((count for count, ok in met.items() if ok), default=0)
    assert best <= fits
    assert best >= min(fits, most) - max(1, int(0.05 * fits))
    assert len(met) <= 20


def test_the_answer_is_a_plain_sentence() -> None:
    bad = replace(GOOD, cameras=43, fps=190.0, wanted_fps=215.0)
    assert sentence(KIND, 5.0, [GOOD, bad], 512) == (
        "41 cameras of 1080p25 at 5 fps, p99 180 ms; the engine is the limit"
    )
    assert sentence(KIND, 5.0, [GOOD], 41).endswith("; more than 41 were not tried")
    assert sentence(KIND, 5.0, [bad], 512).startswith("not one camera of 1080p25 at 5 fps: 190.0")


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, "the engine is"),
        ({"cpu": {"infer": 0.2, "decode": 0.7, "simulated cameras": 0.0}}, "decoding is"),
        ({"cpu": {"infer": 0.1, "decode": 0.1, "simulated cameras": 0.0}}, "the latency of"),
        (
            {"cpu": {"infer": 0.1, "decode": 0.1, "simulated cameras": 0.0}, "infer_busy": 0.9},
            "the engine is",
        ),
        (
            {"cpu": {"infer": 0.2, "decode": 0.2, "simulated cameras": 0.5}, "sent": 0.7},
            "the simulated cameras are",
        ),
    ],
)
def test_the_limit_is_what_there_is_no_more_of(changes: dict[str, object], limit: str) -> None:
    assert replace(GOOD, **changes).limit.startswith(limit)  # type: ignore[arg-type]  # by name


def test_frames_that_are_missed_or_too_old_break_the_target() -> None:
    assert GOOD.meets
    assert not replace(GOOD, fps=180.0).meets
    assert not replace(GOOD, p99_ms=301.0).meets


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("", "is a folder"),
        ("fits.jpg2", r"no kind of picture; such are \.png, \.svg, \.pdf"),
        ("fits", r"no kind of picture; such are \.png, \.svg, \.pdf"),
        ("away/fits.png", "no such folder"),
    ],
)
def test_a_chart_that_cannot_be_drawn_is_told_before_the_measuring(
    name: str, what: str, tmp_path: Path
) -> None:
    options = CapacityOptions(
        KIND, 5.0, "no-such.onnx", target_ms=300.0, most=1, seconds=1.0, plot=tmp_path / name
    )
    with pytest.raises(SetupError, match=f"^--plot {tmp_path / name}: {what}$"):
        run_capacity(options)
    assert not list(tmp_path.iterdir())
