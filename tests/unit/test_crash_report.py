"""Who is to blame for a process that ended."""

import threading
from types import SimpleNamespace as Stub
from typing import cast

import pytest

from streamd.ingest.camera import Camera
from streamd.ingest.worker import Readers
from streamd.ledger import Ledger
from streamd.processes.crash_report import CrashReport
from streamd.processes.specs import CameraAssignment


def test_a_camera_whose_thread_meets_an_unforeseen_exception_is_to_blame() -> None:
    crash, ledger = CrashReport(), Ledger(2, 1)
    readers = cast(Readers, Stub(_spec=Stub(crash=crash, ledger=ledger)))
    assignment = cast(CameraAssignment, Stub(index=1, config=Stub(id="gate")))

    def unforeseen() -> None:
        raise ZeroDivisionError

    def read() -> None:
        with pytest.raises(ZeroDivisionError):
            Readers._run(readers, assignment, cast(Camera, Stub(run=unforeseen)))

    assert crash.thread() is None
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert crash.thread() == thread.ident == ledger.get(1, "thread")


def test_a_camera_that_has_ended_is_not_to_blame_for_a_later_thread() -> None:
    ledger = Ledger(2, 1)
    readers = cast(Readers, Stub(_spec=Stub(crash=CrashReport(), ledger=ledger)))
    assignment = cast(CameraAssignment, Stub(index=1, config=Stub(id="gate")))
    seen: list[int] = []
    camera = cast(Camera, Stub(run=lambda: seen.append(ledger.get(1, "thread"))))
    thread = threading.Thread(target=Readers._run, args=(readers, assignment, camera))
    thread.start()
    thread.join()
    assert seen == [thread.ident]
    assert ledger.get(1, "thread") == 0
