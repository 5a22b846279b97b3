"""Keys of HTTP, and of what may be asked for there."""

import ipaddress
import re
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from streamd.config.section import Section

Scheme = Literal["rtsp", "rtsps", "http", "https"]
LIVE_SCHEMES: tuple[Scheme, ...] = ("rtsp", "rtsps", "http", "https")


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

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        if re.search(r"[\s/\[\]]", host) or (":" in host and not _is_address(host)):
            raise ValueError("is no address; an IPv6 one stands without [ ], the port in http.port")
        return host

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
        return _is_address(self.host) and ipaddress.ip_address(self.host).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
