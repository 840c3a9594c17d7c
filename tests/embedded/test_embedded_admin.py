"""The admin API of the program, with real clients at work and a real HTTP client beside them."""

import json
import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from clients import each_addressing
from clients.admin import Admin
from clients.confluent import Confluent
from clients.library import consume, produce
from clients.proc import worker_of
from clients.records import assert_exact, make_records, new_name
from clients.traffic import Stream
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import ProxyProcess
from kproxy.testing.waiting import wait_until
from kproxy.wire import primitives as p

RunProxy = Callable[..., ProxyProcess]
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]

PARTITIONS = 4

HALF_A_REQUEST = p.INT32.pack(1000) + bytes.fromhex("0003 0001 00000001 0004") + b"half"
"""The beginning of a Metadata v1 request of 1,000 bytes."""


def scrape(admin: Admin) -> dict[str, Metric]:
    """Return the families of a scrape by name."""
    answer = admin.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {family.name: family for family in text_string_to_metric_families(answer.body)}


def growing(families: dict[str, Metric]) -> Series:
    """Return each series that only grows, with its value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families.values()
        if family.type in {"counter", "histogram"}
        for sample in family.samples
    }


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    """Return one series' value, 0 where it is not there."""
    samples = [sample for family in families.values() for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


@each_addressing
def test_metrics_are_what_clients_did(
    run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...], addressing: str
) -> None:
    """A Prometheus parser reads types, units and helps; numbers are those of the traffic and never go down."""
    admin, topic = Admin(), new_name()
    proxy = run_proxy(embedded_cluster.bootstrap, "--admin", admin.address, addressing=addressing, forbidden=needles)
    records = make_records(200, PARTITIONS)
    produce(Confluent(), proxy.address, topic, records, partitions=PARTITIONS)
    first = scrape(admin)
    assert_exact(records, consume(Confluent(), proxy.address, topic, PARTITIONS))
    second = scrape(admin)
    for family in second.values():
        assert family.name.startswith("kproxy_")
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram"}
        for sample in family.samples:
            suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}[family.type]
            assert sample.name in {family.name + suffix for suffix in suffixes}
    before, after = growing(first), growing(second)
    assert before.keys() <= after.keys()
    assert all(after[series] >= count for series, count in before.items())
    labels = {"listener": "public"}
    assert value(first, "kproxy_requests_total", api="Produce", **labels) > 0
    assert value(first, "kproxy_requests_total", api="Fetch", **labels) == 0
    assert value(second, "kproxy_requests_total", api="Fetch", **labels) > 0
    sent = sum(len(record.value) for record in records)
    assert value(first, "kproxy_received_bytes_total", **labels) > sent
    assert value(second, "kproxy_sent_bytes_total", **labels) > sent
    assert value(second, "kproxy_connections_opened_total", **labels) == value(
        second, "kproxy_connections_closed_total", cause="client closed", **labels
    ) + value(second, "kproxy_connections", **labels)
    for broker in map(str, embedded_cluster.brokers):
        assert value(second, "kproxy_broker_up", cluster="main", broker=broker) == 1
    assert value(second, "kproxy_upstream_dials_total", cluster="main") > 0
    assert value(second, "kproxy_worker_loop_lag_seconds_count") > 0
    assert value(second, "kproxy_process_resident_memory_bytes", process="worker-0") > 10_000_000
    assert value(second, "kproxy_process_connections", process="worker-0") == value(
        second, "kproxy_connections", **labels
    )
    assert value(second, "kproxy_process_tasks", process="worker-0") > 0
    assert value(second, "kproxy_ready") == 1
    openmetrics = admin.get("/metrics", Accept="application/openmetrics-text; version=1.0.0").body
    read: Any = parse_openmetrics  # it has no types
    assert {family.name for family in read(openmetrics)} == second.keys()


