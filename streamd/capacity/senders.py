"""Simulated cameras: RTSP servers in processes of their own."""

from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from streamd.errors import SetupError
from streamd.linux.prctl import die_with_parent
from streamd.linux.usage import cpu_by_role
from streamd.testing.clip import Clip
from streamd.testing.rtsp_server import RtspServer

_CAMERAS_A_PROCESS = 32
_STARTS_WITHIN_S = 30.0


class Senders:
    """`count` cameras that send `clip` over and over; `urls` has their addresses."""

    def __init__(self, clip: Path, count: int) -> None:
        context = get_context("spawn")
        self._processes: list[tuple[BaseProcess, Connection]] = []
        self.urls: list[str] = []
        for first in range(0, count, _CAMERAS_A_PROCESS):
            ours, theirs = context.Pipe()
            here = min(_CAMERAS_A_PROCESS, count - first)
            process = context.Process(target=_send, args=(clip, here, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append((process, ours))
        for _, connection in self._processes:
            if not connection.poll(_STARTS_WITHIN_S):
                raise SetupError("the simulated cameras did not start")
            self.urls += connection.recv()

    def cpu_s(self) -> float:
        """CPU seconds that they have taken."""
        return sum(sum(cpu_by_role(p.pid).values()) for p, _ in self._processes if p.pid)

    def close(self) -> None:
        """Ends them."""
        for process, connection in self._processes:
            connection.close()
            process.join(5)
            process.kill()
            process.join()


def _send(clip: Path, count: int, connection: Connection) -> None:
    """The process: serves until its pipe is closed."""
    die_with_parent()
    opened = Clip.open(clip)
    with RtspServer() as server:
        connection.send([server.mount(f"/{number}", opened).url for number in range(count)])
        connection.poll(None)
