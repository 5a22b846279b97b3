"""How the kernel shares the cores among the threads of a worker (sched(7))."""

import os
from collections.abc import Iterable
from contextlib import suppress

from streamd.config import CameraConfig

_OURS = (os.SCHED_OTHER, os.SCHED_BATCH)


class Scheduling:
    """SCHED_BATCH for this process while its cameras are files read as fast as they can be.

    A thread that wakes interrupts no other then, which spares the caches, and what a live camera
    sends would wait for longer. Where an administrator chose another policy, that stays.
    """

    def __init__(self) -> None:
        self._batch = False

    def follow(self, cameras: Iterable[CameraConfig]) -> None:
        """These are the cameras from now on."""
        batch = False
        for camera in cameras:
            batch = camera.is_local_file and not camera.paced
            if not batch:
                break
        if batch != self._batch:
            self._batch = batch
            _schedule(os.SCHED_BATCH if batch else os.SCHED_OTHER)


def _schedule(policy: int) -> None:
    """Threads have theirs each; new ones inherit that of the thread that starts them."""
    for task in map(int, os.listdir("/proc/self/task")):
        with suppress(OSError):  # it ended meanwhile, or the system does not let us
            if os.sched_getscheduler(task) in _OURS:
                os.sched_setscheduler(task, policy, os.sched_param(0))
