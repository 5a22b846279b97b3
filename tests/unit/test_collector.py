"""What the hot loop does where frames give way, and with a model that another took the place of."""

import queue
import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace as Stub
from typing import Any, cast

from streamd.config import CameraConfig
from streamd.inference.collector import Collector
from streamd.inference.overload import LatencyTarget
from streamd.inference.pulse import Pulse
from streamd.ledger import Ledger
from streamd.linux.memory import Doorbell
from streamd.processes.specs import ReadCamera
from streamd.slots import Ring, SlotPool

from .fakes import SQUARE, frame_meta

MS = 1_000_000


@dataclass
class OldModel:
    busy: bool
    closed: int = 0

    def close(self) -> None:
        self.closed += 1


def test_a_model_gives_back_what_it_holds_once_its_last_batch_is_done() -> None:
    done, working = OldModel(busy=False), OldModel(busy=True)
    collector = cast(Collector, Stub(_retired=[done, working]))
    Collector._let_retired_go(collector)
    assert (done.closed, working.closed) == (1, 0)
    working.busy = False
    for _ in range(2):
        Collector._let_retired_go(collector)
    assert (done.closed, working.closed) == (1, 1)


class Rig:
    """A collector of one camera with a pool of four slots; whatever it dispatches is `inferred`."""

    def __init__(self) -> None:
        self.pool, self.ledger = SlotPool(4, SQUARE), Ledger(1, 1)
        self.inferred: list[int] = []
        camera = ReadCamera(CameraConfig(id="gate", url="rtsp://h/x"), 0, Ring(0, 4), 0)
        spec: Any = Stub(
            pool=self.pool,
            ledger=self.ledger,
            ready=Doorbell(),
            cameras=[camera],
            number=0,
            spaces=(Doorbell(),),
        )
        free = iter([True, False] * 100)
        model: Any = Stub(
            target=LatencyTarget(50 * MS, (1,)),
            batch_size=1,
            batching_pays=True,
            runners=1,
            config=Stub(max_wait_ms=0),
            reserve=lambda: next(free),
            give_back=lambda: next(free),
            infer=lambda batch: self.inferred.extend(f.meta.seq for f in batch.frames),
        )
        results: Any = Stub(enter=None, expect=lambda _: 0)
        self.collector = Collector(
            spec, model, results, threading.Event(), queue.SimpleQueue(), Pulse()
        )

    def submit(self, seq: int, *, still: bool = False, age_ms: int = 0) -> None:
        slot = self.pool.free_slot(Ring(0, 4))
        assert slot is not None
        capture_ns = time.monotonic_ns() - age_ms * MS
        self.pool.submit(slot, frame_meta(camera=0, seq=seq, still=still, capture_ns=capture_ns))

    def admit(self) -> list[int]:
        """The still frames that get the last result again."""
        return [meta.seq for meta in self.collector._admit()]


def test_what_repeats_a_frame_that_was_shed_does_not_get_the_result_before_it() -> None:
    rig = Rig()
    rig.submit(1, age_ms=60)
    assert rig.admit() == []
    rig.submit(2, still=True)
    rig.collector._dispatch()
    assert (rig.inferred, rig.ledger.camera(0).shed) == ([], 1)
    assert rig.admit() == []
    assert rig.ledger.camera(0).still == 1
    rig.submit(3)
    rig.admit()
    rig.collector._dispatch()
    assert rig.inferred == [3]
    rig.submit(4, still=True)
    assert rig.admit() == [4]
