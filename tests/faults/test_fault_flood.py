"""A flood of connections that never get in: who is in goes on, who comes gets in, and memory stays bounded."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients.besieged import Place, p99
from clients.flood import Flood
from clients.proc import resident_bytes, worker_of
from clients.records import new_name

from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.waiting import wait_until

KIB = 1024

ROOM_BYTES = 64 * KIB
"""What one connection that is not in may cost; TLS's buffers are most of it (about 50 KiB were seen)."""

P99_SECONDS_MIN = 0.005
"""A good one of a real cluster; the mock answers out of memory, within half a millisecond."""

WAITING_MAX = 1000
"""unauthenticated_max, as it is where nobody sets it."""


@pytest.fixture
def place(embedded_cluster: EmbeddedCluster, tmp_path: Path) -> Iterator[Place]:
    """Run the program; it must end well."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    made = Place(tmp_path, embedded_cluster.bootstrap)
    made.proxy.start()
    yield made
    made.proxy.finish()
    assert "wonder" not in made.proxy.log.read_text(encoding="utf-8")


def test_a_flood(place: Place) -> None:
    """While 900 say nothing, half a ClientHello or half a frame, one who is in goes on, and another gets in."""
    worker = worker_of(place.proxy.pid)
    topic, producer = new_name(), place.producer()
    p99(producer, topic)
    memory = resident_bytes(worker)
    with Flood(place.tls_port, place.plain_port, each=300) as flood:
        wait_until(lambda: place.waiting() == 900, 10, lambda: f"{place.waiting()} of 900 to be accepted")
        p99(producer, topic)
        newcomer = place.producer()
        p99(newcomer, topic)
        assert flood.opened >= 900
        assert resident_bytes(worker) - memory < 900 * ROOM_BYTES
        newcomer.close()
    producer.close()


@pytest.mark.matrix
def test_a_flood_of_thousands(place: Place) -> None:
    """With 2,000 that come again whenever they are closed, a producer's p99 is at most twice as long as before."""
    worker = worker_of(place.proxy.pid)
    topic, producer = new_name(), place.producer()
    p99(producer, topic)
    before = min(p99(producer, topic) for _ in range(3))
    memory = resident_bytes(worker)
    with Flood(place.tls_port, place.plain_port, each=667):
        during = min(p99(producer, topic) for _ in range(3))
        grown = resident_bytes(worker) - memory
    assert during < 2 * max(before, P99_SECONDS_MIN)
    assert grown < 2 * WAITING_MAX * ROOM_BYTES  # of two listeners
    producer.close()
