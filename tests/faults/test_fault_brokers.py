"""Brokers that are away, mute, moved, that cut answers or talk nonsense: clients are held, served or closed in time."""

import asyncio

import pytest
from clients import each_addressing
from clients.gateway import Gateway, on_uvloop
from clients.raw import HEARTBEAT_OK, RawClient, heartbeat, produce, produced

from kproxy.core.causes import Cause
from kproxy.testing.fakebroker import CLOSE, DEFAULT, Cut, Delay, FakeBroker, FakeCluster, Hold, Raw, Request
from kproxy.wire import cluster as wire_cluster
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey

METADATA = (ApiKey.METADATA, 8, wire_cluster.metadata_request(8, ()))


async def refused(gateway: Gateway) -> float:
    """Ask for a broker that is not there; return how long the client was held, in seconds."""
    clock = asyncio.get_running_loop().time
    async with RawClient(gateway.address) as client:
        opened = clock()
        await client.send(*METADATA)
        await client.assert_closed()
        return clock() - opened


@each_addressing
@on_uvloop
async def test_a_refusing_broker(addressing: str) -> None:
    """A client whose broker refuses connections is held for about a second before its connection is closed."""
    async with FakeCluster(1) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        await cluster.brokers[1].stop()
        assert 0.9 < await refused(gateway) < 1.6
        assert gateway.tally.closed[Cause.BROKER_UNREACHABLE] == 1


@each_addressing
@on_uvloop
async def test_a_client_that_keeps_coming_back(addressing: str) -> None:
    """Each time it comes back to a broker that is down a client is held longer, up to a bound, and told of once."""
    patience = {"dial_patience": "100ms", "dial_patience_max": "400ms"}
    async with (
        FakeCluster(1) as cluster,
        Gateway(cluster.bootstrap, addressing=addressing, cluster=patience) as gateway,
    ):
        await cluster.brokers[1].stop()
        for seconds in (0.1, 0.2, 0.4, 0.4, 0.4):
            assert seconds - 0.01 <= await refused(gateway) < seconds + 0.25
        assert len(gateway.events_with(event="client connection closed")) == 1


@each_addressing
@on_uvloop
async def test_a_broker_that_returns_while_a_client_is_held(addressing: str) -> None:
    """A held client is served as soon as its broker is back, on the same connection."""
    async with FakeCluster(1) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        broker = cluster.brokers[1]
        broker.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        await broker.stop()
        async with RawClient(gateway.address) as client:
            await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
            await gateway.until(lambda: gateway.events_with(event="broker connection lost"), "the loss to be seen")
            await broker.start()
            assert (await client.receive())[4:] == HEARTBEAT_OK
            await client.heartbeat()
        assert gateway.tally.opened == 1


@each_addressing
@on_uvloop
async def test_a_mute_broker(addressing: str) -> None:
    """A broker that accepts and never answers costs its clients the login's time, and others nothing."""
    short = {"login_timeout": "500ms", "dial_patience": "100ms", "dial_patience_max": "200ms"}
    async with FakeCluster(2, users={"u": "p"}) as cluster:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        cluster.state.coordinators["other"] = 2
        login = ("u", "p")
        async with Gateway(cluster.bootstrap, login=login, addressing=addressing, cluster=short) as gateway:
            cluster.brokers[1].mute()
            async with RawClient(gateway.address_of(1)) as client, RawClient(gateway.address_of(2)) as other:
                await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
                end = asyncio.ensure_future(client.assert_closed())  # noqa: TID251 - awaited below
                while not end.done():
                    await other.heartbeat("other")
                    await asyncio.sleep(0.01)
                await end
            cluster.brokers[1].unmute()
            async with RawClient(gateway.address_of(1)) as client:
                await client.heartbeat()


