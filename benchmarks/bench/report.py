"""Markdown tables, and the line that says on what machine they were measured.

A cell is a median with the range over the repetitions: ``3.2 (3.0-3.9)``.
"""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from bench.programs import haproxy_version


def spread(values: Sequence[float], digits: int) -> str:
    """Return median and range, or a dash when nothing was measured."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:,.{digits}f}"
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a titled table, or one line that says that there is nothing to show."""
    if not lines:
        return f"### {title}\n\nNot measured."
    rows = [header, ["---"] * len(header), *lines]
    return f"### {title}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


def machine() -> str:
    """Describe the machine and the versions that the figures depend on, in one paragraph."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [
        f"{os.cpu_count()} cores of {cpu}",
        f"{memory_gib:.0f} GiB",
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
        *(f"{name} {_version(name)}" for name in ("uvloop", "kproxy")),
        f"revision {_revision()}",
        f"HAProxy {haproxy_version() or 'not installed'}",
        f"load average {os.getloadavg()[0]:.1f}",
    ]
    return "Machine: " + ", ".join(parts) + "."


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _revision() -> str:
    folder = Path(__file__).parent
    done = subprocess.run(
        ["git", "-C", str(folder), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
