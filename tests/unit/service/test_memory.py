"""What processes have in common in memory."""

import os

import pytest

from kproxy.service import memory


def both(monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """Have, or have not, Linux's memfd."""
    if not named:
        monkeypatch.delattr(os, "memfd_create", raising=False)


@pytest.mark.parametrize("named", [True, False])
def test_counts_are_shared(monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """What one process writes the other reads, as long as either is there; at first all are absent."""
    both(monkeypatch, named)
    descriptor = memory.make_counts(3)
    ours, theirs = memory.shared(descriptor), memory.shared(os.dup(descriptor))
    os.close(descriptor)
    assert list(theirs) == [-1, -1, -1]
    ours[1] = 70_000
    assert list(theirs) == [-1, 70_000, -1]


@pytest.mark.parametrize("named", [True, False])
def test_anything_is_handed_over(monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """What is packed is unpacked the same, however large, and the descriptor is closed."""
    both(monkeypatch, named)
    descriptor = memory.packed({"large": bytes(1 << 20)})
    assert memory.unpacked(descriptor) == {"large": bytes(1 << 20)}
    with pytest.raises(OSError, match="descriptor"):
        os.close(descriptor)
