"""What Linux lets a process say of itself (prctl(2))."""

import ctypes
import signal

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def die_with_parent() -> None:
    """The kernel kills this process when its parent ends, however that ends."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def set_process_name(name: str) -> None:
    """The name that `ps` and `top` show; the kernel keeps 15 bytes."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name[:15].encode()))


def _prctl(option: int, argument: ctypes.c_ulong | ctypes.c_char_p) -> None:
    ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)
