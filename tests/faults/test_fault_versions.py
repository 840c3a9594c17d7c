"""What the brokers can do differs and changes: clients are told what all have, and anew when that shrinks."""

import asyncio

from clients import each_addressing
from clients.gateway import Gateway, on_uvloop
from clients.raw import HEARTBEAT_OK, RawClient, heartbeat

from kproxy.core.causes import Cause
from kproxy.testing.fakebroker import FakeBroker, FakeCluster, Hold
from kproxy.wire.apis import ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer

OLD: dict[int, tuple[int, int] | tuple[()]] = {
    int(ApiKey.METADATA): (0, 12),
    int(ApiKey.PRODUCE): (0, 11),
    int(ApiKey.SHARE_FETCH): (),
}
"""What a 3.9 broker lacks of what a 4.3 one has, in part."""

FETCH_MAX = 15


@each_addressing
@on_uvloop
async def test_the_intersection_is_offered(addressing: str) -> None:
    """Of each API the versions that every broker has are offered, and none that one of them lacks."""
    async with FakeCluster(3) as cluster:
        cluster.brokers[2].ranges |= {int(ApiKey.METADATA): (4, 11), int(ApiKey.HEARTBEAT): (0, 3)}
        cluster.brokers[3].ranges |= {int(ApiKey.METADATA): (2, 12)}
        del cluster.brokers[3].ranges[ApiKey.SHARE_FETCH]
        async with Gateway(cluster.bootstrap, addressing=addressing) as gateway, RawClient(gateway.address) as client:
            ranges = (await client.api_versions()).ranges
        assert ranges[ApiKey.METADATA] == (4, 11)
        assert ranges[ApiKey.HEARTBEAT] == (0, 3)
        assert ranges[ApiKey.FETCH][1] <= FETCH_MAX
        assert ranges[ApiKey.PRODUCE][0] == 0
        assert ApiKey.SHARE_FETCH not in ranges


@each_addressing
@on_uvloop
async def test_a_version_that_was_not_offered(addressing: str) -> None:
    """A request for what one broker lacks ends that connection with a cause, as on that broker."""
    async with FakeCluster(2) as cluster:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        cluster.brokers[2].ranges[int(ApiKey.HEARTBEAT)] = (0, 2)
        async with Gateway(cluster.bootstrap, addressing=addressing) as gateway, RawClient(gateway.address) as client:
            await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
            await client.assert_closed()
            await gateway.until_closed(Cause.UNSUPPORTED_REQUEST)
            (line,) = gateway.events_with(event="client connection closed")
            assert "Heartbeat" in line["error"]
            assert cluster.brokers[1].of(ApiKey.HEARTBEAT) == []


@each_addressing
@on_uvloop
async def test_an_old_broker_comes_back(addressing: str) -> None:
    """When the offer shrinks a connection that was told more ends once nothing is under way, a new one goes on."""
    async with FakeCluster(2) as cluster, Gateway(cluster.bootstrap, addressing=addressing) as gateway:
        answer = asyncio.Event()
        cluster.on(ApiKey.HEARTBEAT, Hold(answer, HEARTBEAT_OK))
        async with RawClient(gateway.address_of(1)) as idle, RawClient(gateway.address_of(1)) as busy:
            await idle.api_versions()
            assert (await busy.api_versions()).ranges[ApiKey.METADATA] == (0, 13)
            asked = await busy.send(ApiKey.HEARTBEAT, 3, heartbeat())
            await cluster.brokers[1].until_asked(ApiKey.HEARTBEAT)
            second = cluster.brokers[2]
            await second.stop()
            second.ranges = FakeBroker(ranges=OLD).ranges
            await second.start()
            await idle.assert_closed()
            answer.set()
            assert (await busy.receive())[:4] == asked.to_bytes(4, "big")
            await busy.assert_closed()
        await gateway.until_closed(Cause.OFFER_CHANGED, 2)
        async with RawClient(gateway.address_of(1)) as again:
            ranges = (await again.api_versions()).ranges
            assert ranges[ApiKey.METADATA] == (0, 12)
            assert ApiKey.SHARE_FETCH not in ranges
            await again.heartbeat()


@each_addressing
@on_uvloop
async def test_an_upgrade_grows_the_offer(addressing: str) -> None:
    """When the last old broker has been upgraded more is offered, and connections made before go on undisturbed."""
    async with FakeCluster(1, ranges=OLD) as cluster:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        async with Gateway(cluster.bootstrap, addressing=addressing) as gateway, RawClient(gateway.address) as before:
            assert (await before.api_versions()).ranges[ApiKey.METADATA] == (0, 12)
            await before.heartbeat()
            broker = cluster.brokers[1]
            await broker.stop()
            broker.ranges = FakeBroker().ranges
            await broker.start()
            await gateway.until(lambda: len(gateway.events_with(event="broker is up")) == 2, "it to be up again")
            async with RawClient(gateway.address) as after:
                assert (await after.api_versions()).ranges[ApiKey.METADATA] == (0, 13)
            await before.heartbeat()
        assert gateway.tally.closed[Cause.OFFER_CHANGED] == 0


@each_addressing
@on_uvloop
async def test_finalized_features_change(addressing: str) -> None:
    """When a feature's finalized version changes, clients that were told the old one negotiate anew (KIP-890)."""
    async with FakeCluster(1) as cluster:
        broker = cluster.brokers[1]
        broker.features = finalized(level=1)
        async with Gateway(cluster.bootstrap, addressing=addressing) as gateway:
            async with RawClient(gateway.address) as client:
                assert (await client.api_versions()).finalized_features == {"transaction.version": (0, 1)}
                broker.features = finalized(level=2)
                broker.close_connections()
                await client.assert_closed()
            async with RawClient(gateway.address) as client:
                assert (await client.api_versions()).finalized_features == {"transaction.version": (0, 2)}


def finalized(level: int) -> ApiVersionsAnswer:
    """Return a broker's features with transaction.version at that level."""
    return ApiVersionsAnswer(
        supported_features={"transaction.version": (0, 2)},
        finalized_features={"transaction.version": (0, level)},
        finalized_features_epoch=level,
    )
