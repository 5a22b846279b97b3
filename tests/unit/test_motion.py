import av
import numpy as np
import pytest

from streamd.ingest.motion import MotionGate

GREY = np.full((720, 1280, 3), 120, np.uint8)


def frame(image: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")


def with_box(x: int, side: int = 24, level: int = 200) -> av.VideoFrame:
    """A grey picture with a square in it."""
    image = GREY.copy()
    image[300 : 300 + side, x : x + side] = level
    return frame(image)


def noisy(seed: int, sigma: float) -> av.VideoFrame:
    noise = np.random.default_rng(seed).normal(0, sigma, GREY.shape)
    return frame((GREY + noise).clip(0, 255).astype(np.uint8))


def test_the_first_frame_is_never_still() -> None:
    gate = MotionGate(5)
    assert not gate.is_still(frame(GREY), 0)
    assert not gate.is_still(frame(GREY), 0.1)  # the first one did not arrive
    gate.inferred()
    assert gate.is_still(frame(GREY), 0.2)


def test_something_small_that_comes_goes_or_moves_is_seen() -> None:
    gate = MotionGate(60)
    for seconds, image in enumerate((frame(GREY), with_box(500), with_box(524), frame(GREY))):
        assert not gate.is_still(image, seconds)
        gate.inferred()
        assert gate.is_still(image, seconds + 0.5)


def test_what_moves_slowly_adds_up() -> None:
    gate = MotionGate(60)
    still = []
    for x in range(32):
        still.append(gate.is_still(with_box(500 + x, 64, 150), x / 25))
        if not still[-1]:
            gate.inferred()
    assert 3 < still.count(False) < 32


@pytest.mark.parametrize("sigma", [1, 3, 8])
def test_the_noise_of_a_camera_is_no_motion(sigma: float) -> None:
    gate = MotionGate(60)
    assert not gate.is_still(noisy(0, sigma), 0)
    gate.inferred()
    assert all(gate.is_still(noisy(seed, sigma), seed / 25) for seed in range(1, 20))


def test_a_frame_is_inferred_at_least_once_an_interval() -> None:
    gate = MotionGate(5)
    still = []
    for n in range(120):
        still.append(gate.is_still(frame(GREY), n / 10))
        if not still[-1]:
            gate.inferred()
    assert [n for n, is_still in enumerate(still) if not is_still] == [0, 50, 100]


def test_times_that_go_back_and_another_size_are_not_still() -> None:
    gate = MotionGate(60)
    gate.is_still(frame(GREY), 10)
    gate.inferred()
    assert not gate.is_still(frame(GREY), 9)
    assert not gate.is_still(frame(np.ascontiguousarray(GREY[:400])), 11)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "nv12", "yuv420p10le", "rgb24", "gray"])
def test_it_takes_frames_of_every_format(pixels: str) -> None:
    gate = MotionGate(60)
    assert not gate.is_still(frame(GREY).reformat(format=pixels), 0)
    gate.inferred()
    assert gate.is_still(frame(GREY).reformat(format=pixels), 1)
    assert not gate.is_still(with_box(500).reformat(format=pixels), 2)
