"""Passwords that a service manager hands over in files (LoadCredential= of systemd.exec(5))."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from streamd.errors import ConfigError, Fault

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST_BYTES = 1 << 20  # as systemd's own bound


def variables(environ: Mapping[str, str]) -> Mapping[str, str]:
    """`environ`, and for what it lacks the files in the folder that CREDENTIALS_DIRECTORY names.

    A file `NAME.env` holds lines NAME=value, with `#` for comments; any other is itself the value
    of the variable that it is named after. Raises ConfigError for what cannot be read.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return environ
    found: dict[str, str] = {}
    try:
        for path in sorted(Path(folder).iterdir()):
            if path.is_file():
                found.update(_read(path))
    except OSError as error:
        raise ConfigError([Fault(folder, 0, "", str(error.strerror))]) from None
    return {**found, **environ}


def _read(path: Path) -> Iterator[tuple[str, str]]:
    with path.open("rb") as file:
        text = file.read(_LARGEST_BYTES).decode(errors="replace")
    if path.suffix != ".env":
        yield path.name, text.rstrip("\r\n")
        return
    for number, line in enumerate(text.splitlines(), start=1):
        name, equals, value = line.strip().partition("=")
        if not name or name.startswith("#"):
            continue
        if not equals or not _NAME.fullmatch(name.strip()):
            raise ConfigError([Fault(str(path), number, "", "is no NAME=value")])
        yield name.strip(), _unquoted(value.strip())


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value
