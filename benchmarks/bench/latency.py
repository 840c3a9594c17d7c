"""Added latency at a modest, steady rate: 500 requests a second in an open loop, beside the direct connection.

Latency counts from the moment a request was due, so a stall of the proxy shows in every request that it delayed. What
a proxy adds is the difference to ``direct`` within the same repetition.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.load import Load, Run, measure
from bench.programs import Target
from bench.report import spread, table


@dataclass(frozen=True)
class Sample:
    """One run."""

    repetition: int
    run: Run

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"repetition": self.repetition, **asdict(self.run)}


def run_latency(targets: Sequence[Target], rate: float, seconds: float, repetitions: int) -> list[Sample]:
    """Measure every target in turn, in every repetition: Produce of 1,000 bytes over four connections."""
    load = Load(4, 64, 1_000, max(1, int(rate * seconds)), kind="produce", rate=rate)
    samples = []
    for repetition in range(repetitions):
        first = repetition % len(targets)
        for target in [*targets[first:], *targets[:first]]:
            run = measure(target, load)
            samples.append(Sample(repetition, run))
            print(f"{repetition + 1} {target.name:14} p50 {run.p50_us:.0f} p99 {run.p99_us:.0f} us", file=sys.stderr)
    return samples


def markdown(samples: Sequence[Sample], rate: float) -> str:
    """Return the table: latencies, and what each proxy adds to the direct one."""
    direct = {sample.repetition: sample.run for sample in samples if sample.run.target == "direct"}
    lines = []
    for name in sorted({sample.run.target for sample in samples}):
        mine = [sample for sample in samples if sample.run.target == name]
        pairs = [(one.run, direct[one.repetition]) for one in mine if one.repetition in direct]
        lines.append(
            [
                name,
                spread([one.run.p50_us for one in mine], 0),
                spread([one.run.p99_us for one in mine], 0),
                "-" if name == "direct" else spread([run.p50_us - base.p50_us for run, base in pairs], 0),
                "-" if name == "direct" else spread([run.p99_us - base.p99_us for run, base in pairs], 0),
            ]
        )
    header = ["proxy", "p50 us", "p99 us", "added p50 us", "added p99 us"]
    return table(f"Latency at {rate:,.0f} requests/s, open loop, Produce of 1,000 bytes", header, lines)
