"""What stands between a client and the API: size, rate and token, in this order (ASGI)."""

import asyncio
import hashlib
import hmac
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from streamd.config import HttpConfig

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

LARGEST_BODY_BYTES = 64 * 1024
_BODY_WITHIN_S = 10.0
_NEVER_LIMITED = "/healthz"
_OPEN = (_NEVER_LIMITED, "/readyz")
_READING = ("GET", "HEAD", "OPTIONS")
_FAILED_LOGINS = 5  # at once, then
_FAILED_LOGIN_EVERY_S = 10.0
_CLIENTS = 1024  # remembered; a client that was quiet for longest is forgotten first


class RateLimit:
    """A bucket of tokens a client: `burst` at once, then `per_s` a second."""

    def __init__(
        self, per_s: float, burst: float, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._burst = max(1.0, burst)
        self._clock_s = clock_s
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """Seconds until `client` may take a token; 0 where it may now."""
        return max(0.0, (1 - self._left(client)) / self._per_s)

    def take(self, client: str) -> None:
        """Takes one of its tokens."""
        self._spent[client] = (max(0.0, self._left(client) - 1), self._clock_s())
        self._spent.move_to_end(client)
        if len(self._spent) > _CLIENTS:
            self._spent.popitem(last=False)

    def _left(self, client: str) -> float:
        left, then_s = self._spent.get(client, (self._burst, 0.0))
        return min(self._burst, left + (self._clock_s() - then_s) * self._per_s)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that the app never hears of."""

    status: int
    detail: str
    header: tuple[bytes, bytes] | None = None


class Doors:
    """Wraps an app. `/healthz` is never limited; it and `/readyz` need no token.

    A client is an IPv4 address or the /64 of an IPv6 address. One whose token was wrong five times
    is not listened to for a while, right or wrong: else it could go on guessing.
    """

    def __init__(
        self, app: App, config: HttpConfig, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        token = config.token.get_secret_value() if config.token else None
        self._digest = None if token is None else _digest(token.encode())
        self._requests = RateLimit(config.requests_per_s, 2 * config.requests_per_s, clock_s)
        self._failures = RateLimit(1 / _FAILED_LOGIN_EVERY_S, _FAILED_LOGINS, clock_s)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """See ASGI."""
        headers: list[tuple[bytes, bytes]] = scope.get("headers", [])
        refusal = self._refusal(scope, headers)
        if refusal is None and _has_body(headers):
            body = await _body(receive, headers)
            if isinstance(body, Refusal):
                refusal = body
            else:
                receive = _replay(body, receive)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await _answer(refusal, send)

    def _refusal(
        self, scope: MutableMapping[str, Any], headers: list[tuple[bytes, bytes]]
    ) -> Refusal | None:
        path, client = scope["path"], _client_of(scope)
        if path == _NEVER_LIMITED:
            return None
        wait_s = self._requests.wait_s(client)
        if wait_s:
            return _later("too many requests", wait_s)
        self._requests.take(client)
        if path in _OPEN:
            return None
        if self._digest is not None:
            return self._wrong_token(client, self._digest, headers)
        if scope["method"] not in _READING and _values(headers, b"origin"):
            # Without a token any web page could have its visitor's browser reach 127.0.0.1.
            return Refusal(403, "a browser's request to change something needs http.token")
        return None

    def _wrong_token(
        self, client: str, digest: bytes, headers: list[tuple[bytes, bytes]]
    ) -> Refusal | None:
        logins = _values(headers, b"authorization")
        needed = Refusal(401, "needs Authorization: Bearer TOKEN", (b"www-authenticate", b"Bearer"))
        if not logins:
            return needed
        wait_s = self._failures.wait_s(client)
        if wait_s:
            return _later("too many wrong tokens", wait_s)
        scheme, _, token = logins[0].partition(b" ")
        right = hmac.compare_digest(_digest(token.strip()), digest)
        if right and scheme.lower() == b"bearer" and len(logins) == 1:
            return None
        self._failures.take(client)
        return needed


def _digest(token: bytes) -> bytes:
    """Of one length, so that comparing takes the same time whatever was sent."""
    return hashlib.sha256(token).digest()


def _client_of(scope: MutableMapping[str, Any]) -> str:
    host = str((scope.get("client") or ("",))[0])
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:  # IPv4, where `::` is listened on
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _values(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return bool(_values(headers, b"content-length") or _values(headers, b"transfer-encoding"))


async def _body(receive: Receive, headers: list[tuple[bytes, bytes]]) -> bytes | Refusal:
    """The whole of it, which has to be small and to come soon."""
    too_large = Refusal(413, f"a request may have {LARGEST_BODY_BYTES} bytes")
    for length in _values(headers, b"content-length"):
        if len(length) > 9 or (length.isdigit() and int(length) > LARGEST_BODY_BYTES):
            return too_large
    body = b""
    more = True
    try:
        async with asyncio.timeout(_BODY_WITHIN_S):
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > LARGEST_BODY_BYTES:
                    return too_large
    except TimeoutError:
        return Refusal(408, "the request did not come whole in time")
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the app the body that was read, then whatever else comes."""
    held: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return held.pop() if held else await receive()

    return next_message


def _later(why: str, wait_s: float) -> Refusal:
    return Refusal(429, why, (b"retry-after", str(math.ceil(wait_s)).encode()))


async def _answer(refusal: Refusal, send: Send) -> None:
    body = f'{{"detail":"{refusal.detail}"}}'.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.header is not None:
        headers.append(refusal.header)
    if refusal.status in (408, 413):  # what is left of the request is not worth reading
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