@each_addressing
def test_the_inventory(
    run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...], addressing: str
) -> None:
    """Each client is listed with what it calls itself and what it uses; one that is closed comes back as another."""
    admin, topic = Admin(), new_name()
    proxy = run_proxy(embedded_cluster.bootstrap, "--admin", admin.address, addressing=addressing, forbidden=needles)
    producer: Any = Producer({"bootstrap.servers": proxy.address, "client.id": "orders", "log_level": 0})
    producer.produce(topic, b"x" * 1000)
    assert producer.flush(20) == 0

    def producing() -> list[dict[str, Any]]:
        listed = admin.get("/clients?client_id=orders").json["clients"]
        return [client for client in listed if "Produce" in client["apis"]]

    wait_until(lambda: [client["in_flight"] for client in producing()] == [0], 10, "all to be answered")
    (client,) = producing()
    assert client["software"] == "confluent-kafka-python"
    assert client["software_version"]
    assert client["principal"] == "User:ANONYMOUS"
    assert client["address"].startswith("127.0.0.1:")
    assert client["listener"] == "public"
    assert (client["tls"], client["in_flight"]) == (None, 0)
    assert [list(versions.values()) for api, versions in client["apis"].items() if api == "Produce"] == [[1]]
    assert client["bytes_in"] > 1000
    assert client["bytes_out"] > 0
    assert client["requests"] == sum(sum(versions.values()) for versions in client["apis"].values())
    assert admin.get("/clients?client_id=nobody").json == {"clients": [], "total": 0, "next": None}
    assert admin.get("/clients?tls=TLSv1.2").json["total"] == admin.get("/clients?breaks_at=4.0").json["total"] == 0
    (idle,) = (told for told in admin.get("/clients?rates=200ms").json["clients"] if told["id"] == client["id"])
    assert idle["rates"]["requests"] < 100
    assert admin.post(f"/clients/{client['id']}/close").json == {"closed": client["id"]}
    wait_until(lambda: client["id"] not in admin.get("/clients").body, 10, "the client to be gone")
    assert admin.post(f"/clients/{client['id']}/close").status == 404
    producer.produce(topic, b"y")
    assert producer.flush(20) == 0
    wait_until(lambda: [other["id"] for other in producing()] not in ([], [client["id"]]), 10, "it to be back")
    assert value(scrape(admin), "kproxy_connections_closed_total", cause="closed by operator") == 1
    producer.close()


def test_requests_in_flight(run_proxy: RunProxy, embedded_cluster: EmbeddedCluster) -> None:
    """What brokers have yet to answer is a gauge: a consumer that waits for records has one request out."""
    admin, topic = Admin(), new_name()
    proxy = run_proxy(embedded_cluster.bootstrap, "--admin", admin.address)
    produce(Confluent(), proxy.address, topic, make_records(1, 1), partitions=1)
    wait_until(lambda: value(scrape(admin), "kproxy_requests_in_flight", listener="public") == 0, 10, "all answers")
    options = {"bootstrap.servers": proxy.address, "group.id": new_name(), "fetch.wait.max.ms": 20_000, "log_level": 0}
    consumer = Consumer(options)
    consumer.assign([TopicPartition(topic, 0, OFFSET_END)])
    try:
        wait_until(
            lambda: consumer.poll(0.1) or value(scrape(admin), "kproxy_requests_in_flight", listener="public") == 1,
            20,
            "a long poll",
        )
    finally:
        consumer.close()


def test_pages(run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...]) -> None:
    """Page by page every client comes once."""
    admin = Admin()
    proxy = run_proxy(embedded_cluster.bootstrap, "--admin", admin.address, forbidden=needles)
    many = [socket.create_connection(("127.0.0.1", proxy.port), 5) for _ in range(25)]
    try:
        wait_until(lambda: admin.get("/clients").json["total"] == 25, 10, "all to be there")
        ids: list[str] = []
        path = "/clients?limit=10"
        while True:
            page = admin.get(path).json
            assert page["total"] == 25
            ids += [client["id"] for client in page["clients"]]
            if page["next"] is None:
                break
            path = f"/clients?limit=10&after={page['next']}"
        assert len(ids) == len(set(ids)) == 25
        assert {client["client_id"] for client in admin.get("/clients").json["clients"]} == {None}
    finally:
        for one in many:
            one.close()


def test_ready_follows_the_brokers(run_proxy: RunProxy) -> None:
    """While no broker is up kproxy is not ready, and says why; it lives on all the same."""
    admin = Admin()
    with EmbeddedCluster(2) as cluster:
        run_proxy(cluster.bootstrap, "--admin", admin.address, forbidden=())
        assert admin.wait("/readyz", 200).json == {"ready": True}
    down = admin.wait("/readyz", 503).json
    assert down == {"ready": False, "reasons": ["cluster main: no broker answers"]}
    assert admin.get("/healthz").json == {"status": "ok"}
    families = scrape(admin)
    assert [sample.value for sample in families["kproxy_broker_up"].samples] == [0, 0]
    assert value(families, "kproxy_ready") == 0


def test_drain(run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...]) -> None:
    """POST /drain stops kproxy as SIGTERM does; it is not ready from then on, and answers until it ends with code 0."""
    admin = Admin()
    proxy = run_proxy(embedded_cluster.bootstrap, "--admin", admin.address, forbidden=needles)
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as client:
        client.sendall(HALF_A_REQUEST)
        half = f'"bytes_in":{len(HALF_A_REQUEST)},'
        wait_until(lambda: half in admin.get("/clients").body, 10, "half a request")
        done = admin.post("/drain")
        assert (done.status, done.json) == (202, {"draining": True})
        down = admin.wait("/readyz", 503).json
        assert down == {"ready": False, "reasons": ["draining"]}
        assert admin.post("/drain").status == 202  # a second one is no second signal, which would cut it off
        assert value(scrape(admin), "kproxy_draining") == 1
        assert admin.get("/healthz").status == 200
    proxy.finish()
    assert "cutting off" not in proxy.log.read_text(encoding="utf-8")


