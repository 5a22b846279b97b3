"""How commands end that leave something behind where they are not unwound."""

import signal
import sys
from types import FrameType

_ENDS = (signal.SIGTERM, signal.SIGHUP)


def unwind_at_signals() -> None:
    """SIGTERM, and a terminal that goes, end the command as Ctrl-C does: it leaves no files."""
    for number in _ENDS:
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _unwind)


def _unwind(number: int, _: FrameType | None) -> None:
    for other in _ENDS:  # once is enough, and `timeout` sends it twice
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)
