"""How late a loop serves what is ready, as a histogram: plain integers in fixed buckets.

A bucket's number counts what is at most its bound and above the one before it; one more holds what is above them all::

    >>> lag = Lag()
    >>> lag.note(0.03)
    >>> lag.snapshot()
    {'buckets': [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0], 'sum_seconds': 0.03}
"""

from bisect import bisect_left
from typing import Final

BOUNDS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
"""uvloop's timers have milliseconds; above 100 ms clients notice, above 5 s some give up."""


class Lag:
    """See the module."""

    __slots__ = ("buckets", "sum_seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_SECONDS) + 1)
        self.sum_seconds = 0.0

    def note(self, seconds: float) -> None:
        """Count one delay."""
        self.buckets[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    def snapshot(self) -> dict[str, object]:
        """Return it as plain values."""
        return {"buckets": list(self.buckets), "sum_seconds": round(self.sum_seconds, 6)}
