"""What is in examples/ works as it stands: every program runs through the proxy, every configuration passes."""

import configparser
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from clients.limited import limit_tally
from confluent_kafka import Producer
from pydantic import BaseModel

from kproxy.cli.main import COMMANDS, main
from kproxy.config import users
from kproxy.config.load import load
from kproxy.config.model import Config
from kproxy.config.requestlog import RequestLog
from kproxy.config.values import HostPort, parse_host_port
from kproxy.core.credentials import User, derive
from kproxy.service import layouts
from kproxy.testing.certificates import Authority
from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.java import JVM_FLAGS, java_program, kafka_jars
from kproxy.testing.oidc import TokenIssuer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kproxy.testing.kafka import KafkaCluster
    from kproxy.testing.proxy import ProxyProcess

EXAMPLES = Path(__file__).parents[2] / "examples"

CONFIGURATIONS = sorted(EXAMPLES.glob("*.yaml"))
SECRETS = ("KPROXY_ADMIN_KEY", "KAFKA_PASSWORD", "ALICE_PASSWORD", "TEAMS_PASSWORD", "KEY_PASSWORD", "CLIENT_SECRET")
PASSWORD = dict.fromkeys(SECRETS, "hunter2")

MIB = 1024 * 1024
RECORD_BYTES, SENT_BYTES = MIB // 2, 5 * MIB

PYTHON = {
    "confluent_client.py": "confluent-kafka",
    "aiokafka_client.py": "aiokafka",
    "kafka_python_client.py": "kafka-python",
}


def output(*command: str) -> str:
    """Run a program that must succeed and complain of nothing; return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def embedded_addresses(cluster: EmbeddedCluster) -> tuple[bytes, ...]:
    """Return the brokers' addresses as an answer would carry them: the mock advertises the proxy's own host."""
    pairs = (address.rpartition(":") for address in cluster.brokers.values())
    return tuple(host.encode() + pack(">i", int(port)) for host, _, port in pairs)


@pytest.mark.parametrize("program", PYTHON)
def test_python_clients(
    program: str, embedded_cluster: EmbeddedCluster, run_proxy: "Callable[..., ProxyProcess]"
) -> None:
    """Each program, given the proxy's address and nothing else, gets its ten records back."""
    proxy = run_proxy(embedded_cluster.bootstrap, forbidden=embedded_addresses(embedded_cluster))
    told = output(sys.executable, str(EXAMPLES / program), proxy.address)
    assert told == f"{PYTHON[program]}: 10 records sent and read back\n"


@pytest.mark.kafka
def test_java_client(kafka_cluster: "KafkaCluster", run_proxy: "Callable[..., ProxyProcess]") -> None:
    """Kafka's own client, without credentials, gets its ten records back from a cluster that demands a login."""
    proxy = run_proxy(kafka_cluster.sasl_bootstrap, login=("gateway", "gateway-secret"))
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
    source = str(EXAMPLES / "JavaClient.java")
    told = output(java_program(), *JVM_FLAGS, quiet, "-cp", f"{kafka_jars()}/*", source, proxy.address)
    assert told == "Java: 10 records sent and read back\n"


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_configurations_pass(path: Path, tmp_path: Path) -> None:
    """``kproxy check`` has nothing against any, not even a doubt."""
    make_files(tmp_path)
    result = CliRunner(env=PASSWORD).invoke(main, ["check", str(shutil.copy(path, tmp_path))])
    assert (result.exit_code, result.stderr) == (0, "")


def make_files(folder: Path) -> None:
    """Write the files that configurations name."""
    authority = Authority()
    authority.write(folder)
    authority.server("kafka.example.com", "*.kafka.example.com").write(folder, "kafka")
    authority.client("CN=kproxy").write(folder, "kproxy")
    with users.changing(folder / "users.yaml", create=True) as file:
        file.users["alice"] = User("alice", {"SCRAM-SHA-512": derive("hunter2", "SCRAM-SHA-512")})
    with TokenIssuer() as issuer:
        issuer.write_jwks(folder / "jwks.json")


def test_configurations_were_found() -> None:
    """There are three with every option between them, one for each use of limits, and one with access rules."""
    assert len(CONFIGURATIONS) == 8


def test_batch_jobs_are_held_low(embedded_cluster: EmbeddedCluster, run_proxy: "Callable[..., ProxyProcess]") -> None:
    """Under the day's limits a batch job gets 5 MiB a second, another client all it asks for; nothing is lost."""
    path = EXAMPLES / "limits-batch-at-night.yaml"
    forbidden = embedded_addresses(embedded_cluster)
    proxy = run_proxy(embedded_cluster.bootstrap, "--config", str(path), forbidden=forbidden)
    free_seconds = seconds_to_send("orders", proxy.address)
    assert limit_tally(proxy, "batch-writes")["asked"] == 0
    held_seconds = seconds_to_send("batch-report", proxy.address)
    assert free_seconds < held_seconds
    assert 0.7 < held_seconds * 5 * MIB / SENT_BYTES < 2  # the first request does not wait
    assert limit_tally(proxy, "batch-writes")["throttled"] > 0


