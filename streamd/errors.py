"""The one tree of errors. A stage raises one of these and never retries; its worker decides."""

from dataclasses import dataclass
from enum import StrEnum


class StreamdError(Exception):
    """Base of every error that streamd raises on purpose; its text is one readable line."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a configuration file. `line` counts from 1; 0 where no line is known.

    `file` is "" for a configuration that stands in none.
    """

    file: str
    line: int
    key: str
    what: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.key, self.what) if part)


class ConfigError(StreamdError):
    """The configuration cannot be used. `faults` holds at least one fault, in file order."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


class ModelError(StreamdError):
    """A model file cannot be used; the text names the file and what was found in it."""


class EngineError(StreamdError):
    """An engine could not be built, loaded or run."""


class AdmissionError(StreamdError):
    """A camera that came through the API is none that the API may add; the text says why."""


class RedisSetupError(StreamdError):
    """Redis answers, but refuses what the configuration asks for (password, wrong key type)."""


class SetupError(StreamdError):
    """The machine refuses what the configuration asks for, such as a port in use."""


class SpoolError(StreamdError):
    """The spool's folder cannot be read or written; the text names it."""


class Reason(StrEnum):
    """Why a camera is offline: the `reason` of the status stream and of the API."""

    AUTH_FAILED = "auth_failed"
    NOT_FOUND = "not_found"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    CODEC_UNSUPPORTED = "codec_unsupported"
    INVALID_DATA = "invalid_data"
    STALLED = "stalled"
    ENDED = "ended"
    WORKER_DIED = "worker_died"


class SourceError(StreamdError):
    """A camera's source could not be opened or broke off; `reason` is the published code."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
