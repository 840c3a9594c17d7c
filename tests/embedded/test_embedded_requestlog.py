"""The request log with real clients: who did what, and how long it took, in a file, a topic, or standard output."""

import json
from pathlib import Path

import pytest
from clients import each_addressing
from clients.confluent import Confluent
from clients.library import consume
from clients.limited import RunProxy, events, requests, tally
from clients.logged import entries, run_logged, wait_for
from clients.records import assert_exact, ends, make_records, new_name
from confluent_kafka import Consumer, Producer, TopicPartition

from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.proxy import ProxyError, ProxyProcess
from kproxy.testing.waiting import wait_until


@each_addressing
def test_requests_in_a_file(
    run_proxy: RunProxy, tmp_path: Path, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...], addressing: str
) -> None:
    """What a producer and a consumer ask for stands in the file, with who they are and how long it took."""
    path = tmp_path / "requests.jsonl"
    proxy = run_logged(
        run_proxy,
        tmp_path,
        embedded_cluster.bootstrap,
        {"to": "file", "path": str(path)},
        metrics={"latency": True},
        addressing=addressing,
        forbidden=needles,
    )
    topic, records = new_name(), make_records(20, 1)
    with Confluent().producer(proxy.address) as producer:
        for record in (*records, *ends(1)):
            producer.send(topic, record, lambda *_: None)
    assert_exact(records, consume(Confluent(), proxy.address, topic, 1))
    produced = wait_for(path, lambda entry: entry["api"] == "Produce")
    assert produced["topic"] == topic
    assert produced["listener"] == "public"
    assert produced["principal"] == "User:ANONYMOUS"
    assert produced["client_ip"] == "127.0.0.1"
    assert produced["software"] == "confluent-kafka-python"
    assert produced["answered_by"] == "broker"
    assert produced["broker"] in embedded_cluster.brokers
    assert produced["request_bytes"] > produced["response_bytes"] > 0
    assert 0 <= produced["upstream_ms"] <= produced["latency_ms"]
    # From v13 on a Fetch names its topics by their ids, within a session perhaps none.
    fetched = wait_for(path, lambda entry: entry["api"] == "Fetch" and (entry["topic"] or entry["topic_id"]))
    assert fetched["error_code"] == fetched["throttle_ms"] == 0
    hello = wait_for(path, lambda entry: entry["api"] == "ApiVersions")
    assert (hello["answered_by"], hello["upstream_ms"], hello["error_code"]) == ("kproxy", None, 0)
    send(proxy, 60)  # one read of eight is timed, by the dice: of so many some are
    wait_until(lambda: len(entries(path)) > 60, 15, lambda: f"entries; there are {len(entries(path))}")
    counts = tally(proxy)
    assert counts["request_log"]["dropped"] == counts["request_log"]["missed"] == 0
    assert counts["request_log"]["entries"] >= len(entries(path))
    latency = counts["listeners"]["public"]["latency"]
    assert sum(sum(api["upstream"]["buckets"].values()) for api in latency.values()) > 0


def send(proxy: ProxyProcess, count: int, client_id: str = "app") -> str:
    """Send records one by one, each in a request of its own; return their topic."""
    topic = new_name()
    options = {"bootstrap.servers": proxy.address, "client.id": client_id, "linger.ms": 0, "log_level": 0}
    producer = Producer(options)
    for _ in range(count):
        producer.produce(topic, b"value")
        assert producer.flush(20) == 0
    producer.close()
    return topic


