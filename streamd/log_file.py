"""The log's own file, which all processes of a service append to, put aside when it is large."""

import fcntl
import os
from pathlib import Path


class LogFile:
    """A file to append lines to, and up to `kept` older ones: `path`.1 is the newest of them.

    Any number of processes may append to one path, and others (logrotate) may move it away: before
    each line it is looked whether it is still there. Nobody ever waits for another.
    """

    def __init__(self, path: Path, max_bytes: int, kept: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._kept = kept
        self._descriptor = -1

    def descriptor(self) -> int:
        """What the next line is to be written to. Raises OSError."""
        if not self._is_current():
            self._open()
        elif os.fstat(self._descriptor).st_size >= self._max_bytes:
            self._put_aside()
        return self._descriptor

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except OSError:
            return False

    def _open(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # A named pipe without a reader, or with one that sleeps, is an error and no wait.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._descriptor = os.open(self._path, flags, 0o640)

    def _put_aside(self) -> None:
        """Renames the file, unless another process is at it: then one more line goes into it.

        So it does where the file cannot be renamed: a line is worth more than the bound.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        try:
            # Who held the lock before may have renamed it already.
            if self._is_current():
                self._rename()
        except OSError:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            return
        self._open()

    def _rename(self) -> None:
        """Each file takes the next one's name, up to the first name that is free."""
        numbers = range(1, self._kept + 1)
        free = next((n for n in numbers if not self._older(n).exists()), self._kept)
        for number in range(free, 0, -1):
            self._older(number - 1).replace(self._older(number))

    def _older(self, number: int) -> Path:
        return Path(f"{self._path}.{number}") if number else self._path
