"""One of two kproxies behind a load balancer drains, before a real Kafka."""

from pathlib import Path

import pytest
from clients.balanced import LIBRARIES, drain_one
from clients.confluent import Confluent
from clients.fixtures import LOGIN, PARTITIONS
from clients.library import consume
from clients.limitedtraffic import make_topic
from clients.records import assert_exact

from kproxy.testing.kafka import KafkaCluster


@pytest.mark.timeout(240)  # starts programs, beside brokers that take the machine
def test_a_drain_behind_a_load_balancer(tmp_path: Path, kafka_cluster: KafkaCluster) -> None:
    """No send fails, and each record is in Kafka once and in order, by idempotent producers of three libraries."""
    topics = [make_topic(kafka_cluster) for _ in LIBRARIES]
    cluster = {
        "bootstrap": kafka_cluster.sasl_bootstrap.split(","),
        "sasl": {"username": LOGIN[0], "password": LOGIN[1]},
    }
    streams = drain_one(tmp_path, cluster, topics, PARTITIONS, (b"127.0.1.",))
    for stream, topic in zip(streams, topics, strict=True):
        assert_exact(stream.sent, consume(Confluent(), kafka_cluster.plain_bootstrap, topic, PARTITIONS))
