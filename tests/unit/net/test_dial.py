"""How long a client is held while its broker cannot be reached."""

import asyncio
from typing import cast

import pytest

from kproxy.core.tally import Tally
from kproxy.core.view import ClusterView
from kproxy.errors import UpstreamError
from kproxy.net.dial import Dialler
from kproxy.net.link import ClusterLink, ClusterSettings, Opened
from kproxy.wire.cluster import Broker

BROKERS = [Broker(1, "kafka1", 9092, None), Broker(2, "kafka2", 9092, None)]
SETTINGS = ClusterSettings("c", (), dial_patience_seconds=0.2, dial_patience_max_seconds=60)


class DeadLink:
    """A cluster whose broker 1 never answers."""

    def __init__(self) -> None:
        self.settings = SETTINGS
        self.login_refused = None
        self.view = ClusterView()
        self.view.apply_brokers(BROKERS, "c", 0)
        self.looks = 0

    async def open(self, node_id: int, _mechanism: object) -> Opened:
        """Fail to dial."""
        raise UpstreamError(f"kafka{node_id}:9092: connection refused")

    async def wait_up(self, _node_id: int | None, timeout_seconds: float) -> bool:
        """Wait in vain; after a few looks the cluster has given the broker up."""
        await asyncio.sleep(min(timeout_seconds, 0.05))
        self.looks += 1
        if self.looks == 6:
            self.view.apply_brokers(BROKERS[1:], "c", 1)
        return False


async def test_a_broker_that_the_cluster_has_given_up() -> None:
    """A client that keeps coming back is let go as soon as others lead: held on, it could not find out about them."""
    link = DeadLink()
    dialler = Dialler(cast("ClusterLink", link), Tally())
    while dialler.patience("10.0.0.7", 1, asyncio.get_running_loop().time()) < 60:
        pass
    async with asyncio.timeout(10):
        with pytest.raises(UpstreamError, match="refused"):
            await dialler.dial("10.0.0.7", 1, None)
    assert link.looks == 6
