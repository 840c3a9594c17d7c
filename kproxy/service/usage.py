"""What the kernel knows of a process: memory, processor time, descriptors (Linux's /proc; elsewhere nothing)."""

import os
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """What a process uses."""

    resident_bytes: int
    cpu_seconds: float
    descriptors: int


def usage(pid: int) -> Usage | None:
    """Return what a process uses now; None where it is gone, or nobody knows."""
    proc = Path(f"/proc/{pid}")
    try:
        # The name in parentheses may hold spaces; fields from the third on follow it (proc(5)).
        fields = (proc / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        descriptors = len(os.listdir(proc / "fd"))  # noqa: PTH208  names alone; objects for 20,000 cost more
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return Usage(int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), (int(fields[11]) + int(fields[12])) / ticks, descriptors)
