"""The request log with real clients: who did what, and how long it took, in a file, a topic, or standard output."""

from pathlib import Path

from clients import each_addressing
from clients.confluent import Confluent
from clients.library import consume
from clients.limited import RunProxy, tally
from clients.logged import entries, run_logged, wait_for
from clients.records import assert_exact, ends, make_records, new_name

from kproxy.testing.embedded import EmbeddedCluster


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
    counts = tally(proxy)
    assert counts["request_log"]["dropped"] == 0
    assert counts["request_log"]["entries"] >= len(entries(path)) > 10
    latency = counts["listeners"]["public"]["latency"]
    assert sum(latency["Fetch"]["upstream"]["buckets"].values()) > 0
