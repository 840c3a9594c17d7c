"""What is in examples/ works as it stands: every program runs through the proxy, every configuration passes."""

import configparser
import re
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
from kproxy.config.load import load
from kproxy.config.model import Config
from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.java import JVM_FLAGS, java_program, kafka_jars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kproxy.testing.kafka import KafkaCluster
    from kproxy.testing.proxy import ProxyProcess

EXAMPLES = Path(__file__).parents[2] / "examples"

CONFIGURATIONS = sorted(EXAMPLES.glob("*.yaml"))
PASSWORD = {"KAFKA_PASSWORD": "hunter2"}

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
def test_configurations_pass(path: Path) -> None:
    """``kproxy check`` has nothing against any, not even a doubt."""
    result = CliRunner(env=PASSWORD).invoke(main, ["check", str(path)])
    assert (result.exit_code, result.stderr) == (0, "")


def test_configurations_were_found() -> None:
    """There is one with every option, one for each use of limits, and one with access rules."""
    assert len(CONFIGURATIONS) == 6


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


def quickstart(*, spelled_out: bool) -> Config:
    """Load it as it stands, or with its comments on defaults made real."""
    text = (EXAMPLES / "quickstart.yaml").read_text(encoding="utf-8")
    if spelled_out:
        text, count = re.subn(r"^( *)# ([a-z_]+: )", r"\1\2", text, flags=re.MULTILINE)
        assert count
    return load(text, environ=PASSWORD).config


def test_what_the_quickstart_comments_out_is_the_default() -> None:
    """With its comments on defaults made real, the configuration is the same, but for examples where there is none."""
    short, full = (quickstart(spelled_out=spelled_out) for spelled_out in (False, True))
    assert full.clusters == short.clusters
    assert full.drain_timeout == short.drain_timeout
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


def test_the_quickstart_has_every_option() -> None:
    """Each option that there is is used, or stands in a comment."""
    shown: dict[type[BaseModel], set[str]] = {}
    for part in parts(quickstart(spelled_out=True)):
        shown.setdefault(type(part), set()).update(part.model_fields_set)
    assert {kind: set(kind.model_fields) for kind in shown} == shown


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
