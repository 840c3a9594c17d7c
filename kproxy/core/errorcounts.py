"""How often answers had an error as a whole: plain integers, by API and code, of those answers that are looked at.

Bounded by construction: Kafka's own lists have a hundred APIs and codes, and a code that is in none counts with all
others that are not::

    >>> counts = ErrorCounts()
    >>> counts.note(ApiKey.HEARTBEAT, 27)
    >>> counts.snapshot()
    {'Heartbeat': {'REBALANCE_IN_PROGRESS': 1}}

Never here: an answer (see wire.outcome), or which are looked at (see observed).
"""

from collections import Counter

from kproxy.wire.apis import APIS
from kproxy.wire.errorcodes import ERROR_NAMES

UNKNOWN = "(unknown)"
"""What codes are told as that are not in the list, such as those of a later Kafka."""


class ErrorCounts:
    """Those of one listener; exchanges ``note``."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, str]] = Counter()

    def note(self, key: int, code: int) -> None:
        """Count one error of an API that kproxy knows."""
        self._counts[key, ERROR_NAMES.get(code, UNKNOWN)] += 1

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Return the counts by API and error, both by name; what never was is left out."""
        told: dict[str, dict[str, int]] = {}
        for (key, error), count in self._counts.items():
            told.setdefault(APIS[key].name, {})[error] = count
        return told
