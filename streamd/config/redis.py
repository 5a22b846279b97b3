"""Keys of Redis: where events go, and where they wait."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from streamd.config.redis_url import checked_url, is_tls
from streamd.config.section import Section


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
    def _usable(cls, url: str) -> str:
        return checked_url(url)

    @field_validator("stream")
    @classmethod
    def _one_place(cls, name: str) -> str:
        left = name.replace("{camera}", "")
        if "{" in left or "}" in left:
            raise ValueError("may hold {camera}, and no other { or }")
        return name

    @field_validator("status_stream")
    @classmethod
    def _of_its_own(cls, name: str, info: ValidationInfo) -> str:
        if "{" in name or "}" in name:
            raise ValueError("is one for all cameras: it may hold no { or }")
        if name == info.data.get("stream"):
            raise ValueError("is that of the events: they need one of their own")
        return name

    @field_validator("tls_ca", "tls_cert", "tls_key")
    @classmethod
    def _for_tls(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file is not None and not is_tls(info.data.get("url", "rediss")):
            raise ValueError("is for rediss:// alone")
        return file

    def stream_of(self, camera: str) -> str:
        """The stream that the events of this camera go to."""
        return self.stream.replace("{camera}", camera)

    def mixes_with_status(self, camera: str) -> bool:
        """Whether the stream of this camera's events would be the status stream."""
        return self.stream_of(camera) == self.status_stream