def test_requests_in_a_topic(
    run_proxy: RunProxy, tmp_path: Path, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...]
) -> None:
    """Each entry is a record of the log's topic, with the chosen key and fields; writing it is logged by nobody."""
    log_topic = new_name()
    log = {
        "to": "kafka",
        "topic": log_topic,
        "bootstrap": embedded_cluster.bootstrap.split(","),
        "key": "client_id",
        "match": {"apis": ["Produce"], "client_ids": ["app-*"]},
        "fields": ["client_id", "api", "topic", "answered_by"],
    }
    proxy = run_logged(run_proxy, tmp_path, embedded_cluster.bootstrap, log, forbidden=needles)
    send(proxy, 3, "other")
    topic = send(proxy, 5, "app-1")
    wait_until(lambda: tally(proxy)["request_log"]["waiting"] == 0, 20, "all entries to be written")
    assert tally(proxy)["request_log"] == {"entries": 5, "dropped": 0, "waiting": 0, "missed": 0}
    consumer = Consumer(
        {
            "bootstrap.servers": embedded_cluster.bootstrap,
            "group.id": new_name(),
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    consumer.subscribe([log_topic])
    found = [message for message in consumer.consume(5, 20) if message.error() is None]
    consumer.close()
    assert [message.key() for message in found] == [b"app-1"] * 5
    entry = {"client_id": "app-1", "api": "Produce", "topic": topic, "answered_by": "broker"}
    assert [json.loads(message.value()) for message in found] == [entry] * 5


def test_a_sample(run_proxy: RunProxy, tmp_path: Path, embedded_cluster: EmbeddedCluster) -> None:
    """With a sample of 0.2 about a fifth of the requests are logged."""
    path = tmp_path / "requests.jsonl"
    log = {"to": "file", "path": str(path), "sample": 0.2, "match": {"apis": ["Produce"]}}
    proxy = run_logged(run_proxy, tmp_path, embedded_cluster.bootstrap, log)
    send(proxy, 400)
    proxy.finish()
    # Five standard deviations of 400 throws are 40.
    assert 80 - 40 <= len(entries(path)) <= 80 + 40


def test_the_log_cluster_is_down(run_proxy: RunProxy, tmp_path: Path, embedded_cluster: EmbeddedCluster) -> None:
    """While nobody takes the log, traffic goes on, the queue is bounded, and what is dropped is counted and told."""
    log = {"to": "kafka", "topic": "log", "bootstrap": ["127.0.0.1:1"], "queue_max": 10, "flush_timeout": "1s"}
    proxy = run_logged(run_proxy, tmp_path, embedded_cluster.bootstrap, log)
    send(proxy, 100)
    counts = tally(proxy)["request_log"]
    assert counts["waiting"] <= 10
    assert counts["waiting"] + counts["dropped"] >= 100
    wait_until(lambda: events(proxy, "request log drops entries"), 10, "drops to be told of")
    proxy.finish()
    told = events(proxy, "tally")[-1]["request_log"]
    assert told["waiting"] == 0
    assert told["dropped"] >= counts["waiting"] + counts["dropped"]


def test_limits_show(run_proxy: RunProxy, tmp_path: Path, embedded_cluster: EmbeddedCluster) -> None:
    """What a limit delays is time in kproxy, in the log and in the histograms, not upstream."""
    path = tmp_path / "requests.jsonl"
    rule = {
        "name": "slow",
        "leaky_bucket": {"rate": 10},
        "match": {"apis": ["Produce"]},
        "on_exceed": "delay",
        "key": ["client_id"],
    }
    proxy = run_logged(
        run_proxy,
        tmp_path,
        embedded_cluster.bootstrap,
        {"to": "file", "path": str(path), "match": {"apis": ["Produce"]}},
        limits=[rule],
        metrics={"latency": True},
    )
    send(proxy, 50)  # of 16 reads of a connection one at least is timed, and there are three connections
    proxy.finish()
    delayed = [entry for entry in entries(path) if entry["kproxy_ms"] > 50]
    assert len(delayed) >= 45
    assert all(entry["latency_ms"] >= entry["kproxy_ms"] for entry in delayed)
    assert sorted(entry["upstream_ms"] for entry in delayed)[len(delayed) // 2] < 50
    latency = events(proxy, "tally")[-1]["listeners"]["public"]["latency"]["Produce"]
    assert latency["kproxy"]["sum_seconds"] > 0.05


def test_standard_output(run_proxy: RunProxy, tmp_path: Path, embedded_cluster: EmbeddedCluster) -> None:
    """Entries stand in standard output, a line each, beside the lines that tell clients where to connect."""
    proxy = run_logged(run_proxy, tmp_path, embedded_cluster.bootstrap, {"to": "stdout", "fields": ["api"]})
    send(proxy, 3)
    proxy.finish()
    lines = proxy.output.read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert {"api": "Produce"} in told
    assert [line for line in lines if not line.startswith("{")] == [f"public: clients connect to {proxy.address}"]


def test_a_log_that_cannot_be(tmp_path: Path, embedded_cluster: EmbeddedCluster) -> None:
    """A file that cannot be opened keeps kproxy from starting, and is told in one line."""
    path = tmp_path / "logged.yaml"
    log = {"to": "file", "path": "missing/requests.jsonl"}
    path.write_text(json.dumps({"request_log": log}), encoding="utf-8")
    proxy = ProxyProcess(tmp_path, embedded_cluster.bootstrap, "--config", str(path))
    with pytest.raises(ProxyError, match=r"kproxy: request_log\.path: .*: no such file or directory"):
        proxy.start()
    with pytest.raises(ProxyError, match="exit code 1"):
        proxy.finish()


def test_what_was_in_flight(run_proxy: RunProxy, tmp_path: Path) -> None:
    """A request whose broker went before it had answered is logged as lost."""
    path = tmp_path / "requests.jsonl"
    with EmbeddedCluster(1) as cluster:
        proxy = run_logged(run_proxy, tmp_path, cluster.bootstrap, {"to": "file", "path": str(path)})
        topic = send(proxy, 1)
        options = {
            "bootstrap.servers": proxy.address,
            "group.id": new_name(),
            "fetch.wait.max.ms": 10_000,
            "log_level": 0,
        }
        consumer = Consumer(options)
        consumer.assign([TopicPartition(topic, 0, 1)])
        wait_until(lambda: consumer.poll(0.1) or requests(proxy, "Fetch"), 20, "a long poll")
        cluster.close()
        lost = wait_for(path, lambda entry: entry["api"] == "Fetch")
        consumer.close()
    assert (lost["answered_by"], lost["response_bytes"], lost["upstream_ms"]) == ("lost", None, None)
