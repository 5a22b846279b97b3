"""How well the demo sees: its events against what was drawn."""

from collections import Counter
from dataclasses import dataclass, field

from streamd.demo.clips import Clip
from streamd.detections import Detection, overlap
from streamd.events import Event
from streamd.scenes import Truth

_SAME_OBJECT_IOU = 0.5


@dataclass(slots=True)
class Score:
    """Detections against the truth, summed over frames."""

    frames: int = 0
    right: int = 0
    wrong: int = 0
    missed: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    @property
    def precision(self) -> float:
        """The share of what was reported that is there."""
        return self.right / max(1, self.right + self.wrong)

    @property
    def recall(self) -> float:
        """The share of what is there that was reported."""
        return self.right / max(1, self.right + self.missed)

    def add(self, event: Event, clip: Clip) -> None:
        """Compares one event with the frame of `clip` that it is of."""
        if event.data.pts is None:
            return
        right = matches(event.data.objects, clip.truth_at(event.data.pts))
        self.frames += 1
        self.right += right
        self.wrong += len(event.data.objects) - right
        self.missed += len(clip.truth_at(event.data.pts)) - right
        self.labels.update(item.label for item in event.data.objects)


def matches(found: tuple[Detection, ...], truth: tuple[Truth, ...]) -> int:
    """How many of `found`, best first, each have a truth of their label to themselves."""
    open_truth = list(truth)
    right = 0
    for item in found:
        same = [t for t in open_truth if t.label == item.label]
        best = max(same, key=lambda t: overlap(t.box, item.box), default=None)
        if best is not None and overlap(best.box, item.box) >= _SAME_OBJECT_IOU:
            open_truth.remove(best)
            right += 1
    return right
