"""What ``kproxy top`` shows: two samples of the admin API, made into tables of rates.

Never here: a question to the API, or the terminal's keys::

    view(before, after, rows=40)      something that rich can print
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

APIS_SHOWN = 5
LIMITS_SHOWN = 10
BROKERS_SHOWN = 20
ROWS_MIN = 24
ROWS_AROUND_CLIENTS = 12
"""Lines that the rest takes beside one line per listener, limit and broker."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the API told at one moment."""

    at: float
    """By a clock that never goes back."""
    status: Mapping[str, Any]
    clients: list[Mapping[str, Any]] = field(default_factory=list)
    clients_total: int = 0


def view(before: Sample, after: Sample, rows: int) -> RenderableType:
    """Return the tables; ``rows`` is how many lines there are for them."""
    seconds = max(after.at - before.at, 0.001)
    parts: list[RenderableType] = [_head(before, after, seconds), _listeners(before, after, seconds)]
    limits = _limits(before, after, seconds)
    if limits is not None:
        parts.append(limits)
    parts.append(_brokers(after))
    used = ROWS_AROUND_CLIENTS + sum(part.row_count for part in parts if isinstance(part, Table))
    parts.append(_clients(before, after, seconds, max(rows - used, 5)))
    return Group(*parts)


def _head(before: Sample, after: Sample, seconds: float) -> Text:
    status = after.status
    cpu = _cpu(after) - _cpu(before)
    memory = sum(process["resident_bytes"] for process in status["processes"])
    state = Text("ready", "bold green")
    if not status["ready"]:
        state = Text(f"not ready: {'; '.join(status['reasons'])}", "bold red")
    workers = sum(process["name"] != "supervisor" for process in status["processes"])
    up = _age(max(time.time() - status["started_at"], 0))
    text = f"kproxy {status['version']}, up {up}, {workers} worker{'s' * (workers != 1)}"
    return Text.assemble(text, f", CPU {max(cpu, 0) / seconds:.0%}, memory {_size(memory)}, ", state)


def _cpu(sample: Sample) -> float:
    return sum(float(process["cpu_seconds"]) for process in sample.status["processes"])


def _listeners(before: Sample, after: Sample, seconds: float) -> Table:
    table = _table("listener", "connections", "requests/s", "in/s", "out/s", "most asked for, per s")
    earlier = before.status["counters"].get("listeners", {})
    for name, now in after.status["counters"].get("listeners", {}).items():
        then = earlier.get(name, {})
        apis = {api: (count - then.get("requests", {}).get(api, 0)) / seconds for api, count in now["requests"].items()}
        busiest = nlargest(APIS_SHOWN, ((rate, api) for api, rate in apis.items() if rate > 0))
        table.add_row(
            escape(name),
            f"{now.get('connections', 0):,}",
            _rate(sum(apis.values())),
            _size((now["bytes_in"] - then.get("bytes_in", 0)) / seconds),
            _size((now["bytes_out"] - then.get("bytes_out", 0)) / seconds),
            ", ".join(f"{api} {_rate(rate)}" for rate, api in busiest),
        )
    return table


def _limits(before: Sample, after: Sample, seconds: float) -> Table | None:
    limits = after.status["counters"].get("limits", {})
    if not limits:
        return None
    decisions = ("asked", "delayed", "throttled", "rejected", "closed")
    table = _table("limit", *(f"{decision}/s" for decision in decisions), "keys")
    earlier = before.status["counters"].get("limits", {})
    for name, now in list(limits.items())[:LIMITS_SHOWN]:
        then = earlier.get(name, {})
        rates = (_rate((now[decision] - then.get(decision, 0)) / seconds) for decision in decisions)
        table.add_row(escape(name), *rates, f"{now.get('keys', 0):,}")
    return table


def _brokers(after: Sample) -> Table:
    table = _table("cluster", "brokers", "down")
    for name, cluster in list(after.status["clusters"].items())[:BROKERS_SHOWN]:
        down = [node_id for node_id, broker in cluster["brokers"].items() if not broker["up"]]
        up = len(cluster["brokers"]) - len(down)
        listed = Text(", ".join(down[:BROKERS_SHOWN]) or "-", "bold red" if down else "")
        table.add_row(escape(name), f"{up} of {len(cluster['brokers'])} up", listed)
    return table


def _clients(before: Sample, after: Sample, seconds: float, rows: int) -> Table:
    earlier = {client["id"]: client for client in before.clients}

    def rate(client: Mapping[str, Any], of: str) -> float:
        then = earlier.get(client["id"], {})
        return max(float(client[of] - then.get(of, 0)), 0.0) / seconds

    busiest = nlargest(rows, after.clients, key=lambda client: (rate(client, "requests"), client["requests"]))
    table = _table("client", "address", "software", "requests/s", "in/s", "out/s", "in flight", "APIs")
    for client in busiest:
        software = " ".join(filter(None, (client["software"], client["software_version"])))
        table.add_row(
            escape(client["client_id"] or "-"),
            client["address"],
            escape(software or "-"),
            _rate(rate(client, "requests")),
            _size(rate(client, "bytes_in")),
            _size(rate(client, "bytes_out")),
            str(client["in_flight"]),
            ", ".join(f"{api} v{max(map(int, versions))}" for api, versions in client["apis"].items()),
        )
    if after.clients_total > len(busiest):
        seen = "" if after.clients_total == len(after.clients) else f" (of {len(after.clients):,} that were looked at)"
        table.caption = f"{len(busiest)} of {after.clients_total:,} clients, the busiest{seen}"
    return table


def _table(first: str, *headings: str) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), title_justify="left", caption_justify="left", expand=False)
    table.add_column(first, no_wrap=True)
    for heading in headings:
        numbers = heading.endswith(("/s", "connections", "keys", "in flight"))
        table.add_column(heading, justify="right" if numbers else "left", no_wrap=True, overflow="ellipsis")
    return table


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or rate == 0 else f"{rate:.1f}"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def _age(seconds: float) -> str:
    minutes, hours, days = (int(seconds // of) for of in (60, 3600, 86400))
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds) % 60} s"
