"""Java clients whose kproxy stops, with another one in their bootstrap.servers: they are sent there (KIP-1102)."""

import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from clients import each_addressing
from clients.fixtures import LOGIN
from clients.limitedtraffic import make_topic
from clients.verifiable import Verifiable

from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import ConfiguredProxy, ProxyError

CONFIG = """
clusters: {{main: {{bootstrap: [{bootstrap}], sasl: {{username: {user}, password: {password}}}}}}}
listeners: {{public: {{bind: "127.0.0.1:{port}", addressing: {addressing}}}}}
"""

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


@each_addressing
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.timeout(300)
def test_they_go_on_at_once(kafka_cluster: KafkaCluster, tmp_path: Path, addressing: str, protocol: str) -> None:
    """A producer and a consumer go on through the other proxy within seconds, and nothing is lost or written twice."""
    first, second = (proxy_in(tmp_path / name, kafka_cluster, addressing) for name in ("first", "second"))
    first.start()
    topic, both = make_topic(kafka_cluster), f"{first.address},{second.address}"
    try:
        with Verifiable(kafka_cluster.tools, both, topic, tmp_path, protocol=protocol) as java:
            java.wait_read(300)
            second.start()
            since = time.time()
            first.signal(signal.SIGTERM)
            first.finish()
            java.wait_read(1000)
            java.finish()
        second.finish()
    except BaseException:
        for proxy in (first, second):
            with suppress(ProxyError):  # it does not run
                proxy.kill()
        raise
    writing, reading = java.silences(since)
    print(f"| Java, {protocol} | {addressing} | {writing:.1f} | {reading:.1f} |")  # noqa: T201 - of benchmarks/RESULTS.md
    java.check(kafka_cluster.plain_bootstrap)
    assert max(writing, reading) <= SILENCE_SECONDS_MAX
