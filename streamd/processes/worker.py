"""What every worker process does: die with its supervisor, answer pings, say how it failed."""

import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from streamd.config.secrets import mask_text
from streamd.errors import StreamdError
from streamd.linux.memory import Doorbell
from streamd.linux.prctl import die_with_parent, set_process_name
from streamd.logs import configure_logging, get_logger, log_file_of
from streamd.processes.messages import Ping, Pong, Stop, ToSupervisor, ToWorker, WorkerFailed
from streamd.processes.signals import leave_to_supervisor
from streamd.processes.specs import WorkerIdentity


class SupervisorLink:
    """A worker's end of the pipe to its supervisor."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, message: ToSupervisor) -> None:
        """Tells the supervisor; from any thread. Without a supervisor the process ends."""
        with self._sending:
            try:
                self._connection.send(message)
            except (BrokenPipeError, ConnectionResetError):
                os._exit(1)

    def serve(
        self,
        bells: dict[Doorbell, Callable[[], None]],
        order: Callable[[ToWorker], None] = lambda _: None,
        is_well: Callable[[], bool] = lambda: True,
    ) -> None:
        """Answers pings, calls what belongs to a rung bell and `order`, until told to stop.

        While it is not `is_well`, pings are not answered: the supervisor ends the process then.
        """
        waited_for: list[Any] = [self._connection, *bells]
        while True:
            for ready in wait(waited_for):
                if isinstance(ready, Doorbell):
                    ready.clear()
                    bells[ready]()
                elif self._told_to_stop(order, is_well):
                    return

    def _told_to_stop(self, order: Callable[[ToWorker], None], is_well: Callable[[], bool]) -> bool:
        try:
            message = self._connection.recv()
        except (EOFError, ConnectionResetError):
            os._exit(1)
        if isinstance(message, Ping):
            if is_well():
                self.send(Pong(message.number))
        elif not isinstance(message, Stop):
            order(message)
        return isinstance(message, Stop)


def run_worker(
    identity: WorkerIdentity,
    connection: Connection,
    body: Callable[[SupervisorLink], None],
) -> None:
    """Runs `body` as the whole of a worker process and ends the process.

    Exit status: 0 if `body` returned, 1 if it or one of its threads raised; the supervisor hears
    of the error first.
    """
    _settle_in(identity)
    link = SupervisorLink(connection)
    threading.excepthook = lambda failed: _fail(identity, link, failed.exc_value)
    try:
        body(link)
    except Exception as error:
        _fail(identity, link, error)
    # Threads may sit in a read that cannot be interrupted; they end with the process.
    sys.stderr.flush()
    os._exit(0)


def _fail(identity: WorkerIdentity, link: SupervisorLink, error: BaseException | None) -> NoReturn:
    """Ends the process because of `error`: one line if it is ours, else with its traceback too."""
    if isinstance(error, StreamdError):
        line = str(error)
    else:
        get_logger(worker=identity.name).error("worker_crashed", exc_info=error)
        line = f"{type(error).__name__}: {error}"
    link.send(WorkerFailed(mask_text(line)))
    sys.stderr.flush()
    os._exit(1)


def _settle_in(identity: WorkerIdentity) -> None:
    configure_logging(identity.log, log_file_of(identity.log))
    leave_to_supervisor()
    set_process_name(f"sd:{identity.name}")
    die_with_parent()
    if os.getppid() != identity.supervisor_pid:
        os._exit(1)
