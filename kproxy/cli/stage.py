"""What ``kproxy demo`` shows, in order: the proxy starts, records go through it, what became of them, and it serves on.

Before it does there is a second act, on limits, which is in ``limitsact``.

Only for the demo: it imports what the extra "demo" brings. Ctrl-C sets a flag, which every loop here looks at; so it
can come at any time, and leaves nothing behind.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Self

import click
from confluent_kafka import Consumer, KafkaException, Producer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from kproxy.cli import limitsact
from kproxy.errors import KproxyError
from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.ports import free_port_block
from kproxy.testing.processes import GuardedProcess

TOPIC = "demo"
RECORDS = 10_000
RECORD_BYTES = 1_000
BATCH_RECORDS = 10
"""Small batches, so that there are some thousand requests to divide the CPU time by."""

BROKERS = 3
START_SECONDS = 20
TRAFFIC_SECONDS = 60
STOP_SECONDS = 40
"""Beyond the proxy's own bound for a drain, in which clients of the onlooker's may take part."""
POLL_SECONDS = 0.05


def perform(*, once: bool) -> int:
    """Run the demo; return the exit code. Raises KproxyError, or click.Abort when told to stop before it serves."""
    stop = Stop()
    console = Console(highlight=False)
    console.print("A Kafka cluster of three brokers in this process, and kproxy before it:", style="dim")
    try:
        with EmbeddedCluster(BROKERS) as cluster, ExitStack() as stack:
            proxy = Proxy(cluster.bootstrap, stop)
            stack.push(proxy.end)
            console.print(f"$ {' '.join(proxy.command)}", soft_wrap=True, style="bold")
            proxy.launch()
            proxy.wait_ready()
            limited = Proxy(cluster.bootstrap, stop, limitsact.LIMITS)
            stack.push(limited.end)
            limited.launch()  # ready by the second act, while the first one's consumer joins its group
            before = proxy.tally()
            seen = Traffic(proxy.address, stop).run(console)
            Summary(seen, cluster.brokers, proxy.address, before, proxy.tally()).print(console)
            limitsact.perform(console, proxy, limited, stop)
            if not once:
                _serve(console, proxy, limited, stop)
    except KafkaException as error:
        raise KproxyError(f"a client of the demo failed: {error}") from error
    return 0


def _serve(console: Console, proxy: "Proxy", limited: "Proxy", stop: "Stop") -> None:
    console.print(f"\nServing until Ctrl-C. Any Kafka client can use [bold]{proxy.address}[/], for instance:")
    console.print(f"  kcat -b {proxy.address} -L\n  kafka-topics.sh --bootstrap-server {proxy.address} --list")
    console.print(f"With the limit: [bold]{limited.address}[/]")
    while not stop.asked:
        proxy.check()
        limited.check()
        time.sleep(POLL_SECONDS)
    console.print("\nstopped")


class Stop:
    """Whether Ctrl-C or SIGTERM has come; from here to the end of the process neither does anything else."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's signature
        self.asked = True

    def check(self) -> None:
        """Raise click.Abort if it has come."""
        if self.asked:
            raise click.Abort

    def wait_for(self, condition: Callable[[], object], timeout_seconds: float, what: str) -> None:
        """Wait for a condition. Raises KproxyError when the time is over, click.Abort when told to stop."""
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise KproxyError(f"after {timeout_seconds:g} s still waiting for {what}")
            time.sleep(POLL_SECONDS)


