"""A benchmark of parts, each in a process of its own, with a time that it has to end in.

What a library of somebody else's does to one part (a crash, a hang, a device that is lost) is told,
and the next part begins with a process that knows nothing of it.
"""

import faulthandler
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from streamd.errors import StreamdError
from streamd.linux.prctl import die_with_parent

DONE = "done"
_FAILED = "FAILED"
_LEAST_S = 5.0
_GRACE_S = 5.0  # for a part that ran out of time to say where it stands


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    what: str
    figure: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the run, which takes `most_s` at most.

    `missing` says what it lacks on this machine, None if nothing; it makes no sense unless the part
    `needs` was done. `measure` gets what all parts share.
    """

    name: str
    missing: Callable[[], str | None]
    measure: Callable[[Any], Iterator[Row]]
    most_s: float
    needs: str = ""


def run_all(parts: Sequence[Part], command: Sequence[str], whole_s: float) -> int:
    """Runs `command --part NAME --limit SECONDS` for each part; returns how many failed."""
    until_s = time.monotonic() + whole_s
    outcomes: dict[str, str] = {}
    for part in parts:
        print(f"\n{part.name} ...", flush=True)
        limit_s = min(part.most_s, until_s - time.monotonic())
        outcomes[part.name] = _outcome(part, command, limit_s, outcomes.get(part.needs, ""))
        show(Row(part.name, outcomes[part.name]))
    print("\nin short", flush=True)
    for name, outcome in outcomes.items():
        show(Row(name, outcome))
    return sum(outcome.startswith(_FAILED) for outcome in outcomes.values())


def run_one(part: Part, shared: Any, limit_s: float) -> int:
    """Runs `part` in this process; returns the exit code. Out of time it shows its stacks first."""
    die_with_parent()
    faulthandler.enable()
    faulthandler.dump_traceback_later(limit_s, exit=True)
    try:
        for row in part.measure(shared):
            show(row)
    except Exception as error:  # libraries raise what they like
        if not isinstance(error, StreamdError):
            traceback.print_exc()
        show(Row(part.name, f"{type(error).__name__}: {error}"))
        return 1
    finally:
        faulthandler.cancel_dump_traceback_later()
    return 0


def show(row: Row) -> None:
    """Prints a line."""
    print(f"{row.what:36}  {row.figure}", flush=True)


def _outcome(part: Part, command: Sequence[str], limit_s: float, needed: str) -> str:
    if reason := part.missing():
        return f"did not run: {reason}"
    if part.needs and needed != DONE:
        return f"did not run: it needs {part.needs!r}"
    if limit_s < _LEAST_S:
        return "did not run: no time left"
    began_s = time.monotonic()
    whole = [*command, "--part", part.name, "--limit", str(limit_s)]
    # In a session of its own: what it has started ends with it.
    with subprocess.Popen(whole, start_new_session=True) as process:
        try:
            code = process.wait(limit_s + _GRACE_S)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    took_s = time.monotonic() - began_s
    if took_s >= limit_s:
        return f"{_FAILED}: not done in {limit_s:.0f} s"
    if code < 0:
        return f"{_FAILED}: ended by {signal.Signals(-code).name}"
    return DONE if code == 0 else f"{_FAILED}: see above"


def this_module(module: str) -> list[str]:
    """The command that runs `module` again, with the arguments of this process."""
    return [sys.executable, "-m", module, *sys.argv[1:]]
