"""A runner that hangs, and the pings that a worker with one leaves unanswered."""

import threading
from multiprocessing import Pipe

import pytest

from streamd.inference.pulse import Pulse
from streamd.processes.messages import Ping, Pong, Stop
from streamd.processes.worker import SupervisorLink


def test_a_batch_that_runs_for_more_than_a_minute_hangs_until_it_comes_back() -> None:
    now_s = 1000.0
    pulse = Pulse(lambda: now_s)
    begun, over = threading.Event(), threading.Event()

    def run() -> None:
        with pulse.running():
            begun.set()
            over.wait(60)

    runner = threading.Thread(target=run)
    runner.start()
    assert begun.wait(60)
    with pulse.running():  # another runner, which goes on
        now_s += 50
    assert not pulse.hangs()
    now_s += 11
    assert pulse.hangs()
    over.set()
    runner.join()
    assert not pulse.hangs()


def test_a_batch_that_fails_is_over() -> None:
    now_s = 0.0
    pulse = Pulse(lambda: now_s)
    with pytest.raises(RuntimeError), pulse.running():
        raise RuntimeError("the device is lost")
    now_s = 100.0
    assert not pulse.hangs()


def test_a_worker_that_is_not_well_answers_no_pings() -> None:
    ours, theirs = Pipe()
    answers = iter([True, False, True])
    with ours, theirs:
        for number in (1, 2, 3):
            ours.send(Ping(number))
        ours.send(Stop())
        SupervisorLink(theirs).serve({}, is_well=lambda: next(answers))
        pongs = [ours.recv(), ours.recv()]
        assert pongs == [Pong(1), Pong(3)]
        assert not ours.poll()