@each_addressing
@pytest.mark.parametrize("after_bytes", [0, 3, 4, 7, 9, 20, 40])
@on_uvloop
async def test_an_answer_that_is_cut(addressing: str, after_bytes: int) -> None:
    """However early a broker cuts an answer, the client's connection ends, and no address leaks."""
    async with FakeCluster(2) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        cluster.on(ApiKey.DESCRIBE_CLUSTER, Cut(after_bytes, DEFAULT), DEFAULT)
        cluster.on(ApiKey.HEARTBEAT, Cut(min(after_bytes, 13), HEARTBEAT_OK), HEARTBEAT_OK)
        async with RawClient(gateway.address_of(1)) as client:
            await client.send(ApiKey.DESCRIBE_CLUSTER, 0, b"\0\0")
            await client.read_to_end()
        async with RawClient(gateway.address_of(1)) as client:
            await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
            assert len(await client.read_to_end()) <= after_bytes
        async with RawClient(gateway.address_of(1)) as client:
            await client.heartbeat()
        await gateway.until_closed(Cause.BROKER_CLOSED, 2)


GARBAGE = [
    pytest.param(b"\xff\xff\xff\xff", id="negative size"),
    pytest.param(b"\0\0\0\1\0", id="size below a header"),
    pytest.param(b"\0\0\0\x08\x7f\xff\xff\xff\0\0\0\0", id="another correlation id"),
    pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="HTTP"),
]


@each_addressing
@pytest.mark.parametrize("garbage", GARBAGE)
@on_uvloop
async def test_garbage_for_an_answer_that_is_rewritten(addressing: str, garbage: bytes) -> None:
    """Where an answer with addresses is due, nothing else is forwarded: the connection ends with a cause."""
    async with FakeCluster(2) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        cluster.on(ApiKey.DESCRIBE_CLUSTER, Raw(garbage))
        async with RawClient(gateway.address_of(1)) as client, RawClient(gateway.address_of(1)) as other:
            await client.heartbeat()
            await other.heartbeat()
            await client.send(ApiKey.DESCRIBE_CLUSTER, 0, b"\0\0")
            if garbage.startswith(b"HTTP"):  # 1.2 GiB are announced: whoever waits for them waits for the broker
                cluster.brokers[1].close_connections()
            await client.assert_closed()
            await other.heartbeat()
        if not garbage.startswith(b"HTTP"):
            assert gateway.tally.closed[Cause.MALFORMED_ANSWER] == 1
            assert len(gateway.events_with(cause="malformed answer")) == 1


@each_addressing
@on_uvloop
async def test_an_answer_that_was_not_asked_for(addressing: str) -> None:
    """An answer too many ends the connection: whose answers are out of step can't be trusted with the next."""
    async with FakeCluster(1) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        twice = frames.response(1, ApiKey.HEARTBEAT, 3, HEARTBEAT_OK) * 2
        cluster.on(ApiKey.HEARTBEAT, Raw(twice))
        async with RawClient(gateway.address_of(1)) as client:
            await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
            assert len(await client.read_to_end()) <= len(twice) // 2
        await gateway.until_closed(Cause.MALFORMED_ANSWER)


@each_addressing
@on_uvloop
async def test_a_broker_that_closes_idle_connections(addressing: str) -> None:
    """When the broker closes an idle connection the client keeps its own, and its next request is served."""
    async with FakeCluster(1) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        broker = cluster.brokers[1]
        broker.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with RawClient(gateway.address) as client:
            for _ in range(5):
                await client.heartbeat()
                broker.close_connections()
                await broker.until(lambda: broker.open_connections <= 1, what="the clients' connection to end")
            await client.heartbeat()
        assert gateway.tally.opened == 1
        assert gateway.tally.dials >= 2


@each_addressing
@on_uvloop
async def test_a_broker_that_closes_with_a_request_under_way(addressing: str) -> None:
    """When the broker closes instead of answering, so does the proxy, and the client retries at once."""
    async with FakeCluster(1) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK, CLOSE, HEARTBEAT_OK)
        async with RawClient(gateway.address) as client:
            await client.heartbeat()
            await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
            await client.assert_closed()
        async with RawClient(gateway.address) as client:
            await client.heartbeat()
        await gateway.until_closed(Cause.BROKER_CLOSED)


@each_addressing
@on_uvloop
async def test_a_broker_that_moves(addressing: str) -> None:
    """A broker that comes back at another address serves its old clients there, on the connections they have."""
    async with FakeCluster(2) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        first = cluster.brokers[1]
        async with RawClient(gateway.address_of(1)) as client:
            await client.heartbeat()
            old = first.address
            await first.stop()
            first.host, first.port = "127.0.1.77", 0
            await first.start()
            assert first.address != old
            await gateway.until(lambda: gateway.events_with(event="broker moved"), "the move to be seen")
            await client.heartbeat()
        assert gateway.tally.opened == 1


