"""The seam between a frame's detections and its event: stages that keep a camera's state.

A stage sees the frames of one camera in order. Tracking, zones and counting will be stages.
"""

from typing import Protocol

from streamd.events import InferredFrame


class Stage(Protocol):
    """One step of a camera's chain."""

    def process(self, frame: InferredFrame) -> InferredFrame:
        """The frame with what this stage adds to it."""
        ...


def run_stages(stages: tuple[Stage, ...], frame: InferredFrame) -> InferredFrame:
    """`frame` after all of `stages`."""
    for stage in stages:
        frame = stage.process(frame)
    return frame
