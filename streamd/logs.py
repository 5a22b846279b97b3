"""The log: one event a line on stderr, JSON in a service, readable in a terminal."""

import logging
import sys
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from streamd.config.secrets import mask_text


def configure_logging(level: str, format_: Literal["auto", "json", "console"]) -> None:
    """Sets up the log of this process. `auto` is readable in a terminal and JSON elsewhere."""
    readable = format_ == "console" or (format_ == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24, sort_keys=False)
        if readable
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if readable else "iso", utc=True),
            structlog.processors.format_exc_info,
            _mask,
            _lead_with_event,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
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
