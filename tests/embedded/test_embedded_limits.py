"""Limits on a machine with nothing but pip: a real client is told to slow down, and does."""

import socket
import time
from pathlib import Path

import pytest
from clients import each_addressing
from clients.confluent import Confluent
from clients.library import consume
from clients.limited import RunProxy, events, limit_tally, run_limited
from clients.records import assert_exact, ends, make_records, new_name
from confluent_kafka import Producer, ThrottleEvent

from kproxy.testing.embedded import EmbeddedCluster

PARTITIONS = 4
RATE = 256 * 1024
RECORD_BYTES = 4096


@each_addressing
def test_librdkafka_is_told(
    run_proxy: RunProxy, tmp_path: Path, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...], addressing: str
) -> None:
    """A producer above its rate hears of it in its throttle callback, is as fast as it may be, and loses nothing."""
    limit = {"name": "in", "leaky_bucket": {"rate": RATE, "unit": "bytes_in"}, "key": ["client_id"]}
    bootstrap = embedded_cluster.bootstrap
    proxy = run_limited(run_proxy, tmp_path, bootstrap, limit, addressing=addressing, forbidden=needles)
    topic, records = new_name(), make_records(3 * RATE // RECORD_BYTES, PARTITIONS, RECORD_BYTES)
    told: list[ThrottleEvent] = []
    failed: list[object] = []

    def delivered(error: object, _: object) -> None:
        if error is not None:
            failed.append(error)

    producer = Producer(
        {
            "bootstrap.servers": proxy.address,
            "client.id": "greedy",
            "batch.size": 16 * 1024,
            "throttle_cb": told.append,
            "log_level": 0,
        }
    )
    began = time.monotonic()
    for record in (*records, *ends(PARTITIONS)):
        producer.produce(topic, record.value, record.key, record.partition, on_delivery=delivered)
    assert producer.flush(30) == 0
    assert time.monotonic() - began == pytest.approx(3, rel=0.2)
    assert failed == []
    assert max(event.throttle_time for event in told) > 0.01
    assert_exact(records, consume(Confluent(), proxy.address, topic, PARTITIONS))
    counts = limit_tally(proxy, "in")
    assert counts["throttled"] > 0
    assert next(iter(counts["top"])) == "greedy"
    assert [event["key"] for event in events(proxy, "limit holds a client up")] == ["greedy"]
    producer.close()


def test_a_storm_of_connections(
    run_proxy: RunProxy, tmp_path: Path, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...]
) -> None:
    """Of ten connections at once three are let in; the others end after a second, unserved, and room is made again."""
    limit = {"name": "three", "connections": {"max": 3}, "key": ["client_ip"]}
    proxy = run_limited(run_proxy, tmp_path, embedded_cluster.bootstrap, limit, forbidden=needles)
    storm = [socket.create_connection(("127.0.0.1", proxy.port), timeout=5) for _ in range(10)]
    began = time.monotonic()
    assert [one.recv(1) for one in storm[3:]] == [b""] * 7
    assert time.monotonic() - began == pytest.approx(1, abs=0.5)
    for one in storm[:3]:
        one.settimeout(0.1)
        with pytest.raises(TimeoutError):
            one.recv(1)
    assert limit_tally(proxy, "three")["closed"] == 7
    for one in storm:
        one.close()
    topic = new_name()
    with Confluent().producer(proxy.address) as producer:
        producer.send(topic, make_records(1, 1)[0], lambda *_: None)
