"""The login at the brokers: refused, it costs one clear line and few tries; near its end it is renewed (KIP-368)."""

import asyncio

from clients import each_addressing
from clients.gateway import Gateway, on_uvloop
from clients.raw import HEARTBEAT_OK, RawClient, heartbeat, produce, produced

from kproxy.core.causes import Cause
from kproxy.testing.fakebroker import FakeBroker, FakeCluster, Hold
from kproxy.wire import primitives as p
from kproxy.wire.apis import ApiKey

LOGIN = ("gateway", "secret")
USERS = dict([LOGIN])

JOIN_GROUP = p.put_string("group") + p.INT32.pack(6000) * 2 + p.put_string("") + p.put_string("consumer") + bytes(4)
"""JoinGroup v1: group, session and rebalance timeout, member, protocol type, no protocols."""

JOINED = bytes.fromhex("0000 00000001 0000 0000 0000 00000000")
"""Its answer: no error, generation 1, protocol, leader and member empty, no members."""


@each_addressing
@on_uvloop
async def test_a_password_that_is_changed(addressing: str) -> None:
    """Once the brokers refuse the login clients are closed, one line tells, few tries are made, and all heals."""
    async with FakeCluster(3, users=dict(USERS)) as cluster:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        brief = {"dial_patience": "100ms", "dial_patience_max": "200ms"}
        async with Gateway(cluster.bootstrap, login=LOGIN, addressing=addressing, cluster=brief) as gateway:
            for broker in cluster.brokers.values():
                broker.users = {"gateway": "another"}
                broker.close_connections()
            tries = len(logins(cluster))
            clock = asyncio.get_running_loop().time
            began = clock()
            while clock() - began < 3:
                async with RawClient(gateway.address) as client:
                    await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
                    await client.assert_closed()
            assert len(logins(cluster)) - tries <= 20
            assert len(gateway.events_with(event="login refused")) <= 1
            assert len(gateway.events_with(event="client connection closed")) == 1
            assert gateway.tally.closed[Cause.BROKER_LOGIN_FAILED] > 0
            for broker in cluster.brokers.values():
                broker.users = USERS
            await gateway.until(lambda: len(gateway.link.up_nodes()) == 3, "all brokers to be up again", 20)
            async with RawClient(gateway.address) as client:
                await client.heartbeat()


def logins(cluster: FakeCluster) -> list[object]:
    """Return the tries to log in."""
    return [request for request in cluster.requests if request.key == ApiKey.SASL_AUTHENTICATE]


@each_addressing
@on_uvloop
async def test_renewal_under_pipelined_produce(addressing: str) -> None:
    """Sessions of 2 s are renewed amid a stream of requests: none fails, and no byte of a client comes between."""
    async with FakeBroker(users=USERS, session_lifetime_ms=2000) as broker:
        broker.on(ApiKey.PRODUCE, produced())
        broker.state.topics["topic"] = [1]
        async with Gateway(broker.address, login=LOGIN, addressing=addressing) as gateway:
            async with RawClient(gateway.address) as client:
                asked = 0
                while gateway.tally.reauthentications < 2:
                    await client.send_bytes(
                        b"".join(client.frame(ApiKey.PRODUCE, 7, produce(1, b"%d" % n * 50)) for n in range(20))
                    )
                    for _ in range(20):
                        asked += 1
                        assert await client.receive() == p.INT32.pack(asked) + produced()
            assert gateway.tally.opened == 1
            assert gateway.tally.dials == 1
        assert broker.violations == []
        assert broker.counts[ApiKey.PRODUCE] == asked


@each_addressing
@on_uvloop
async def test_renewal_in_the_middle_of_a_request(addressing: str) -> None:
    """A request that is half here when the login must be renewed is completed first, however slowly it comes."""
    async with FakeBroker(users=USERS, session_lifetime_ms=2000) as broker:
        broker.on(ApiKey.PRODUCE, produced())
        broker.state.topics["topic"] = [1]
        async with Gateway(broker.address, login=LOGIN, addressing=addressing) as gateway:
            async with RawClient(gateway.address) as client:
                body = produce(1, b"records" * 10_000)
                while gateway.tally.reauthentications < 2:
                    frame = client.frame(ApiKey.PRODUCE, 7, body)
                    for at in range(0, len(frame), 5000):
                        await client.send_bytes(frame[at : at + 5000])
                        await asyncio.sleep(0.01)
                    assert await client.receive() == p.INT32.pack(client.correlation_id) + produced()
            assert gateway.tally.opened == 1
        assert broker.violations == []
        assert {request.body for request in broker.of(ApiKey.PRODUCE)} == {body}


@each_addressing
@on_uvloop
async def test_renewal_behind_a_pending_join(addressing: str) -> None:
    """A JoinGroup that the broker holds delays the renewal and not its answer; what comes behind it is served after."""
    async with FakeBroker(users=USERS, session_lifetime_ms=2000) as broker:
        joined = asyncio.Event()
        broker.on(ApiKey.JOIN_GROUP, Hold(joined, JOINED))
        broker.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with Gateway(broker.address, login=LOGIN, addressing=addressing) as gateway:
            async with RawClient(gateway.address) as client:
                join = await client.send(ApiKey.JOIN_GROUP, 1, JOIN_GROUP)
                await broker.until_asked(ApiKey.JOIN_GROUP)
                client_side = next(iter(gateway.connections))
                await gateway.until(lambda: client_side.exchange.outstanding == 2, "the renewal to have begun")
                beat = await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
                joined.set()
                assert await client.receive() == p.INT32.pack(join) + JOINED
                assert await client.receive() == p.INT32.pack(beat) + HEARTBEAT_OK
            assert (gateway.tally.opened, gateway.tally.reauthentications) == (1, 1)
        assert broker.violations == []


@each_addressing
@on_uvloop
async def test_renewal_of_an_idle_connection(addressing: str) -> None:
    """A connection that only waits has its login renewed too, and is served when it asks again."""
    async with FakeBroker(users=USERS, session_lifetime_ms=2000) as broker:
        broker.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with Gateway(broker.address, login=LOGIN, addressing=addressing) as gateway:
            async with RawClient(gateway.address) as client:
                await client.heartbeat()
                await gateway.until(lambda: gateway.tally.reauthentications >= 2, "two renewals")
                await client.heartbeat()
            assert (gateway.tally.opened, gateway.tally.dials) == (1, 1)
        assert broker.violations == []


@each_addressing
@on_uvloop
async def test_a_renewal_that_is_refused(addressing: str) -> None:
    """When the password has been changed meanwhile the client is closed with its cause, and the failure is counted."""
    users = dict(USERS)
    async with FakeBroker(users=users, session_lifetime_ms=2000) as broker:
        broker.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with Gateway(broker.address, login=LOGIN, addressing=addressing) as gateway:
            async with RawClient(gateway.address) as client:
                await client.heartbeat()
                users["gateway"] = "another"
                await client.assert_closed()
            await gateway.until_closed(Cause.BROKER_LOGIN_FAILED)
            assert gateway.tally.login_failures == 1
