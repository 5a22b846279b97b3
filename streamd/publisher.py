"""Sends events to Redis: in order, pipelined, and through its absence."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.retry import Retry

from streamd.clock import Backoff
from streamd.config import RedisConfig, mask_url
from streamd.config.secrets import mask_text
from streamd.errors import RedisSetupError

_PIPELINE = 512
_LOOK_EVERY_S = 5.0
# Redis will refuse these again however often they are sent.
_HOPELESS = "WRONGTYPE"


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream entry to be sent. `camera` and `ready_ns` go back to the listener."""

    stream: str
    fields: dict[Any, Any]
    camera: int = -1
    ready_ns: int = 0


class Listener(Protocol):
    """Hears what became of entries; called from the publisher's thread."""

    def sent(self, entries: Sequence[Entry]) -> None:
        """Redis has answered for these."""
        ...

    def lost(self, entries: Sequence[Entry], why: str) -> None:
        """These will not be sent any more."""
        ...

    def reachable(self, up: bool, error: str) -> None:
        """Redis was reached again, or was lost."""
        ...


def connect(config: RedisConfig) -> "redis.Redis":
    """A client that fails fast and never retries by itself: the publisher does, and in order."""
    client: redis.Redis = redis.Redis.from_url(
        config.url,
        socket_timeout=config.timeout_s,
        socket_connect_timeout=config.timeout_s,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        client_name="streamd",
    )
    return client


def check_redis(config: RedisConfig) -> str | None:
    """None if Redis can be used, else why it cannot be reached now.

    Raises RedisSetupError where it answers but refuses: waiting would not help.
    """
    client = connect(config)
    where = f"redis.url: {mask_url(config.url)}"
    try:
        for stream in (config.stream, config.status_stream):
            kind = client.type(stream) if "{camera}" not in stream else "none"
            if isinstance(kind, str) and kind not in ("none", "stream"):
                raise RedisSetupError(f"{where}: the key {stream} is a {kind}, not a stream")
    except (AuthenticationError, NoPermissionError, ResponseError) as error:
        raise RedisSetupError(f"{where}: refused: {mask_text(str(error))}") from None
    except (RedisError, OSError) as error:
        return mask_text(str(error))
    finally:
        client.close()
    return None


class Publisher:
    """A bounded backlog and the one thread that empties it into Redis.

    `put` waits while the backlog is half full and Redis answers, so that a slow Redis slows its
    producers; while Redis is away it never waits: the oldest entries beyond `backlog_events` are
    dropped and reported as lost.
    """

    def __init__(
        self, config: RedisConfig, listener: Listener, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._listener = listener
        self._clock_s = clock_s
        self._client = connect(config)
        self._backlog: deque[Entry] = deque()
        self._sending: list[Entry] = []
        self._changed = threading.Condition()
        self._up: bool | None = None
        self._closing_at: float | None = None
        self._backoff = Backoff(first_s=0.2, longest_s=5.0)
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Starts sending."""
        self._thread.start()

    def put(self, entries: Sequence[Entry]) -> None:
        """Queues entries behind all earlier ones."""
        limit = self._config.backlog_events
        with self._changed:
            self._changed.wait_for(lambda: not self._up or len(self._backlog) <= limit // 2)
            self._backlog.extend(entries)
            excess = [self._backlog.popleft() for _ in range(len(self._backlog) - limit)]
            self._changed.notify_all()
        if excess:
            self._listener.lost(excess, "backlog full")

    def close(self, within_s: float) -> None:
        """Sends what is queued, for at most `within_s` seconds, and ends the thread."""
        with self._changed:
            self._closing_at = self._clock_s() + within_s
            self._changed.notify_all()
        self._thread.join(within_s)
        with self._changed:
            left = [*self._sending, *self._backlog]
            self._backlog.clear()
        if left:
            self._listener.lost(left, "stopped while Redis was away")

    def _run(self) -> None:
        while self._wait_for_work():
            with self._changed:
                count = min(len(self._backlog), _PIPELINE)
                self._sending = [self._backlog.popleft() for _ in range(count)]
            error = self._send(self._sending)
            if error is None:
                self._set_up(True, "")
                self._backoff.reset()
            else:
                self._set_up(False, error)
                self._pause(self._backoff.next_delay_s())

    def _wait_for_work(self) -> bool:
        """Blocks until there is something to send; False once closing and done or out of time."""
        with self._changed:
            # An idle connection says nothing of Redis: look at first, and now and then.
            self._changed.wait_for(
                lambda: self._backlog or self._closing_at is not None or self._up is None,
                timeout=_LOOK_EVERY_S,
            )
            if self._closing_at is None:
                return True
            return bool(self._backlog) and self._clock_s() < self._closing_at

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing_at is not None, timeout=seconds)
        if self._closing_at is not None:
            time.sleep(min(seconds, 0.1))

    def _send(self, entries: Sequence[Entry]) -> str | None:
        """Sends entries in one round trip; returns the error if some are to be sent again."""
        if not entries:
            return self._ping()
        pipeline = self._client.pipeline(transaction=False)
        for entry in entries:
            pipeline.xadd(
                entry.stream, entry.fields, maxlen=self._config.max_entries, approximate=True
            )
        try:
            answers: list[Any] = pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            answers = [error] * len(entries)
        return self._settle(entries, answers)

    def _ping(self) -> str | None:
        try:
            self._client.ping()
        except (RedisError, OSError) as error:
            return mask_text(str(error))
        return None

    def _settle(self, entries: Sequence[Entry], answers: Sequence[Any]) -> str | None:
        """Reports what was sent or is lost, and queues the rest again, in order."""
        sent: list[Entry] = []
        again: list[Entry] = []
        error: str | None = None
        for entry, answer in zip(entries, answers, strict=True):
            if not isinstance(answer, Exception):
                sent.append(entry)
            elif str(answer).startswith(_HOPELESS):
                self._listener.lost([entry], f"{entry.stream}: {answer}")
            else:
                again.append(entry)
                error = error or mask_text(str(answer)) or type(answer).__name__
        with self._changed:
            self._sending = []
            self._backlog.extendleft(reversed(again))
            self._changed.notify_all()
        self._listener.sent(sent)
        return error

    def _set_up(self, up: bool, error: str) -> None:
        if self._up is not up:
            with self._changed:
                self._up = up
                self._changed.notify_all()
            self._listener.reachable(up, error)