@each_addressing
@on_uvloop
async def test_the_loss_of_the_bootstrap_broker(addressing: str) -> None:
    """The view of the cluster survives the broker it was first learnt from; a broker added later is followed."""
    async with FakeCluster(3) as cluster:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with Gateway(cluster.brokers[1].address, addressing=addressing) as gateway:
            await cluster.brokers[1].stop()
            del cluster.state.brokers[1]
            async with FakeBroker(4, state=cluster.state) as fourth:
                fourth.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
                gateway.link.poke()
                await gateway.until(lambda: 4 in gateway.link.up_nodes(), "the fourth to be up")
                async with RawClient(gateway.address_of(4)) as client:
                    await client.heartbeat()
                async with RawClient(gateway.address) as client:
                    await client.heartbeat()


def without_answer(request: Request) -> bytes | None:
    """Play a broker's part with Produce v7: acks=0 gets no answer."""
    return None if request.body[2:4] == b"\0\0" else produced()


@each_addressing
@pytest.mark.parametrize("how", ["slow login", "refusing at first", "connected"])
@on_uvloop
async def test_acks_0_and_close(addressing: str, how: str) -> None:
    """All 2,000 requests of a producer with acks=0 that closes at once arrive, in order, however late the broker is."""
    async with FakeCluster(1, users={"u": "p"}) as cluster:
        broker = cluster.brokers[1]
        broker.on(ApiKey.PRODUCE, without_answer)
        broker.state.topics["topic"] = [1]
        broker.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with Gateway(cluster.bootstrap, login=("u", "p"), addressing=addressing) as gateway:
            if how == "slow login":
                broker.on(ApiKey.SASL_HANDSHAKE, Delay(0.3, DEFAULT))
            elif how == "refusing at first":
                broker.refuse()
            async with RawClient(gateway.address) as client:
                if how == "connected":
                    await client.heartbeat()
                await client.send_bytes(
                    b"".join(client.frame(ApiKey.PRODUCE, 7, produce(0, b"%d" % n)) for n in range(2000))
                )
            if how == "refusing at first":
                await gateway.until(lambda: gateway.tally.dial_failures > 0, "a dial that failed")
                await broker.start()
            found = await broker.until_asked(ApiKey.PRODUCE, 2000)
        assert [request.body for request in found] == [produce(0, b"%d" % n) for n in range(2000)]
        assert gateway.tally.lost_bytes == 0
        assert broker.violations == []


@each_addressing
@on_uvloop
async def test_acks_0_to_a_broker_that_does_not_read(addressing: str) -> None:
    """All of 2,000 requests of 10 kB arrive from behind one that keeps the broker busy, though their sender is gone."""
    async with FakeCluster(1) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        broker, free = cluster.brokers[1], asyncio.Event()
        broker.on(ApiKey.HEARTBEAT, Hold(free, HEARTBEAT_OK))
        broker.on(ApiKey.PRODUCE, without_answer)
        broker.state.topics["topic"] = [1]
        async with RawClient(gateway.address) as client:
            await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
            for number in range(2000):
                if number == 500:
                    free.set()
                await client.send(ApiKey.PRODUCE, 7, produce(0, b"%d" % number * 2500))
        found = await broker.until_asked(ApiKey.PRODUCE, 2000)
        assert [request.body for request in found] == [produce(0, b"%d" % n * 2500) for n in range(2000)]


@each_addressing
@on_uvloop
async def test_what_could_not_be_sent_is_counted(addressing: str) -> None:
    """What a gone client sent to a broker that stays away is lost in the end, and told and counted as such."""
    patience = {"dial_patience": "100ms"}
    async with (
        FakeCluster(1) as cluster,
        Gateway(cluster.bootstrap, addressing=addressing, cluster=patience) as gateway,
    ):
        await cluster.brokers[1].stop()
        async with RawClient(gateway.address) as client:
            frame = client.frame(ApiKey.PRODUCE, 7, produce(0, b"records"))
            await client.send_bytes(frame)
        await gateway.until(lambda: gateway.tally.lost_bytes == len(frame), "the loss to be counted")
        await gateway.until(lambda: gateway.events_with(lost_bytes=len(frame)), "the loss to be told")
