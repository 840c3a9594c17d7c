"""What the kernel knows of a process: its children, its memory, its open files (Linux's /proc).

The proxy's traffic is in its worker, the supervisor's child::

    worker = worker_of(proxy.pid)
    before = resident_bytes(worker)
"""

import contextlib
from pathlib import Path

from kproxy.testing.waiting import wait_until


def children(pid: int) -> list[int]:
    """Return the ids of a process's children, none where it is gone."""
    try:
        lists = [path.read_text(encoding="ascii") for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for text in lists for child in text.split()]


def worker_of(supervisor: int, but: int | None = None, timeout_seconds: float = 10) -> int:
    """Wait for the supervisor's worker, ``but`` for one that was there before, and return its id."""

    def others() -> list[int]:
        return [child for child in children(supervisor) if child != but]

    return wait_until(others, timeout_seconds, "a worker")[0]


def workers_of(supervisor: int, many: int, but: int | None = None, timeout_seconds: float = 20) -> list[int]:
    """Wait for so many workers of a supervisor, none of them ``but``, and return their ids."""

    def all_there() -> list[int]:
        there = children(supervisor)
        return there if len(there) == many and but not in there else []

    return wait_until(all_there, timeout_seconds, f"{many} workers")


def connections_to(pid: int, port: int) -> int:
    """Return how many connections to a port of its own a process has open.

    While others come and go, the kernel's table may name one twice, or leave one out.
    """
    found = set()
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if local.endswith(f":{port:04X}") and state == "01":
            found.add(inode)
    return len(found & sockets_of(pid))


def listens(pid: int) -> bool:
    """Tell whether a process has a TCP socket that listens."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return bool({line.split()[9] for line in lines if line.split()[3] == "0A"} & sockets_of(pid))


def sockets_of(pid: int) -> set[str]:
    """Return the inodes of a process's sockets, as far as they stay while it is looked."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.add(link.readlink().name.removeprefix("socket:[").removesuffix("]"))
    return found


def resident_bytes(pid: int) -> int:
    """Return how much memory a process occupies now (VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def open_descriptors(pid: int) -> int:
    """Return how many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
