"""Clients that speak nonsense, or not Kafka at all: told apart, logged in words, and nobody else's trouble."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from clients import each_addressing
from clients.gateway import Gateway, on_uvloop
from clients.raw import HEARTBEAT_OK, RawClient, fetch, heartbeat
from clients.strangers import Stranger, server_tls, serving

from kproxy.core.causes import Cause
from kproxy.testing.certificates import Authority
from kproxy.testing.fakebroker import FakeCluster
from kproxy.wire import frames, handshake
from kproxy.wire import primitives as p
from kproxy.wire.apis import ApiKey

CLIENT_HELLO = bytes.fromhex("16 0301 0200 01 0001fc 0303") + bytes(range(200))
HTTP = b"GET / HTTP/1.1\r\nHost: kafka\r\n\r\n"

NONSENSE = [
    pytest.param(CLIENT_HELLO, Cause.TLS_ON_PLAIN_PORT, ("TLS", "PLAINTEXT"), id="TLS"),
    pytest.param(HTTP, Cause.HTTP_ON_KAFKA_PORT, ("HTTP",), id="HTTP"),
    pytest.param(p.INT32.pack(-1), Cause.MALFORMED_REQUEST, ("-1",), id="negative size"),
    pytest.param(p.INT32.pack(0), Cause.MALFORMED_REQUEST, ("0",), id="size zero"),
    pytest.param(p.INT32.pack(9), Cause.MALFORMED_REQUEST, ("9",), id="size below a header"),
    pytest.param(p.INT32.pack(100 * 1024 * 1024 + 1), Cause.FRAME_TOO_LARGE, ("104857601",), id="size above the limit"),
    pytest.param(p.INT32.pack(100) + b"\x7f" * 100, Cause.UNSUPPORTED_REQUEST, ("32639",), id="unknown API"),
    pytest.param(
        p.INT32.pack(20) + bytes.fromhex("0003 0063 00000001 ffff") + bytes(10),
        Cause.UNSUPPORTED_REQUEST,
        ("Metadata", "99"),
        id="unknown version",
    ),
    pytest.param(
        p.INT32.pack(20) + bytes.fromhex("0000 0007 00000001 fff0") + bytes(10),
        Cause.MALFORMED_REQUEST,
        (),
        id="negative client id",
    ),
]


@each_addressing
@pytest.mark.parametrize(("nonsense", "cause", "words"), NONSENSE)
@pytest.mark.parametrize("first_ask", [False, True], ids=["as first bytes", "after a good request"])
@on_uvloop
async def test_nonsense(
    addressing: str, nonsense: bytes, cause: Cause, words: tuple[str, ...], first_ask: bool
) -> None:
    """Nonsense closes that connection; the log has cause, client and what is wrong; no other is disturbed."""
    async with FakeCluster(3) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with RawClient(gateway.address) as other, RawClient(gateway.address) as client:
            await other.heartbeat()
            if first_ask:
                await client.heartbeat()
                # Behind Kafka, TLS and HTTP are frames with odd sizes.
                cause = Cause.FRAME_TOO_LARGE if cause in {Cause.TLS_ON_PLAIN_PORT, Cause.HTTP_ON_KAFKA_PORT} else cause
                words = ()
            await client.send_bytes(nonsense)
            await client.assert_closed()
            await gateway.until_closed(cause)
            await other.heartbeat()
        (line,) = gateway.events_with(event="client connection closed")
        assert (line["cause"], line["log_level"], line["listener"]) == (cause, "warning", "public")
        assert line["client"].startswith("127.0.0.1:")
        assert all(word in line["error"] for word in words), line["error"]


@each_addressing
@on_uvloop
async def test_a_login_where_none_is_asked_for(addressing: str) -> None:
    """SaslHandshake gets ILLEGAL_SASL_STATE(34), as from a broker, and one log line tells the remedy."""
    async with FakeCluster(3) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with RawClient(gateway.address) as client:
            for _ in range(2):
                asked = handshake.sasl_handshake_request("PLAIN")
                body = await client.ask(ApiKey.SASL_HANDSHAKE, 1, asked)
                assert handshake.parse_sasl_handshake_response(body).error_code == 34
            await client.heartbeat()
        (line,) = [event for event in gateway.events if "log in" in event["event"]]
        assert "security.protocol" in line["event"]
        assert line["client"].startswith("127.0.0.1:")


@each_addressing
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@on_uvloop
async def test_half_a_request(addressing: str, reset: bool) -> None:
    """A client that goes in the middle of a request leaves nothing behind, and disturbs nobody."""
    async with FakeCluster(3) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with RawClient(gateway.address) as other:
            for size in (2, 4, 9, 15, 30):
                async with RawClient(gateway.address) as client:
                    await client.heartbeat()
                    await client.send_bytes(client.frame(ApiKey.HEARTBEAT, 3, heartbeat())[:size])
                    if reset:
                        client.writer.transport.abort()
            await gateway.until(lambda: gateway.tally.connections == 1, "the end of the others")
            await other.heartbeat()
        assert [event for event in gateway.events if event["log_level"] != "info"] == []


@each_addressing
@on_uvloop
async def test_too_many_connections(addressing: str) -> None:
    """A connection above connections_max is closed as it arrives; when another has gone there is room again."""
    limit = {"connections_max": 3}
    async with FakeCluster(3) as cluster, Gateway(cluster.bootstrap, addressing=addressing, listener=limit) as gateway:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with RawClient(gateway.address) as one, RawClient(gateway.address) as two:
            async with RawClient(gateway.address) as three, RawClient(gateway.address) as four:
                await four.assert_closed()
                for client in (one, two, three):
                    await client.heartbeat()
            await gateway.until(lambda: gateway.tally.connections == 2, "the end of the third")
            async with RawClient(gateway.address) as five:
                await five.heartbeat()
        assert gateway.tally.closed[Cause.TOO_MANY_CONNECTIONS] == 1


@each_addressing
@on_uvloop
async def test_an_idle_client_is_closed(addressing: str) -> None:
    """A connection without traffic is closed after idle_timeout, one with traffic is not."""
    limit = {"idle_timeout": "500ms"}
    async with FakeCluster(3) as cluster, Gateway(cluster.bootstrap, addressing=addressing, listener=limit) as gateway:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with RawClient(gateway.address) as idle, RawClient(gateway.address) as busy:
            await idle.heartbeat()
            end = asyncio.ensure_future(idle.assert_closed())  # noqa: TID251 - awaited below
            while not end.done():
                await busy.heartbeat()
                await asyncio.sleep(0.05)
            await end
            await busy.heartbeat()
        assert gateway.tally.closed[Cause.IDLE] == 1


@each_addressing
@on_uvloop
async def test_a_client_that_closes_its_writing_side(addressing: str) -> None:
    """A client that has said that it sends no more still gets all of its answers, and then the end."""
    async with FakeCluster(3) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with RawClient(gateway.address) as client:
            await client.send_bytes(b"".join(client.frame(ApiKey.HEARTBEAT, 3, heartbeat()) for _ in range(50)))
            client.writer.write_eof()
            expected = b"".join(frames.response(i, ApiKey.HEARTBEAT, 3, HEARTBEAT_OK) for i in range(1, 51))
            assert await client.read_to_end() == expected
        await gateway.until_closed(Cause.CLIENT_CLOSED)


@pytest.mark.parametrize(("secure", "most"), [(False, 8), (True, 3)], ids=["plain", "TLS"])
@on_uvloop
async def test_what_waits_for_clients_that_never_read_is_bounded(tmp_path: Path, secure: bool, most: int) -> None:
    """Of clients that ask for much and never read as many stay as ``buffered_bytes_max`` has room for; others do, too.

    Plain, each holds 64 KiB or more; with TLS, where what is beneath it counts, 370 or more.
    """
    authority = Authority()
    settings: dict[str, Any] = {"tls": server_tls(tmp_path, authority)} if secure else {}
    context = authority.trusting() if secure else None
    room = "1MiB" if secure else "512KiB"
    async with (
        serving(buffered_bytes_max=room, **settings) as (gateway, cluster),
        contextlib.AsyncExitStack() as stack,
    ):
        cluster.state.topics["topic"] = [1]
        cluster.on(ApiKey.FETCH, bytes(12 * 1024 * 1024))

        def ended() -> bool:
            return bool(gateway.events_with(cause=Cause.BUFFERS_FULL))

        stayed = 0
        while not ended():
            client = await stack.enter_async_context(Stranger(gateway.address, tls=context))
            await client.send(ApiKey.FETCH, 4, fetch())
            await gateway.until(lambda before=stayed: ended() or full(gateway) > before, "the client to be full")  # type: ignore[misc]
            stayed += not ended()
        assert 1 <= stayed <= most
        async with Stranger(gateway.address, tls=context) as other:
            await other.heartbeat()


def full(gateway: Gateway) -> int:
    """Return how many clients do not keep up with what there is for them."""
    return sum(client._full for client in gateway.connections)
