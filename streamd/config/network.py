"""Keys for what the daemon talks to over the network: Redis, and who asks it by HTTP."""

import ipaddress
import re
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, SecretStr, field_validator

from streamd.config.section import Section

Scheme = Literal["rtsp", "rtsps", "http", "https"]
REDIS_SCHEMES = ("redis", "rediss", "unix")
LIVE_SCHEMES: tuple[Scheme, ...] = ("rtsp", "rtsps", "http", "https")
# Those that name a database or a login; time-outs and the like are keys of their own.
_REDIS_PARAMETERS = (
    "db",
    "username",
    "password",
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
)


class RedisConfig(Section):
    """Where events go."""

    url: str = Field("redis://localhost:6379/0", description="redis://, rediss:// or unix:// URL")
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
        10_000, ge=1, description="events kept in memory while Redis is away; the oldest go first"
    )

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        scheme = urlsplit(url).scheme
        if scheme not in REDIS_SCHEMES:
            known = ", ".join(f"{s}://" for s in REDIS_SCHEMES)
            raise ValueError(f"scheme {scheme or '(none)'!r} is none of {known}")
        _check_redis_url(url)
        return url


class HttpConfig(Section):
    """Metrics, health and API."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="address to listen on; other than this machine's own (127.0.0.1, ::1) only "
        "with a token",
    )
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0 takes a free one")
    token: SecretStr | None = Field(
        None,
        description='"${VAR}", 16 or more characters: all but /healthz and /readyz then asks for '
        "Authorization: Bearer TOKEN; null: whoever can connect may ask",
    )
    requests_per_s: float = Field(
        50.0, gt=0, le=10_000, description="requests a second of one client; twice that at once"
    )
    camera_schemes: tuple[Scheme, ...] = Field(
        LIVE_SCHEMES, description="URLs that a camera added through the API may have"
    )
    camera_folders: tuple[str, ...] = Field(
        (), description="folders whose files a camera added through the API may name"
    )

    @field_validator("token", mode="before")
    @classmethod
    def _long_enough(cls, token: object) -> object:
        if token is None or isinstance(token, SecretStr):
            return token
        if not isinstance(token, str):
            raise ValueError("is no text; put it in quotes")
        if not re.fullmatch(r"[!-~]{16,512}", token):
            raise ValueError("should have 16 or more characters, without spaces, of ASCII")
        return token

    @field_validator("camera_folders")
    @classmethod
    def _named(cls, folders: tuple[str, ...]) -> tuple[str, ...]:
        if "" in folders:
            raise ValueError("an empty text names no folder")
        return folders

    @property
    def is_local(self) -> bool:
        """True where only this machine can connect; a name other than localhost may be anything."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _check_redis_url(url: str) -> None:
    """What redis-py would stumble over at connecting. No message holds a part of `url`."""
    parts = urlsplit(url)
    try:
        place = parts.scheme == "unix" or parts.port != 0
    except ValueError:
        place = False
    if not place or "@" in parts.path + parts.query + parts.fragment:
        raise ValueError("has no valid port; in a password / ? # and @ are %2F %3F %23 and %40")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _REDIS_PARAMETERS:
            known = ", ".join(_REDIS_PARAMETERS)
            raise ValueError(f"has an unknown parameter behind the ?; known are {known}")
