"""What is counted: plain integers, one Tally per listener, summed in locals and stored once per read.

Never here: a metrics library, a label look-up, a lock. A collector reads ``snapshot()`` when somebody asks::

    >>> tally = Tally()
    >>> tally.requests[3 << 16 | 12] += 1          # one Metadata v12
    >>> tally.snapshot()["requests"]
    {'Metadata': 1}
"""

from collections import Counter

from kproxy.core.causes import Cause
from kproxy.core.latency import Latencies
from kproxy.wire.apis import APIS


class Tally:
    """The counters of one listener. All only grow, but ``connections`` and ``waiting``, which are of now."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "closed",
        "connections",
        "denied",
        "dial_failures",
        "dials",
        "latencies",
        "login_failures",
        "logins",
        "lost_bytes",
        "opened",
        "reauthentications",
        "requests",
        "turned_away",
        "waiting",
    )

    def __init__(self) -> None:
        self.opened = 0
        self.connections = 0
        self.closed: Counter[Cause] = Counter()
        # Keyed by api_key << 16 | api_version and filled with zeros, so that counting is one look-up and one add.
        self.requests: dict[int, int] = {
            api.key << 16 | version: 0
            for api in APIS.values()
            for version in range(api.min_version, api.max_version + 1)
        }
        self.denied: Counter[tuple[str, str]] = Counter()
        """What access rules denied, or would have in a dry run, by API and type of resource."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.dials = 0
        self.dial_failures = 0
        self.login_failures = 0
        self.reauthentications = 0
        self.logins: Counter[tuple[str, bool]] = Counter()
        """Logins of clients: (mechanism, whether it got in) -> how many, later ones of one connection included."""
        self.turned_away: Counter[Cause] = Counter()
        """Connections that ended before they were in; they count nowhere else."""
        self.waiting = 0
        """How many connections are on their way in now."""
        self.latencies: Latencies | None = None
        """None: nothing is timed."""
        self.lost_bytes = 0
        """Bytes read from clients that could not be sent to a broker within the dial bound."""

    def snapshot(self) -> dict[str, object]:
        """Return the counters as plain values: requests summed by API name, closed by cause; zeros left out of both."""
        requests: Counter[str] = Counter()
        for key_version, count in self.requests.items():
            if count:
                requests[APIS[key_version >> 16].name] += count
        latencies = {} if self.latencies is None else {"latency": self.latencies.snapshot()}
        return {
            "opened": self.opened,
            "connections": self.connections,
            "closed": {str(cause): count for cause, count in self.closed.items()},
            "requests": dict(requests),
            "denied": {" ".join(what): count for what, count in self.denied.items()},
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "dials": self.dials,
            "dial_failures": self.dial_failures,
            "login_failures": self.login_failures,
            "reauthentications": self.reauthentications,
            "lost_bytes": self.lost_bytes,
            "logins": {name: count for (name, let_in), count in self.logins.items() if let_in},
            "logins_refused": {name: count for (name, let_in), count in self.logins.items() if not let_in},
            "turned_away": {str(cause): count for cause, count in self.turned_away.items()},
            "waiting": self.waiting,
        } | latencies
