"""Keys of Redis: where events go, and where they wait."""

from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator

from streamd.config.section import Section

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


class SpoolConfig(Section):
    """Where events wait while Redis is away."""

    path: str | None = Field(
        "spool", min_length=1, description="folder, made when it is needed; null: memory alone"
    )
    max_mb: float = Field(
        256.0,
        ge=0.1,
        le=1e6,
        description="most megabytes on disk for each inference worker; the oldest events go first",
    )
    fsync: Literal["always", "every_second", "never"] = Field(
        "every_second",
        description="when events are brought to the disk itself, which matters when the power "
        "fails: always, every_second or never",
    )


class RedisConfig(Section):
    """Where events go."""

    url: str = Field(
        "redis://localhost:6379/0",
        description="redis://, rediss:// or unix:// URL; redis+sentinel://H:P,H:P/SERVICE/DB, "
        "redis+cluster://H:P, both also as rediss+",
    )
    stream: str = Field(
        "streamd:detections",
        min_length=1,
        description="stream of events; {camera} in the name makes one stream a camera",
    )
    status_stream: str = Field(
        "streamd:status", min_length=1, description="stream of camera and service life cycle"
    )
    max_entries: int = Field(
        100_000, ge=1, description="entries kept in each stream, roughly (MAXLEN ~)"
    )
    timeout_s: float = Field(5.0, gt=0, le=60, description="seconds for a connect or an answer")
    backlog_events: int = Field(
        10_000,
        ge=1,
        description="events kept in memory where the spool cannot be used; the oldest go first",
    )
    spool: SpoolConfig = Field(
        default_factory=SpoolConfig, description="where events wait while Redis is away"
    )
    tls_ca: str | None = Field(None, description="file of CA certificates to trust (rediss://)")
    tls_cert: str | None = Field(None, description="file of the client's certificate (rediss://)")
    tls_key: str | None = Field(None, description="file of the client certificate's key")

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        scheme = urlsplit(url).scheme
        if scheme not in REDIS_SCHEMES:
            known = ", ".join(f"{s}://" for s in REDIS_SCHEMES)
            raise ValueError(f"scheme {scheme or '(none)'!r} is none of {known}")
        _check_url(url)
        return url


def _check_url(url: str) -> None:
    """What redis-py would stumble over at connecting. No message holds a part of `url`."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if len(hosts) > 1 and not parts.scheme.endswith("+sentinel"):
        raise ValueError("names several hosts, which only redis+sentinel:// may")
    ports = [_valid_port(host) for host in hosts]
    if not all(ports) or "@" in parts.path + parts.query + parts.fragment:
        raise ValueError("has no valid port; in a password / ? # and @ are %2F %3F %23 and %40")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _PARAMETERS:
            known = ", ".join(_PARAMETERS)
            raise ValueError(f"has an unknown parameter behind the ?; known are {known}")


def _valid_port(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").port != 0
    except ValueError:
        return False