def test_the_key(
    run_proxy: RunProxy,
    embedded_cluster: EmbeddedCluster,
    needles: tuple[bytes, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a key nothing but health is told without it, which is told without reasons; it shows nowhere."""
    monkeypatch.setenv("KPROXY_ADMIN_KEY", "open-sesame-0815")
    admin = Admin()
    proxy = run_proxy(embedded_cluster.bootstrap, "--admin", admin.address, forbidden=needles)
    for path in ("/metrics", "/status", "/config", "/clients", "/limits", "/clusters", "/openapi.json", "/nothing"):
        for headers in ({}, {"X_API_Key": "open-sesame-0816"}, {"Authorization": "Bearer wrong"}):
            refused = admin.get(path, **headers)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert admin.post("/drain", X_API_Key="wrong").status == 401
    assert admin.get("/healthz").status == admin.get("/readyz").status == 200
    opened = (
        admin.get("/config", X_API_Key="open-sesame-0815"),
        Admin(admin.address, "open-sesame-0815").get("/config"),
    )
    for config in opened:
        assert config.status == 200
        assert config.json["admin"]["api_key"] == {"env": "KPROXY_ADMIN_KEY"}
        assert "sesame" not in config.body
    proxy.finish()
    log = proxy.log.read_text(encoding="utf-8")
    assert "admin API: wrong key" in log
    assert "sesame" not in log


def test_a_unix_socket(
    run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...], tmp_path: Path
) -> None:
    """A path is served for this user alone, also where a dead process left one behind, and is gone in the end."""
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    admin = Admin(str(path))
    proxy = run_proxy(embedded_cluster.bootstrap, "--admin", admin.address, forbidden=needles)
    assert admin.get("/readyz").json == {"ready": True}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    proxy.finish()
    assert not path.exists()


def test_an_address_in_use(embedded_cluster: EmbeddedCluster) -> None:
    """Where the admin API cannot be served kproxy does not start, and one line says why."""
    admin = Admin()
    host, _, port = admin.address.partition(":")
    with socket.create_server((host, int(port))):
        command = [sys.executable, "-m", "kproxy", "run", "--log-format", "json", "--admin", admin.address]
        arguments = ["--listen", f"127.0.0.1:{free_port_block(5)}", "--bootstrap", embedded_cluster.bootstrap]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=20, check=False)
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, done.stdout, said) == (1, "", [f"kproxy: admin: {admin.address}: address already in use"])


def test_an_admin_client_that_reads_nothing(
    run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...]
) -> None:
    """One that asks for everything and reads nothing delays neither traffic nor other admin clients nor the end."""
    admin, topic = Admin(), new_name()
    proxy = run_proxy(embedded_cluster.bootstrap, "--admin", admin.address, forbidden=needles)
    host, _, port = admin.address.partition(":")
    with Stream(Confluent(), proxy.address, topic, PARTITIONS) as stream, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((host, int(port)))
        slow.setblocking(False)
        questions = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000
        slow.send(questions)
        stream.wait_acked(500)
        assert admin.get("/readyz").json == {"ready": True}
        stream.wait_acked(500)
        stream.stop()
        proxy.finish()
    assert stream.failed == []


def test_counters_outlive_a_worker(
    run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...]
) -> None:
    """When a worker dies what was scraped before stays counted, and its connections are no more."""
    admin, topic = Admin(), new_name()
    proxy = run_proxy(embedded_cluster.bootstrap, "--admin", admin.address, forbidden=needles)
    records = make_records(50, PARTITIONS)
    produce(Confluent(), proxy.address, topic, records, partitions=PARTITIONS)
    before = growing(scrape(admin))
    worker = worker_of(proxy.pid)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: admin.get("/readyz").status == 200 and worker_of(proxy.pid, but=worker), 20, "another worker")
    families = scrape(admin)
    after = growing(families)
    per_process = {series for series in before if series[0] == "kproxy_process_cpu_seconds_total"}
    assert before.keys() <= after.keys()
    assert all(after[series] >= before[series] for series in before.keys() - per_process)
    assert value(families, "kproxy_workers_started_total") == 2
    assert value(families, "kproxy_connections") == 0


def test_limits_and_client_ids(
    run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...], tmp_path: Path
) -> None:
    """What limits did, and whom they hold up, is told; client ids are told apart as far as was asked for."""
    path = tmp_path / "kproxy.yaml"
    limit = {"name": "slow", "leaky_bucket": {"rate": 20}, "key": ["client_id"], "match": {"apis": ["Produce"]}}
    config = {"limits": [limit], "metrics": {"per_client_id": True, "max": 1}}
    path.write_text(json.dumps(config), encoding="utf-8")
    admin = Admin()
    arguments = ("--config", str(path), "--admin", admin.address)
    proxy = run_proxy(embedded_cluster.bootstrap, *arguments, forbidden=needles)
    topic = new_name()
    for name in ("first", "second"):
        settings = {"bootstrap.servers": proxy.address, "client.id": name, "batch.num.messages": 1, "linger.ms": 0}
        producer: Any = Producer(settings | {"log_level": 0})
        for _ in range(5):
            producer.produce(topic, b"x", partition=0)
        assert producer.flush(20) == 0
        scrape(admin)  # the first is there first
        producer.close()
    families = scrape(admin)
    assert value(families, "kproxy_limit_asked_total", limit="slow") == 10
    assert value(families, "kproxy_limit_decisions_total", limit="slow", decision="throttled") > 0
    assert value(families, "kproxy_limit_decisions_total", limit="slow", decision="rejected") == 0
    assert value(families, "kproxy_limit_delay_seconds_total", limit="slow") > 0
    assert value(families, "kproxy_limit_keys", limit="slow") == 2
    told = {sample.labels["client_id"]: sample.value for sample in families["kproxy_client_id_requests"].samples}
    assert told.keys() <= {"first", "", "(others)"}
    assert sum(told.values()) == value(families, "kproxy_requests_total")
    (listed,) = admin.get("/limits").json["limits"]
    assert listed["name"] == "slow"
    assert listed["limit"]["leaky_bucket"]["rate"] == 20
    assert listed["workers"][0]["top"].keys() <= {"first", "second"}


def test_what_is_described_is_there(
    run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...]
) -> None:
    """Every GET of the OpenAPI document answers as it says; what cannot be applied is refused as it says."""
    admin = Admin()
    run_proxy(embedded_cluster.bootstrap, "--admin", admin.address, forbidden=needles)
    document = admin.get("/openapi.json").json
    assert re.fullmatch(r"3\.1\.\d", document["openapi"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method == "get":
                answer = admin.get(path)
                assert str(answer.status) in operation["responses"]
                (kind,) = operation["responses"][str(answer.status)]["content"]
                assert answer.headers["content-type"].startswith(kind)
                if kind == "application/json":
                    schema = operation["responses"][str(answer.status)]["content"][kind]["schema"]
                    assert answer.json.keys() <= schema.get("properties", answer.json).keys()
    shown = admin.get("/config").body.encode()
    assert admin.send("PUT", "/config", shown, {}).json["plan"] == []
    assert admin.send("PUT", "/config", b"cluster: {}", {}).status == 400
    assert admin.send("PUT", "/config", b"clusters: {}", {}).json["plan"] == []  # the flags are laid over it
    assert admin.post("/reload").status == 409  # there is no file


def read_until(terminal: int, condition: Callable[[bytes], bool]) -> None:
    """Read what a program writes to its terminal, as it would wait otherwise, until something is so."""
    seen = b""
    deadline = time.monotonic() + 30
    while not condition(seen):
        assert time.monotonic() < deadline, seen[-2000:]
        if select.select([terminal], [], [], 0.1)[0]:
            with suppress(OSError):  # the program has ended
                seen += os.read(terminal, 65536)


def test_top(run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...]) -> None:
    """``kproxy top`` shows clients at work, and q ends it; without a terminal, --once prints the same."""
    admin, topic = Admin(), new_name()
    proxy = run_proxy(embedded_cluster.bootstrap, "--admin", admin.address, forbidden=needles)
    with Stream(Confluent(), proxy.address, topic, PARTITIONS) as stream:
        stream.wait_acked(100)
        command = [sys.executable, "-m", "kproxy", "top", "--admin", admin.address]
        wide = os.environ | {"COLUMNS": "200", "LINES": "50", "TERM": "xterm"}
        done = subprocess.run([*command, "--once"], capture_output=True, text=True, timeout=30, check=False, env=wide)
        assert (done.returncode, done.stderr) == (0, "")
        assert "3 of 3 up" in done.stdout
        assert "confluent-kafka-python" in done.stdout
        assert re.search(r"public +\d+ +[1-9]", done.stdout)
        ours, theirs = pty.openpty()
        live = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=wide)
        os.close(theirs)
        try:
            read_until(ours, lambda seen: b"3 of 3 up" in seen)
            os.write(ours, b"xq")
            read_until(ours, lambda _: live.poll() is not None)
            assert live.returncode == 0
        finally:
            live.kill()
            live.wait(10)
            os.close(ours)
        stream.stop()
    assert stream.failed == []
