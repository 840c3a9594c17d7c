"""A flood of connections that never get in: who is in goes on, who comes gets in, and memory stays bounded."""

import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka as ck
import pytest
from clients.flood import Flood
from clients.limited import tally
from clients.proc import resident_bytes, worker_of
from clients.records import new_name
from clients.security import Security
from clients.strangers import write_users

from kproxy.testing.certificates import Authority
from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import ConfiguredProxy
from kproxy.testing.waiting import wait_until

KIB = 1024

SENT = 300
"""Records, one after the other, whose times are measured."""

ANSWER_SECONDS = 20

ROOM_BYTES = 64 * KIB
"""What one connection that is not in may cost; TLS's buffers are most of it (about 50 KiB were seen)."""

P99_SECONDS_MIN = 0.005
"""A good one of a real cluster; the mock answers out of memory, within half a millisecond."""

WAITING_MAX = 1000
"""unauthenticated_max, as it is where nobody sets it."""


class Place:
    """A program with a TLS port and a plain one, both with logins, and alice."""

    def __init__(self, folder: Path, bootstrap: str) -> None:
        authority = Authority()
        files = authority.server("127.0.0.1").write(folder, "server")
        self.tls_port, self.plain_port = free_port_block(5), free_port_block(5)
        sasl = {"mechanisms": ["SCRAM-SHA-256"], "users_file": write_users(folder / "users.yaml", alice="wonder")}
        tls = {"cert_file": str(files.cert_file), "key_file": str(files.key_file)}
        listeners = {
            "tls": {"bind": f"127.0.0.1:{self.tls_port}", "tls": tls, "sasl": sasl},
            "plain": {"bind": f"127.0.0.1:{self.plain_port}", "sasl": sasl},
        }
        path = folder / "kproxy.yaml"
        config = {"clusters": {"main": {"bootstrap": bootstrap.split(",")}}, "listeners": listeners}
        path.write_text(json.dumps(config), encoding="utf-8")
        self.proxy = ConfiguredProxy(folder, path, f"127.0.0.1:{self.tls_port}", "--log-format", "json")
        self.alice = Security(authority.write(folder), None, "SCRAM-SHA-256", "alice", "wonder")

    def producer(self) -> ck.Producer:
        """Return a producer that is in, and sends each record by itself."""
        settings = {"bootstrap.servers": self.proxy.address, "linger.ms": 0, "log_level": 0}
        return ck.Producer(settings | self.alice.confluent())

    def waiting(self) -> int:
        """Return how many are on their way in."""
        return sum(listener["waiting"] for listener in tally(self.proxy)["listeners"].values())


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


def p99(producer: ck.Producer, topic: str) -> float:
    """Send records one by one; return how long the slowest of a hundred took. Fails unless each is acknowledged."""
    times = []
    for number in range(SENT):
        failed: list[object] = []
        began = time.perf_counter()
        producer.produce(topic, b"%d" % number, partition=0, on_delivery=lambda error, _, to=failed: to.append(error))
        assert producer.flush(ANSWER_SECONDS) == 0
        assert failed == [None]
        times.append(time.perf_counter() - began)
    return sorted(times)[SENT * 99 // 100 - 1]


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
