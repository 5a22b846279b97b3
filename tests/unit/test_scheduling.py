import os
import threading
from collections.abc import Iterator

import pytest

from streamd.config import CameraConfig
from streamd.linux.scheduling import Scheduling

FILE = CameraConfig(id="file", url="/a.mp4")
PACED = CameraConfig(id="paced", url="/a.mp4", paced=True)
LIVE = CameraConfig(id="live", url="rtsp://h/s")


@pytest.fixture
def other_thread() -> Iterator[int]:
    """The kernel's number of a thread that waits."""
    numbers, end = list[int](), threading.Event()
    started = threading.Event()

    def wait() -> None:
        numbers.append(threading.get_native_id())
        started.set()
        end.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    started.wait(5)
    yield numbers[0]
    end.set()
    thread.join()


def test_all_threads_are_batch_while_there_are_only_files_at_full_speed(other_thread: int) -> None:
    scheduling = Scheduling()
    for cameras, policy in (
        ([FILE], os.SCHED_BATCH),
        ([FILE, LIVE], os.SCHED_OTHER),
        ([FILE, FILE], os.SCHED_BATCH),
        ([PACED], os.SCHED_OTHER),
        ([FILE], os.SCHED_BATCH),
        ([], os.SCHED_OTHER),
    ):
        scheduling.follow(cameras)
        assert [os.sched_getscheduler(thread) for thread in (0, other_thread)] == [policy, policy]


def test_another_policy_stays(other_thread: int) -> None:
    os.sched_setscheduler(other_thread, os.SCHED_IDLE, os.sched_param(0))
    scheduling = Scheduling()
    for cameras in ([FILE], [LIVE]):
        scheduling.follow(cameras)
        assert os.sched_getscheduler(other_thread) == os.SCHED_IDLE
