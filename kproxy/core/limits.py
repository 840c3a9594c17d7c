"""Which limits apply to a client, and by which key. The arithmetic is in ``meters``, the acting in ``metered``.

A connection is one client: its listener, address, principal and the client id of its first request decide once which
limits it comes under and by which key, and from then on only the API of a request is looked at. Meters live in one
table per limit, a bounded one. To make room an idle one goes, whose key loses nothing by it, else the longest unused,
whose key begins anew; those that a connection counts on stay, and where nothing can go all further keys share one
meter: then a limit is stricter than it says, never wider. A key costs some 200 bytes, 1 KiB at most::

    >>> limits = Limits([Rule("two", LeakyBucket(rate=2, burst=0), key=("client_id",))])
    >>> alice = limits.enter(Client("public", "10.0.0.1", "User:ANONYMOUS", "alice"), now=10.0)
    >>> [meter.limit.rule.name for meter in alice.meters(ApiKey.PRODUCE)]
    ['two']

Group traffic, transactions and logins are exempt unless a limit names their API: a limit must not cause a rebalance.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from fnmatch import fnmatchcase
from hashlib import blake2b
from heapq import nsmallest
from itertools import islice
from math import inf
from operator import itemgetter
from typing import NamedTuple

from kproxy.core.addresses import Network, within
from kproxy.core.meters import (
    CATCH_UP_SECONDS,
    GRACE_SECONDS,
    TICK_SECONDS,
    AnswerBucket,
    AnswerWindow,
    Bucket,
    BytesBucket,
    BytesWindow,
    Doorway,
    Hold,
    Meter,
    Slots,
    Window,
)
from kproxy.core.tenant import Tenant
from kproxy.wire.apis import ApiKey

KEYS_MAX = 100_000

KEY_CHARS_MAX = 160
"""A longer key is told by its beginning and a digest: a client id may have 32,767 bytes (Kafka's STRING)."""

MAX_WAIT_SECONDS = 30.0

HEARTBEAT_WAIT_SECONDS = 1.0
"""The longest wait on a connection that carries heartbeats: a third of the usual interval between two."""

WINDOWS_MAX = 5000
"""How many windows are looked at for the fullest: 2 ms."""

TOP_KEYS = 10
TOTALS_MAX = 1000
"""Of so many keys a limit remembers for how long they were held up."""

TRIED_MAX = 100
"""How many of the longest unused keys are looked at to find one to forget."""

QUIET_SECONDS = 10.0
"""A key is no longer limited when nothing of it was held up for so long."""

EXEMPT = frozenset(
    int(key)
    for key in (
        ApiKey.OFFSET_COMMIT,
        ApiKey.OFFSET_FETCH,
        ApiKey.FIND_COORDINATOR,
        ApiKey.JOIN_GROUP,
        ApiKey.HEARTBEAT,
        ApiKey.LEAVE_GROUP,
        ApiKey.SYNC_GROUP,
        ApiKey.CONSUMER_GROUP_HEARTBEAT,
        ApiKey.SHARE_GROUP_HEARTBEAT,
        ApiKey.STREAMS_GROUP_HEARTBEAT,
        ApiKey.INIT_PRODUCER_ID,
        ApiKey.ADD_PARTITIONS_TO_TXN,
        ApiKey.ADD_OFFSETS_TO_TXN,
        ApiKey.END_TXN,
        ApiKey.TXN_OFFSET_COMMIT,
    )
)
"""Not limited unless a limit names them."""

NEVER = frozenset(int(key) for key in (ApiKey.API_VERSIONS, ApiKey.SASL_HANDSHAKE, ApiKey.SASL_AUTHENTICATE))
"""Never limited: kproxy answers them itself."""

HEARTBEATS = frozenset(
    int(key)
    for key in (
        ApiKey.HEARTBEAT,
        ApiKey.JOIN_GROUP,
        ApiKey.SYNC_GROUP,
        ApiKey.CONSUMER_GROUP_HEARTBEAT,
        ApiKey.SHARE_GROUP_HEARTBEAT,
        ApiKey.STREAMS_GROUP_HEARTBEAT,
    )
)
"""Who sends one of these on a connection sends heartbeats there, now or soon."""

LONG_POLLS = frozenset(int(key) for key in (ApiKey.JOIN_GROUP, ApiKey.SYNC_GROUP, ApiKey.SHARE_FETCH))
"""The broker answers when something has happened; Fetch likewise, unless it asks not to wait."""


class Action(StrEnum):
    """What is done with a request that is over a limit (``on_exceed``)."""

    DELAY = "delay"
    THROTTLE = "throttle"
    REJECT = "reject"
    CLOSE = "close"


class Unit(StrEnum):
    """What a limit counts."""

    REQUESTS = "requests"
    BYTES_IN = "bytes_in"
    BYTES_OUT = "bytes_out"


@dataclass(frozen=True, slots=True)
class LeakyBucket:
    """``rate`` a second leak out; ``burst`` may wait to."""

    rate: float
    burst: float = 0.0
    nodelay: bool = False
    unit: Unit = Unit.REQUESTS


@dataclass(frozen=True, slots=True)
class FixedWindow:
    """``count`` in each window of ``window_seconds``."""

    count: int
    window_seconds: float
    unit: Unit = Unit.REQUESTS


@dataclass(frozen=True, slots=True)
class Concurrency:
    """``max_in_flight`` with the broker at once, ``waiting`` more in turn."""

    max_in_flight: int
    waiting: int = 100
    count_long_polls: bool = False


@dataclass(frozen=True, slots=True)
class Connections:
    """``max_open`` at once, and ``rate`` new ones a second above ``burst``; 0: any."""

    max_open: int = 0
    rate: float = 0.0
    burst: float = 0.0


class Client(NamedTuple):
    """What limits can tell one client from another by."""

    listener: str
    client_ip: str
    principal: str
    client_id: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit as it is configured. None in a match: any. Times in seconds."""

    name: str
    kind: LeakyBucket | FixedWindow | Concurrency | Connections
    key: tuple[str, ...] = ()
    """Fields of Client; clients that agree in them share a meter."""
    listeners: frozenset[str] | None = None
    apis: frozenset[int] | None = None
    principals: tuple[str, ...] | None = None
    client_ids: tuple[str, ...] | None = None
    client_ips: tuple[Network, ...] | None = None
    action: Action = Action.THROTTLE
    max_wait_seconds: float = MAX_WAIT_SECONDS
    dry_run: bool = False
    reject_produce: bool = False
    keys_max: int = KEYS_MAX

    @property
    def early(self) -> bool:
        """It can be told to whom it applies before the first request: it does not ask for the client id."""
        return "client_id" not in self.key and self.client_ids is None

    def text(self) -> str:
        """Return what tells it from any other, in all processes alike: a set has no order of its own."""
        values = (getattr(self, field.name) for field in fields(self))
        return repr([sorted(value) if isinstance(value, frozenset) else value for value in values])

    def meant(self, client: Client) -> bool:
        """Whether it applies to a client."""
        return (
            (self.listeners is None or client.listener in self.listeners)
            and among(client.principal, self.principals)
            and among(client.client_id, self.client_ids)
            and (self.client_ips is None or within(client.client_ip, self.client_ips))
        )

    def counts(self, key: int) -> bool:
        """Whether it counts requests of an API."""
        return key not in NEVER and (key not in EXEMPT if self.apis is None else key in self.apis)


def among(text: str, patterns: tuple[str, ...] | None) -> bool:
    """Whether a text fits one of the patterns, whose * and ? stand for any; None: there are none to fit."""
    return patterns is None or any(fnmatchcase(text, pattern) for pattern in patterns)


@dataclass(slots=True)
class Held:
    """How a key is held up at the moment."""

    until: float
    seconds: float = 0.0
    told: bool = False
    """It was in the news."""


class News(NamedTuple):
    """A key has begun to be limited, or is so no longer."""

    limit: "Limit"
    key: str
    begins: bool
    seconds: float
    """For how long its requests and connections were held up in all."""


class Limit:
    """One limit at work: its meters by key, and what it has done."""

    def __init__(self, rule: Rule, tenant: Tenant | None = None) -> None:
        """Begin with no key. ``tenant``: this process's leases, where several hold the limit together."""
        self.rule = rule
        self.id = f"{rule.name} {blake2b(rule.text().encode(), digest_size=4).hexdigest()}"
        """The same in all processes, and another when the rule is another."""
        self.tenant = tenant
        self.retired = False
        """It counts no more: the configuration is another."""
        kind = rule.kind
        self.rate = self.burst = self.lowest = self.floor = self.free = self.owing = self.level_max = 0.0
        """Of a bucket: what leaks out per second; the level above which it is over, that it sinks to, that a wait ends
        at, that is free of any wait, above which it owes, and that is never exceeded."""
        self.count = self.waiting = 0
        self.window_seconds = 0.0
        self.count_long_polls = False
        match kind:
            case LeakyBucket():
                self.rate, self.burst = kind.rate, kind.burst
                self.lowest = 0.0 if kind.unit is Unit.REQUESTS else -kind.rate * CATCH_UP_SECONDS
                self.floor = kind.burst if kind.nodelay else 0.0
                self.free = self.floor + kind.rate * GRACE_SECONDS
                self.owing = max(kind.burst, self.free)
                if rule.action in (Action.REJECT, Action.CLOSE):
                    self.free = min(self.free, kind.burst + kind.rate * TICK_SECONDS)
                self.level_max = kind.burst + kind.rate * rule.max_wait_seconds + 1.0
            case FixedWindow():
                self.count, self.window_seconds = kind.count, kind.window_seconds
            case Concurrency():
                self.count, self.waiting = kind.max_in_flight, kind.waiting
                self.count_long_polls = kind.count_long_polls
            case _:  # connections
                self.count, self.rate = kind.max_open, kind.rate
                self.free = kind.burst + kind.rate * TICK_SECONDS
        plain = _METERS[type(kind), getattr(kind, "unit", Unit.REQUESTS)]
        self.meter_class = plain if tenant is None else tenant.kind(plain)
        self.asked = 0
        self.delayed = 0
        self.throttled = 0
        self.rejected = 0
        self.closed = 0
        self.delay_seconds = 0.0
        self.held: dict[str, Held] = {}
        self._totals: dict[str, float] = {}
        self._meters: dict[str, Meter] = {}
        """By key, the longest unused first. (An OrderedDict has 60 bytes more a key; the first of 100,000 keys is found
        in 20 us here.)"""
        self._shared: Meter | None = None
        self.keys_refused = 0
        """How often a key had to share a meter, as there were too many."""

    # Keys.

    def key_of(self, client: Client) -> str:
        """Return what tells a client's meter from others."""
        fields = self.rule.key
        if len(fields) == 1:
            key: str = getattr(client, fields[0])
        else:  # one string is far smaller than a tuple of several
            key = _BETWEEN.join([getattr(client, name).replace(_BETWEEN, " ") for name in fields]) or "all"
        if len(key) > KEY_CHARS_MAX:
            key = f"{key[: KEY_CHARS_MAX - 33]}~{blake2b(key.encode(), digest_size=16).hexdigest()}"
        return key

    def meter(self, client: Client, now: float) -> Meter:
        """Return the meter of a client's key, made if need be; it must be given back with ``drop``."""
        key = self.key_of(client)
        meter = self._meters.pop(key, None)
        if meter is not None:
            self._meters[key] = meter  # behind all others
        elif len(self._meters) < self.rule.keys_max or self._forget_one(now):
            meter = self._meters[key] = self._make(key, now)
        else:
            self.keys_refused += 1
            meter = self._shared = self._shared or self._make(_SHARED, now)
        meter.users += 1
        return meter

    def _make(self, key: str, now: float) -> Meter:
        meter = self.meter_class(self, now)
        if self.tenant is not None:
            self.tenant.began(meter, key, now)
        return meter

    def enter(self, client: Client, now: float) -> "tuple[Limit, Meter]":
        """Return what a connection comes under by it; ``Bound.leave`` gives it back."""
        meter = self.meter(client, now)
        return self, meter.hold() if isinstance(meter, Slots) else meter

    def drop(self, meter: Meter) -> None:
        """End what ``meter`` began."""
        meter.users -= 1
        if self.retired and not meter.users:
            meter.forgotten()

    def retire(self) -> None:
        """Count no more; what connections still hold they give back."""
        self.retired = True
        for meter in (*self._meters.values(), *((self._shared,) if self._shared else ())):
            if not meter.users:
                meter.forgotten()

    def _forget_one(self, now: float) -> bool:
        """Make room: of the longest unused an idle one, else the first that nobody counts on."""
        spare = None
        for key in list(islice(self._meters, TRIED_MAX)):
            meter = self._meters[key]
            if meter.users:
                self._meters[key] = self._meters.pop(key)  # so that others are looked at the next time
            elif meter.idle(now):
                spare = key
                break
            elif spare is None:
                spare = key
        if spare is None:
            return False
        self._meters.pop(spare).forgotten()
        return True

    def meters(self) -> Iterator[tuple[str, Meter]]:
        """List keys, as text, and their meters."""
        for key, meter in self._meters.items():
            yield text_of(key), meter

    # What it has done.

    def holds_up(self, client: Client, now: float, seconds: float) -> None:
        """Note that a client is held up for so long by this limit."""
        key = text_of(self.key_of(client))
        held = self.held.get(key)
        if held is None:
            if len(self.held) >= TOTALS_MAX:
                return
            held = self.held[key] = Held(now)
        held.until = max(held.until, now + seconds)
        held.seconds += seconds

    def top(self) -> dict[str, float]:
        """Return the keys that were held up the longest, in seconds."""
        totals = dict(self._totals)
        for key, held in self.held.items():
            totals[key] = totals.get(key, 0.0) + held.seconds
        longest = sorted(totals.items(), key=lambda entry: -entry[1])[:TOP_KEYS]
        return {key: round(seconds, 3) for key, seconds in longest}

    def ended(self, now: float) -> Iterator[News]:
        """Tell which keys are no longer limited."""
        over = [key for key, held in self.held.items() if now - held.until >= QUIET_SECONDS]
        for key in over:
            held = self.held.pop(key)
            self._totals[key] = self._totals.get(key, 0.0) + held.seconds
            yield News(self, key, False, held.seconds)
        if len(self._totals) > TOTALS_MAX:
            longest = sorted(self._totals.items(), key=lambda entry: -entry[1])[: TOTALS_MAX // 2]
            self._totals = dict(longest)

    def windows(self, now: float) -> dict[str, dict[str, float]]:
        """Return the windows that are the most used, by key: what remains in each, and in how many seconds it ends.

        Of many only those that began to be used last are looked at, as traffic waits meanwhile.
        """
        open_now = (
            (text_of(key), *meter.remaining(now))
            for key, meter in islice(reversed(self._meters.items()), WINDOWS_MAX)
            if isinstance(meter, Window) and not meter.idle(now)
        )
        fullest = nsmallest(TOP_KEYS, open_now, key=itemgetter(1))
        return {key: {"remaining": left, "resets_in": round(seconds, 3)} for key, left, seconds in fullest}

    def snapshot(self, now: float) -> dict[str, object]:
        """Return the counters as plain values, and for a fixed window what is left of the fullest."""
        windows = {"windows": self.windows(now)} if isinstance(self.rule.kind, FixedWindow) else {}
        return windows | self.counters() | {"top": self.top()}

    def counters(self) -> dict[str, float]:
        """Return the numbers alone, at a price that does not depend on how many keys there are."""
        return {
            "asked": self.asked,
            "delayed": self.delayed,
            "throttled": self.throttled,
            "rejected": self.rejected,
            "closed": self.closed,
            "delay_seconds": round(self.delay_seconds, 3),
            "keys": len(self._meters),
            "keys_refused": self.keys_refused,
        }


_SHARED = "\0"
"""What a meter of several keys is called; no key is."""

_BETWEEN = "\0"
"""Between the fields of a key; in one it counts as a space, so that nobody can pass for somebody else."""

_METERS: dict[tuple[type, Unit], type[Meter]] = {
    (LeakyBucket, Unit.REQUESTS): Bucket,
    (LeakyBucket, Unit.BYTES_IN): BytesBucket,
    (LeakyBucket, Unit.BYTES_OUT): AnswerBucket,
    (FixedWindow, Unit.REQUESTS): Window,
    (FixedWindow, Unit.BYTES_IN): BytesWindow,
    (FixedWindow, Unit.BYTES_OUT): AnswerWindow,
    (Concurrency, Unit.REQUESTS): Slots,
    (Connections, Unit.REQUESTS): Doorway,
}


def text_of(key: str) -> str:
    """Write a key into a log line."""
    return key.replace(_BETWEEN, " ")


@dataclass(slots=True)
class Bound:
    """The limits that one connection comes under."""

    entries: list[tuple[Limit, Meter]] = field(default_factory=list)

    def meters(self, key: int) -> tuple[Meter, ...]:
        """Return the meters that count requests of an API, in the order of the configuration."""
        return tuple(
            meter
            for limit, meter in self.entries
            if limit.rule.counts(key) and not isinstance(meter, Doorway) and not limit.retired
        )

    def follow(self, limits: "Limits", client: Client, now: float, *, entered: bool) -> None:
        """Come under ``limits`` as they are now, which are others; ``entered``: the client's id is known.

        Limits on connections that are new count those that come from now on.
        """
        there = {id(limit): (limit, meter) for limit, meter in self.entries}
        gone = [(limit, meter) for limit, meter in self.entries if limit.retired]
        self.entries = [entry for entry in gone if isinstance(entry[1], Hold) and entry[1].held]
        Bound([entry for entry in gone if entry not in self.entries]).leave()
        for limit in limits.limits:
            if id(limit) in there:
                self.entries.append(there[id(limit)])
            elif entered and not isinstance(limit.rule.kind, Connections) and limit.rule.meant(client):
                self.entries.append(limit.enter(client, now))

    def turn_back(self) -> None:
        """Another limit did not let the connection in: it has not come."""
        for _, meter in self.entries:
            meter.undo(1, 0)
        self.leave()

    def leave(self) -> None:
        """The connection has ended: it holds nothing any more."""
        for limit, meter in self.entries:
            if isinstance(meter, Hold):
                meter.give_back(meter.held)
                limit.drop(meter.slots)
            else:
                if isinstance(meter, Doorway):
                    meter.leave()
                limit.drop(meter)
        self.entries.clear()


class Limits:
    """All limits, as one process has them."""

    def __init__(self, rules: Iterable[Rule], tenant: Tenant | None = None) -> None:
        """Begin with no key anywhere. ``tenant``: see Limit."""
        self.limits = [Limit(rule, tenant) for rule in rules]
        self._tenant = tenant
        self._over: list[News] = []

    def change(self, rules: Iterable[Rule]) -> None:
        """Go on with these rules; a limit whose rule is among them, to the letter, keeps all that it has counted.

        Connections that are under limits must be told afterwards (``Metered.limits_changed``).
        """
        before = {limit.id: limit for limit in self.limits}
        self.limits = [before.pop(limit.id, limit) for limit in (Limit(rule, self._tenant) for rule in rules)]
        for limit in before.values():
            limit.retire()
            told = {key for key, held in limit.held.items() if held.told}
            self._over += (news for news in limit.ended(inf) if news.key in told)

    def unsure(self, client: Client, now: float, *, early: bool) -> bool:
        """Whether ``knock`` should wait for a moment, as others have yet to be asked."""
        unsure = False
        for limit in self.limits:
            rule = limit.rule
            if limit.tenant is None or not isinstance(rule.kind, Connections) or rule.early is not early:
                continue
            if rule.meant(client):
                door = limit.meter(client, now)
                unsure |= door.unsure(now) and not rule.dry_run
                limit.drop(door)
        return unsure

    def knock(self, client: Client, now: float, *, early: bool) -> tuple[Limit | None, Bound]:
        """Let a connection in by the limits on connections, or not: then the first that refuses it is returned.

        ``early``: by those that need no client id, when it is accepted; otherwise by the others.
        """
        bound = Bound()
        for limit in self.limits:
            rule = limit.rule
            if not isinstance(rule.kind, Connections) or rule.early is not early or not rule.meant(client):
                continue
            door = limit.meter(client, now)
            assert isinstance(door, Doorway)  # noqa: S101  what the kind makes
            if not door.enter(now):
                limit.closed += 1
                limit.holds_up(client, now, 0.0)
                limit.drop(door)
                if not rule.dry_run:
                    bound.turn_back()
                    return limit, bound
                continue
            bound.entries.append((limit, door))
        return None, bound

    def enter(self, client: Client, now: float) -> Bound:
        """Return the limits on requests that a connection comes under; ``leave`` it at the end."""
        bound = Bound()
        for limit in self.limits:
            rule = limit.rule
            if isinstance(rule.kind, Connections) or not rule.meant(client):
                continue
            bound.entries.append(limit.enter(client, now))
        return bound

    def news(self, now: float) -> list[News]:
        """Return which keys have begun to be limited, and which are so no longer, since it was last asked."""
        found, self._over = self._over, []
        for limit in self.limits:
            for key, held in limit.held.items():
                if not held.told:
                    held.told = True
                    found.append(News(limit, key, True, held.seconds))
            found += limit.ended(now)
        return found

    def counters(self) -> dict[str, dict[str, float]]:
        """Return the numbers of each limit by its name."""
        return {limit.rule.name: limit.counters() for limit in self.limits}

    def snapshot(self, now: float) -> dict[str, object]:
        """Return the counters of each limit by its name."""
        return {limit.rule.name: limit.snapshot(now) for limit in self.limits}
