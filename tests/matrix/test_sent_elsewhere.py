"""Java clients whose kproxy stops, with another one in their bootstrap.servers: they are sent there (KIP-1102)."""

import json
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from clients import each_addressing
from clients.fixtures import LOGIN
from clients.limitedtraffic import make_topic
from clients.records import new_name

from kproxy.testing.java import Tool
from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.ports import free_port_block
from kproxy.testing.processes import GuardedProcess
from kproxy.testing.proxy import ConfiguredProxy
from kproxy.testing.waiting import wait_until

CONFIG = """
clusters: {{main: {{bootstrap: [{bootstrap}], sasl: {{username: {user}, password: {password}}}}}}}
listeners: {{public: {{bind: "127.0.0.1:{port}", addressing: {addressing}}}}}
"""

PER_SECOND, COUNT = 300, 6000
SILENCE_SECONDS_MAX = 3.0


def proxy_in(folder: Path, cluster: KafkaCluster, addressing: str) -> ConfiguredProxy:
    """Make one; it is not started."""
    folder.mkdir()
    port, path = free_port_block(5), folder / "kproxy.yaml"
    path.write_text(
        CONFIG.format(
            bootstrap=cluster.sasl_bootstrap, user=LOGIN[0], password=LOGIN[1], port=port, addressing=addressing
        ),
        encoding="utf-8",
    )
    path.chmod(0o600)
    return ConfiguredProxy(folder, path, f"127.0.0.1:{port}", "--log-format", "json")


def events(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """Return the events of a name that a Verifiable program has told, but for one that is half written."""
    for line in path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines():
        if f'"name":"{name}"' in line:
            yield json.loads(line)


def consumed(path: Path) -> int:
    """Return how many records a VerifiableConsumer has read."""
    return sum(event["count"] for event in events(path, "records_consumed"))


def silence_seconds(path: Path, name: str, since: float) -> float:
    """Return the longest time between two such events, of those that ended after ``since``."""
    times = [event["timestamp"] / 1000 for event in events(path, name)]
    return max(float(after - before) for before, after in pairwise(times) if after > since)


@each_addressing
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.timeout(300)
def test_they_go_on_at_once(kafka_cluster: KafkaCluster, tmp_path: Path, addressing: str, protocol: str) -> None:
    """A producer and a consumer go on through the other proxy within seconds, and nothing is lost or written twice."""
    first, second = (proxy_in(tmp_path / name, kafka_cluster, addressing) for name in ("first", "second"))
    first.start()
    topic, group = make_topic(kafka_cluster), new_name("group")
    settings = tmp_path / "producer.properties"
    settings.write_text("retries=2147483647\n", encoding="ascii")  # it would try once, unlike applications
    target = ("--bootstrap-server", f"{first.address},{second.address}", "--topic", topic)
    limits = ("--throughput", str(PER_SECOND), "--max-messages", str(COUNT), "--command-config", str(settings))
    wanted = ("--group-id", group, "--group-protocol", protocol)
    wrote, read = tmp_path / "wrote", tmp_path / "read"
    programs: list[GuardedProcess] = []
    try:
        with read.open("wb") as output:
            programs.append(kafka_cluster.tools.popen(Tool.VERIFIABLE_CONSUMER, *target, *wanted, stdout=output))
        wait_until(lambda: any(events(read, "partitions_assigned")), 60, "partitions")
        with wrote.open("wb") as output:
            programs.append(kafka_cluster.tools.popen(Tool.VERIFIABLE_PRODUCER, *target, *limits, stdout=output))
        wait_until(lambda: consumed(read) > PER_SECOND, 60, "records")
        second.start()
        since = time.time()
        first.signal(signal.SIGTERM)
        first.finish()
        wait_until(lambda: consumed(read) >= COUNT, 90, lambda: f"{COUNT - consumed(read)} records more")
        wait_until(lambda: any(events(wrote, "shutdown_complete")), 30, "the producer's end")
    finally:
        for program in programs:
            program.kill()
        for proxy in (first, second):
            proxy.kill()
    writing, reading = (
        silence_seconds(path, name, since)
        for path, name in ((wrote, "producer_send_success"), (read, "records_consumed"))
    )
    print(f"| Java, {protocol} | {addressing} | {writing:.1f} | {reading:.1f} |")  # noqa: T201 - of benchmarks/RESULTS.md
    assert len(list(events(wrote, "producer_send_success"))) == COUNT
    assert list(events(wrote, "producer_send_error")) == []
    stored = kafka_cluster.tools.check(
        Tool.GET_OFFSETS, "--bootstrap-server", kafka_cluster.plain_bootstrap, "--topic", topic
    )
    assert sum(int(line.rsplit(":", 1)[1]) for line in stored.split()) == COUNT
    assert max(writing, reading) <= SILENCE_SECONDS_MAX
