"""All there is at once: TLS, logins that end, rules, limits, the request log, the admin API and two workers.

Each has tests of its own; here they must not disturb one another.
"""

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from clients import ADDRESSINGS
from clients.records import new_name
from clients.strangers import write_users
from confluent_kafka import Consumer, Producer

from kproxy.testing.certificates import Authority
from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import ConfiguredProxy

RECORDS = 600


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_everything_at_once(embedded_cluster: EmbeddedCluster, tmp_path: Path, addressing: str) -> None:
    """Past the end of several logins every record goes in and comes out; what is denied is; all of it is told."""
    authority = Authority()
    authority.server("127.0.0.1").write(tmp_path, "server")
    ca_file = authority.write(tmp_path)
    users_file = write_users(tmp_path / "users.yaml", alice="wonder")
    port, admin_port = free_port_block(8), free_port_block(1)
    rule = {"principal": "User:alice", "operations": ["all"], "topic": "secret-*", "effect": "deny"}
    config: dict[str, Any] = {
        "clusters": {"main": {"bootstrap": embedded_cluster.bootstrap.split(",")}},
        "listeners": {
            "public": {
                "bind": f"127.0.0.1:{port}",
                "addressing": addressing,
                "tls": {"cert_file": "server.pem", "key_file": "server.key"},
                "sasl": {
                    "mechanisms": ["SCRAM-SHA-512"],
                    "users_file": str(users_file),
                    "session_lifetime": "1s",
                },
                "access": {"default": "allow", "rules": [rule]},
            }
        },
        "limits": [
            {"name": "rate", "leaky_bucket": {"rate": 200, "burst": 50}, "key": ["principal"]},
            {"name": "flight", "concurrency": {"max": 50}, "key": ["client_ip"]},
        ],
        "admin": {"bind": f"127.0.0.1:{admin_port}"},
        "metrics": {"latency": True, "per_client_id": True},
        "request_log": {"to": "file", "path": str(tmp_path / "requests.jsonl"), "linger": "100ms"},
        "workers": 2,
    }
    path = tmp_path / "kproxy.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    proxy = ConfiguredProxy(tmp_path, path, f"127.0.0.1:{port}")
    proxy.start()
    try:
        use(port, admin_port, ca_file)
    finally:
        proxy.finish()
    log = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {entry["principal"] for entry in log} == {"User:alice"}
    assert "Produce" in {entry["api"] for entry in log}


def use(port: int, admin_port: int, ca_file: Path) -> None:
    """Write for longer than a login lasts, be denied a topic, read all, and ask the admin API what it saw."""
    client = {
        "bootstrap.servers": f"127.0.0.1:{port}",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "alice",
        "sasl.password": "wonder",
        "ssl.ca.location": str(ca_file),
        "log_level": 0,
    }
    topic = new_name()
    told: list[str | None] = []
    producer = Producer(client)
    for number in range(RECORDS):  # for three seconds: two logins have ended by then
        producer.produce(topic, b"%d" % number, on_delivery=lambda error, _: told.append(error and error.name()))
        producer.poll(0.005)
    assert producer.flush(30) == 0
    assert told == [None] * RECORDS
    producer.produce("secret-1", b"x", on_delivery=lambda error, _: told.append(error and error.name()))
    assert producer.flush(30) == 0
    assert told[-1] == "TOPIC_AUTHORIZATION_FAILED"
    consumer = Consumer(client | {"group.id": new_name("group"), "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    values: set[bytes | None] = set()
    deadline = time.monotonic() + 30
    while len(values) < RECORDS and time.monotonic() < deadline:
        values |= {message.value() for message in consumer.consume(RECORDS, 0.2) if message.error() is None}
    assert values == {b"%d" % number for number in range(RECORDS)}
    connected = json.loads(asked(admin_port, "clients"))["clients"]
    assert {one["principal"] for one in connected} == {"User:alice"}
    assert all(one["tls"].startswith("TLSv1.") for one in connected)
    metrics = asked(admin_port, "metrics")
    for line in (
        "kproxy_workers 2.0",
        'kproxy_client_logins_total{listener="public",mechanism="SCRAM-SHA-512",result="in"}',
        'kproxy_denied_total{api="Metadata",listener="public",resource="topic"}',
        'kproxy_request_duration_seconds_count{api="Produce",listener="public",part="upstream"}',
    ):
        assert line in metrics
    consumer.close()
    producer.close()


def asked(port: int, what: str) -> str:
    """Ask the admin API."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{what}", timeout=10) as answer:
        return str(answer.read().decode())
