"""What one connection has moved, kept apart from its listener's Tally, for an inventory of clients.

A connection counts either in the Tally itself or in an Account of its own, through the same attributes, so that the
data path is the same and an account costs nothing per request (0.5 us and 600 bytes per connection). What it
has counted since the last time is moved to the Tally by ``fold``, whenever somebody looks and when it ends: each
request and byte arrives there once, so that the Tally only ever grows::

    >>> tally, account = Tally(), Account(1, 0.0)
    >>> account.requests[3 << 16 | 12] += 2          # two Metadata v12
    >>> account.fold(tally)
    >>> account.fold(tally)
    >>> tally.snapshot()["requests"], account.apis()
    ({'Metadata': 2}, {'Metadata': {12: 2}})
"""

from collections import defaultdict

from kproxy.core.tally import Tally
from kproxy.errors import ProtocolError
from kproxy.wire import frames
from kproxy.wire.apis import APIS

CLIENT_ID_CHARS_MAX = 255
"""What is kept of a client id, which may have 32,767 bytes; Kafka's own names, such as topics, have 249 at most."""


class Account:
    """One connection's. See the module."""

    __slots__ = (
        "_folded",
        "_folded_in",
        "_folded_out",
        "bytes_in",
        "bytes_out",
        "client_id",
        "number",
        "requests",
        "since",
    )

    def __init__(self, number: int, since: float) -> None:
        """Begin with nothing; ``number`` names the connection within its listener, ``since`` is when it came."""
        self.number = number
        self.since = since
        self.client_id: str | None = None
        """Of the first request that went to a broker; None: there has been none, or it has none."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.requests: defaultdict[int, int] = defaultdict(int)
        """As in the Tally, but only what has been asked: an entry is made when an API and version is first seen."""
        self._folded: dict[int, int] = {}
        self._folded_in = 0
        self._folded_out = 0

    def introduce(self, data: bytes) -> None:
        """Read the client id off the first bytes for a broker, which begin with a request.

        Where they end within it, as hardly ever, or hold no such thing, it stays unknown: what is wrong with them is
        found by others.
        """
        try:
            name = frames.client_id(data, frames.SIZE_BYTES)
        except ProtocolError:
            return
        self.client_id = None if name is None else name[:CLIENT_ID_CHARS_MAX]

    def fold(self, tally: Tally) -> None:
        """Move what has been counted since the last time to the listener's Tally."""
        bytes_in = self.bytes_in - self._folded_in
        bytes_out = self.bytes_out - self._folded_out
        self._folded_in += bytes_in
        self._folded_out += bytes_out
        tally.bytes_in += bytes_in
        tally.bytes_out += bytes_out
        asked = 0
        folded = self._folded
        for key_version, count in self.requests.items():
            more = count - folded.get(key_version, 0)
            if more:
                folded[key_version] = count
                tally.requests[key_version] += more
                asked += more
        if tally.client_ids is not None:
            tally.client_ids.add(self.client_id or "", asked, bytes_in, bytes_out)

    def apis(self) -> dict[str, dict[int, int]]:
        """Return how many requests of each API and version there have been."""
        found: dict[str, dict[int, int]] = {}
        for key_version, count in sorted(self.requests.items()):
            found.setdefault(APIS[key_version >> 16].name, {})[key_version & 0xFFFF] = count
        return found
