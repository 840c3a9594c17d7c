"""Limits that speak Kafka, with real clients and a real Kafka: rates are held, nothing fails, groups hold together.

What takes long, or needs every library, is in tests/matrix/test_limits_matrix.py.
"""

import re
import time
from pathlib import Path

import pytest
from clients import each_addressing
from clients.confluent import Confluent
from clients.fixtures import LOGIN
from clients.limited import RunProxy, events, limit_tally, run_limited
from clients.limitedtraffic import (
    MIB,
    RATE,
    READERS,
    consume_rate,
    group_rebalances,
    make_topic,
    produce_rate,
    window_of_two,
)
from confluent_kafka import Producer

from kproxy.testing.java import Tool
from kproxy.testing.kafka import KafkaCluster

SECONDS = 5

HARDLY_SLOWER = 0.85
"""In so short a time a busy machine costs a client some percent; for 20 s, within 5 %, see the matrix."""


@each_addressing
def test_bytes_in(kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, addressing: str) -> None:
    """A producer held at 2 MiB a second is at most 5 % faster, and hardly slower, and every record arrives once."""
    limit = {"name": "in", "leaky_bucket": {"rate": RATE, "unit": "bytes_in"}, "key": ["client_ip"]}
    proxy = run_limited(run_proxy, tmp_path, kafka_cluster.sasl_bootstrap, limit, addressing=addressing, login=LOGIN)
    rate = produce_rate(Confluent(), proxy, make_topic(kafka_cluster), SECONDS)
    assert HARDLY_SLOWER < rate / RATE < 1.05
    assert limit_tally(proxy, "in")["throttled"] > 0
    assert [event["key"] for event in events(proxy, "limit holds a client up")] == ["127.0.0.1"]


def test_bytes_out(kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path) -> None:
    """A consumer held at 2 MiB a second is at most 5 % faster, and hardly slower, and reads every record."""
    limit = {"name": "out", "leaky_bucket": {"rate": RATE, "unit": "bytes_out"}, "match": {"apis": ["Fetch"]}}
    proxy = run_limited(run_proxy, tmp_path, kafka_cluster.sasl_bootstrap, limit, login=LOGIN)
    assert HARDLY_SLOWER < consume_rate(READERS[0], kafka_cluster, proxy, SECONDS) / RATE < 1.05


def test_requests(kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path) -> None:
    """One request after the other, 20 a second pass."""
    limit = {"name": "calm", "leaky_bucket": {"rate": 20}, "match": {"apis": ["Produce"]}, "on_exceed": "delay"}
    proxy = run_limited(run_proxy, tmp_path, kafka_cluster.sasl_bootstrap, limit, login=LOGIN)
    topic = make_topic(kafka_cluster)
    producer = Producer({"bootstrap.servers": proxy.address, "linger.ms": 0, "log_level": 0})
    producer.produce(topic, b"first", partition=0)
    assert producer.flush(20) == 0
    began = time.monotonic()
    for number in range(100):
        producer.produce(topic, b"%d" % number, partition=0)
        assert producer.flush(20) == 0
    assert HARDLY_SLOWER < 100 / 20 / (time.monotonic() - began) < 1.05
    producer.close()


def test_java_clients_understand(kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path) -> None:
    """Kafka's own clients slow down by themselves: their metrics tell how long they were asked to wait."""
    limits = [
        {"name": unit, "leaky_bucket": {"rate": RATE, "unit": unit}, "match": {"apis": [api]}}
        for unit, api in (("bytes_in", "Produce"), ("bytes_out", "Fetch"))
    ]
    proxy = run_limited(run_proxy, tmp_path, kafka_cluster.sasl_bootstrap, *limits, login=LOGIN)
    topic, count = make_topic(kafka_cluster), SECONDS * RATE // 1024
    tools, target = kafka_cluster.tools, ("--bootstrap-server", proxy.address, "--topic", topic)
    sizes = ("--num-records", str(count), "--record-size", "1024", "--throughput", "-1", "--print-metrics")
    printed = tools.check(Tool.PRODUCER_PERFORMANCE, *target, *sizes)
    assert f"{count} records sent" in printed
    (rate,) = re.findall(rf"{count} records sent, [\d.]+ records/sec \(([\d.]+) MB/sec\)", printed)
    assert 0.6 < float(rate) * MIB / RATE < 1.05  # its start counts, too, which takes up to some seconds
    assert _metric(printed, "producer-metrics:produce-throttle-time-max") > 5
    reading = ("--num-records", str(count), "--timeout", "60000", "--fetch-size", "262144", "--print-metrics")
    printed = tools.check(Tool.CONSUMER_PERFORMANCE, *target, *reading)
    assert _metric(printed, "consumer-fetch-manager-metrics:fetch-throttle-time-max") > 5


def _metric(printed: str, name: str) -> float:
    values = re.findall(rf"^{name}:\{{.*\}}\s*:\s*([\d.]+)", printed, re.MULTILINE)
    assert values, f"no {name} in what was printed"
    return max(map(float, values))


@pytest.mark.parametrize("on_exceed", ["delay", "throttle", "close"])
def test_a_window_of_two(kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, on_exceed: str) -> None:
    """Two Produce requests pass in a window, a third waits for the next one, or its connection ends; none is lost."""
    window_of_two(run_proxy, tmp_path, kafka_cluster, on_exceed, seconds=3, count=5)


def test_a_throttled_group_does_not_rebalance(kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path) -> None:
    """Three members that are throttled hard for 15 s read on, slowly, and nobody joins anew."""
    rebalances, read = group_rebalances(run_proxy, tmp_path, kafka_cluster, Confluent(), seconds=15)
    assert rebalances == 0
    assert read > 0
