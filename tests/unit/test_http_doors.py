import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from streamd.config import HttpConfig
from streamd.http import doors as http_doors
from streamd.http.doors import LARGEST_BODY_BYTES, Doors, RateLimit, Receive, Send

TOKEN = "0123456789abcdef"
RIGHT = (b"Authorization", b"Bearer " + TOKEN.encode())


class Time:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def echo(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """Answers 200 with the body of the request."""
    body = b"".join([(await receive())["body"]]) if scope["method"] == "PUT" else b""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Visitor:
    """Asks through the doors."""

    def __init__(self, clock: Time, **settings: Any) -> None:
        self.doors = Doors(echo, HttpConfig.model_validate(settings), clock)
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    def ask(
        self,
        path: str = "/api/v1/cameras",
        *headers: tuple[bytes, bytes],
        method: str = "GET",
        client: str = "10.0.0.1",
        parts: tuple[bytes, ...] = (),
    ) -> int:
        """The status."""
        coming = [
            {"type": "http.request", "body": part, "more_body": index + 1 < len(parts)}
            for index, part in enumerate(parts)
        ]
        said: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            if not coming:
                await asyncio.sleep(60)
            return coming.pop(0)

        async def send(message: MutableMapping[str, Any]) -> None:
            said.append(message)

        lower = [(name.lower(), value) for name, value in headers]
        scope = {"type": "http", "method": method, "path": path, "client": (client, 1)}
        asyncio.run(self.doors({**scope, "headers": lower}, receive, send))
        self.headers = dict(said[0]["headers"])
        self.body = b"".join(message["body"] for message in said[1:])
        return int(said[0]["status"])


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.mark.parametrize(
    "path", ["/metrics", "/api/v1/cameras", "/openapi.json", "/healthz/", "/x/../healthz", "//"]
)
def test_with_a_token_nothing_else_opens_a_door(clock: Time, path: str) -> None:
    visitor = Visitor(clock, token=TOKEN)
    assert visitor.ask(path) == 401
    assert visitor.headers[b"www-authenticate"] == b"Bearer"
    assert TOKEN.encode() not in visitor.body
    assert visitor.ask(path, RIGHT) == 200
    assert visitor.ask(path, (b"authorization", b"bearer " + TOKEN.encode())) == 200


@pytest.mark.parametrize(
    "login",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer 0123456789abcdeF",
        b"Bearer 0123456789abcde",
        b"Bearer 0123456789abcdef0",
        b"Basic 0123456789abcdef",
        b"0123456789abcdef",
        b"Bearer \xff\xfe",
    ],
)
def test_another_login_is_refused(clock: Time, login: bytes) -> None:
    assert Visitor(clock, token=TOKEN).ask("/metrics", (b"Authorization", login)) == 401


def test_two_logins_at_once_are_refused(clock: Time) -> None:
    wrong = (b"Authorization", b"Bearer wrong")
    visitor = Visitor(clock, token=TOKEN)
    assert visitor.ask("/metrics", RIGHT, wrong) == 401
    assert visitor.ask("/metrics", wrong, RIGHT) == 401


def test_health_needs_no_token_and_without_one_nothing_does(clock: Time) -> None:
    visitor = Visitor(clock, token=TOKEN)
    assert [visitor.ask(path) for path in ("/healthz", "/readyz")] == [200, 200]
    assert Visitor(clock).ask("/metrics") == 200


def test_who_asks_too_often_waits_and_is_told_how_long(clock: Time) -> None:
    visitor = Visitor(clock, requests_per_s=0.5)
    assert [visitor.ask(), visitor.ask()] == [200, 429]
    assert visitor.headers[b"retry-after"] == b"2"
    assert visitor.ask(client="10.0.0.2") == 200
    clock.now_s += 1.9
    assert visitor.ask() == 429
    clock.now_s += 0.2
    assert visitor.ask() == 200


