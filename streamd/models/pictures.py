"""Pictures to prove an engine on, and to calibrate int8 with: shipped scenes, or a user's own."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from numpy.typing import NDArray

from streamd.clock import SystemClock
from streamd.config import CameraConfig, mask_url
from streamd.errors import EngineError, SourceError
from streamd.ingest.decoder import Decoder
from streamd.ingest.letterbox import FastScaler, Letterbox, display_size
from streamd.ingest.source import source_for
from streamd.scenes import Scene
from streamd.slots import InputShape

T = TypeVar("T")

_COUNT = 32
_LONGEST_LOOK = 3000  # frames of a recording
_LIVE_STEP = 10  # of a live camera, one frame in so many


class Pictures:
    """Decoded frames, given out as an engine of any shape would get them."""

    def __init__(self, frames: Sequence[av.VideoFrame]) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def letterboxed(self, shape: InputShape) -> list[NDArray[np.uint8]]:
        """Each frame as (height, width, 3) uint8 RGB of `shape`."""
        scaler = FastScaler()
        images = []
        for frame in self._frames:
            box = Letterbox.fit(*display_size(frame), shape)
            image = np.empty((shape.height, shape.width, 3), np.uint8)
            box.paint_padding(image)
            box.inner(image)[...] = scaler.scale(frame, box)
            images.append(image)
        return images


def scenes() -> Pictures:
    """Frames of generated scenes, in the common aspects."""
    sizes = ((640, 360), (640, 480), (480, 480))
    frames = []
    for seed in range(_COUNT):
        image, _ = Scene(seed + 1, *sizes[seed % len(sizes)]).frame(5 * seed)
        frames.append(av.VideoFrame.from_ndarray(image, format="rgb24"))
    return Pictures(frames)


def sampled(source: str) -> Pictures:
    """Up to 32 frames of `source`: a camera's URL, a video, an image, or a folder of those.

    What a folder hides (`.DS_Store`, `._photo.jpg`) is no picture of it. Raises EngineError
    where there is none.
    """
    path = Path(source)
    try:
        members = _shown_in(path) if path.is_dir() else [source]
    except OSError as error:
        raise EngineError(f"{source}: {error.strerror or error}") from None
    share = max(1, _COUNT // max(1, len(members)))
    frames: list[av.VideoFrame] = []
    for member in _spread(members, _COUNT):
        try:
            frames += _frames_of(str(member), share)
        except SourceError as error:
            raise EngineError(f"{mask_url(str(member))}: {error}") from None
    if not frames:
        raise EngineError(f"{mask_url(source)}: holds no pictures to calibrate with")
    return Pictures(frames)


def _shown_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _frames_of(url: str, count: int) -> list[av.VideoFrame]:
    """`count` frames, spread over a recording, or the next ones of a live camera."""
    feed = source_for(CameraConfig(id="pictures", url=url)).open()
    try:
        decoder = Decoder(feed.stream, SystemClock())
        decoded = (decoder.decode(picture) for picture in feed.pictures())
        images = (frame.image for one in decoded for frame in one.frames)
        return _next(images, count) if feed.info.live else _evenly(images, count)
    finally:
        feed.close()


def _next(images: Iterator[av.VideoFrame], count: int) -> list[av.VideoFrame]:
    found = []
    for number, image in enumerate(images):
        if number % _LIVE_STEP == 0:
            found.append(image)
        if len(found) == count:
            break
    return found


def _evenly(images: Iterator[av.VideoFrame], count: int) -> list[av.VideoFrame]:
    """Keeps every n-th frame, and doubles n whenever twice as many as wanted are held."""
    kept: list[av.VideoFrame] = []
    step = 1
    for number, image in enumerate(images):
        if number % step == 0:
            kept.append(image)
        if len(kept) >= 2 * count:
            kept, step = kept[::2], 2 * step
        if number > _LONGEST_LOOK:
            break
    return _spread(kept, count)


def _spread(items: Iterable[T], count: int) -> list[T]:
    """At most `count` of `items`, at equal distances."""
    every = list(items)
    if len(every) <= count:
        return every
    return [every[round(i * (len(every) - 1) / max(1, count - 1))] for i in range(count)]
