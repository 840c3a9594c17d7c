"""Mistakes and doubts about limits that lie between them, or between them and the listeners.

``mistakes`` refuse a start; ``doubts`` are warnings: what works, but never applies, or has a price that the operator
should know. Both are pure functions over well-formed limits, as in ``checks``::

    limits: [{name: calm, fixed_window: {count: 1000, window: 60s}}]
    -> Problem(("limits", 0, "fixed_window", "window"), "a request may have to wait for 60s, but passes after ...")
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from kproxy.config.problems import Loc, Problem, listed, suggestion
from kproxy.config.values import written_size

if TYPE_CHECKING:
    from kproxy.config.limits import Limit
    from kproxy.config.model import Config, Listener

CLIENT_TIMEOUT_SECONDS = 30.0
"""Kafka's request.timeout.ms: what a client waits for an answer."""

BATCH_BYTES = 1 << 20
"""Kafka's message.max.bytes, but for a few: the batch that a producer may send, and that every Fetch may bring."""

LARGE = {"bytes_in": frozenset({"Produce"}), "bytes_out": frozenset({"Fetch", "ShareFetch"})}
"""What carries batches, by the unit that counts it."""

ANONYMOUS = "User:ANONYMOUS"
"""What Kafka calls a client that has not logged in."""

REJECTED = ("CreateTopics", "DeleteTopics", "CreatePartitions")
"""What can be answered with THROTTLING_QUOTA_EXCEEDED (KIP-599)."""

LONG_POLLS = frozenset({"Fetch", "ShareFetch", "JoinGroup", "SyncGroup"})
"""Requests that wait at the broker by design: for records (Fetch unless it asks not to), or for a group's members."""

