"""kproxy's own view of a cluster stays true."""

import asyncio

from kproxy.net.link import ClusterLink, ClusterSettings
from kproxy.testing.fakebroker import FakeCluster
from kproxy.wire.apiversions import ApiVersionsAnswer


async def test_a_feature_is_finalized_while_nothing_restarts() -> None:
    """What a broker can do is asked again now and then: the last step of an upgrade restarts nobody (KIP-584)."""
    async with FakeCluster(1) as cluster:
        host, _, port = cluster.bootstrap.rpartition(":")
        changed = asyncio.Event()
        link = ClusterLink(
            ClusterSettings("c", ((host, int(port)),), refresh_interval_seconds=0.1), lambda _change: changed.set()
        )
        link.start()
        try:
            async with asyncio.timeout(10):
                await link.ready.wait()
                cluster.brokers[1].features = ApiVersionsAnswer(
                    supported_features={"transaction.version": (0, 2)},
                    finalized_features={"transaction.version": (0, 2)},
                    finalized_features_epoch=7,
                )
                while link.view.offer is None or link.view.offer.answer.finalized_features_epoch != 7:
                    changed.clear()
                    await changed.wait()
        finally:
            await link.close()
