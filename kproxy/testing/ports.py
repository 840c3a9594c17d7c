"""Blocks of free ports side by side, which ``addressing: ports`` needs and port 0 cannot give.

The blocks lie below the ephemeral range, so that no outgoing connection can take a port between the moment it was
found free and the moment it is bound. Test runs side by side keep out of each other's way by record locks on one
shared file, where byte N stands for port N; the kernel drops them when the process ends, however it ends::

    base = free_port_block(5)      # base ... base + 4 can be bound on 127.0.0.1 now
"""

import fcntl
import os
import random
import socket
import tempfile
from collections import deque
from pathlib import Path

from kproxy.errors import KproxyError

PORT_MIN, PORT_MAX = 12_000, 31_999
"""Above what is well known, below the usual ephemeral range (Linux: 32768, net.ipv4.ip_local_port_range)."""

BLOCKS_HELD = 256
"""Older blocks of this process are given back: a long run must not starve one beside it."""


class _Reservations:
    """The record locks of this process on the shared file, oldest given back first."""

    def __init__(self, path: Path) -> None:
        # Never closed: closing any descriptor of the file would drop all of this process's locks on it.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._held: deque[tuple[int, int]] = deque()
        self._next = random.randint(PORT_MIN, PORT_MAX)

    def candidates(self, count: int, high: int) -> list[int]:
        """Every base once, going on from the last block: a port that was just let go is used again last."""
        bases = list(range(PORT_MIN, high - count + 2))
        start = next((i for i, base in enumerate(bases) if base >= self._next), 0)
        return bases[start::count] + bases[:start:count]

    def take(self, base: int, count: int) -> bool:
        """Reserve the ports unless another process has one of them."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, count, base)
        except OSError:
            return False
        self._next = base + count
        self._held.append((base, count))
        if len(self._held) > BLOCKS_HELD:
            old_base, old_count = self._held.popleft()
            fcntl.lockf(self._file, fcntl.LOCK_UN, old_count, old_base)
        return True


_reservations: _Reservations | None = None


def free_port_block(count: int, host: str = "127.0.0.1") -> int:
    """Find ``count`` ports side by side that can be bound on ``host`` now.

    Args:
        count: How many, at least 1.
        host: The IPv4 address to bind, one of this machine's.

    Returns:
        The lowest port of the block.

    Raises:
        KproxyError: there is no such block.
    """
    global _reservations  # noqa: PLW0603 - one file and one set of locks for the process, as the kernel counts them
    if _reservations is None:
        _reservations = _Reservations(Path(tempfile.gettempdir()) / f"kproxy-ports-{os.getuid()}.lock")
    for base in _reservations.candidates(count, min(PORT_MAX, _ephemeral_min() - 1)):
        if all(_can_bind(host, port) for port in range(base, base + count)) and _reservations.take(base, count):
            return base
    raise KproxyError(f"no {count} free ports side by side on {host} between {PORT_MIN} and {PORT_MAX}")


def _ephemeral_min() -> int:
    path = Path("/proc/sys/net/ipv4/ip_local_port_range")
    low = int(path.read_text(encoding="ascii").split()[0]) if path.exists() else PORT_MAX + 1
    # Where the range was widened downwards there is no room below it: any free port must do.
    return low if low > PORT_MIN + 1_000 else PORT_MAX + 1


def _can_bind(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True
