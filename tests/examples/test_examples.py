"""What is in examples/ works as it stands: every program runs through the proxy, every configuration passes."""

import configparser
import re
import subprocess
import sys
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner

from kproxy.cli.main import COMMANDS, main
from kproxy.config.load import load
from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.java import JVM_FLAGS, java_program, kafka_jars

if TYPE_CHECKING:
    from collections.abc import Callable

    from kproxy.testing.kafka import KafkaCluster
    from kproxy.testing.proxy import ProxyProcess

EXAMPLES = Path(__file__).parents[2] / "examples"

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


def test_the_quickstart_configuration_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """``kproxy check`` has nothing against it, not even a doubt."""
    monkeypatch.setenv("KAFKA_PASSWORD", "hunter2")
    result = CliRunner().invoke(main, ["check", str(EXAMPLES / "quickstart.yaml")])
    assert (result.exit_code, result.stderr) == (0, "")


def test_what_the_quickstart_comments_out_is_the_default() -> None:
    """With its comments on defaults made real, the configuration is the same; only the example of a port is none."""
    text = (EXAMPLES / "quickstart.yaml").read_text(encoding="utf-8")
    spelled_out = re.sub(r"^( *)# ([a-z_]+: )", r"\1\2", text, flags=re.MULTILINE)
    added = {"broker_ports", "broker_port_start"}
    environ = {"KAFKA_PASSWORD": "hunter2"}
    short, full = (load(version, environ=environ).config for version in (text, spelled_out))
    assert yaml.safe_load(spelled_out) != yaml.safe_load(text)
    assert full.clusters == short.clusters
    assert full.drain_timeout == short.drain_timeout
    one, other = (config.listeners["public"].model_dump(exclude=added) for config in (short, full))
    assert one == other
    assert full.listeners["public"].broker_port_start == short.listeners["public"].bind.port + 1


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
