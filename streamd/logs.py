"""The log: one event a line on stderr, JSON in a service, readable in a terminal.

Where a file is named, each line goes into it as well, always as JSON.
"""

import logging
import os
import select
import stat
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from streamd.config import LogConfig
from streamd.config.secrets import mask_text
from streamd.journal import JournalRenderer, is_journal
from streamd.log_file import LogFile

_AT_ONCE = 10
_THEN_EVERY_S = 60.0
_REMEMBERED = 4096
_WRITABLE_WITHIN_S = 1.0


class Repeats:
    """Keeps a line that comes again and again from drowning the others; a structlog processor.

    Of one event with the same camera, worker and reason, ten pass at once, then one a minute, which
    says how many were left out (`left_out`). Lines without camera and worker always pass.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        # By what repeats: how many may still pass, since when that is so, how many were left out.
        self._left: OrderedDict[tuple[Any, ...], tuple[float, float, int]] = OrderedDict()

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """Passes the line on, or drops it."""
        if "camera" not in event and "worker" not in event:
            return event
        key = tuple(event.get(name) for name in ("event", "camera", "worker", "reason"))
        now_s = self._clock_s()
        left, since_s, left_out = self._left.pop(key, (float(_AT_ONCE), now_s, 0))
        left = min(float(_AT_ONCE), left + (now_s - since_s) / _THEN_EVERY_S)
        passes = left >= 1
        self._left[key] = (left - 1, now_s, 0) if passes else (left, now_s, left_out + 1)
        if len(self._left) > _REMEMBERED:
            self._left.popitem(last=False)
        if not passes:
            raise structlog.DropEvent
        return {**event, "left_out": left_out} if left_out else event


class SteadyStream:
    """A stream that loses lines rather than stop the program: where nobody reads it, or disks fill.

    A pipe or terminal that is full is waited for once, for a second. The first line that gets
    through again says how many did not (`lines_lost`). Without a buffer, so that lines of several
    processes do not mix, and none is left over at the end. `descriptor` tells, line by line, what
    to write to.
    """

    def __init__(self, descriptor: Callable[[], int]) -> None:
        self._descriptor = descriptor
        self._lost = 0
        # Putting a file aside closes its descriptor: no other thread may be about to write to it.
        self._writing = threading.RLock()

    def write(self, text: str) -> None:
        """Writes whole lines, as far as that is possible."""
        left = text.encode(errors="backslashreplace")
        with self._writing:
            try:
                descriptor = self._descriptor()
                while left:
                    self._wait_for_room(descriptor)
                    # Of a pipe that has room, no more would be taken without a wait.
                    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
                    piece = left if is_file else left[: select.PIPE_BUF]
                    left = left[os.write(descriptor, piece) :]
            except OSError:
                self._lost += 1
                return
            self._lost = 0

    def _wait_for_room(self, descriptor: int) -> None:
        """Raises TimeoutError, an OSError, where a write would have to wait for a reader."""
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        if not poll.poll(0 if self._lost else 1000 * _WRITABLE_WITHIN_S):
            raise TimeoutError

    def flush(self) -> None:
        """Was done."""

    def tell_of_lost(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """A structlog processor: the line says how many before it were lost."""
        return {**event, "lines_lost": self._lost} if self._lost else event


class Copy:
    """Writes each line to a file, too, as JSON; a structlog processor."""

    def __init__(self, file: LogFile) -> None:
        self._stream = SteadyStream(file.descriptor)
        self._stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        self._render = structlog.processors.JSONRenderer()

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        """Passes the line on as it came."""
        copy = self._stream.tell_of_lost(logger, name, self._stamp(logger, name, dict(event)))
        line = str(self._render(logger, name, _lead_with_event(logger, name, copy)))
        self._stream.write(line + "\n")
        return event


def log_file_of(log: LogConfig) -> LogFile | None:
    """The file that `log` names; it is made by the first use of its descriptor."""
    if log.file is None:
        return None
    return LogFile(Path(log.file), int(log.max_mb * 1e6), log.kept)


def configure_logging(log: LogConfig, file: LogFile | None = None) -> None:
    """Sets up the log of this process: on stderr, and in `file` where there is one.

    `auto` is readable in a terminal and JSON elsewhere, with fields in systemd's journal.
    """
    readable = log.format == "console" or (log.format == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.processors.JSONRenderer()
    if readable:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), pad_event_to=24, sort_keys=False
        )
    elif log.format == "auto" and is_journal():
        renderer = JournalRenderer()
    stream = SteadyStream(lambda: 2)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            Repeats(),
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _mask,
            *([Copy(file)] if file else []),
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if readable else "iso", utc=True),
            stream.tell_of_lost,
            _lead_with_event,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[log.level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, stream)),
        cache_logger_on_first_use=False,
    )


def get_logger(**context: Any) -> FilteringBoundLogger:
    """A logger that adds `context` to each of its lines."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger.bind(**context)


def _mask(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {k: mask_text(v) if isinstance(v, str) else v for k, v in event.items()}


def _lead_with_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """What happened comes first: a line is read from its left."""
    leading = {k: event[k] for k in ("timestamp", "level", "event") if k in event}
    return leading | dict(event)
