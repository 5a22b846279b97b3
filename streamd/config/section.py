"""What every section of the configuration is, and how its keys are written."""

import re
from typing import Any, get_args
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

Location = tuple[str | int, ...]


def key_of(location: Location) -> str:
    """`("cameras", 0, "url")` as a reader writes it: `cameras[0].url`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def local_path(url: str) -> str:
    """The path that a file's URL or plain path names."""
    if not url.startswith("file://"):
        return url
    return unquote("/" + url.removeprefix("file://").partition("/")[2])


def has_valid_host(rest: str) -> bool:
    """Whether what follows the // of a network URL names a host, and no port that cannot be."""
    host = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    return has_valid_port(host) and bool(urlsplit(f"//{host}").hostname)


def has_valid_port(host: str) -> bool:
    """Whether `host` or `host:port` has no port that cannot be."""
    try:
        return urlsplit(f"//{host}").port != 0
    except ValueError:
        return False


class Section(BaseModel):
    """Keys that are not known are faults; nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_a_boolean(cls, value: object, info: ValidationInfo) -> object:
        """Pydantic takes `yes` and `true` for 1."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and _takes_number(annotation):
            raise ValueError(f"should be a number, not {str(value).lower()}")
        return value


def _takes_number(annotation: Any) -> bool:
    """Whether one of the types that an annotation is made of is a number."""
    return annotation in (int, float) or any(map(_takes_number, get_args(annotation)))
