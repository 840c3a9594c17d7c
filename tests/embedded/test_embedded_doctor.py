"""``kproxy doctor``, the program, before the real proxy and a whole cluster that needs nothing but pip."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from clients import each_addressing
from clients.confluent import Confluent
from clients.library import produce
from clients.records import make_records, new_name

from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.proxy import ProxyProcess

RunProxy = Callable[..., ProxyProcess]


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    command = [sys.executable, "-m", "kproxy", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)


@each_addressing
def test_a_healthy_proxy(
    run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...], addressing: str
) -> None:
    """Every step is good, a record goes there and back, and the exit code is 0.

    Two warnings: the mock has no controller, and one address for all brokers is none for kafkajs.
    """
    proxy = run_proxy(embedded_cluster.bootstrap, addressing=addressing, forbidden=needles)
    topic = new_name()
    produce(Confluent(), proxy.address, topic, make_records(1, 1))
    result = doctor(proxy.address, "--scratch-topic", topic, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)["findings"]
    warned = [finding["text"] for finding in found if finding["level"] == "warn"]
    assert warned[0] == "the cluster has no controller among its brokers"
    assert len(warned) == 1 + (addressing == "single")
    good = [finding["step"] for finding in found if finding["level"] == "ok"]
    assert good[:5] == ["resolve", "connect", "versions", "login", "metadata"]
    assert {"broker 1", "broker 2", "broker 3", "produce", "consume"} <= {*good}
    assert ("leaks" in good) == (addressing == "ports")


def test_two_replicas(run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...]) -> None:
    """Two proxies with different ports before one cluster are told apart, which fails (row 14)."""
    one, other = (run_proxy(embedded_cluster.bootstrap, forbidden=needles) for _ in range(2))
    result = doctor(one.address, "--compare", other.address)
    assert result.returncode == 1
    assert f"fail  replica    {other.address} gives other ports: broker 1: " in result.stdout


def test_a_configuration(
    run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...], tmp_path: Path
) -> None:
    """From the file: the brokers, then the running proxy, with the addresses that it must tell; down, it fails."""
    proxy = run_proxy(embedded_cluster.bootstrap, forbidden=needles)
    config = tmp_path / "kproxy.yaml"
    listener = f"{{bind: '127.0.0.1:{proxy.port}', advertise: '{proxy.address}'}}"
    config.write_text(
        f"clusters: {{main: {{bootstrap: [{embedded_cluster.bootstrap}]}}}}\nlisteners: {{public: {listener}}}\n",
        encoding="utf-8",
    )
    result = doctor("--config", str(config))
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[:3] == ["cluster main", "  ok    brokers    3 known", f"listener public, 127.0.0.1:{proxy.port}"]
    assert f"  ok    clients    {proxy.address}, reached and asked" in lines
    proxy.kill()
    result = doctor("--config", str(config))
    assert result.returncode == 1
    assert "fail  connect    connection refused" in result.stdout