EXEMPT_GROUPS = frozenset(
    {
        "JoinGroup",
        "SyncGroup",
        "Heartbeat",
        "LeaveGroup",
        "ConsumerGroupHeartbeat",
        "ShareGroupHeartbeat",
        "StreamsGroupHeartbeat",
        "OffsetCommit",
        "OffsetFetch",
        "FindCoordinator",
    }
)
EXEMPT_TRANSACTIONS = frozenset(
    {"InitProducerId", "AddPartitionsToTxn", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn"}
)
"""APIs that no limit holds up unless it names them."""


def references(limits: "Mapping[int, Limit]") -> dict[Loc, str]:
    """Return the listeners that limits name, by place."""
    return {
        ("limits", index, "match", "listeners", at): name
        for index, limit in limits.items()
        for at, name in enumerate(limit.match.listeners or ())
    }


def mistakes(
    names: Mapping[int, str],
    named: Mapping[Loc, str],
    limits: "Mapping[int, Limit]",
    listeners: Collection[str],
) -> list[Problem]:
    """Find what cannot work.

    Args:
        names: the limits' names, of ill-formed ones too.
        named: the listeners that limits name by place, ill-formed limits too.
        limits: the well-formed limits.
        listeners: every listener's name, of ill-formed ones too.
    """
    found = []
    first: dict[str, int] = {}
    for index, name in names.items():
        if first.setdefault(name, index) != index:
            text = f"{name!r} is the name of limits[{first[name]}] already; choose another"
            found.append(Problem(("limits", index, "name"), text))
    for loc, name in named.items():
        if name not in listeners:
            found.append(Problem(loc, f"there is no listener {name!r}; {suggestion(name, listeners)}"))
    for index, limit in limits.items():
        if limit.connections and limit.match.apis:
            text = "a connection is counted before it brings a request of any API; leave it out"
            found.append(Problem(("limits", index, "match", "apis"), text))
    return found


def doubts(config: "Config") -> list[Problem]:
    """Find what works but is probably not meant, or has a price that the operator should know."""
    found: list[Problem] = []
    for index, limit in enumerate(config.limits):
        here = ("limits", index)
        for doubt in _DOUBTS:
            found += doubt(here, limit)
        matched = [
            listener
            for name, listener in config.listeners.items()
            if limit.match.listeners is None or name in limit.match.listeners
        ]
        if not any(listener.tells_principals for listener in matched):
            found += _principals(here, limit)
        found += _batch(here, limit, matched)
        found += _never_full(here, limit, matched)
        found += _never_seen(here, limit, matched)
    return found


_WAITS = frozenset({"delay", "throttle"})


def _wait(here: Loc, limit: "Limit") -> Iterator[Problem]:
    """Find waits that are cut short, and waits that clients do not sit out."""
    bucket, window, wait = limit.leaky_bucket, limit.fixed_window, f"max_wait ({limit.max_wait:g}s)"
    if bucket and not bucket.nodelay and bucket.burst / bucket.rate > limit.max_wait:
        text = (
            f"at the end of a burst a request has to wait for {bucket.burst / bucket.rate:g}s, but passes after {wait}"
            " all the same; lower it, or raise max_wait"
        )
        yield Problem((*here, "leaky_bucket", "burst"), text)
    elif bucket and bucket.unit == "requests" and limit.on_exceed in _WAITS and 1 / bucket.rate > limit.max_wait:
        text = (
            f"a request may have to wait for {1 / bucket.rate:g}s, but passes after {wait} all the same; raise it, or"
            " max_wait"
        )
        yield Problem((*here, "leaky_bucket", "rate"), text)
    if window and limit.on_exceed != "close" and window.window > limit.max_wait:
        text = (
            f"a request may have to wait for {window.window:g}s, but passes after {wait} all the same;"
            " shorten the window, or raise max_wait"
        )
        yield Problem((*here, "fixed_window", "window"), text)
    ends_at_once = limit.connections or (limit.on_exceed == "close" and (window or (bucket and bucket.nodelay)))
    if limit.max_wait > CLIENT_TIMEOUT_SECONDS and not ends_at_once:
        text = (
            f"clients give up after {CLIENT_TIMEOUT_SECONDS:g}s (request.timeout.ms); lower it,"
            f" or have every client's timeout raised above {limit.max_wait:g}s"
        )
        yield Problem((*here, "max_wait"), text)


def _batch(here: Loc, limit: "Limit", matched: "Collection[Listener]") -> Iterator[Problem]:
    """Find a rate of bytes that a single batch of usual size exceeds for longer than anybody is made to wait.

    Larger ones are not guessed at: a request may have 100 MiB and an answer more than 50, but few do.
    """
    bucket, apis = limit.leaky_bucket, limit.match.apis
    if bucket is None or bucket.unit == "requests" or limit.on_exceed not in _WAITS:
        return
    if apis is not None and LARGE[bucket.unit].isdisjoint(apis):
        return
    if not bucket.nodelay and bucket.burst / bucket.rate > limit.max_wait:
        return  # told of the burst already
    size = BATCH_BYTES
    if bucket.unit == "bytes_in":
        size = min(size, max(listener.request_bytes_max for listener in matched))
    wait = (size - bucket.burst * bucket.nodelay) / bucket.rate
    if wait > limit.max_wait:
        text = (
            f"behind a batch of {written_size(size)} a request has to wait for {wait:g}s, but passes after max_wait"
            f" ({limit.max_wait:g}s) all the same; raise it, or max_wait"
        )
        yield Problem((*here, "leaky_bucket", "rate"), text)


def _reject(here: Loc, limit: "Limit") -> Iterator[Problem]:
    """Find APIs whose clients would not understand a rejection."""
    if limit.on_exceed != "reject":
        return
    rejected = (*REJECTED, "Produce") if limit.reject_produce else REJECTED
    apis = limit.match.apis
    others = "all others" if apis is None else listed(api for api in apis if api not in rejected)
    if others:
        text = f"only {listed(rejected)} can be rejected; {others} will be throttled instead"
        advice = "; name those alone in match.apis, or write throttle" if apis is None else "; write a limit for each"
        yield Problem((*here, "on_exceed"), text + advice)
    if limit.reject_produce and apis is not None and "Produce" not in apis:
        text = "has no effect, as match.apis does not name Produce; add it there, or leave this out"
        yield Problem((*here, "reject_produce"), text)


def _principals(here: Loc, limit: "Limit") -> Iterator[Problem]:
    """Find what tells clients apart by a login that there is not."""
    which = "no listener" if limit.match.listeners is None else "none of its listeners"
    fact = f"{which} asks clients to log in, so every client is {ANONYMOUS}"
    if "principal" in limit.key:
        text = f"{fact}, and they all share one count; use client_ip or client_id"
        yield Problem((*here, "key", limit.key.index("principal")), text)
    principals = limit.match.principals
    if principals is None or ANONYMOUS in principals:
        return
    if any(fnmatchcase(ANONYMOUS, pattern) for pattern in principals):
        text = f"{fact}, which matches; leave it out"
    else:
        text = f"{fact}, and this limit never applies; leave it out, or match client_ids or client_ips"
    yield Problem((*here, "match", "principals"), text)


def _group_traffic(here: Loc, limit: "Limit") -> Iterator[Problem]:
    """Find limits on what keeps groups and transactions alive."""
    apis = limit.match.apis or ()
    for exempt, harm in ((EXEMPT_GROUPS, "make groups rebalance"), (EXEMPT_TRANSACTIONS, "abort transactions")):
        if named := [api for api in apis if api in exempt]:
            text = f"holding up {listed(named)} can {harm}; leave it out unless that is meant"
            yield Problem((*here, "match", "apis", apis.index(named[0])), text)


def _concurrency(here: Loc, limit: "Limit") -> Iterator[Problem]:
    """Find a limit on requests in flight that counts none, and an option without effect."""
    concurrency, apis = limit.concurrency, limit.match.apis
    if concurrency is None:
        return
    if apis and LONG_POLLS.issuperset(apis) and not concurrency.count_long_polls:
        rarely = "hardly ever" if "Fetch" in apis else "never"
        text = (
            f"this limit {rarely} applies, as what waits at the broker by design is not counted;"
            " set count_long_polls: true, or name other APIs"
        )
        yield Problem((*here, "match", "apis"), text)
    if "waiting" in concurrency.model_fields_set and limit.on_exceed == "delay":
        text = "has no effect with on_exceed: delay, as everyone waits in turn; leave it out"
        yield Problem((*here, "concurrency", "waiting"), text)


_DOUBTS: tuple[Callable[[Loc, "Limit"], Iterator[Problem]], ...] = (
    _wait,
    _reject,
    _group_traffic,
    _concurrency,
)


def _never_full(here: Loc, limit: "Limit", matched: "Collection[Listener]") -> Iterator[Problem]:
    """Find a number of connections that the listeners' own bound never lets be exceeded."""
    connections = limit.connections
    if connections is None or connections.max is None:
        return
    bounds = [listener.connections_max for listener in matched]
    # A count per listener never sees more than that listener's share.
    most = max(bounds) if "listener" in limit.key else sum(bounds)
    if connections.max >= most:
        what = "this limit" if connections.rate is None else "this number"
        text = (
            f"{what} never applies, as connections_max of the listeners lets no more than {most} in; choose a lower"
            " number"
        )
        yield Problem((*here, "connections", "max"), text)


def _never_seen(here: Loc, limit: "Limit", matched: "Collection[Listener]") -> Iterator[Problem]:
    """Find client addresses of another IP version than those that the listeners are bound to."""
    networks = limit.match.client_ips
    if networks is None:
        return
    versions: set[int] = set()
    for listener in matched:
        versions |= _client_versions(listener.bind.host)
    if not any(network.version in versions for network in networks):
        theirs, ours = (6, 4) if 4 in versions else (4, 6)
        text = (
            f"this limit never applies, as these are IPv{theirs} and the listeners are bound to IPv{ours} addresses;"
            " change one of the two"
        )
        yield Problem((*here, "match", "client_ips"), text)
        return
    allowed = [listener.access.cidrs for listener in matched if listener.access is not None]
    if len(allowed) == len(matched) and not any(
        cidrs is None or any(_overlap(one, other) for one in networks for other in cidrs) for cidrs in allowed
    ):
        text = "this limit never applies, as access.cidrs of the listeners lets none of these in; change one of the two"
        yield Problem((*here, "match", "client_ips"), text)


def _overlap(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    """Whether two networks have an address in common."""
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.overlaps(other)
    return isinstance(other, IPv6Network) and one.overlaps(other)


def _client_versions(host: str) -> set[int]:
    """Return the IP versions of clients that can reach a socket bound to ``host``."""
    try:
        address: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:
        return {4, 6}  # a name, which only the machine can resolve
    # A socket bound to :: takes IPv4, too (net.ipv6.bindv6only is 0).
    return {4, 6} if address.version == 6 and address.is_unspecified else {address.version}
