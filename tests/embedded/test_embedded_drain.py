"""One of two kproxies behind a load balancer drains, before the embedded cluster."""

from pathlib import Path

from clients.balanced import LIBRARIES, drain_one
from clients.confluent import Confluent
from clients.library import consume
from clients.records import assert_exact, new_name

from kproxy.testing.embedded import EmbeddedCluster

PARTITIONS = 4


def test_a_drain_behind_a_load_balancer(
    tmp_path: Path, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...]
) -> None:
    """New connections go to the other one from the signal on; no send fails, and nothing is lost.

    librdkafka 2.16 can close a connection with a request on it once others are closed, and kafka-python drops an answer
    that it reads together with the connection's end: both send again, and the mock, unlike Kafka, does not look at an
    idempotent producer's sequences. That nothing is there twice is for a real one to show.
    """
    topics = [new_name() for _ in LIBRARIES]
    bootstrap = embedded_cluster.bootstrap
    streams = drain_one(tmp_path, {"bootstrap": bootstrap.split(",")}, topics, PARTITIONS, needles)
    for stream, topic in zip(streams, topics, strict=True):
        assert_exact(stream.sent, dict.fromkeys(consume(Confluent(), bootstrap, topic, PARTITIONS)))
