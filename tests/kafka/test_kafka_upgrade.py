"""kproxy is replaced by another kproxy before a real Kafka, under producers of three libraries and consumer groups."""

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from clients.aio import Aio
from clients.confluent import Confluent
from clients.fixtures import LOGIN, PARTITIONS
from clients.kafkapython import KafkaPython
from clients.library import consume
from clients.records import assert_exact, new_name
from clients.traffic import Stream, Traffic
from clients.upgrades import following, upgrade
from confluent_kafka.admin import AdminClient, NewTopic

from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.proxy import ProxyProcess

RunProxy = Callable[..., ProxyProcess]


def new_topic(address: str) -> str:
    """Make a topic."""
    name = new_name()
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    admin.create_topics([NewTopic(name, PARTITIONS, 3)])[name].result(20)
    return name


@pytest.mark.parametrize(
    ("addressing", "workers", "times"), [("single", "1", 1), pytest.param("ports", "2", 2, marks=pytest.mark.matrix)]
)
@pytest.mark.timeout(300)  # starts programs, beside brokers that take the machine
def test_upgrades_under_traffic(
    run_proxy: RunProxy, kafka_cluster: KafkaCluster, addressing: str, workers: str, times: int
) -> None:
    """Not one send fails; all is in Kafka once and in order, and groups read it so, without a rebalance's repetitions.

    kafka-python only sends: its consumer's poll can raise when a connection ends while it asks for metadata.
    """
    proxy = run_proxy(kafka_cluster.sasl_bootstrap, "--workers", workers, login=LOGIN, addressing=addressing)
    topic = new_topic(proxy.address)
    with following(proxy):
        with ExitStack() as stack:
            groups = [
                stack.enter_context(Traffic(library, proxy.address, new_topic(proxy.address), PARTITIONS, 200))
                for library in (Confluent(), Aio())
            ]
            stream = stack.enter_context(Stream(KafkaPython(), proxy.address, topic, PARTITIONS, 200))
            for _ in range(times):
                for group in groups:
                    group.wait_read(100)
                stream.wait_acked(100)
                upgrade(proxy)
            stream.wait_acked(100)
            stream.stop()
            for group in groups:
                group.wait_read(100)
        assert stream.failed == []
        assert_exact(stream.sent, consume(Confluent(), proxy.address, topic, PARTITIONS))
        for group in groups:
            group.check()
            group.check_stored(kafka_cluster.plain_bootstrap)
        proxy.finish()
