"""Administration through the proxy: what concerns one broker reaches that one, what concerns all is asked of all."""

from collections.abc import Callable

import pytest
from clients import each_addressing
from clients.fixtures import LOGIN, PARTITIONS, MakeTopic
from clients.records import new_name
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from kafka import KafkaAdminClient

from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.proxy import ProxyProcess
from kproxy.testing.waiting import wait_until


@pytest.fixture
def admin(kafka_proxy: ProxyProcess) -> AdminClient:
    """Librdkafka's administration client."""
    return AdminClient({"bootstrap.servers": kafka_proxy.address, "log_level": 0})


def test_topics_come_and_go(admin: AdminClient) -> None:
    """Topics are created, grow, and are deleted."""
    name = new_name()
    admin.create_topics([NewTopic(name, 2, 3)])[name].result(20)
    wait_until(lambda: name in admin.list_topics(timeout=20).topics, 10, "the topic to be listed")
    admin.create_partitions([NewPartitions(name, 4)])[name].result(20)
    wait_until(lambda: replicas(admin, name) == {at: [1, 2, 3] for at in range(4)}, 10, "four partitions")
    admin.delete_topics([name])[name].result(20)
    wait_until(lambda: name not in admin.list_topics(timeout=20).topics, 10, "the topic to be gone")


def replicas(admin: AdminClient, topic: str) -> dict[int, list[int]]:
    """Return the brokers that have each partition of a topic."""
    partitions = admin.list_topics(topic, 20).topics[topic].partitions
    return {at: sorted(partition.replicas) for at, partition in partitions.items()}


def test_a_topics_configuration(admin: AdminClient, new_topic: MakeTopic) -> None:
    """A topic's configuration is changed and read back."""
    topic = new_topic()
    entry = ConfigEntry("retention.ms", "3600000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(20)
    asked = ConfigResource(ResourceType.TOPIC, topic)

    def told() -> bool:
        return bool(admin.describe_configs([asked])[asked].result(20)["retention.ms"].value == "3600000")

    wait_until(told, 10, "the change to reach the broker that is asked")


def test_the_cluster_is_described_with_our_addresses(
    admin: AdminClient, kafka_proxy: ProxyProcess, kafka_cluster: KafkaCluster
) -> None:
    """Clients see three brokers with their ids, each at an address of the proxy's."""
    described = admin.describe_cluster().result(20)
    assert described.cluster_id == kafka_cluster.cluster_id
    assert sorted(node.id for node in described.nodes) == [1, 2, 3]
    ports = range(kafka_proxy.tap.listen_port, kafka_proxy.tap.listen_port + kafka_proxy.tap.ports)
    assert all(node.host == "127.0.0.1" and node.port in ports for node in described.nodes)


@each_addressing
def test_each_brokers_own_configuration(
    run_proxy: Callable[..., ProxyProcess], kafka_cluster: KafkaCluster, addressing: str
) -> None:
    """Asked for one broker's configuration, that broker answers; its listeners are text that was asked for."""
    proxy = run_proxy(kafka_cluster.sasl_bootstrap, login=LOGIN, addressing=addressing, forbidden=())
    admin = AdminClient({"bootstrap.servers": proxy.address, "log_level": 0})
    for broker in kafka_cluster.brokers:
        asked = ConfigResource(ResourceType.BROKER, str(broker.node_id))
        found = admin.describe_configs([asked])[asked].result(20)
        assert found["node.id"].value == str(broker.node_id)
        assert broker.sasl_address in (found["advertised.listeners"].value or "")


def test_groups_of_all_brokers(admin: AdminClient, kafka_proxy: ProxyProcess, new_topic: MakeTopic) -> None:
    """Groups of every coordinator are listed, described and deleted."""
    topic, groups = new_topic(), [new_name("group") for _ in range(12)]
    for group in groups:
        consumer = Consumer({"bootstrap.servers": kafka_proxy.address, "group.id": group})
        consumer.commit(offsets=[TopicPartition(topic, at, 1) for at in range(PARTITIONS)], asynchronous=False)
        consumer.close()
    listed = admin.list_consumer_groups().result(20)
    assert listed.errors == []
    assert set(groups) <= {group.group_id for group in listed.valid}
    described = [future.result(20) for future in admin.describe_consumer_groups(groups).values()]
    assert {group.group_id for group in described} == set(groups)
    assert {group.coordinator.host for group in described} == {"127.0.0.1"}
    assert len({group.coordinator.id for group in described}) > 1
    for future in admin.delete_consumer_groups(groups).values():
        future.result(20)


def test_kafka_pythons_administration(kafka_proxy: ProxyProcess) -> None:
    """kafka-python creates, describes and deletes a topic, and lists groups and brokers."""
    name = new_name()
    admin = KafkaAdminClient(bootstrap_servers=kafka_proxy.address)
    try:
        admin.create_topics({name: {"num_partitions": 2, "replication_factor": 3}})
        admin.wait_for_topics([name])
        (described,) = admin.describe_topics([name])
        assert len(described["partitions"]) == 2
        assert name in admin.list_topics()
        admin.list_groups()
        cluster = admin.describe_cluster()
        assert len(cluster["brokers"]) == 3
        admin.delete_topics([name])
    finally:
        admin.close()
