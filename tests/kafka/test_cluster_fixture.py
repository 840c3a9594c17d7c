"""The real cluster of the tests is one: it serves with SASL, and its brokers come and go as told."""

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from kproxy.testing.java import CURRENT, OLD, Tool
from kproxy.testing.kafka import KafkaCluster, ask_brokers


def create_topic(cluster: KafkaCluster, name: str) -> None:
    """Make a topic of three partitions on three brokers, and wait until it is there."""
    admin = AdminClient(cluster.client("admin"))
    admin.create_topics([NewTopic(name, 3, 3)])[name].result(20)


def produce(cluster: KafkaCluster, topic: str, count: int) -> None:
    """Produce directly, with SASL, and wait for every acknowledgement."""
    errors: list[KafkaError] = []
    producer = Producer(cluster.client() | {"acks": "all"})
    for number in range(count):
        producer.produce(topic, str(number), on_delivery=lambda error, _: errors.append(error) if error else None)
    assert producer.flush(30) == 0
    assert errors == []


def consume(cluster: KafkaCluster, topic: str, count: int) -> list[int]:
    """Consume directly, with SASL, from the beginning; return the numbers, sorted."""
    settings: dict[str, Any] = {"group.id": f"group-{topic}", "auto.offset.reset": "earliest"}
    consumer = Consumer(cluster.client() | settings)
    try:
        consumer.subscribe([topic])
        messages: list[Any] = []
        while len(messages) < count and (some := consumer.consume(count - len(messages), 20)):
            messages += some
        return sorted(int(message.value()) for message in messages)
    finally:
        consumer.close()


def test_produce_and_consume_with_sasl(kafka_cluster: KafkaCluster) -> None:
    """What is produced over SASL is consumed over SASL."""
    create_topic(kafka_cluster, "sasl")
    produce(kafka_cluster, "sasl", 1000)
    assert consume(kafka_cluster, "sasl", 1000) == list(range(1000))


def test_a_wrong_password_is_refused(kafka_cluster: KafkaCluster) -> None:
    """A broker refuses a wrong password."""
    errors: list[KafkaError] = []
    admin = AdminClient(
        kafka_cluster.client() | {"sasl.password": "wrong", "error_cb": errors.append, "log_level": "0"}
    )
    while not errors:
        admin.poll(1)
    assert errors[0].code() == KafkaError._AUTHENTICATION


def test_each_broker_advertises_its_own_address(kafka_cluster: KafkaCluster) -> None:
    """Node N advertises 127.0.1.N, on its SASL listener too."""
    known = AdminClient(kafka_cluster.client()).list_topics(timeout=20).brokers
    assert {node: f"{broker.host}:{broker.port}" for node, broker in known.items()} == {
        broker.node_id: f"127.0.1.{broker.node_id}:{broker.sasl_port}" for broker in kafka_cluster.brokers
    }


def test_stop_kill_pause_and_start_again(faulty_kafka: KafkaCluster) -> None:
    """A stopped, a killed and a paused broker leave the cluster's view, and come back."""
    first, second, third = faulty_kafka.brokers
    second.stop()
    faulty_kafka.wait_all_in_metadata()
    assert first.nodes_seen() == {1, 3}
    second.start()
    third.kill()
    faulty_kafka.wait_all_in_metadata()
    assert first.nodes_seen() == {1, 2}
    third.start()
    third.pause()
    faulty_kafka.wait_all_in_metadata()
    assert first.nodes_seen() == {1, 2}
    third.resume()
    faulty_kafka.wait_all_in_metadata()
    assert first.nodes_seen() == {1, 2, 3}


def test_kafkas_own_programs(kafka_cluster: KafkaCluster) -> None:
    """VerifiableProducer sends what it was told to, and the admin commands answer."""
    create_topic(kafka_cluster, "verifiable")
    target = ("--bootstrap-server", kafka_cluster.plain_bootstrap)
    arguments = (*target, "--topic", "verifiable", "--max-messages", "500")
    printed = kafka_cluster.tools.check(Tool.VERIFIABLE_PRODUCER, *arguments)
    assert json.loads(printed.splitlines()[-1])["acked"] == 500
    assert "verifiable" in kafka_cluster.tools.check(Tool.TOPICS, *target, "--list").split()


@pytest.mark.matrix
def test_upgrade_move_and_grow(require_kafka: None, tmp_path: Path) -> None:  # noqa: ARG001 - a condition
    """One broker of an old cluster is upgraded, one moves to other ports, a fourth joins."""
    with KafkaCluster(tmp_path, version=OLD) as cluster:
        cluster.broker(1).stop()
        cluster.broker(1).start(version=CURRENT)
        old_address = cluster.broker(2).plain_address
        cluster.broker(2).move()
        cluster.add_broker(4)
        known = ask_brokers(cluster.broker(3).host, cluster.broker(3).plain_port)
        assert known == {broker.node_id: broker.plain_address for broker in cluster.brokers}
        assert old_address not in known.values()
