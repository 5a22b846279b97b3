"""The body of a worker; in a module of its own, which its process imports by name."""

import threading
from multiprocessing.connection import Connection

from streamd.processes.messages import Ping, Pong


def run(answers: int, connection: Connection) -> None:
    """Answers so many pings, and lives on."""
    for number in range(answers):
        assert isinstance(connection.recv(), Ping)
        connection.send(Pong(number + 1))
    threading.Event().wait()
