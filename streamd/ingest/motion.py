"""Which frames of a camera show what the last inferred one showed."""

import math

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from streamd.ingest.letterbox import packed_view

# The picture is compared as this many cells along its longer side, each the mean of its pixels.
_CELLS = 160
# Levels of 255 by which a single cell must differ: more than the noise of a camera leaves in the
# mean of a cell, and less than anything that a model would see (docs/benchmarks.md).
_LEAST_CHANGE = 10


class MotionGate:
    """Tells frames that look like the last one that was inferred.

    The comparison is with that frame, not with the one before: what moves slowly adds up. At
    least every `idle_interval_s` seconds of media a frame is not still, whatever it shows.
    """

    def __init__(self, idle_interval_s: float) -> None:
        self._idle_interval_s = idle_interval_s
        self._reformatter = VideoReformatter()
        self._shown: NDArray[np.int16] | None = None
        self._shown_s = -math.inf
        self._latest: NDArray[np.int16] | None = None
        self._latest_s = -math.inf

    def is_still(self, image: av.VideoFrame, time_s: float) -> bool:
        """Whether `image`, of `time_s` by the camera's media time, need not be inferred."""
        self._latest, self._latest_s = self._cells(image), time_s
        shown = self._shown
        if shown is None or shown.shape != self._latest.shape:
            return False
        if not 0 <= time_s - self._shown_s < self._idle_interval_s:
            return False
        return int(np.abs(self._latest - shown).max()) < _LEAST_CHANGE

    def inferred(self) -> None:
        """The frame of the last question is on its way to be inferred."""
        self._shown, self._shown_s = self._latest, self._latest_s

    def forget(self) -> None:
        """What was on its way did not arrive: the next frame is not still."""
        self._shown = None

    def _cells(self, image: av.VideoFrame) -> NDArray[np.int16]:
        """The brightness of `image` as (rows, columns) int16 of 0 to 255."""
        share = min(1.0, _CELLS / max(image.width, image.height))
        tiny = self._reformatter.reformat(
            image,
            max(1, round(image.width * share)),
            max(1, round(image.height * share)),
            "gray",
            interpolation=Interpolation.AREA,
            threads=1,
        )
        return packed_view(tiny, 1)[..., 0].astype(np.int16)
