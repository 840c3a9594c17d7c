"""Throughput of Kafka's own clients through each proxy, on a real one-node Kafka: records of 1 KiB, four partitions.

``produce`` is ProducerPerformance with acks=1 and default batching, ``consume`` ConsumerPerformance reading the same
topic back; the proxy's CPU is taken around each whole program, so it includes connecting. HAProxy relays to a listener
of its own that advertises HAProxy's address, so that clients stay on it; it and ``direct`` use no SASL, kproxy logs in
upstream, which happens once per connection.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.build import BenchmarkError
from bench.programs import HAProxyTarget, KproxyTarget, Target, haproxy_program
from bench.report import spread, table
from bench.usage import cpu_seconds
from kproxy.testing.java import JavaTools, Tool, kafka_jars
from kproxy.testing.kafka import KafkaCluster, missing_reason
from kproxy.testing.ports import free_port_block

RECORD_BYTES = 1_024
PARTITIONS = 4
TOOL_SECONDS = 300

SENT = re.compile(r"records sent, [\d.]+ records/sec \(([\d.]+) MB/sec\), ([\d.]+) ms avg latency.* (\d+) ms 99th")


@dataclass(frozen=True)
class Client:
    """One program through one proxy; ``cpu_seconds`` is the proxy's, latencies the producer's own, queue included."""

    target: str
    program: str
    repetition: int
    records: int
    mib_per_second: float
    cpu_seconds: float | None
    p99_ms: float | None

    @property
    def cpu_seconds_per_gb(self) -> float | None:
        """Proxy CPU per 1e9 bytes of record payload."""
        return None if self.cpu_seconds is None else self.cpu_seconds / (self.records * RECORD_BYTES / 1e9)

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**self.__dict__, "cpu_seconds_per_gb": self.cpu_seconds_per_gb}


def run_clients(
    folder: Path, names: list[str], records: int, repetitions: int, kproxy: list[str] | None
) -> list[Client]:
    """Run both programs through every proxy in turn, in every repetition.

    Raises:
        BenchmarkError: there is no Java, or a program failed.
    """
    if reason := missing_reason():
        raise BenchmarkError(f"the clients cannot run: {reason}")
    tools = JavaTools(kafka_jars(), heap="512m")
    done = []
    with _kafka_and_targets(folder, names, kproxy) as (cluster, bootstraps):
        for repetition in range(repetitions):
            first = repetition % len(bootstraps)
            for target, bootstrap in [*bootstraps[first:], *bootstraps[:first]]:
                topic = f"{target.name}-{repetition}"
                _topic(tools, cluster, "--create", topic)
                for program, command in (("produce", _produce), ("consume", _consume)):
                    before = cpu_seconds(target.pid) if target.pid else 0
                    rate, p99_ms = command(tools, bootstrap, topic, records)
                    used = cpu_seconds(target.pid) - before if target.pid else None
                    done.append(Client(target.name, program, repetition, records, rate, used, p99_ms))
                    print(
                        f"{repetition + 1} {target.name:14} {program} {rate:.1f} MiB/s, CPU {used} s", file=sys.stderr
                    )
                _topic(tools, cluster, "--delete", topic)
    return done


@contextmanager
def _kafka_and_targets(
    folder: Path, names: list[str], kproxy: list[str] | None
) -> Iterator[tuple[KafkaCluster, list[tuple[Target, str]]]]:
    """Start Kafka, one listener advertising HAProxy's port, and the proxies; yield those and their bootstraps."""
    with KafkaCluster(folder / "kafka", brokers=1, heap="1g") as cluster, ExitStack() as stack:
        broker = cluster.broker(1)
        relayed, haproxy_port = free_port_block(1, broker.host), free_port_block(1)
        own = f"SASL_PLAINTEXT://{broker.sasl_address},PLAINTEXT://{broker.plain_address}"
        broker.stop()
        broker.start(
            properties={
                "listeners": f"{own},CONTROLLER://{broker.host}:{broker.controller_port},"
                f"RELAYED://{broker.host}:{relayed}",
                "advertised.listeners": f"{own},RELAYED://127.0.0.1:{haproxy_port}",
                "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,RELAYED:PLAINTEXT,"
                "SASL_PLAINTEXT:SASL_PLAINTEXT",
            }
        )
        started: list[tuple[Target, str]] = []
        for name in names:
            if name == "direct":
                started.append((Target("direct", broker.plain_port), cluster.plain_bootstrap))
            elif name == "haproxy" and haproxy_program():
                haproxy = stack.enter_context(HAProxyTarget(folder, f"{broker.host}:{relayed}", haproxy_port))
                started.append((haproxy, f"127.0.0.1:{haproxy_port}"))
            elif name != "haproxy":
                mode = name.removeprefix("kproxy-")
                proxy = stack.enter_context(KproxyTarget(folder, cluster.sasl_bootstrap, mode, kproxy))
                started.append((proxy, f"127.0.0.1:{proxy.bootstrap_port}"))
        yield cluster, started


