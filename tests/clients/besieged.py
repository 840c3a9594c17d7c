"""What a flood of connections that never get in is tried on: the program with a TLS port and a plain one, and alice.

::

    place = Place(tmp_path, cluster.bootstrap)
    place.proxy.start()
    with Flood(place.tls_port, place.plain_port, each=300):
        times(place.producer(), topic)
"""

import json
import time
from pathlib import Path

import confluent_kafka as ck

from clients.limited import tally
from clients.security import Security
from clients.strangers import write_users
from kproxy.testing.certificates import Authority
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import ConfiguredProxy

SENT = 300
"""Records, one after the other, whose times are measured."""

ANSWER_SECONDS = 20


class Place:
    """A program with a TLS port and a plain one, both with logins, and alice; ``login``: its own at the brokers."""

    def __init__(self, folder: Path, bootstrap: str, login: tuple[str, str] | None = None) -> None:
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
        own = {} if login is None else {"sasl": {"username": login[0], "password": login[1]}}
        config = {"clusters": {"main": {"bootstrap": bootstrap.split(","), **own}}, "listeners": listeners}
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


def times(producer: ck.Producer, topic: str) -> list[float]:
    """Send records one by one; return how long each took, the shortest first. Fails unless each is acknowledged."""
    took = []
    for number in range(SENT):
        failed: list[object] = []
        began = time.perf_counter()
        producer.produce(topic, b"%d" % number, partition=0, on_delivery=lambda error, _, to=failed: to.append(error))
        assert producer.flush(ANSWER_SECONDS) == 0
        assert failed == [None]
        took.append(time.perf_counter() - began)
    return sorted(took)


def p99(producer: ck.Producer, topic: str) -> float:
    """Do as ``times``; return how long the slowest of a hundred took."""
    return times(producer, topic)[SENT * 99 // 100 - 1]
