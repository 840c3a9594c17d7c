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

OTHERS = "(others)"
"""What all client ids beyond the maximum are told under; no key of it is ever taken away."""


class ClientIds:
    """Sums by client id, for those who ask for them: bounded, and only growing, as each id keeps its place."""

    def __init__(self, ids_max: int) -> None:
        """Tell so many client ids apart: the first that come."""
        self.ids_max = ids_max
        self.sums: dict[str, list[int]] = {}
        """Client id -> requests, bytes in, bytes out."""

    def add(self, client_id: str, requests: int, bytes_in: int, bytes_out: int) -> None:
        """Add what a connection has moved."""
        sums = self.sums.get(client_id)
        if sums is None:
            if len(self.sums) >= self.ids_max:
                client_id = OTHERS
            sums = self.sums.setdefault(client_id, [0, 0, 0])
        sums[0] += requests
        sums[1] += bytes_in
        sums[2] += bytes_out


class Tally:
    """The counters of one listener. All only grow, but ``connections`` and ``waiting``, which are of now."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "client_ids",
        "closed",
        "connections",
        "denied",
        "dial_failures",
        "dial_failures_by_broker",
        "dials",
        "dials_by_broker",
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
        self.dials_by_broker: Counter[int] = Counter()
        self.dial_failures_by_broker: Counter[int] = Counter()
        self.client_ids: ClientIds | None = None
        """None: nobody asks for them."""
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
        timed = self.latencies
        latencies = {} if timed is None else {"latency": timed.snapshot(), "timed_errors": timed.errors.snapshot()}
        client_ids = {} if self.client_ids is None else {"client_ids": dict(self.client_ids.sums)}
        return (
            {
                "opened": self.opened,
                "connections": self.connections,
                "closed": {str(cause): count for cause, count in self.closed.items()},
                "requests": dict(requests),
                "denied": {" ".join(what): count for what, count in self.denied.items()},
                "bytes_in": self.bytes_in,
                "bytes_out": self.bytes_out,
                "dials": self.dials,
                "dial_failures": self.dial_failures,
                "dials_by_broker": {str(node_id): count for node_id, count in self.dials_by_broker.items()},
                "dial_failures_by_broker": {
                    str(node_id): count for node_id, count in self.dial_failures_by_broker.items()
                },
                "login_failures": self.login_failures,
                "reauthentications": self.reauthentications,
                "lost_bytes": self.lost_bytes,
                "logins": {name: count for (name, let_in), count in self.logins.items() if let_in},
                "logins_refused": {name: count for (name, let_in), count in self.logins.items() if not let_in},
                "turned_away": {str(cause): count for cause, count in self.turned_away.items()},
                "waiting": self.waiting,
            }
            | latencies
            | client_ids
        )
