"""What ``kproxy top`` shows: two samples of the admin API, made into tables of rates.

Never here: a question to the API, or the terminal's keys::

    view(before, after, columns=80, rows=24)      something that rich can print
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kproxy.cli.topcolumns import Cell, Column, fitted

APIS_SHOWN = 5
ROWS_MIN = 3
"""Of listeners, limits and clusters each, as of 24 lines."""
CLIENTS_MIN = 5
ROWS_OF_HEADINGS = 9
"""Four tables' headings and the lines above them, and the note below the last."""

_RATES = (Column("requests/s", 1), Column("in/s", 2), Column("out/s", 3))


@dataclass(frozen=True, slots=True)
class Sample:
    """What the API told at one moment."""

    at: float
    """By a clock that never goes back."""
    status: Mapping[str, Any]
    clients: list[Mapping[str, Any]] = field(default_factory=list)
    clients_total: int = 0


class Part(NamedTuple):
    """A table, and what is not in it."""

    gap: Text
    table: Table
    note: Text


def _part(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], width: int, note: str = "") -> Part:
    return Part(Text(), fitted(columns, rows, width), Text(note, "italic", end="\n" if note else ""))


def view(before: Sample, after: Sample, columns: int, rows: int) -> RenderableType:
    """Return the tables; ``columns`` and ``rows`` are the place that there is for them."""
    seconds = max(after.at - before.at, 0.001)
    head = _head(before, after, seconds)
    left = rows - len(head.wrap(Console(width=columns), columns)) - ROWS_OF_HEADINGS
    most = max(left // 4, ROWS_MIN)
    parts = [
        _listeners(before, after, seconds, columns, most),
        *_limits(before, after, seconds, columns, most),
        _brokers(after, columns, most),
    ]
    left -= sum(part.table.row_count + bool(part.note) for part in parts)
    parts.append(_clients(before, after, seconds, columns, max(left, CLIENTS_MIN)))
    return Group(head, *(line for part in parts for line in part))


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


def _listeners(before: Sample, after: Sample, seconds: float, width: int, most: int) -> Part:
    columns = (
        Column("listener", 0, least=12),
        Column("connections", 4),
        *_RATES,
        Column("most asked for, per s", 5, least=21, extra=True),
    )
    earlier = before.status["counters"].get("listeners", {})
    rows = []
    for name, now in after.status["counters"].get("listeners", {}).items():
        then = earlier.get(name, {})
        apis = {api: (count - then.get("requests", {}).get(api, 0)) / seconds for api, count in now["requests"].items()}
        busiest = nlargest(APIS_SHOWN, ((rate, api) for api, rate in apis.items() if rate > 0))
        cells = (
            name,
            f"{now.get('connections', 0):,}",
            _rate(sum(apis.values())),
            _size((now["bytes_in"] - then.get("bytes_in", 0)) / seconds),
            _size((now["bytes_out"] - then.get("bytes_out", 0)) / seconds),
            [f"{api} {_rate(rate)}" for rate, api in busiest],
        )
        rows.append((sum(apis.values()), cells))
    return _first(columns, rows, width, most, "listeners, the busiest")


def _limits(before: Sample, after: Sample, seconds: float, width: int, most: int) -> Iterator[Part]:
    """Yield it, if there are limits."""
    decisions = {"asked": 1, "delayed": 3, "throttled": 2, "rejected": 4, "closed": 5}
    columns = (
        Column("limit", 0, least=12),
        *(Column(f"{decision}/s", rank) for decision, rank in decisions.items()),
        Column("keys", 6),
    )
    earlier = before.status["counters"].get("limits", {})
    rows = []
    for name, now in after.status["counters"].get("limits", {}).items():
        then = earlier.get(name, {})
        rates = [(now[decision] - then.get(decision, 0)) / seconds for decision in decisions]
        cells = (name, *map(_rate, rates), f"{now.get('keys', 0):,}")
        rows.append(((sum(rates[1:]), rates[0]), cells))
    if rows:
        yield _first(columns, rows, width, most, "limits, those that hold most up")


def _brokers(after: Sample, width: int, most: int) -> Part:
    columns = (Column("cluster", 1, least=12), Column("brokers", 0), Column("down", 2, least=12, style="bold red"))
    rows = []
    for name, cluster in after.status["clusters"].items():
        down = [node_id for node_id, broker in cluster["brokers"].items() if not broker["up"]]
        count = len(cluster["brokers"])
        rows.append((len(down), (name, f"{count - len(down)} of {count} up", down)))
    return _first(columns, rows, width, most, "clusters, those with most brokers down")


def _clients(before: Sample, after: Sample, seconds: float, width: int, most: int) -> Part:
    columns = (
        Column("client", 0, least=16),
        Column("principal", 6, least=14, extra=True),
        Column("address", 5, least=21),
        *_RATES,
        Column("in flight", 4),
        Column("software", 7, least=14, extra=True),
        Column("APIs", 8, least=14, extra=True),
    )
    earlier = {client["id"]: client for client in before.clients}

    def rate(client: Mapping[str, Any], of: str) -> float:
        then = earlier.get(client["id"], {})
        return max(float(client[of] - then.get(of, 0)), 0.0) / seconds

    busiest = nlargest(most, after.clients, key=lambda client: (rate(client, "requests"), client["requests"]))
    rows = [
        (
            client["client_id"] or "",
            client["principal"],
            client["address"],
            _rate(rate(client, "requests")),
            _size(rate(client, "bytes_in")),
            _size(rate(client, "bytes_out")),
            str(client["in_flight"]),
            " ".join(filter(None, (client["software"], client["software_version"]))),
            [f"{api} v{max(map(int, versions))}" for api, versions in client["apis"].items()],
        )
        for client in busiest
    ]
    note = ""
    if after.clients_total > len(busiest):
        seen = "" if after.clients_total == len(after.clients) else f" (of {len(after.clients):,} that were looked at)"
        note = f"{len(busiest)} of {after.clients_total:,} clients, the busiest{seen}"
    return _part(columns, rows, width, note)


def _first(
    columns: Sequence[Column], rows: Sequence[tuple[Any, Sequence[Cell]]], width: int, most: int, what: str
) -> Part:
    """Take the rows with the highest weights, where there are more than fit, and say so."""
    if len(rows) <= most:
        return _part(columns, (cells for _, cells in rows), width)
    kept = nlargest(most - 1, rows, key=lambda row: row[0])
    return _part(columns, (cells for _, cells in kept), width, f"{len(kept)} of {len(rows):,} {what}")


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
