"""Doors before a real Kafka of three brokers: TLS and SCRAM for three libraries, and Java by a name per broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clients.doorstage import PASSWORDS, DoorStage
from clients.library import consume, produce
from clients.records import assert_exact, make_records, new_name
from clients.security import LIBRARIES
from clients.verifiable import Verifiable
from confluent_kafka.admin import AdminClient, NewTopic

from kproxy.testing.java import CURRENT, JavaTools, kafka_jars
from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.waiting import wait_until

pytestmark = pytest.mark.matrix

PARTITIONS = 4


@pytest.fixture(scope="module")
def stage(kafka_cluster: KafkaCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorStage]:
    """Every door, before the three brokers."""
    made = DoorStage(tmp_path_factory.mktemp("doors"), kafka_cluster.plain_bootstrap)
    made.start()
    yield made
    made.finish()


def topic_of(cluster: KafkaCluster) -> str:
    """Make a topic with leaders at all brokers, past the proxy."""
    name = new_name()
    admin = AdminClient({"bootstrap.servers": cluster.plain_bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(name, PARTITIONS, 3)])[name].result(20)

    def leaders() -> set[int]:
        return {part.leader for part in admin.list_topics(name, 20).topics[name].partitions.values()}

    wait_until(lambda: leaders() == {1, 2, 3}, 20, lambda: f"leaders at all brokers, not {leaders()}")
    return name


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("listener", ["login", "login-single"])
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_tls_and_scram(
    stage: DoorStage, kafka_cluster: KafkaCluster, listener: str, library: str, mechanism: str
) -> None:
    """Through TLS and a login at kproxy, what goes into a real Kafka comes out of it."""
    topic, records = topic_of(kafka_cluster), make_records(2000, PARTITIONS)
    client, address = stage.user("alice", mechanism).library(library), stage.address(listener)
    produce(client, address, topic, records, partitions=PARTITIONS)
    assert_exact(records, consume(client, address, topic, PARTITIONS))


def test_java_by_names(kafka_cluster: KafkaCluster, tmp_path: Path) -> None:
    """With one TLS port and a name per broker Java writes to and reads from every broker, each record once."""
    names = ("kafka.test", "b{node}.kafka.test")
    stage = DoorStage(tmp_path, kafka_cluster.plain_bootstrap, names=names)
    stage.start()
    try:
        java_by_names(stage, kafka_cluster, tmp_path)
    finally:
        stage.finish()


def java_by_names(stage: DoorStage, cluster: KafkaCluster, folder: Path) -> None:
    """Let Java's two programs run for a while; they know the names from a file of hosts."""
    hosts = folder / "hosts"
    hosts.write_text("".join(f"127.0.0.1 {name}kafka.test\n" for name in ("", "b1.", "b2.", "b3.")), encoding="ascii")
    tools = JavaTools(kafka_jars(CURRENT), flags=(f"-Djdk.net.hosts.file={hosts}",))
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
    settings = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.jaas.config": f'{scram} required username="alice" password="{PASSWORDS["alice"]}";',
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(stage.ca_file),
    }
    with Verifiable(tools, stage.address("names"), topic_of(cluster), folder, settings=settings) as java:
        java.wait_read(1000)
        java.finish()
    java.check(cluster.plain_bootstrap)
    assert {partition for partition, _ in java.read} == set(range(PARTITIONS))