def _topic(tools: JavaTools, cluster: KafkaCluster, action: str, topic: str) -> None:
    shape = ("--partitions", str(PARTITIONS), "--replication-factor", "1") if action == "--create" else ()
    tools.check(Tool.TOPICS, "--bootstrap-server", cluster.plain_bootstrap, action, "--topic", topic, *shape)


def _produce(tools: JavaTools, bootstrap: str, topic: str, records: int) -> tuple[float, float | None]:
    output = tools.check(
        Tool.PRODUCER_PERFORMANCE,
        *("--topic", topic, "--num-records", str(records), "--record-size", str(RECORD_BYTES), "--throughput", "-1"),
        *("--bootstrap-server", bootstrap, "--command-property", "acks=1"),
        timeout_seconds=TOOL_SECONDS,
    )
    found = SENT.findall(output)
    if not found or not output.strip().splitlines()[-1].startswith(f"{records} records sent"):
        raise BenchmarkError(f"ProducerPerformance did not send {records} records: {output[-500:]}")
    return float(found[-1][0]), float(found[-1][2])


def _consume(tools: JavaTools, bootstrap: str, topic: str, records: int) -> tuple[float, float | None]:
    output = tools.check(
        Tool.CONSUMER_PERFORMANCE,
        *("--topic", topic, "--num-records", str(records), "--bootstrap-server", bootstrap, "--hide-header"),
        timeout_seconds=TOOL_SECONDS,
    )
    fields = [field.strip() for field in output.strip().splitlines()[-1].split(",")]
    if len(fields) < 9 or int(fields[4]) < records:
        raise BenchmarkError(f"ConsumerPerformance did not read {records} records: {output[-500:]}")
    return float(fields[8]), None  # fetch.MB.sec: without the time that joining the group took


def markdown(done: list[Client], records: int) -> str:
    """Return one table per program."""
    figures: list[tuple[str, Callable[[Client], float | None], int]] = [
        ("MiB/s", lambda one: one.mib_per_second, 1),
        ("proxy CPU s per GB", lambda one: one.cpu_seconds_per_gb, 2),
        ("p99 ms", lambda one: one.p99_ms, 0),
    ]
    parts = []
    for program in dict.fromkeys(one.program for one in done):
        lines = []
        for name in sorted({one.target for one in done}):
            mine = [one for one in done if one.target == name and one.program == program]
            columns = [[value for one in mine if (value := figure(one)) is not None] for _, figure, _ in figures]
            lines.append([name, *(spread(column, figures[i][2]) for i, column in enumerate(columns))])
        title = f"Kafka's {program} benchmark, {records:,} records of {RECORD_BYTES:,} bytes"
        parts.append(table(title, ["proxy", *(name for name, _, _ in figures)], lines))
    return "\n\n".join(parts)
