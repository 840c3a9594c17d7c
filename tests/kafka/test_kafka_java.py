"""Kafka's own Java programs through the proxy: producers, consumers in all three kinds of groups, administration."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from clients.fixtures import MakeTopic
from clients.records import new_name
from confluent_kafka import Consumer, TopicPartition

from kproxy.testing.java import JavaTools, Tool
from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.proxy import ProxyProcess
from kproxy.testing.waiting import wait_until

COUNT = 2000

Event = dict[str, Any]


@pytest.fixture
def tools(kafka_cluster: KafkaCluster) -> JavaTools:
    """Kafka's programs, of the cluster's version."""
    return kafka_cluster.tools


def events(printed: str, name: str) -> list[Event]:
    """Return the events of one name that a Verifiable program has printed."""
    found = (json.loads(line) for line in printed.splitlines() if line.startswith("{"))
    return [event for event in found if event["name"] == name]


def produced(tools: JavaTools, address: str, topic: str, count: int = COUNT) -> dict[str, list[str]]:
    """Produce numbers with VerifiableProducer; return what was acknowledged, by key, in the order it was sent in."""
    target = ("--bootstrap-server", address, "--topic", topic)
    printed = tools.check(Tool.VERIFIABLE_PRODUCER, *target, "--max-messages", str(count), "--repeating-keys", "10")
    assert events(printed, "producer_send_error") == []
    acked = events(printed, "producer_send_success")
    assert Counter(event["value"] for event in acked) == Counter(map(str, range(count)))
    return by_key(sorted(acked, key=lambda event: int(event["value"])))


def by_key(records: list[Event]) -> dict[str, list[str]]:
    """Return the records' values by their keys, in their order."""
    values: dict[str, list[str]] = {}
    for record in records:
        values.setdefault(record["key"], []).append(record["value"])
    return values


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_consumer_group(tools: JavaTools, kafka_proxy: ProxyProcess, new_topic: MakeTopic, protocol: str) -> None:
    """What VerifiableProducer sends VerifiableConsumer reads once and in order, in a classic and in a KIP-848 group."""
    topic, group = new_topic(), new_name("group")
    sent = produced(tools, kafka_proxy.address, topic)
    target = ("--bootstrap-server", kafka_proxy.address, "--topic", topic, "--group-id", group)
    wanted = ("--max-messages", str(COUNT), "--group-protocol", protocol, "--verbose")
    printed = tools.check(Tool.VERIFIABLE_CONSUMER, *target, *wanted)
    assert by_key(events(printed, "record_data")) == sent
    assert all(event["success"] for event in events(printed, "offsets_committed"))
    described = tools.check(
        Tool.CONSUMER_GROUPS, "--bootstrap-server", kafka_proxy.address, "--describe", "--group", group
    )
    lag = [int(row[5]) for row in map(str.split, described.splitlines()) if row[:2] == [group, topic]]
    assert lag == [0] * 4


def test_a_share_group(tools: JavaTools, kafka_proxy: ProxyProcess, new_topic: MakeTopic, tmp_path: Path) -> None:
    """Two share consumers (KIP-932) read all of a topic between them, each record once, and acknowledge it."""
    topic, group = new_topic(), new_name("group")
    target = ("--bootstrap-server", kafka_proxy.address, "--topic", topic, "--group-id", group)
    wanted = ("--offset-reset-strategy", "earliest", "--acknowledgement-mode", "sync", "--verbose")
    outputs = [tmp_path / "first", tmp_path / "second"]
    consumers = []
    for output in outputs:
        with output.open("wb") as stdout:
            consumers.append(tools.popen(Tool.VERIFIABLE_SHARE_CONSUMER, *target, *wanted, stdout=stdout))

    def told(name: str) -> list[Event]:
        whole = [output.read_text(encoding="utf-8").rpartition("\n")[0] for output in outputs]  # but for half a line
        return [event for text in whole for event in events(text, name)]

    def acknowledged() -> int:
        return sum(event["count"] for event in told("offsets_acknowledged"))

    try:
        produced(tools, kafka_proxy.address, topic)
        wait_until(lambda: acknowledged() >= COUNT, 30, lambda: f"{COUNT} acknowledged, not {acknowledged()}")
    finally:
        codes = [consumer.stop() for consumer in consumers]
    assert Counter(event["value"] for event in told("record_data")) == Counter(map(str, range(COUNT)))
    assert all(event["success"] for event in told("offsets_acknowledged"))
    assert codes == [143, 143]  # what Java ends with on SIGTERM


