"""What becomes of a model that another took the place of."""

from dataclasses import dataclass
from types import SimpleNamespace as Stub
from typing import cast

from streamd.collector import Collector


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
