"""Fixtures of the end-to-end tests; loaded by tests/conftest.py."""

from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from clients import ADDRESSINGS
from clients.records import new_name
from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.proxy import ProxyProcess

LOGIN = ("gateway", "gateway-secret")
"""What the proxy logs in to a real Kafka with."""

PARTITIONS = 4

MakeTopic = Callable[..., str]
"""Makes a topic of 4 partitions and returns its name; keywords are its configuration, with _ for the dots."""


@pytest.fixture(scope="session")
def needles(embedded_cluster: EmbeddedCluster) -> tuple[bytes, ...]:
    """What no client may be sent: the mock brokers' hosts and ports side by side, as every answer writes them."""
    pairs = (address.rsplit(":", 1) for address in embedded_cluster.brokers.values())
    return tuple(host.encode() + int(port).to_bytes(4, "big") for host, port in pairs)


@pytest.fixture(scope="session", params=ADDRESSINGS)
def kafka_proxy(
    request: pytest.FixtureRequest, kafka_cluster: KafkaCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProxyProcess]:
    """One proxy before the real cluster for all tests that do not disturb it."""
    folder = tmp_path_factory.mktemp("proxy")
    proxy = ProxyProcess(folder, kafka_cluster.sasl_bootstrap, login=LOGIN, addressing=request.param)
    proxy.start()
    yield proxy
    proxy.finish()


@pytest.fixture
def new_topic(kafka_proxy: ProxyProcess) -> Iterator[MakeTopic]:
    """Make topics through the proxy; they are deleted, through the proxy, after the test."""
    admin = AdminClient({"bootstrap.servers": kafka_proxy.address, "log_level": 0})
    made: list[str] = []

    def make(**config: str) -> str:
        name = new_name()
        settings = {key.replace("_", "."): value for key, value in config.items()}
        admin.create_topics([NewTopic(name, PARTITIONS, 3, config=settings)])[name].result(20)
        made.append(name)
        return name

    yield make
    for future in admin.delete_topics(made).values() if made else ():
        future.result(20)
