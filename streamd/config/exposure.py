"""What a configuration leaves open: passwords that others can read, HTTP that others can reach."""

import stat
from collections.abc import Iterator
from pathlib import Path

from streamd.config.models import Config
from streamd.errors import Fault

# A service reads its file as the group of one that root owns.
_READABLE = stat.S_IROTH


def open_doors(config: Config) -> Iterator[Fault]:
    """A fault where HTTP would listen for other machines without asking who they are."""
    if not config.http.is_local and config.http.token is None:
        what = (
            f"{config.http.host} can be reached by other machines: set http.token, "
            "or keep to 127.0.0.1"
        )
        yield config.fault(("http", "host"), what)


def readable_secrets(config: Config) -> Fault | None:
    """A warning where others than its owner may read a file with passwords; never shows one."""
    secrets = sorted(config.literal_secrets, key=lambda key: config.fault(key, "").line)
    try:
        mode = stat.S_IMODE(Path(config.file).stat().st_mode) if secrets else 0
    except OSError:
        return None
    if not mode & _READABLE:
        return None
    more = f" (and {len(secrets) - 1} more)" if len(secrets) > 1 else ""
    what = (
        f"holds a password{more} that others can read (mode {mode:04o}): "
        f"chmod o-r {config.file}, or take it from the environment with ${{VAR}}"
    )
    return config.fault(secrets[0], what)
