"""Which of many equal complaints may be told: one per key and interval, with the number of those left out.

A storm of the same error is one log line per interval instead of one per connection::

    >>> quiet = Suppressor(interval_seconds=10, keys_max=1000)
    >>> quiet.tell("10.0.0.7 unreachable", now_seconds=0), quiet.tell("10.0.0.7 unreachable", now_seconds=1)
    (0, None)
    >>> quiet.tell("10.0.0.7 unreachable", now_seconds=10)      # one was left out since
    1
"""

from collections import OrderedDict
from collections.abc import Hashable


class Suppressor:
    """Says whether a complaint may be told now."""

    def __init__(self, interval_seconds: float = 10.0, keys_max: int = 1000) -> None:
        """Tell each key once per interval; remember ``keys_max`` keys, the least recently told one is forgotten."""
        self._interval_seconds = interval_seconds
        self._keys_max = keys_max
        self._told: OrderedDict[Hashable, list[float]] = OrderedDict()  # key -> [when told, how many left out since]

    def tell(self, key: Hashable, now_seconds: float) -> int | None:
        """Return None when the key was told a moment ago; otherwise how many times it was left out since."""
        entry = self._told.get(key)
        if entry is not None and now_seconds - entry[0] < self._interval_seconds:
            entry[1] += 1
            return None
        left_out = 0 if entry is None else int(entry[1])
        self._told[key] = [now_seconds, 0]
        self._told.move_to_end(key)
        if len(self._told) > self._keys_max:
            self._told.popitem(last=False)
        return left_out
