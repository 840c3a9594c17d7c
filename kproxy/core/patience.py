"""How long a client is kept while the broker it wants cannot be reached.

A connection to the proxy succeeds even where the broker behind is dead, so a client's own back-off never begins: a
prototype that closed at once provoked 7,663 connections from one client. A client is held for a second at first, as
long as a refused connection with its back-off would take it, and longer each time that it comes back to a node that
stays down.
"""

from collections import OrderedDict


class Patience:
    """Bounded memory of who came back in vain."""

    def __init__(self, seconds: float, seconds_max: float, keys_max: int = 10_000) -> None:
        """Hold for ``seconds`` at first, doubled each time up to ``seconds_max``."""
        self._seconds = seconds
        self._seconds_max = seconds_max
        self._keys_max = keys_max
        self._next: OrderedDict[tuple[str, int], tuple[float, float]] = OrderedDict()  # -> (seconds, when it was)

    def change(self, seconds: float, seconds_max: float) -> None:
        """Hold for so long from now on; who has come back in vain is remembered."""
        self._seconds = seconds
        self._seconds_max = seconds_max

    def take(self, client_host: str, node_id: int, now_seconds: float) -> float:
        """Return how long this client may be held now, and remember that it will have been."""
        key = (client_host, node_id)
        seconds, when = self._next.pop(key, (self._seconds, now_seconds))
        if now_seconds - when > FORGIVEN_AFTER_SECONDS:
            seconds = self._seconds
        self._next[key] = (min(seconds * 2, self._seconds_max), now_seconds)
        if len(self._next) > self._keys_max:
            self._next.popitem(last=False)
        return seconds

    def forgive(self, client_host: str, node_id: int) -> None:
        """Forget a client that has got through."""
        self._next.pop((client_host, node_id), None)


FORGIVEN_AFTER_SECONDS = 60.0
"""A client that has stayed away for so long begins anew."""
