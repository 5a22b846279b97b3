"""What a Redis URL may say; no message holds a part of it, for there may be a password in it."""

import re
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from streamd.config.section import has_valid_port

REDIS_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
# Those that name a database or a login; time-outs and the like are keys of their own.
_PARAMETERS = (
    "db",
    "username",
    "password",
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
)
_DATABASE = re.compile(r"[0-9]{1,9}")
_CERT_REQS = ("none", "optional", "required")
_ESCAPES = "in a password / ? # @ [ and ] are %2F %3F %23 %40 %5B and %5D"


def checked_url(url: str) -> str:
    """`url` with its scheme in small letters.

    Raises ValueError for what redis-py would stumble over or pass over when it connects.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"has no valid host; {_ESCAPES}") from None
    if parts.scheme not in REDIS_SCHEMES:
        known = ", ".join(f"{s}://" for s in REDIS_SCHEMES)
        raise ValueError(f"scheme {parts.scheme or '(none)'!r} is none of {known}")
    _check_hosts(parts)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        _check_parameter(parts.scheme, name, value)
    _check_path(parts)
    return f"{parts.scheme}://{url.partition('://')[2]}"


def is_tls(url: str) -> bool:
    """Whether Redis at `url` is spoken to by TLS."""
    return url.startswith("rediss")


def _check_hosts(parts: SplitResult) -> None:
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if len(hosts) > 1 and not parts.scheme.endswith("+sentinel"):
        raise ValueError("names several hosts, which only redis+sentinel:// may")
    if not all(map(has_valid_port, hosts)) or "@" in parts.path + parts.query + parts.fragment:
        raise ValueError(f"has no valid port; {_ESCAPES}")
    if "+" in parts.scheme and not all(hosts):
        raise ValueError("has no host")


def _check_parameter(scheme: str, name: str, value: str) -> None:
    if name not in _PARAMETERS:
        known = ", ".join(_PARAMETERS)
        raise ValueError(f"has an unknown parameter behind the ?; known are {known}")
    if name.startswith("ssl_") and not is_tls(scheme):
        raise ValueError(f"has {name} behind the ?, which is for rediss:// alone")
    if name == "ssl_cert_reqs" and value not in _CERT_REQS:
        raise ValueError(f"has an ssl_cert_reqs that is none of {', '.join(_CERT_REQS)}")
    if name == "db":
        _check_database(scheme, value)


def _check_path(parts: SplitResult) -> None:
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("has no path of a socket")
        return
    database = parts.path.strip("/")
    if parts.scheme.endswith("+sentinel"):
        database = database.partition("/")[2]
    if database:
        _check_database(parts.scheme, unquote(database))


def _check_database(scheme: str, database: str) -> None:
    if not _DATABASE.fullmatch(database):
        raise ValueError("has a database that is no number")
    if scheme.endswith("+cluster") and int(database) != 0:
        raise ValueError("has a database other than 0, and a Cluster has no other")
