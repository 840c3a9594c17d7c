"""How long requests took, as histograms: plain integers in fixed buckets, per API, in two parts.

``kproxy`` is the time from the read that brought a request to the moment it was let go to its broker: what limits, a
look-up or another lane cost it. ``upstream`` is from then to its answer's first byte: the network there and back, the
broker, and a dial where there was no connection yet. Not every request is timed (see observed); of those that are,
errors are counted as well::

    >>> latencies = Latencies()
    >>> latencies.note(ApiKey.FETCH, kproxy_seconds=0.0, upstream_seconds=0.3)
    >>> latencies.snapshot()["Fetch"]["upstream"]["sum_seconds"]
    0.3

Never here: a metrics library, a label. A bucket's number counts what is at most its bound and above the one before it.
"""

from bisect import bisect_left
from typing import Final

from kproxy.core.errorcounts import ErrorCounts
from kproxy.wire.apis import APIS

BOUNDS_SECONDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)  # Prometheus's defaults, from half a millisecond, as a broker near by answers, to Kafka's request.timeout.ms
"""The upper bounds of the buckets; one more holds what is above them all."""

_BUCKETS = len(BOUNDS_SECONDS) + 1

_NAMES = (*map(str, BOUNDS_SECONDS), "inf")

Histogram = dict[str, dict[str, int] | float]
"""``buckets``: how many fell into each, by its upper bound, not cumulative, all of them; ``sum_seconds``."""


class Latencies:
    """The histograms of one listener; exchanges ``note``."""

    __slots__ = ("_rows", "errors")

    def __init__(self) -> None:
        # By API: the buckets of kproxy's part, those of upstream's.
        self._rows: dict[int, tuple[list[int], list[int], list[float]]] = {
            int(key): ([0] * _BUCKETS, [0] * _BUCKETS, [0.0, 0.0]) for key in APIS
        }
        self.errors = ErrorCounts()
        """Of the same answers: how many requests there were is ``upstream``'s number."""

    def note(self, key: int, kproxy_seconds: float, upstream_seconds: float) -> None:
        """Count one request of an API that kproxy knows."""
        kproxy, upstream, sums = self._rows[key]
        if kproxy_seconds:
            kproxy[bisect_left(BOUNDS_SECONDS, kproxy_seconds)] += 1
            sums[0] += kproxy_seconds
        else:
            kproxy[0] += 1
        upstream[bisect_left(BOUNDS_SECONDS, upstream_seconds)] += 1
        sums[1] += upstream_seconds

    def snapshot(self) -> dict[str, dict[str, Histogram]]:
        """Return the histograms by API name and part; what was never timed is left out."""
        return {
            APIS[key].name: {
                "kproxy": {"buckets": _named(kproxy), "sum_seconds": round(sums[0], 6)},
                "upstream": {"buckets": _named(upstream), "sum_seconds": round(sums[1], 6)},
            }
            for key, (kproxy, upstream, sums) in self._rows.items()
            if any(kproxy)
        }


def _named(buckets: list[int]) -> dict[str, int]:
    return dict(zip(_NAMES, buckets, strict=True))