def test_health_is_never_limited(clock: Time) -> None:
    visitor = Visitor(clock, requests_per_s=1)
    assert {visitor.ask("/healthz") for _ in range(50)} == {200}
    assert {visitor.ask("/readyz") for _ in range(3)} == {200, 429}


def test_an_ipv6_client_is_its_network(clock: Time) -> None:
    visitor = Visitor(clock, requests_per_s=0.5)
    assert visitor.ask(client="2001:db8::1") == 200
    assert visitor.ask(client="2001:db8::2%eth0") == 429
    assert visitor.ask(client="2001:db8:0:1::1") == 200


def test_ipv4_clients_are_not_taken_for_one_where_all_addresses_are_listened_on(
    clock: Time,
) -> None:
    visitor = Visitor(clock, requests_per_s=0.5)
    assert visitor.ask(client="::ffff:10.0.0.1") == 200
    assert visitor.ask(client="::ffff:10.0.0.1") == 429
    assert visitor.ask(client="::ffff:10.0.0.2") == 200
    assert visitor.ask(client="::1") == 200


def test_who_guesses_is_soon_not_listened_to_right_or_wrong(clock: Time) -> None:
    visitor = Visitor(clock, token=TOKEN)
    wrong = (b"Authorization", b"Bearer guessed-guessed-guessed")
    assert [visitor.ask("/metrics", wrong) for _ in range(6)] == [401] * 5 + [429]
    assert visitor.headers[b"retry-after"] == b"10"
    assert visitor.ask("/metrics", RIGHT) == 429
    assert visitor.ask("/metrics", RIGHT, client="10.0.0.2") == 200
    assert visitor.ask("/metrics") == 401
    clock.now_s += 10
    assert visitor.ask("/metrics", RIGHT) == 200


def test_asking_without_a_token_is_no_guess(clock: Time) -> None:
    visitor = Visitor(clock, token=TOKEN)
    assert {visitor.ask("/metrics") for _ in range(20)} == {401}
    assert visitor.ask("/metrics", RIGHT) == 200


def test_clients_are_forgotten_oldest_first(clock: Time) -> None:
    limit = RateLimit(0.001, 1, clock)
    for number in range(2000):
        limit.take(str(number))
    assert limit.wait_s("0") == 0
    assert limit.wait_s("1999") > 0


def test_a_body_reaches_the_app_whole(clock: Time) -> None:
    visitor = Visitor(clock)
    chunked = (b"Transfer-Encoding", b"chunked")
    assert visitor.ask("/x", chunked, method="PUT", parts=(b"a", b"b", b"c")) == 200
    assert visitor.body == b"abc"


@pytest.mark.parametrize("length", [LARGEST_BODY_BYTES + 1, 10**30])
def test_a_request_that_announces_too_much_is_not_read(clock: Time, length: int) -> None:
    visitor = Visitor(clock)
    assert visitor.ask("/x", (b"Content-Length", str(length).encode()), method="PUT") == 413


def test_a_request_that_turns_out_too_long_is_refused(clock: Time) -> None:
    visitor = Visitor(clock)
    parts = (b"x" * LARGEST_BODY_BYTES, b"x")
    assert visitor.ask("/x", (b"Transfer-Encoding", b"chunked"), method="PUT", parts=parts) == 413
    assert visitor.headers[b"connection"] == b"close"


def test_a_body_that_does_not_come_is_not_waited_for(
    clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_doors, "_BODY_WITHIN_S", 0.05)
    assert Visitor(clock).ask("/x", (b"Content-Length", b"5"), method="PUT") == 408


def test_without_a_token_no_web_page_changes_anything(clock: Time) -> None:
    page = (b"Origin", b"https://pages.example")
    assert Visitor(clock).ask("/x", page, method="PUT", parts=(b"",)) == 403
    assert Visitor(clock).ask("/x", page, method="DELETE") == 403
    assert Visitor(clock).ask("/metrics", page) == 200
    assert Visitor(clock, token=TOKEN).ask("/x", page, RIGHT, method="PUT", parts=(b"",)) == 200
