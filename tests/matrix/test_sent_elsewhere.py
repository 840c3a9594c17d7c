"""Java clients whose kproxy stops, with another one in their bootstrap.servers: they are sent there (KIP-1102)."""

import json
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from clients import each_addressing
from clients.fixtures import LOGIN
from clients.limitedtraffic import make_topic
from clients.verifiable import Verifiable

from kproxy.config import users as users_file
from kproxy.core.credentials import User, derive
from kproxy.testing.certificates import Authority
from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import SECRETS, ConfiguredProxy, ProxyError

SILENCE_SECONDS_MAX = 3.0

DRAIN_SECONDS_MAX = 2.0

HEARTBEAT_SECONDS = 5.0
"""A KIP-848 consumer of Java's (4.3.1) whose Fetch could not be sent, as that went to an address that is no more, at
times makes no other before its next heartbeat, whatever it has learnt meanwhile."""

PASSWORD = "alices-own-secret"
JAAS = f'org.apache.kafka.common.security.plain.PlainLoginModule required username="alice" password="{PASSWORD}";'
SECRETS.add(PASSWORD)


def proxy_in(
    folder: Path, cluster: KafkaCluster, listener: Mapping[str, Any], more: Mapping[str, Any]
) -> ConfiguredProxy:
    """Make one; it is not started."""
    folder.mkdir()
    port, path = free_port_block(5), folder / "kproxy.yaml"
    sasl = {"username": LOGIN[0], "password": LOGIN[1]}
    config = {
        "clusters": {"main": {"bootstrap": cluster.sasl_bootstrap.split(","), "sasl": sasl}},
        "listeners": {"public": {"bind": f"127.0.0.1:{port}", **listener}},
        **more,
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config), encoding="utf-8")
    return ConfiguredProxy(folder, path, f"127.0.0.1:{port}", "--log-format", "json")


def doors(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a listener with TLS and a login is configured as, and Java's clients of it."""
    authority = Authority()
    trusted, mine = authority.write(folder), authority.server("127.0.0.1").write(folder, "kproxy")
    with users_file.changing(folder / "users.yaml", create=True) as users:
        users.users["alice"] = User("alice", {"SCRAM-SHA-256": derive(PASSWORD, "SCRAM-SHA-256", 4096)})
    listener = {
        "tls": {"cert_file": str(mine.cert_file), "key_file": str(mine.key_file)},
        "sasl": {"mechanisms": ["PLAIN"], "users_file": str(folder / "users.yaml")},
    }
    java = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.jaas.config": JAAS,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(trusted),
    }
    return listener, java


@each_addressing
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("way", ["plain", "two workers", "SASL and TLS"])
@pytest.mark.timeout(300)
def test_they_go_on_at_once(
    kafka_cluster: KafkaCluster, tmp_path: Path, addressing: str, protocol: str, way: str
) -> None:
    """A producer and a consumer go on through the other proxy within seconds, and nothing is lost or written twice."""
    listener, settings = doors(tmp_path) if way == "SASL and TLS" else ({}, {})
    listener["addressing"] = addressing
    more = {"workers": 2 if way == "two workers" else 1}
    first, second = (proxy_in(tmp_path / name, kafka_cluster, listener, more) for name in ("first", "second"))
    first.start()
    topic, both = make_topic(kafka_cluster), f"{first.address},{second.address}"
    try:
        with Verifiable(kafka_cluster.tools, both, topic, tmp_path, protocol=protocol, settings=settings) as java:
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
    print(f"| Java, {protocol} | {addressing} | {way} | {writing:.1f} | {reading:.1f} |")  # noqa: T201 - of RESULTS.md
    java.check(kafka_cluster.plain_bootstrap)
    assert writing <= SILENCE_SECONDS_MAX
    assert reading <= SILENCE_SECONDS_MAX + (HEARTBEAT_SECONDS if protocol == "consumer" else 0)
    drained = [json.loads(line) for line in first.log.read_text(encoding="utf-8").splitlines() if '"drained"' in line]
    assert [line["seconds"] <= DRAIN_SECONDS_MAX for line in drained if line["event"] == "drained"] == [True]
