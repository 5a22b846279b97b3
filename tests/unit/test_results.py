"""From inferred frames to the entries of a stream."""

import msgspec

from streamd.config import CameraConfig, Publish
from streamd.events import InferredFrame
from streamd.inference.results import Outlet
from streamd.ledger import Ledger

from .fakes import frame_meta


def dropped(outlet: Outlet, seq: int) -> int:
    entry = outlet.entry(InferredFrame(frame_meta(seq=seq), (), 0, 0, "m"))
    assert entry is not None
    count: int = msgspec.json.decode(entry.fields["data"])["dropped"]
    return count


def test_an_event_tells_what_was_dropped_since_the_last_one_also_over_a_restart() -> None:
    ledger = Ledger(1, 1)

    def outlet() -> Outlet:
        camera = CameraConfig(id="a", url="rtsp://h/x")
        return Outlet(camera, publish=Publish.ALL, stream="s", ledger=ledger)

    first = outlet()
    ledger.add(0, "superseded", 1000)
    assert [dropped(first, 0), dropped(first, 1)] == [1000, 0]
    ledger.add(0, "superseded", 7)
    again = outlet()  # of an inference worker that was started again
    assert [dropped(again, 2), dropped(again, 3)] == [7, 0]
