"""Memory per idle connection: some thousand connections opened, and what the proxy has grown by.

Three cases, each on a fresh proxy that has served a few connections before: nothing was sent (a connection as a port
scan leaves it), one ApiVersions was answered, ApiVersions and Metadata were (what a real client does at least).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import Load, gate
from bench.programs import targets
from bench.report import table
from bench.usage import open_files, rss_kib
from kproxy.testing.waiting import wait_until

SETTLE_SECONDS = 30
LIMIT_KIB = 16
"""What kproxy promises for an idle connection."""

GREETINGS = {0: "nothing sent", 1: "ApiVersions", 2: "ApiVersions, Metadata"}


@dataclass(frozen=True)
class Idle:
    """One proxy and greeting; memory in KiB over all its processes, descriptors to show that all were accepted."""

    target: str
    greeting: str
    connections: int
    before_kib: int
    after_kib: int
    files_per_connection: float

    @property
    def kib_per_connection(self) -> float:
        """What one connection costs."""
        return (self.after_kib - self.before_kib) / self.connections

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**self.__dict__, "kib_per_connection": self.kib_per_connection}


def run_idle(folder: Path, names: list[str], connections: int, kproxy: list[str] | None) -> list[Idle]:
    """Measure every proxy with every greeting."""
    found = []
    for name in names:
        for hello, greeting in GREETINGS.items():
            with targets(folder, [name], kproxy) as started:
                for target in started:
                    assert target.pid is not None
                    with gate(target, Load(20, 1, 200, 0, hello=2)):
                        pass
                    before, files_before = _settled(target.pid)
                    with gate(target, Load(connections, 1, 200, 0, hello=hello, warmup=0)):
                        after, files = _settled(target.pid)
                    per_connection = (files - files_before) / connections
                    found.append(Idle(name, greeting, connections, before, after, per_connection))
    return found


def _settled(pid: int) -> tuple[int, int]:
    """Return memory in KiB and descriptors, once neither changes over ten looks in a row."""
    seen: list[tuple[int, int]] = []

    def settled() -> bool:
        seen.append((rss_kib(pid), open_files(pid)))
        return len(seen) >= 10 and len(set(seen[-10:])) == 1

    wait_until(settled, SETTLE_SECONDS, "the proxy's memory to settle")
    return seen[-1]


def misses(found: list[Idle]) -> list[str]:
    """Say where kproxy takes more than it promises."""
    return [
        f"{one.target}, {one.greeting}: {one.kib_per_connection:.1f} KiB per connection, limit {LIMIT_KIB}"
        for one in found
        if one.target.startswith("kproxy") and one.kib_per_connection > LIMIT_KIB
    ]


def markdown(found: list[Idle]) -> str:
    """Return the table."""
    lines = [
        [
            one.target,
            one.greeting,
            f"{one.before_kib:,}",
            f"{one.after_kib:,}",
            f"{one.kib_per_connection:.1f}",
            f"{one.files_per_connection:.2f}",
        ]
        for one in found
    ]
    count = found[0].connections if found else 0
    header = ["proxy", "greeting", "before, KiB", "after, KiB", "KiB per connection", "descriptors per connection"]
    return table(f"Memory of {count:,} idle connections", header, lines)
