"""What the supervisor and its workers have in common in memory, or hand over there: files without a name.

Such a file is inherited, or sent along with a message, by its descriptor, and is gone with the last process that has
it. The counts of connections (see net.turns) are one, that all of them map::

    descriptor = make_counts(3)        the supervisor
    counts = shared(descriptor)        it, and each worker
    counts[1] = 7                      worker 1 has seven; a number is written whole

An order for a worker, with the configuration, is another: it may be larger than what a message, or a pipe, takes.
"""

import mmap
import os
import pickle
import tempfile
from typing import Any

from kproxy.net.turns import ABSENT

_COUNT_BYTES = 4


def anonymous_file() -> int:
    """Make an empty file without a name; return its descriptor, which is the caller's."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("kproxy")
    with tempfile.TemporaryFile() as file:  # macOS has no other
        return os.dup(file.fileno())


def packed(thing: object) -> int:
    """Write something into such a file, to be read from its beginning."""
    descriptor = anonymous_file()
    with open(descriptor, "wb", closefd=False) as file:
        pickle.dump(thing, file)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def unpacked(descriptor: int) -> Any:  # noqa: ANN401  whatever was packed
    """Read what another process of ours has packed; the descriptor is closed."""
    with open(descriptor, "rb") as file:
        return pickle.load(file)  # noqa: S301  from a process of ours


def make_counts(many: int) -> int:
    """Make room for so many counts, all absent; return its descriptor, which is the caller's."""
    descriptor = anonymous_file()
    os.ftruncate(descriptor, many * _COUNT_BYTES)
    counts = shared(descriptor)
    for number in range(many):
        counts[number] = ABSENT
    return descriptor


def shared(descriptor: int) -> memoryview:
    """Return the counts; the descriptor is not needed any more."""
    return memoryview(mmap.mmap(descriptor, 0)).cast("i")
