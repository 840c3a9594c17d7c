"""``kproxy doctor`` through the real proxy to a real Kafka that demands SASL of it."""

import json
import subprocess
import sys
from typing import Any

from clients.aio import Aio
from clients.fixtures import MakeTopic
from clients.library import consume, produce
from clients.records import make_records, new_name

from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.proxy import ProxyProcess


def doctor(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Run it to its end; return its exit code and findings."""
    command = [sys.executable, "-m", "kproxy", "doctor", *arguments, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.stderr == ""
    return result.returncode, json.loads(result.stdout)["findings"]


def test_a_healthy_proxy_before_a_real_kafka(kafka_proxy: ProxyProcess, new_topic: MakeTopic) -> None:
    """Every step is good: versions, coordinators, addresses, a record there and back, the broker's clock, hints."""
    topic = new_topic(message_timestamp_type="LogAppendTime")
    produce(Aio(), kafka_proxy.address, topic, make_records(4, 4), partitions=4)
    consume(Aio(), kafka_proxy.address, topic, 4, group=new_name("group"))  # so that there are groups
    code, found = doctor(kafka_proxy.address, "--scratch-topic", topic)
    assert code == 0
    troubles = [finding for finding in found if finding["level"] in {"warn", "fail"}]
    assert all("kafkajs" in finding["text"] for finding in troubles)
    good = [finding["step"] for finding in found if finding["level"] == "ok"]
    assert {"broker 1", "broker 2", "broker 3", "produce", "consume", "clock", "leaks"} <= {*good}
    assert any(finding["text"].startswith("FindCoordinator, DescribeCluster: ") for finding in found)


def test_the_brokers_themselves_are_no_proxy(kafka_cluster: KafkaCluster) -> None:
    """Asked at a broker's own SASL port without a login, and at what it offers, the doctor says what it sees."""
    code, found = doctor(kafka_cluster.sasl_bootstrap.split(",")[0])
    assert code == 1
    assert found[-1]["step"] == "login"
    assert found[-1]["text"].startswith("a login is asked for: ")
    assert "PLAIN" in found[-1]["text"]
