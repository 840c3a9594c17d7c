"""Runs the benchmarks: ``python benchmarks/run.py --help``.

Without a subcommand the six shapes, for Fetch and Produce, through HAProxy and kproxy in both addressing modes::

    python benchmarks/run.py --repetitions 5 --markdown > tables.md
    python benchmarks/run.py --only direct,haproxy --shapes "1x16 200" --kinds fetch
    python benchmarks/run.py limits | watched | guarded | tls | idle | latency | reload | clients

Exit code 1 when a run failed, or with ``--check`` when a promised limit is not kept.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import clients, idle, latency, pin, reload, shapes
from bench.build import BenchmarkError
from bench.programs import GUARDED_NAMES, LIMITED_NAMES, NAMES, TLS_NAMES, WATCHED_NAMES, targets
from bench.report import machine

from kproxy.errors import KproxyError

KNOWN = tuple(dict.fromkeys((*NAMES, *LIMITED_NAMES, *WATCHED_NAMES, *GUARDED_NAMES, *TLS_NAMES)))


CHOICES = ["shapes", "limits", "watched", "guarded", "tls", "idle", "latency", "reload", "clients"]


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    whole = argparse.ArgumentParser(description="What kproxy costs, beside HAProxy in TCP mode and no proxy at all.")
    whole.add_argument("what", nargs="?", choices=CHOICES, default="shapes")
    whole.add_argument("--only", help="comma-separated, of: " + ", ".join(KNOWN))
    whole.add_argument("--shapes", default="", help='comma-separated, e.g. "1x1 200,4x4 262144"; default all six')
    whole.add_argument("--kinds", default="fetch,produce", help="of: fetch, produce, produce8, heartbeat")
    whole.add_argument("--repetitions", type=int, default=3)
    whole.add_argument("--scale", type=float, default=1, help="multiplies the number of requests of each run")
    whole.add_argument("--connections", type=int, default=2_000, help="idle: how many")
    whole.add_argument("--rate", type=float, help="latency, reload: requests per second, default 500, 10,000")
    whole.add_argument("--seconds", type=float, help="latency, reload: length of a run, default 5, 20")
    whole.add_argument("--reloads", type=int, default=100, help="reload: how many in a row")
    whole.add_argument("--records", type=int, default=500_000, help="clients: records of 1 KiB")
    whole.add_argument("--pin", action="store_true", help="proxies on the last CPU, all else on the others")
    whole.add_argument("--kproxy", help="the command that starts kproxy, default: the one beside this Python")
    whole.add_argument("--json", type=Path, help="write every single run here")
    whole.add_argument("--markdown", action="store_true", help="only the tables, with a line about the machine")
    whole.add_argument("--check", action="store_true", help="shapes, idle: exit 1 when kproxy misses a promised limit")
    return whole


def run(options: argparse.Namespace, folder: Path) -> tuple[str, list[dict[str, Any]], list[str]]:
    """Run what was asked for; return the tables, every single run, and the limits missed."""
    of_kind = {"limits": LIMITED_NAMES, "watched": WATCHED_NAMES, "guarded": GUARDED_NAMES, "tls": TLS_NAMES}
    usual = of_kind.get(options.what, NAMES)
    names = list(usual) if options.only is None else [name for name in options.only.split(",") if name]
    if unknown := set(names) - set(KNOWN):
        raise BenchmarkError(f"--only does not know {', '.join(sorted(unknown))}; it knows {', '.join(KNOWN)}")
    if options.pin:
        pin.enable()
    kproxy = options.kproxy.split() if options.kproxy else None
    if options.what == "idle":
        found = idle.run_idle(folder, [name for name in names if name != "direct"], options.connections, kproxy)
        return idle.markdown(found), [one.plain() for one in found], idle.misses(found)
    if options.what == "clients":
        done = clients.run_clients(folder, names, options.records, options.repetitions, kproxy)
        return clients.markdown(done, options.records), [one.plain() for one in done], []
    if options.what == "reload":
        plan = reload.Plan(options.rate or 10_000, options.seconds or 20, options.reloads, options.repetitions)
        under = reload.run_reload(folder, plan, kproxy)
        return reload.markdown(under, plan.rate), [one.plain() for one in under], []
    with targets(folder, names, kproxy) as started:
        if options.what == "latency":
            rate = options.rate or 500
            samples = latency.run_latency(started, rate, options.seconds or 5, options.repetitions)
            return latency.markdown(samples, rate), [one.plain() for one in samples], []
        wanted = choose_shapes(options.shapes)
        rows = shapes.run_shapes(started, wanted, options.kinds.split(","), options.repetitions, options.scale)
    return shapes.markdown(rows), [row.plain() for row in rows], list(shapes.misses(rows))


def choose_shapes(text: str) -> list[shapes.Shape]:
    """Return the shapes named, all when none is."""
    known = {shape.name: shape for shape in shapes.SHAPES}
    wanted = [name.strip() for name in text.split(",") if name.strip()] or list(known)
    if unknown := set(wanted) - set(known):
        raise BenchmarkError(f"--shapes does not know {', '.join(sorted(unknown))}; it knows {', '.join(known)}")
    return [known[name] for name in wanted]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and return the exit code."""
    options = parser().parse_args(arguments)
    before = machine()
    try:
        with tempfile.TemporaryDirectory(prefix="kproxy-bench-") as folder:
            tables, runs, missed = run(options, Path(folder))
    except (BenchmarkError, KproxyError, TimeoutError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    if options.json:
        text = json.dumps({"machine": before, "runs": runs}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    print(before if options.markdown else f"\n{before}", tables, sep="\n\n")
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