def seconds_to_send(client_id: str, bootstrap: str) -> float:
    """Send SENT_BYTES in requests of RECORD_BYTES; return how long it takes until all are acknowledged."""
    requests = {"batch.num.messages": 1, "linger.ms": 0}
    producer: Any = Producer({"bootstrap.servers": bootstrap, "client.id": client_id} | requests)
    began = time.monotonic()
    for _ in range(SENT_BYTES // RECORD_BYTES):
        producer.produce("bulk", bytes(RECORD_BYTES), partition=0)
    assert producer.flush(30) == 0
    producer.close()
    return time.monotonic() - began


def quickstart(*, spelled_out: bool, name: str = "quickstart.yaml") -> Config:
    """Load it, or another, as it stands, or with its comments on defaults made real."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    if spelled_out:
        text, count = re.subn(r"^( *)# ([a-z_]+: )", r"\1\2", text, flags=re.MULTILINE)
        assert count
    return load(text, environ=PASSWORD).config


def test_what_the_quickstart_comments_out_is_the_default() -> None:
    """With its comments on defaults made real, the configuration is the same, but for examples where there is none."""
    short, full = (quickstart(spelled_out=spelled_out) for spelled_out in (False, True))
    assert full.clusters == short.clusters
    logs = [quickstart(spelled_out=out, name="request-log.yaml").request_log for out in (False, True)]
    log, spelled_out = (each.model_dump(exclude={"tls": {"key_password"}}) for each in logs if each is not None)
    assert log == spelled_out
    assert full.metrics == short.metrics
    assert (full.drain_timeout, full.workers) == (short.drain_timeout, short.workers)
    ports: Any = {"broker_ports", "broker_port_start"}
    one, other = (config.listeners["public"].model_dump(exclude=ports) for config in (short, full))
    assert one == other
    assert full.listeners["public"].broker_port_start == short.listeners["public"].bind.port + 1
    users: Any = {"match": {"principals"}}
    before, after = ([limit.model_dump(exclude=users) for limit in config.limits] for config in (short, full))
    assert before == after


def parts(value: object) -> "Iterator[BaseModel]":
    """Yield each part of a configuration that has options."""
    if isinstance(value, BaseModel):
        yield value
    inner = dict(value) if isinstance(value, BaseModel) else value
    for item in inner.values() if isinstance(inner, dict) else inner if isinstance(inner, tuple) else ():
        yield from parts(item)


def test_examples_have_every_option() -> None:
    """Each option that there is is used, or stands in a comment; doors and the request log have files of their own."""
    shown: dict[type[BaseModel], set[str]] = {}
    for name in ("quickstart.yaml", "request-log.yaml"):
        for part in parts(quickstart(spelled_out=True, name=name)):
            shown.setdefault(type(part), set()).update(part.model_fields_set)
    # These two go with none of the others; its comments speak of them.
    text = (EXAMPLES / "request-log.yaml").read_text(encoding="utf-8")
    assert "path: " in text
    assert "cluster: " in text
    shown[RequestLog] |= {"path", "cluster"}
    assert {kind: set(kind.model_fields) for kind in shown} == shown
    text = (EXAMPLES / "doors.yaml").read_text(encoding="utf-8")
    for part in parts(quickstart(name="doors.yaml", spelled_out=False)):
        assert set(type(part).model_fields) <= set(re.findall(r"[a-z_]+(?=:\s)", text)) | shown.get(type(part), set())


def test_the_unit_starts_what_there_is() -> None:
    """The systemd unit names commands that exist, with options they have."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # the module's own way to keep capitals
    unit.read(EXAMPLES / "kproxy.service")
    for key in ("ExecStartPre", "ExecStart"):
        words = unit["Service"][key].split()
        assert words[1] in COMMANDS
        options = set(re.findall(r"--[a-z-]+", CliRunner().invoke(main, [words[1], "--help"]).output))
        assert {word for word in words if word.startswith("--")} <= options
    assert unit["Service"]["Type"] == "notify"


def test_the_socket_unit_fits() -> None:
    """The sockets of the unit are those that a listener of that name binds to for itself and its brokers."""
    text = (EXAMPLES / "kproxy.socket").read_text(encoding="utf-8")
    (name,) = re.findall(r"^FileDescriptorName=(.+)$", text, re.MULTILINE)
    streams = [parse_host_port(where) for where in re.findall(r"^ListenStream=(.+)$", text, re.MULTILINE)]
    (bind,) = re.findall(r"with bind: (\S+),", text)
    listener = load(
        f"{{clusters: {{main: {{bootstrap: [k:9092]}}}}, listeners: {{{name}: {{bind: '{bind}'}}}}}}"
    ).config
    layout = layouts.port_layout(listener.listeners[name])
    host = listener.listeners[name].bind.host
    ports = [layout.bind_port, *map(layout.bind_port_of, (1, 2, 3))]
    assert streams == [HostPort(host, port) for port in ports if port is not None]
