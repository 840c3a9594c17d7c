"""CPU time and memory of a process and all its descendants, from /proc.

CPU time comes from the scheduler's own account in nanoseconds (``schedstat``), where the kernel keeps one, else from
utime and stime in ticks of 10 ms. A thread or child that ended takes its time with it: programs measured here keep
theirs. Example: a proxy that worked 2.4 s for 100,000 requests::

    before = cpu_seconds(pid)
    ...
    (cpu_seconds(pid) - before) / 100_000 * 1e6     # 24 us a request
"""

import os
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


def _stat_fields(path: Path) -> list[str]:
    """Return the fields of a ``stat`` file from the third (state) on; the second, the name, may hold anything."""
    return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def tree(pid: int) -> list[int]:
    """Return the process and its descendants that live now."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int(_stat_fields(entry / "stat")[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we were looking
        children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:  # grows while it is walked: children's children follow
        found += children.get(member, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that the tree has used until now, user and system."""
    return sum(_task_seconds(task) for member in tree(pid) for task in (PROC / str(member) / "task").iterdir())


def _task_seconds(task: Path) -> float:
    schedstat = task / "schedstat"
    if schedstat.exists():
        return int(schedstat.read_text(encoding="ascii").split()[0]) / 1e9
    fields = _stat_fields(task / "stat")
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def rss_kib(pid: int) -> int:
    """Return the resident memory of the tree, pages shared within it counted once for each member."""
    total = 0
    for member in tree(pid):
        for line in (PROC / str(member) / "status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total


def open_files(pid: int) -> int:
    """Return how many file descriptors the tree holds."""
    return sum(len(list((PROC / str(member) / "fd").iterdir())) for member in tree(pid))
