"""How long a refused login is kept waiting: longer each time that its address fails again, so that guessing is slow.

Kafka waits 100 ms each time (connection.failed.authentication.delay.ms); here it is doubled up to a second, and an
address that stays away for a minute begins anew::

    >>> penalty = Penalty()
    >>> [penalty.take("10.0.0.7", now_seconds=0) for _ in range(6)]
    [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
"""

from collections import OrderedDict

SECONDS = 0.1
SECONDS_MAX = 1.0
FORGIVEN_AFTER_SECONDS = 60.0


class Penalty:
    """Bounded memory of addresses that failed to log in."""

    def __init__(self, hosts_max: int = 10_000) -> None:
        """Remember ``hosts_max`` addresses, the one that failed the longest ago is forgotten."""
        self._hosts_max = hosts_max
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # -> (how often, when the last time)

    def take(self, host: str, now_seconds: float) -> float:
        """Note one more failure of an address; return for how many seconds its answer is held back."""
        count, when = self._failures.pop(host, (0, now_seconds))
        if now_seconds - when > FORGIVEN_AFTER_SECONDS:
            count = 0
        self._failures[host] = (count + 1, now_seconds)
        if len(self._failures) > self._hosts_max:
            self._failures.popitem(last=False)
        return float(min(SECONDS * 2 ** min(count, 10), SECONDS_MAX))

    def failures(self, host: str) -> int:
        """Return how often an address has failed of late."""
        return self._failures.get(host, (0, 0.0))[0]