def test_performance_programs(tools: JavaTools, kafka_proxy: ProxyProcess, new_topic: MakeTopic) -> None:
    """ProducerPerformance sends and ConsumerPerformance reads 20,000 records of 1 KiB."""
    topic = new_topic()
    target = ("--bootstrap-server", kafka_proxy.address, "--topic", topic)
    sizes = ("--num-records", "20000", "--record-size", "1024", "--throughput", "-1")
    assert "20000 records sent" in tools.check(Tool.PRODUCER_PERFORMANCE, *target, *sizes)
    printed = tools.check(Tool.CONSUMER_PERFORMANCE, *target, "--num-records", "20000", "--timeout", "30000")
    assert printed.splitlines()[-1].split(", ")[4] == "20000"


def test_topics(tools: JavaTools, kafka_proxy: ProxyProcess) -> None:
    """Topics are created, altered, described, configured and deleted."""
    target, topic = ("--bootstrap-server", kafka_proxy.address), new_name()
    tools.check(Tool.TOPICS, *target, "--create", "--topic", topic, "--partitions", "2", "--replication-factor", "3")
    tools.check(Tool.TOPICS, *target, "--alter", "--topic", topic, "--partitions", "3")
    described = tools.check(Tool.TOPICS, *target, "--describe", "--topic", topic)
    assert re.search(r"PartitionCount: 3\s+ReplicationFactor: 3", described)
    tools.check(Tool.CONFIGS, *target, "--alter", "--topic", topic, "--add-config", "retention.ms=3600000")
    assert "retention.ms=3600000" in tools.check(Tool.CONFIGS, *target, "--describe", "--topic", topic)
    tools.check(Tool.TOPICS, *target, "--delete", "--topic", topic)
    assert topic not in tools.check(Tool.TOPICS, *target, "--list").split()


def test_the_cluster(tools: JavaTools, kafka_proxy: ProxyProcess, kafka_cluster: KafkaCluster) -> None:
    """Programs that look at the whole cluster see three brokers, each at an address of the proxy's."""
    target = ("--bootstrap-server", kafka_proxy.address)
    assert kafka_cluster.cluster_id in tools.check(Tool.CLUSTER, "cluster-id", *target)
    endpoints = tools.check(Tool.CLUSTER, "list-endpoints", *target)
    assert len(re.findall(r"^\d+\s+127\.0\.0\.1\s+\d+", endpoints, re.MULTILINE)) == 3
    versions = tools.check(Tool.API_VERSIONS, *target)
    assert len(re.findall(r"^127\.0\.0\.1:\d+ \(id: [123] ", versions, re.MULTILINE)) == 3
    assert "Produce(0): 0 to" in versions


def test_the_quorum_names_no_address(tools: JavaTools, kafka_proxy: ProxyProcess) -> None:
    """DescribeQuorum tells of the controllers' state; where they are is left out (the tap would have seen it)."""
    target = ("--bootstrap-server", kafka_proxy.address, "describe")
    replication = tools.check(Tool.METADATA_QUORUM, *target, "--replication")
    assert len(re.findall(r"(Leader|Follower)\s*$", replication, re.MULTILINE)) == 3
    assert "CurrentVoters" in tools.check(Tool.METADATA_QUORUM, *target, "--status")


def test_groups_of_all_brokers(tools: JavaTools, kafka_proxy: ProxyProcess, new_topic: MakeTopic) -> None:
    """A list of groups has those of every coordinator."""
    topic, groups = new_topic(), [new_name("group") for _ in range(12)]
    for group in groups:
        consumer = Consumer({"bootstrap.servers": kafka_proxy.address, "group.id": group})
        consumer.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
        consumer.close()
    listed = tools.check(Tool.CONSUMER_GROUPS, "--bootstrap-server", kafka_proxy.address, "--list").split()
    assert set(groups) <= set(listed)