class Proxy:
    """``kproxy run`` as a process of its own, which ends with this one however that ends. ``limits``: as YAML."""

    def __init__(self, bootstrap: str, stop: Stop, limits: str = "") -> None:
        self._stop = stop
        # The port to listen on, and one for each node id from 0 to 3: the cluster's begin at 1.
        self.address = f"127.0.0.1:{free_port_block(BROKERS + 2)}"
        self.command = ["kproxy", "run", "--listen", self.address, "--bootstrap", bootstrap]
        self._folder = tempfile.TemporaryDirectory(prefix="kproxy-demo-")
        self._output, self._log = Path(self._folder.name, "output"), Path(self._folder.name, "log")
        if limits:
            path = Path(self._folder.name, "limits.yaml")
            path.write_text(limits, encoding="utf-8")
            self.command += ["--config", str(path)]
        self._child: GuardedProcess | None = None

    def launch(self) -> None:
        """Start it and return at once; ``wait_ready`` comes next."""
        with self._output.open("wb") as output, self._log.open("wb") as log:
            self._child = GuardedProcess(
                [sys.executable, "-m", "kproxy.cli", *self.command[1:], "--log-format", "json"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )

    def wait_ready(self) -> None:
        """Wait for the line that tells clients where to go."""
        self._stop.wait_for(self._is_ready, START_SECONDS, "kproxy run to serve")

    def end(self, kind: object, error: BaseException | None, trace: object) -> None:  # noqa: ARG002 - of ExitStack
        """End it: with a drain, as an operator does, or at once where the demo itself ends early."""
        if self._child is not None:
            if error is None:
                self._child.stop(STOP_SECONDS)
            else:
                self._child.kill()
        self._folder.cleanup()

    def check(self) -> GuardedProcess:
        """Return the process; raise KproxyError if it has ended by itself."""
        if self._child is None or self._child.process.poll() is not None:
            last = self._log.read_text(encoding="utf-8").splitlines()[-1:]
            raise KproxyError(f"kproxy run has ended: {''.join(last)}")
        return self._child

    def tally(self) -> dict[str, Any]:
        """Ask for its counters, as an operator does: SIGUSR1 writes them to the log."""
        told = len(self._tallies())
        self.check().signal(signal.SIGUSR1)
        self._stop.wait_for(lambda: len(self._tallies()) > told, START_SECONDS, "kproxy run to tell its counters")
        return self._tallies()[-1]

    def _is_ready(self) -> bool:
        self.check()
        return self.address in self._output.read_text(encoding="utf-8")

    def _tallies(self) -> list[dict[str, Any]]:
        self.check()
        whole_lines = self._log.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        return [event for event in map(json.loads, whole_lines) if event["event"] == "tally"]


class Seen(NamedTuple):
    """What the clients saw."""

    brokers: dict[int, str]
    """Node id -> "host:port", as they were told."""
    produced_per_second: float
    read_per_second: float


class Traffic:
    """Two ordinary clients, a producer and a member of a group, which know one address and nothing else."""

    def __init__(self, address: str, stop: Stop) -> None:
        self._stop = stop
        common = {"bootstrap.servers": address, "log_level": 0}  # what goes wrong is told below, in our words
        batches = {"batch.num.messages": BATCH_RECORDS, "linger.ms": 0}
        self._producer: Any = Producer(common | batches | {"enable.idempotence": True})
        self._consumer: Any = Consumer(common | {"group.id": TOPIC, "auto.offset.reset": "earliest"})
        self._delivered = 0
        self._read = 0
        self._keys: set[bytes] = set()
        self._error = "no error was told"

    def run(self, console: Console) -> Seen:
        """Send every record, read each back, and show how far both are."""
        known = self._producer.list_topics(TOPIC, timeout=START_SECONDS).brokers
        brokers = {node: f"{broker.host}:{broker.port}" for node, broker in sorted(known.items())}
        self._consumer.subscribe([TOPIC])  # joins in the background
        text = TextColumn("{task.description:<9}")
        with Progress(text, BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), console=console) as p:
            sent = p.add_task("produced", total=RECORDS, note="")
            back = p.add_task("read back", total=RECORDS, note="joining a group: 3 s")
            sent_rate = self._produce(lambda note: p.update(sent, completed=self._delivered, note=note))
            back_rate = self._consume(lambda note: p.update(back, completed=self._read, note=note))
        self._consumer.close()
        if self._read != RECORDS:
            raise KproxyError(f"{self._read - RECORDS} of {RECORDS} records were read more than once")
        return Seen(brokers, sent_rate, back_rate)

    def _produce(self, show: Callable[[str], object]) -> float:
        began = time.monotonic()
        for number in range(RECORDS):
            self._producer.produce(TOPIC, key=b"%d" % number, value=bytes(RECORD_BYTES), on_delivery=self._on_delivery)
            if number % 100 == 0:
                self._step(began, 0)
                show("")
        while self._delivered < RECORDS:
            self._step(began, POLL_SECONDS)
            show("")
        rate = RECORDS / (time.monotonic() - began)
        show(f"{rate:,.0f}/s")
        return rate

    def _consume(self, show: Callable[[str], object]) -> float:
        asked = time.monotonic()
        began = 0.0
        while len(self._keys) < RECORDS:
            for message in self._consumer.consume(500, POLL_SECONDS):
                if message.error():
                    self._error = str(message.error())
                    continue
                began = began or time.monotonic()
                self._read += 1
                self._keys.add(message.key())
            self._step(asked, 0)
            if began:
                show("")
        rate = RECORDS / (time.monotonic() - began)
        show(f"{rate:,.0f}/s")
        return rate

    def _step(self, began: float, timeout_seconds: float) -> None:
        """Let the producer work; see whether it is time to end."""
        self._producer.poll(timeout_seconds)
        self._stop.check()
        if time.monotonic() - began > TRAFFIC_SECONDS:
            counts = f"{self._delivered} records were acknowledged, {self._read} read, of {RECORDS}"
            raise KproxyError(f"after {TRAFFIC_SECONDS} s {counts}: {self._error}")

    def _on_delivery(self, error: object, message: object) -> None:  # noqa: ARG002 - confluent-kafka's signature
        if error is not None:
            raise KproxyError(f"a record was not delivered: {error}")
        self._delivered += 1


