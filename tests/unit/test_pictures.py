import errno
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamd.demo.clips import write_clip
from streamd.errors import EngineError
from streamd.models.pictures import Pictures, sampled, scenes
from streamd.scenes import Scene
from streamd.slots import InputShape

SHAPE = InputShape(96, 160)


def flat_image(path: Path, value: int) -> None:
    assert cv2.imwrite(str(path), np.full((90, 160, 3), value, np.uint8))


def brightness(pictures: Pictures) -> list[int]:
    return [round(float(image[48, 80].mean())) for image in pictures.letterboxed(SHAPE)]


def test_scenes_come_in_several_aspects_as_an_engine_wants_them() -> None:
    images = scenes().letterboxed(SHAPE)
    assert {image.shape for image in images} == {(96, 160, 3)}
    assert {image.dtype for image in images} == {np.dtype(np.uint8)}
    # What is not wide has padding at its sides.
    assert len({bool((image[:, 0] == 114).all()) for image in images}) == 2


def test_a_folder_gives_each_of_its_images(tmp_path: Path) -> None:
    for number in range(5):
        flat_image(tmp_path / f"{number}.png", 40 * number)
    (tmp_path / ".DS_Store").write_bytes(b"of the system")
    assert brightness(sampled(str(tmp_path))) == pytest.approx([0, 40, 80, 120, 160], abs=2)


def test_of_a_large_folder_images_are_taken_from_all_of_it(tmp_path: Path) -> None:
    for number in range(100):
        flat_image(tmp_path / f"{number:03}.png", 2 * number)
    found = brightness(sampled(str(tmp_path)))
    assert len(found) == 32
    assert (found[0], found[-1]) == pytest.approx((0, 198), abs=2)
    assert found == sorted(found)


def test_of_a_video_frames_are_taken_from_beginning_to_end(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", Scene(seed=1, width=160, height=96, fps=10), 15)
    assert len(sampled(str(clip.path))) == 32


@pytest.mark.parametrize("kind", ["empty", "missing", "text"])
def test_a_source_without_pictures_is_one_line_that_names_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "pictures"
    if kind == "empty":
        path.mkdir()
    elif kind == "text":
        path.write_text("no picture\n")
    with pytest.raises(EngineError, match=rf"^{path}: [^\n]+$"):
        sampled(str(path))


def test_a_folder_that_may_not_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(EngineError, match=f"^{tmp_path}: Permission denied$"):
        sampled(str(tmp_path))
