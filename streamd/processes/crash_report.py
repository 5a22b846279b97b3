"""Which thread of a process crashed: written by the dying process, read by its supervisor.

`faulthandler` writes the identifier of the thread that got SIGSEGV, SIGBUS, SIGFPE, SIGILL or
SIGABRT, or met an exception that nobody foresaw, into shared memory, where it outlives the process.
"""

import faulthandler
import re

import numpy as np

from streamd.linux.memory import PAGE, SharedBlock

_THREAD = re.compile(rb"Current thread 0x([0-9a-f]+)")
_SIZE = 32 * PAGE  # faulthandler tells of at most a hundred threads


class CrashReport:
    """Made by the supervisor, one for each start of a process; travels to it as an argument."""

    def __init__(self) -> None:
        self._block = SharedBlock("crash", _SIZE)

    def enable(self) -> None:
        """From now on a crash of this process is written down."""
        faulthandler.enable(file=self._block.fileno())  # only with all threads it names them

    def note(self) -> None:
        """This thread is about to end the process."""
        faulthandler.dump_traceback(self._block.fileno(), all_threads=True)

    def thread(self) -> int | None:
        """What `threading.get_ident()` was in the thread that crashed; None where none did."""
        text: bytes = self._block.array(0, (_SIZE,), np.uint8).tobytes()
        found = _THREAD.search(text)
        return int(found.group(1), 16) if found else None
