"""The six shapes of load, every proxy in turn within each repetition, and the CPU ratio to HAProxy.

A shape is connections x requests in flight, and bytes per request. Proxies alternate within a repetition (and each
repetition begins with another one), so that what else the machine does falls on all; the ratio is taken within each
repetition, and its median reported. Example row: ``1x16 200`` HAProxy 2.9 us, kproxy-ports 3.2 us, ratio 1.10.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.load import Load, Run, measure
from bench.programs import LIMITED, TLS, WATCHED, Target, plain_name
from bench.report import spread, table

REFERENCE = "haproxy"


@dataclass(frozen=True)
class Shape:
    """One shape of load; ``count`` takes HAProxy about a second or two on a slow machine.

    ``limits`` are what kproxy promises in each addressing mode: CPU per request, as a multiple of HAProxy's.
    ``limited`` is the same for a kproxy with three limits, or one that is watched, as a multiple of one without.
    """

    connections: int
    depth: int
    request_bytes: int
    count: int
    limits: dict[str, float]
    limited: float

    @property
    def name(self) -> str:
        """As tables and ``--shapes`` say it."""
        return f"{self.connections}x{self.depth} {self.request_bytes}"


SHAPES = [
    Shape(1, 1, 200, 20_000, {"kproxy-ports": 1.2, "kproxy-single": 1.2}, 1.1),
    Shape(1, 16, 200, 200_000, {"kproxy-ports": 1.4, "kproxy-single": 2.0}, 1.3),
    Shape(16, 1, 200, 80_000, {"kproxy-ports": 1.2, "kproxy-single": 1.2}, 1.1),
    Shape(32, 8, 1_000, 500_000, {"kproxy-ports": 1.4, "kproxy-single": 2.0}, 1.3),
    Shape(4, 4, 16_384, 60_000, {"kproxy-ports": 0.7, "kproxy-single": 2.0}, 1.1),
    Shape(4, 4, 262_144, 8_000, {"kproxy-ports": 0.7, "kproxy-single": 2.0}, 1.1),
]


@dataclass(frozen=True)
class Row:
    """One run of one proxy under one shape and kind of request."""

    kind: str
    shape: Shape
    repetition: int
    run: Run

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"kind": self.kind, "shape": self.shape.name, "repetition": self.repetition, **asdict(self.run)}


def run_shapes(
    targets: Sequence[Target], shapes: Sequence[Shape], kinds: Sequence[str], repetitions: int, scale: float
) -> list[Row]:
    """Run everything; a line per run goes to standard error, as the whole takes minutes."""
    rows = []
    for kind in kinds:
        for shape in shapes:
            load = Load(shape.connections, shape.depth, shape.request_bytes, max(1, int(shape.count * scale)), kind)
            for repetition in range(repetitions):
                first = repetition % len(targets)
                for target in [*targets[first:], *targets[:first]]:
                    run = measure(target, load)
                    rows.append(Row(kind, shape, repetition, run))
                    cpu = "-" if run.cpu_us is None else f"{run.cpu_us:.2f} us"
                    print(
                        f"{kind:9} {shape.name:12} {repetition + 1} {target.name:14} cpu {cpu:>10} "
                        f"rate {run.rate:>9,.0f} p50 {run.p50_us:>8,.0f} p99 {run.p99_us:>8,.0f}",
                        file=sys.stderr,
                    )
    return rows


def reference_of(name: str) -> str:
    """Return what a target is compared with: HAProxy, with TLS one with TLS, or of a variant the same without it."""
    plain = plain_name(name)
    if name.endswith(TLS):
        return REFERENCE + TLS
    return REFERENCE if plain == name else plain


def promise(shape: Shape, name: str) -> float | None:
    """Return what is promised of a target, as a multiple of its reference."""
    if plain_name(name) == name:
        return shape.limits.get(name)
    return shape.limited if name.endswith((LIMITED, WATCHED)) else None


def ratios(rows: Sequence[Row], name: str, kind: str, shape: Shape) -> list[float]:
    """Return the CPU of ``name`` relative to its reference's, one per repetition; none where that is missing."""
    against = reference_of(name)
    cpu = {
        (row.run.target, row.repetition): row.run.cpu_us
        for row in rows
        if row.kind == kind and row.shape == shape and row.run.cpu_us
    }
    return [
        used / reference
        for (target, repetition), used in sorted(cpu.items())
        if target == name and (reference := cpu.get((against, repetition)))
    ]


def misses(rows: Sequence[Row]) -> Iterator[str]:
    """Say which promised limits the medians do not keep."""
    for kind in dict.fromkeys(row.kind for row in rows):
        for shape in dict.fromkeys(row.shape.name for row in rows):
            whole = next(row.shape for row in rows if row.shape.name == shape)
            for name in _names(rows):
                found, limit = ratios(rows, name, kind, whole), promise(whole, name)
                if found and limit is not None and median(found) > limit:
                    against = reference_of(name)
                    yield f"{kind} {shape}: {name} takes {median(found):.2f} times {against}'s CPU, limit {limit:g}"


def markdown(rows: Sequence[Row]) -> str:
    """Return all tables, one set per kind of request."""
    parts = []
    for kind in dict.fromkeys(row.kind for row in rows):
        mine = [row for row in rows if row.kind == kind]
        names = _names(mine)
        plain, limited = ([name for name in names if (plain_name(name) != name) is which] for which in (False, True))
        parts.append(_ratio_table(mine, kind, "HAProxy", [name for name in plain if name != REFERENCE]))
        parts.append(_ratio_table(mine, kind, "the same without", limited))
        for title, figure, digits in _FIGURES:
            parts.append(_figure_table(mine, f"{kind}: {title}", figure, digits))
    return "\n\n".join(part for part in parts if part)


_FIGURES: list[tuple[str, Callable[[Run], float | None], int]] = [
    ("proxy CPU, microseconds per request", lambda run: run.cpu_us, 1),
    ("requests per second", lambda run: run.rate, 0),
    ("p50, microseconds", lambda run: run.p50_us, 0),
    ("p99, microseconds", lambda run: run.p99_us, 0),
]


def _columns(rows: Sequence[Row]) -> list[Shape]:
    return list({row.shape.name: row.shape for row in rows}.values())


def _names(rows: Sequence[Row]) -> list[str]:
    return sorted({row.run.target for row in rows})


def _figure_table(rows: Sequence[Row], title: str, figure: Callable[[Run], float | None], digits: int) -> str:
    shapes = _columns(rows)
    lines = []
    for name in _names(rows):
        cells = [
            [
                value
                for row in rows
                if row.shape == shape and row.run.target == name
                if (value := figure(row.run)) is not None
            ]
            for shape in shapes
        ]
        if any(cells):
            lines.append([name, *(spread(values, digits) for values in cells)])
    return table(title, ["proxy", *(shape.name for shape in shapes)], lines)


def _ratio_table(rows: Sequence[Row], kind: str, reference: str, names: Sequence[str]) -> str:
    shapes = _columns(rows)
    lines = []
    for name in names:
        cells = [ratios(rows, name, kind, shape) for shape in shapes]
        if any(cells):
            limits = [promise(shape, name) for shape in shapes]
            lines.append([name, *(spread(values, 2) for values in cells)])
            lines.append([f"{name}, limit", *("-" if limit is None else f"{limit:g}" for limit in limits)])
    if not lines:
        return ""
    return table(f"{kind}: proxy CPU relative to {reference}", ["proxy", *(shape.name for shape in shapes)], lines)
