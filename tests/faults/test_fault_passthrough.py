"""Passed passwords: the connection that a login was judged on serves that client's requests, and nobody else's."""

from contextlib import AsyncExitStack
from typing import Any

import pytest
from clients import each_addressing
from clients.gateway import on_uvloop
from clients.strangers import Stranger, serving

from kproxy.core.sasl import Plain
from kproxy.net import spares
from kproxy.testing.fakebroker import FakeBroker, Request
from kproxy.wire.apis import ApiKey

USERS = {"gateway": "secret", "alice": "wonder", "bob": "builder"}
ALICE, BOB = (Plain(user, USERS[user]) for user in ("alice", "bob"))

PASSTHROUGH: dict[str, Any] = {
    "login": ("gateway", "secret"),
    "cluster": {"passthrough": "plain", "dial_patience": "100ms", "dial_patience_max": "100ms"},
    "sasl": {"mechanisms": ["PLAIN"], "allow_plaintext_passwords": True},
    "users": USERS,
}


def logins(broker: FakeBroker) -> list[tuple[str, int]]:
    """Return who logged in at a broker, kproxy itself aside, and on which connections."""
    tokens = [(one.body.split(b"\0")[1].decode(), one.connection) for one in broker.of(ApiKey.SASL_AUTHENTICATE)]
    return [(user, connection) for user, connection in tokens if user != "gateway"]


def beats(broker: FakeBroker) -> list[Request]:
    """Return the requests of clients."""
    return broker.of(ApiKey.HEARTBEAT)


@each_addressing
@on_uvloop
async def test_a_client_is_logged_in_once(addressing: str) -> None:
    """Each client's connection is one login at its broker, and the requests come on that connection."""
    async with serving(addressing=addressing, **PASSTHROUGH) as (gateway, cluster), AsyncExitStack() as stack:
        broker = cluster.brokers[1]
        for mechanism in (ALICE, BOB, ALICE):
            client = await stack.enter_async_context(Stranger(gateway.address))
            await client.login(mechanism)
            await client.heartbeat()
        assert [user for user, _ in logins(broker)] == ["alice", "bob", "alice"]
        assert [beat.connection for beat in beats(broker)] == [connection for _, connection in logins(broker)]
        assert gateway.tally.dials == 3


@on_uvloop
async def test_at_the_broker_that_the_client_is_for() -> None:
    """A login at a broker's port is judged by that broker, which then serves it; where it is down, by another."""
    async with serving(brokers=2, **PASSTHROUGH) as (gateway, cluster):
        first, second = cluster.brokers.values()
        for _ in range(3):
            async with Stranger(gateway.address_of(2)) as client:
                await client.login(ALICE)
                await client.heartbeat()
        assert (len(logins(first)), len(logins(second)), gateway.tally.dials) == (0, 3, 3)
        await second.stop()
        await gateway.until(lambda: gateway.link.up_nodes() == [1], "kproxy to know that the broker is down")
        async with Stranger(gateway.address_of(2)) as client:
            await client.login(ALICE)
        assert len(logins(first)) == 1


@each_addressing
@on_uvloop
async def test_one_never_serves_another(addressing: str) -> None:
    """While a client that is in asks nothing, another one's requests do not come as the first one's."""
    async with serving(addressing=addressing, **PASSTHROUGH) as (gateway, cluster):
        broker = cluster.brokers[1]
        async with Stranger(gateway.address) as alice, Stranger(gateway.address) as bob:
            await alice.login(ALICE)
            await bob.login(BOB)
            await bob.heartbeat()
            await alice.heartbeat()
        assert len(logins(broker)) == 2
        users = {connection: user for user, connection in logins(broker)}
        assert [users[beat.connection] for beat in beats(broker)] == ["bob", "alice"]


@each_addressing
@on_uvloop
async def test_a_client_that_asks_nothing(addressing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection to the broker is closed after a while; it is logged in anew when it asks after all."""
    monkeypatch.setattr(spares, "KEEP_SECONDS", 0.1)
    async with serving(addressing=addressing, **PASSTHROUGH) as (gateway, cluster):
        broker = cluster.brokers[1]
        before = broker.open_connections
        async with Stranger(gateway.address) as client:
            await client.login(ALICE)
            await gateway.until(lambda: broker.open_connections == before, "the connection to be closed")
            await client.heartbeat()
        assert len(logins(broker)) == 2


@each_addressing
@on_uvloop
async def test_a_connection_that_ends_before_it_is_used(addressing: str) -> None:
    """Where a broker closes it before the client has asked anything, another is dialled, and the client goes on."""
    async with serving(addressing=addressing, **PASSTHROUGH) as (gateway, cluster):
        broker = cluster.brokers[1]
        async with Stranger(gateway.address) as client:
            await client.login(ALICE)
            broker.close_connections()
            await gateway.until(lambda: broker.counts[ApiKey.METADATA] > 1, "kproxy to be there again")
            await gateway.until(gateway.link.up_nodes, "the broker to be up again")
            await client.heartbeat()
        assert len(logins(broker)) == 2


@on_uvloop
async def test_a_drain_closes_what_nobody_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is in and has asked nothing leaves no connection behind when kproxy ends."""
    monkeypatch.setattr(spares, "KEEP_SECONDS", 60.0)
    async with AsyncExitStack() as stack:
        async with serving(**PASSTHROUGH) as (gateway, _):
            client = await stack.enter_async_context(Stranger(gateway.address))
            await client.login(ALICE)
            kept = gateway._listener._dialler._spares
            assert len(kept) == 1
        assert len(kept) == 0


@each_addressing
@on_uvloop
async def test_a_connection_that_would_be_another_by_now(addressing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a broker has moved, or the settings are others, since the login, its connection is closed, not used."""
    async with serving(addressing=addressing, **PASSTHROUGH) as (gateway, cluster):
        broker = cluster.brokers[1]
        async with Stranger(gateway.address) as client:
            await client.login(ALICE)
            monkeypatch.setattr(gateway.link, "good", lambda *_: False)
            before = broker.open_connections
            await client.heartbeat()
            await gateway.until(lambda: broker.open_connections == before, "the first connection to be closed")
        assert len(logins(broker)) == 2
