"""Kafka's own VerifiableProducer and VerifiableConsumer, which go on while a test disturbs something.

::

    with Verifiable(tools, proxy.address, topic, tmp_path) as java:
        java.wait_read(300)
        cluster.broker(2).stop()
        java.wait_read(300)
        java.finish()
    java.check(cluster.plain_bootstrap)
"""

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from clients.records import new_name
from kproxy.testing.java import JavaTools, Tool
from kproxy.testing.processes import GuardedProcess
from kproxy.testing.waiting import wait_until

START_SECONDS = 90


class Verifiable:
    """One of each, from ``with`` to its end.

    Args:
        tools: Kafka's programs.
        address: Where they bootstrap from.
        topic: A topic that nobody else writes to.
        folder: Where what they print is kept.
        per_second: How many records to send in a second.
        protocol: Of the group: classic, or consumer (KIP-848).
        settings: More of both clients' configuration.
    """

    def __init__(
        self,
        tools: JavaTools,
        address: str,
        topic: str,
        folder: Path,
        *,
        per_second: int = 100,
        protocol: str = "classic",
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._tools = tools
        self._topic = topic
        self._target = ("--bootstrap-server", address, "--topic", topic)
        self._rate = ("--throughput", str(per_second), "--repeating-keys", "100")
        self._group = ("--group-id", new_name("group"), "--group-protocol", protocol, "--verbose")
        lines = "".join(f"{name}={value}\n" for name, value in settings.items())
        self._reading, self._writing = folder / "consumer.properties", folder / "producer.properties"
        self._reading.write_text(lines, encoding="utf-8")
        self._writing.write_text(f"retries=2147483647\n{lines}", encoding="utf-8")  # it would try once
        self._wrote, self._read = folder / "wrote", folder / "read"
        self._programs: list[GuardedProcess] = []

    def __enter__(self) -> Self:
        """Begin to read, and then to write."""
        try:
            self._start(Tool.VERIFIABLE_CONSUMER, *self._group, *_settings(self._reading), output=self._read)
            wait_until(lambda: any(events(self._read, "partitions_assigned")), START_SECONDS, "partitions")
            self._start(Tool.VERIFIABLE_PRODUCER, *self._rate, *_settings(self._writing), output=self._wrote)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self, tool: Tool, *arguments: str, output: Path) -> None:
        with output.open("wb") as file:
            self._programs.append(self._tools.popen(tool, *self._target, *arguments, stdout=file))

    def wait_read(self, more: int, timeout_seconds: float = 60) -> None:
        """Wait until so many more records than now have been read."""
        wanted = len(self.read) + more
        wait_until(lambda: len(self.read) >= wanted, timeout_seconds, lambda: f"{wanted - len(self.read)} more records")

    def finish(self, timeout_seconds: float = 60) -> None:
        """Write no more, and wait until all that was acknowledged has been read."""
        self._programs[1].stop(timeout_seconds)
        wait_until(lambda: len(self.read) >= len(self.acked), timeout_seconds, "what was written to be read")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End both; the consumer would close for as long as 30 s."""
        for program in self._programs:
            program.kill()

    # What came of it.

    @property
    def acked(self) -> list[dict[str, Any]]:
        """What was acknowledged: timestamp in ms, partition, offset and more."""
        return list(events(self._wrote, "producer_send_success"))

    @property
    def read(self) -> set[tuple[int, int]]:
        """What was read, by partition and offset."""
        return {(event["partition"], event["offset"]) for event in events(self._read, "record_data")}

    def check(self, address: str) -> None:
        """Fail unless each record that was sent is stored once, and was read; ``address``: the brokers' own."""
        assert list(events(self._wrote, "producer_send_error")) == []
        told = self._tools.check(Tool.GET_OFFSETS, "--bootstrap-server", address, "--topic", self._topic)
        stored = sum(int(line.rsplit(":", 1)[1]) for line in told.split())
        assert stored == len(self.acked) == len(self.read)

    def silences(self, since: float) -> tuple[float, float]:
        """Return the longest time in seconds without an acknowledgement, and without a read, ended after ``since``."""
        return (
            _silence(events(self._wrote, "producer_send_success"), since),
            _silence(events(self._read, "records_consumed"), since),
        )


def _settings(path: Path) -> tuple[str, str]:
    return "--command-config", str(path)


def events(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """Return what a program has told under a name, but for what is half written."""
    for line in path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines():
        if f'"name":"{name}"' in line:
            yield json.loads(line)


def _silence(events: Iterator[dict[str, Any]], since: float) -> float:
    times = [event["timestamp"] / 1000 for event in events]
    return max(float(after - before) for before, after in pairwise(times) if after > since)
