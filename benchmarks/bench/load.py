"""One measured run: kload against a target, and the CPU that the target used exactly meanwhile.

kload connects, greets and warms up, then says ``ready`` and waits at its gate; the CPU account is read there and again
before the connections close, so that set-up and tear-down are not counted::

    run = measure(target, Load(connections=1, depth=16, request_bytes=200, count=100_000, kind="fetch"))
    run.cpu_us      # of the target, per request; None for direct
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from bench.build import BenchmarkError, build
from bench.pin import pinned
from bench.programs import Target
from bench.usage import cpu_seconds


@dataclass(frozen=True)
class Load:
    """What kload is asked to send; ``rate`` 0 is a closed loop, else requests per second over all connections."""

    connections: int
    depth: int
    request_bytes: int
    count: int
    kind: str = "fetch"
    rate: float = 0
    hello: int = 2
    warmup: int = 3

    def arguments(self) -> list[str]:
        """Return kload's options."""
        pairs = {
            "connections": self.connections,
            "depth": self.depth,
            "bytes": self.request_bytes,
            "count": self.count,
            "kind": self.kind,
            "rate": self.rate,
            "hello": self.hello,
            "warmup": self.warmup,
        }
        return [f"--{name}={value}" for name, value in pairs.items()]


@dataclass(frozen=True)
class Run:
    """What came out; times in microseconds, ``cpu_us`` per request, None where there is no proxy."""

    target: str
    requests: int
    seconds: float
    rate: float
    p50_us: float
    p95_us: float
    p99_us: float
    max_us: float
    cpu_us: float | None


@dataclass
class Gate:
    """A kload that stands ready, its connections open; ``go`` lets it send and returns its result."""

    to_kload: IO[str]
    from_kload: IO[str]
    process: subprocess.Popen[str]

    def go(self) -> dict[str, float]:
        """Send the load.

        Raises:
            BenchmarkError: kload failed, or a request had no right answer: the figures would mean nothing.
        """
        self.to_kload.write("\n")
        self.to_kload.flush()
        result: dict[str, float] = json.loads(self.from_kload.readline() or "{}")
        if not result or result["errors"] or result["unanswered"]:
            raise BenchmarkError(f"kload: {result or 'ended without a result'}")
        return result


@contextmanager
def gate(target: Target, load: Load) -> Iterator[Gate]:
    """Connect, greet and warm up; the connections close with the ``with`` block.

    Raises:
        BenchmarkError: a connection could not be made or a greeting was not answered.
    """
    command = [str(build("kload")), "127.0.0.1", str(target.port), *load.arguments(), "--gate"]
    with pinned("peer"):
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    with process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        try:
            if process.stdout.readline() != "ready\n":
                raise BenchmarkError(f"{target.name}: {process.stderr.read().strip()}")
            yield Gate(process.stdin, process.stdout, process)
        finally:
            process.stdin.close()  # the end of its input is kload's sign to close and leave


def measure(target: Target, load: Load) -> Run:
    """Send the load and read the clock and the CPU account around it."""
    with gate(target, load) as ready:
        before = cpu_seconds(target.pid) if target.pid else 0
        result = ready.go()
        used = cpu_seconds(target.pid) - before if target.pid else None
    requests = int(result["requests"])
    times = {name: result[name] for name in ("seconds", "rate", "p50_us", "p95_us", "p99_us", "max_us")}
    return Run(target.name, requests, **times, cpu_us=None if used is None else used / requests * 1e6)
