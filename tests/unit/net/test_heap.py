"""Memory that is free goes back to the system."""

from pathlib import Path

import pytest

from kproxy.net import heap

MIB = 1024 * 1024


def resident() -> int:
    """Return how much memory this process has."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.skipif(heap._malloc_trim is None, reason="this C library has no malloc_trim")
def test_what_is_free_between_pieces_in_use() -> None:
    """What was freed is given back, though something that is in use lies between its pieces."""
    freed, kept = [], []
    for _ in range(1000):
        freed.append(b"x" * 100_000)  # below the size that malloc gives a mapping of its own
        kept.append(b"y" * 50_000)
    freed.clear()
    before = resident()
    heap.trim()
    assert before - resident() > 50 * MIB
    assert len(kept) == 1000


def test_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no malloc_trim nothing happens."""
    monkeypatch.setattr(heap, "_malloc_trim", None)
    heap.trim()
