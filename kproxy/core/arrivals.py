"""How often one address may connect: a bucket per address, so that a storm of connections is cut off before TLS.

Limits on connections do more, but count who has got in; this is for the door itself, where a handshake is what costs::

    >>> rate = ArrivalRate(2)
    >>> [rate.allows("10.0.0.7", now_seconds=0) for _ in range(3)], rate.allows("10.0.0.7", now_seconds=0.5)
    ([True, True, False], True)
"""

from collections import OrderedDict


class ArrivalRate:
    """Bounded memory of who has connected of late."""

    def __init__(self, per_second: float, hosts_max: int = 10_000) -> None:
        """Let ``per_second`` connections of an address in, a second's worth at once."""
        self._per_second = per_second
        self._hosts_max = hosts_max
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # -> (how full, when)

    def allows(self, host: str, now_seconds: float) -> bool:
        """Tell whether a connection may come in, and count it if so."""
        level, when = self._levels.pop(host, (0.0, now_seconds))
        level = max(level - (now_seconds - when) * self._per_second, 0.0)
        allowed = level + 1 <= self._per_second
        self._levels[host] = (level + allowed, now_seconds)
        if len(self._levels) > self._hosts_max:
            self._levels.popitem(last=False)
        return allowed
