"""The embedded cluster is there at once, and ends."""

import socket

import pytest

from kproxy.testing.embedded import EmbeddedCluster


def test_three_brokers_serve_until_closed() -> None:
    """Each of the three brokers accepts connections while the cluster lives, and none afterwards."""
    with EmbeddedCluster(3) as cluster:
        assert list(cluster.brokers) == [1, 2, 3]
        assert cluster.bootstrap == ",".join(cluster.brokers.values())
        addresses = [(host, int(port)) for host, _, port in (b.partition(":") for b in cluster.brokers.values())]
        for address in addresses:
            socket.create_connection(address, 5).close()
    cluster.close()
    for address in addresses:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, 5)
