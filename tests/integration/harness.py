"""What the integration tests have in common."""

from typing import Protocol

from streamd.testing.daemon_process import STREAM, Daemon, balanced, eventually
from streamd.testing.redis_server import RedisServer

__all__ = ["STREAM", "Daemon", "DaemonFactory", "balanced", "eventually"]


class DaemonFactory(Protocol):
    def __call__(
        self,
        settings: str,
        *arguments: str,
        server: RedisServer | None = None,
        redis_settings: str = "",
        http_settings: str = "{port: 0}",
    ) -> Daemon: ...
