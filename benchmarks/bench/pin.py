"""Keeps proxies on one CPU and everything else on the others, where ``--pin`` asks for it.

Left alone, the scheduler puts a proxy now beside the load generator and now beside the broker; a wake-up across CPUs
costs several times one within, and with one request in flight that is half of what is measured. Pinned, every proxy
meets the same: a CPU of its own, both peers on another. Figures are steadier then, and those of 1x1 higher, as every
wake-up crosses; ``direct`` has both its ends on one CPU. With one CPU nothing is pinned::

    with pinned("proxy"):
        subprocess.Popen(...)       # it and its children stay on the last CPU
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

ALLOWED = sorted(os.sched_getaffinity(0))


_pins = False


def enable() -> None:
    """Pin the programs started from now on."""
    global _pins  # noqa: PLW0603 - one answer for the whole run, given once by the command line
    _pins = True


@contextmanager
def pinned(role: Literal["proxy", "peer"]) -> Iterator[None]:
    """Let the processes started inside inherit their role's CPUs."""
    if not _pins or len(ALLOWED) < 2:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, ALLOWED[-1:] if role == "proxy" else ALLOWED[:-1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
