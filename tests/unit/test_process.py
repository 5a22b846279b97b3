"""When a worker counts as hung."""

import errno
import importlib
import os
from collections.abc import Iterator
from multiprocessing.connection import wait
from typing import NoReturn

import pytest

from streamd.supervision.process import WorkerProcess

from .fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=[0, 3])
def worker(request: pytest.FixtureRequest, clock: FakeClock) -> Iterator[WorkerProcess]:
    # As pytest names the modules of tests, other processes do not find them.
    body = importlib.import_module("tests.unit.answering_worker").run
    process = WorkerProcess("w-0", "w", 0, lambda: (body, request.param), clock)
    process.start()
    for _ in range(request.param):
        clock.advance(1.1)
        process.check()
        assert process.connection
        assert process.connection.poll(30)
        process.receive()
    yield process
    process.kill()
    wait_for_end(process)


def wait_for_end(process: WorkerProcess) -> str | None:
    if process.sentinel is None:
        return None
    wait([process.sentinel])
    while (death := process.reap()) is None:
        pass  # the sentinel may come a moment before the end
    return death.reason


def test_a_worker_that_answers_no_ping_for_fifteen_seconds_is_killed(
    worker: WorkerProcess, clock: FakeClock
) -> None:
    for _ in range(15):
        clock.advance(1.1)
        worker.check()
    assert not worker.ended
    clock.advance(1.1)
    worker.check()
    assert wait_for_end(worker) == "hung"


def test_a_host_that_stood_still_is_no_fault_of_its_workers(
    worker: WorkerProcess, clock: FakeClock
) -> None:
    for _ in range(3):
        clock.advance(3600)
        worker.check()
    worker.kill()
    assert wait_for_end(worker) == "sigkill"


def test_a_worker_that_the_machine_has_no_room_for_is_started_later(clock: FakeClock) -> None:
    def no_room() -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    worker = WorkerProcess("w-0", "w", 0, no_room, clock)
    for _ in range(3):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="Too many open files"):
            worker.start()
        assert len(os.listdir("/proc/self/fd")) == before
    assert not worker.alive
    assert worker.starts == 0
    assert worker.start_at_s > clock.monotonic_ns() / 1e9
