"""Reloads under load: what the clients of a listener notice of a hundred changes that do not concern it, in a row.

Limits and access rules change, another listener opens and drains, a second cluster comes and goes, while kload sends
10,000 requests a second in an open loop on 16 connections. An answer that is missing, or a connection that is closed,
ends the benchmark (see load). Beside it the same load without a change, by turns.
"""

import json
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.build import BenchmarkError
from bench.load import Load, Run, gate
from bench.programs import NODE_ID, NullBroker, Target, kproxy_command, spawn
from bench.report import spread, table
from kproxy.testing.ports import free_port_block

CONNECTIONS = 16
REQUEST_BYTES = 200
APPLY_SECONDS_MAX = 30


class ReloadTarget(Target):
    """kproxy with limits, rules, two workers and an admin API, whose configuration ``change`` replaces."""

    def __init__(self, folder: Path, upstream: str, addressing: str, command: Sequence[str] | None = None) -> None:
        self._upstream, self._addressing = upstream, addressing
        self._bind, self._inside, self._admin = free_port_block(2 + NODE_ID), free_port_block(1), free_port_block(1)
        name = f"kproxy-{addressing}"
        log, path, password = (folder / f"{name}{end}" for end in (".log", ".yaml", ".password"))
        password.write_text("gateway-secret\n", encoding="ascii")
        password.chmod(0o600)
        self._password = password
        path.write_text(self._text(0), encoding="ascii")
        child = spawn(log, [*(command or kproxy_command()), "run", "--config", str(path), "--log-format", "json"])
        super().__init__(name, self._bind + 1 + NODE_ID if addressing == "ports" else self._bind, child, log)

    def _text(self, number: int) -> str:
        cluster = {
            "bootstrap": [self._upstream],
            "sasl": {"username": "gateway", "password": {"file": str(self._password)}},
        }
        rules = [{"principal": "User:*", "operations": ["all"], "topic": f"secret-{number % 5}-*", "effect": "deny"}]
        public = {
            "cluster": "main",
            "bind": f"127.0.0.1:{self._bind}",
            "addressing": self._addressing,
            "access": {"default": "allow", "rules": rules},
        }
        config: dict[str, Any] = {
            "clusters": {"main": cluster},
            "listeners": {"public": public},
            "limits": [{"name": "wide", "leaky_bucket": {"rate": 1e6 + number, "burst": 1e6, "nodelay": True}}],
            "admin": {"bind": f"127.0.0.1:{self._admin}"},
            "workers": 2,
        }
        if number % 2:
            config["limits"].append({"name": "slots", "concurrency": {"max": 1000}})
        if number % 3 == 2:
            config["clusters"]["other"] = cluster
            config["listeners"]["inside"] = {
                "cluster": "other",
                "bind": f"127.0.0.1:{self._inside}",
                "addressing": "single",
            }
        return json.dumps(config)

    def change(self, number: int) -> None:
        """Put another configuration in force, and wait until it is.

        Raises:
            BenchmarkError: it was refused.
        """
        url = f"http://127.0.0.1:{self._admin}/config"
        request = urllib.request.Request(url, self._text(number).encode(), method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=APPLY_SECONDS_MAX):  # noqa: S310  an address of this program's own
                pass
        except OSError as error:
            raise BenchmarkError(f"change {number} was refused: {error}\n{self._log_tail()}") from None


@dataclass(frozen=True)
class Reloaded:
    """One run of the load, and the changes amid it."""

    target: str
    repetition: int
    reloads: int
    reload_seconds: float
    run: Run

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


class _Changes:
    """So many changes in a row, in a thread, as it waits for each."""

    def __init__(self, target: ReloadTarget, numbers: range) -> None:
        self.seconds = 0.0
        self.error: BenchmarkError | None = None
        self._target, self._numbers = target, numbers
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        try:
            for number in self._numbers:
                self._target.change(number)
        except BenchmarkError as error:
            self.error = error
        self.seconds = time.monotonic() - began

    def check(self) -> None:
        """Raise what went wrong; that they are not over yet, too."""
        if self._thread.is_alive():
            raise BenchmarkError("the load ended before the changes: give it more --seconds")
        if self.error is not None:
            raise self.error


@dataclass(frozen=True)
class Plan:
    """What is measured: requests per second, for how long, amid how many changes, how often."""

    rate: float
    seconds: float
    reloads: int
    repetitions: int


def run_reload(folder: Path, plan: Plan, kproxy: Sequence[str] | None = None) -> list[Reloaded]:
    """Measure both addressings, calm and amid changes by turns.

    Raises:
        BenchmarkError: a change was refused, an answer is missing, or a connection was closed.
    """
    load = Load(CONNECTIONS, 64, REQUEST_BYTES, max(1, int(plan.rate * plan.seconds)), rate=plan.rate)
    found = []
    with NullBroker(folder) as broker:
        for addressing in ("ports", "single"):
            with ReloadTarget(folder, f"127.0.0.1:{broker.port}", addressing, kproxy) as target:
                first = 1
                for repetition in range(plan.repetitions):
                    for reloads in (0, plan.reloads):
                        found.append(_measure(target, load, repetition, range(first, first + reloads)))
                        first += reloads
                        print(f"{repetition + 1} {found[-1]}", file=sys.stderr)
    return found


def _measure(target: ReloadTarget, load: Load, repetition: int, numbers: range) -> Reloaded:
    with gate(target, load) as ready:
        changes = _Changes(target, numbers)
        result = ready.go()
        changes.check()
    times = {name: result[name] for name in ("seconds", "rate", "p50_us", "p95_us", "p99_us", "max_us")}
    run = Run(target.name, int(result["requests"]), **times, cpu_us=None)
    return Reloaded(target.name, repetition, len(numbers), changes.seconds, run)


def markdown(found: list[Reloaded], rate: float) -> str:
    """Return the table; that there is one says that nothing was lost."""
    lines = []
    for name, reloads in dict.fromkeys((one.target, one.reloads) for one in found):
        mine = [one for one in found if (one.target, one.reloads) == (name, reloads)]
        lines.append(
            [
                name,
                str(reloads),
                spread([one.reload_seconds for one in mine], 1) if reloads else "-",
                f"{sum(one.run.requests for one in mine):,}",
                spread([one.run.p50_us / 1000 for one in mine], 1),
                spread([one.run.p99_us / 1000 for one in mine], 1),
                spread([one.run.max_us / 1000 for one in mine], 0),
            ]
        )
    header = ["proxy", "reloads", "in s", "requests, all answered", "p50 ms", "p99 ms", "max ms"]
    return table(
        f"Reloads in a row under {rate:,.0f} requests/s, open loop, on {CONNECTIONS} connections", header, lines
    )