class Cost(NamedTuple):
    """What the proxy's worker has done and spent since it began, by its own counters."""

    cpu_seconds: float
    requests: int

    @classmethod
    def of(cls, tally: dict[str, Any]) -> Self:
        """Read it off a tally as the log has it."""
        requests = sum(sum(listener["requests"].values()) for listener in tally["listeners"].values())
        return cls(tally["cpu_seconds"], requests)


class Summary:
    """The closing tables."""

    def __init__(
        self, seen: Seen, real: dict[int, str], address: str, before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        """Take what was seen and what there is. Raises KproxyError if a client was told a broker's real address."""
        leaked = set(seen.brokers.values()) & set(real.values())
        if leaked:
            raise KproxyError(f"clients were told real addresses: {', '.join(sorted(leaked))}")
        start, end = Cost.of(before), Cost.of(after)
        self._cpu_seconds, self._requests = end.cpu_seconds - start.cpu_seconds, end.requests - start.requests
        self._seen, self._real, self._address = seen, real, address

    def print(self, console: Console) -> None:
        """Print them."""
        seen = self._seen
        addresses = Table("", "what the clients were told", "what there is")
        addresses.add_row("bootstrap", self._address, "any of these")
        for node in self._real:
            addresses.add_row(f"broker {node}", seen.brokers.get(node, "nothing"), self._real[node])
        figures = Table.grid(padding=(0, 2))
        figures.add_row("records", f"{RECORDS:,} of {RECORD_BYTES:,} bytes, each acknowledged and read back once")
        rates = f"{seen.produced_per_second:,.0f}/s produced, {seen.read_per_second:,.0f}/s read"
        figures.add_row("rate", f"{rates} (all on this machine)")
        cpu = f"{self._cpu_seconds / self._requests * 1e6:.0f} µs per request"
        figures.add_row("kproxy CPU", f"{cpu} ({self._cpu_seconds:.2f} s for {self._requests:,} requests)")
        console.print("", addresses, "", figures, sep="\n")
