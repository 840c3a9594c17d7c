"""Who gets past the guard of the admin API."""

from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from kproxy.service.guard import AUTHORIZED, LOOPBACK_HOSTS, Guard

KEY = "open-sesame"


async def ask(guard: Guard, path: str = "/clients", method: str = "GET", **headers: str) -> tuple[int, bool]:
    """Return the status, and whether the sender may see everything."""
    sent: list[Any] = []
    raw = [(name.replace("_", "-").encode(), text.encode("latin-1")) for name, text in headers.items()]
    scope: dict[str, Any] = {"type": "http", "path": path, "method": method, "headers": raw, "client": ("10.0.0.1", 1)}

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    await guard(scope, receive, send)
    return sent[0]["status"], scope.get(AUTHORIZED, False)


def guard(key: str | None = None, hosts: frozenset[str] | None = LOOPBACK_HOSTS) -> Guard:
    """Make one that stands before an application which says yes."""
    return Guard(PlainTextResponse("yes"), key, hosts, lambda: 0.0)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer  {KEY} "}, 200),
        ({"x_api_key": KEY}, 200),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": KEY}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"authorization": f"Bearer {KEY[:-1]}"}, 401),
        ({"x_api_key": "\xff\xfe"}, 401),
        # A wrong one is not made good by another.
        ({"authorization": "Bearer wrong", "x_api_key": KEY}, 401),
        # With a key, whatever the name and the origin.
        ({"x_api_key": KEY, "host": "evil.example.com", "origin": "https://evil.example.com"}, 200),
    ],
)
async def test_with_a_key(headers: dict[str, str], status: int) -> None:
    """The very key, in one of two headers, and nothing else lets through."""
    assert await ask(guard(KEY), method="POST", **headers) == (status, status == 200)


async def test_health_is_for_everybody() -> None:
    """Without the key health is told, and that its sender may not see more."""
    for path in ("/healthz", "/readyz"):
        assert await ask(guard(KEY), path) == (200, False)
        assert await ask(guard(KEY), path, x_api_key="wrong") == (200, False)
        assert await ask(guard(KEY), path, x_api_key=KEY) == (200, True)
        assert await ask(guard(), path, host="evil.example.com") == (200, False)
        assert await ask(guard(), path, host="localhost") == (200, True)


@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        ({"host": "localhost"}, "POST", 200),
        ({"host": "LOCALHOST:9090"}, "GET", 200),
        ({"host": "127.0.0.1:9090"}, "POST", 200),
        ({"host": "[::1]:9090"}, "GET", 200),
        ({"host": "evil.example.com"}, "GET", 403),
        ({"host": "127.0.0.1.evil.example.com"}, "GET", 403),
        ({"host": "localhost.evil.example.com:9090"}, "GET", 403),
        ({}, "GET", 403),
        ({"host": "localhost", "origin": "https://evil.example.com"}, "POST", 403),
        ({"host": "localhost", "origin": "null"}, "PUT", 403),
        ({"host": "localhost", "origin": "http://localhost:3000"}, "GET", 200),
    ],
)
async def test_without_a_key_no_web_page(headers: dict[str, str], method: str, status: int) -> None:
    """A page in this machine's browser can neither read by a name of its own nor change anything."""
    assert (await ask(guard(), method=method, **headers))[0] == status


async def test_a_unix_socket_has_no_name() -> None:
    """There any Host is good."""
    assert await ask(guard(hosts=None), host="whatever") == (200, True)


async def test_websockets_are_nobody() -> None:
    """What is no HTTP gets nothing, and nothing fails."""

    async def never(*_: Any) -> Any:
        raise AssertionError

    await guard(KEY)({"type": "websocket", "headers": []}, never, never)
