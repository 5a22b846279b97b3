"""What Linux lets a process say of itself (prctl(2))."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def die_with_parent() -> None:
    """The kernel kills this process when its parent ends, however that ends."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """`command` as one that dies with the process that starts it, for programs of others.

    A short Python process becomes `command`: Popen's preexec_fn would fork a process of many
    threads, and what a library does at a fork may wait for one of them forever.
    """
    die = f"ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {signal.SIGKILL:d}, 0, 0, 0)"
    become = f"import ctypes, os, sys; {die}; os.execvp(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-ISc", become, *command]


def set_process_name(name: str) -> None:
    """The name that `ps` and `top` show; the kernel keeps 15 bytes."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name[:15].encode()))


def rewrite_arguments(rewrite: Callable[[str], str]) -> None:
    """Changes the arguments that `ps` and /proc/PID/cmdline show; `sys.argv` stays as it is.

    What grew is cut. Where the kernel does not let a process write to itself, nothing changes.
    """
    try:
        # Of proc_pid_stat(5), counted behind the name, which may hold anything.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        begin, end = int(fields[45]), int(fields[46])
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            memory.seek(begin)
            shown = memory.read(end - begin)
            memory.seek(begin)
            memory.write(_rewritten(shown, rewrite))
    except (OSError, ValueError, IndexError):
        return


def _rewritten(shown: bytes, rewrite: Callable[[str], str]) -> bytes:
    """`shown`, arguments that each end with a zero byte, rewritten to the same length."""
    arguments = []
    for argument in shown.split(b"\0"):
        new = os.fsencode(rewrite(os.fsdecode(argument)))[: len(argument)]
        arguments.append(new.ljust(len(argument)))
    return b"\0".join(arguments)


def _prctl(option: int, argument: ctypes.c_ulong | ctypes.c_char_p) -> None:
    ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)
