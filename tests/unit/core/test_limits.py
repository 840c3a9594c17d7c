"""Which limits a client comes under, the tables of their meters, and what they tell of what they did."""

import doctest
import gc
import tracemalloc
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kproxy.core import limits as module
from kproxy.core.acceptor import ANONYMOUS
from kproxy.core.limits import (
    EXEMPT,
    KEY_CHARS_MAX,
    NEVER,
    QUIET_SECONDS,
    TOP_KEYS,
    TOTALS_MAX,
    TRIED_MAX,
    Bound,
    Client,
    Concurrency,
    Connections,
    FixedWindow,
    LeakyBucket,
    Limit,
    Limits,
    News,
    Rule,
    Unit,
    text_of,
)
from kproxy.core.meters import GRACE_SECONDS, Bucket, Doorway, Hold, Meter, Window
from kproxy.wire.apis import APIS, ApiKey

Kind = LeakyBucket | FixedWindow | Concurrency | Connections

FIELDS = ("listener", "client_ip", "principal", "client_id")


def client(client_id: str = "c", client_ip: str = "10.0.0.1", **fields: str) -> Client:
    """Make a client, anonymous if not told otherwise."""
    return Client(
        **{"listener": "public", "principal": ANONYMOUS, "client_ip": client_ip, "client_id": client_id} | fields
    )


def rule(kind: Kind | None = None, **fields: Any) -> Rule:
    """Make a rule: one request a second for each client id, if not told otherwise."""
    return Rule(**{"name": "limit", "kind": kind or LeakyBucket(1), "key": ("client_id",)} | fields)


def only(limits: Limits) -> Limit:
    """Return the one limit."""
    (limit,) = limits.limits
    return limit


def users(limit: Limit) -> dict[str, int]:
    """Return how many connections count on each key."""
    return {key: meter.users for key, meter in limit.meters()}


# Who and what is meant.


@pytest.mark.parametrize(
    ("match", "meant"),
    [
        ({}, True),
        ({"listeners": frozenset({"public", "b"})}, True),
        ({"listeners": frozenset({"b"})}, False),
        ({"listeners": frozenset()}, False),
        ({"principals": ("User:bob", "User:ali*")}, True),
        ({"principals": ("User:bob", "alice", "user:alice")}, False),
        ({"client_ids": ("batch-?",)}, True),
        ({"client_ids": ("batch-[2-9]", "batch", "*-")}, False),
        ({"client_ids": ()}, False),
        ({"client_ips": (ip_network("192.0.2.0/24"), ip_network("10.1.0.0/16"))}, True),
        ({"client_ips": (ip_network("10.2.0.0/16"), ip_network("::/0"))}, False),
        ({"listeners": frozenset({"public"}), "client_ids": ("batch-1",), "principals": ("*",)}, True),
        ({"listeners": frozenset({"public"}), "client_ids": ("batch-1",), "principals": ("?",)}, False),
    ],
)
def test_match(match: dict[str, Any], *, meant: bool) -> None:
    """A limit is meant for who matches all that it names; of each, one is enough."""
    assert rule(**match).meant(client("batch-1", "10.1.2.3", principal="User:alice")) is meant


@pytest.mark.parametrize(
    ("host", "network", "meant"),
    [
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("::ffff:11.1.2.3", "10.0.0.0/8", False),
        ("0.0.0.0", "0.0.0.0/32", True),
        ("::ffff:0.0.0.0", "0.0.0.0/32", True),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db8::1", "10.0.0.0/8", False),
        ("fe80::1%eth0", "fe80::/10", True),
        ("", "0.0.0.0/0", False),
        ("/run/kproxy.sock", "::/0", False),
    ],
)
def test_networks(host: str, network: str, *, meant: bool) -> None:
    """IPv4 within IPv6 is IPv4, as a listener on :: has it, and what has no address is in no network."""
    assert rule(client_ips=(ip_network(network),)).meant(client(client_ip=host)) is meant


def test_apis() -> None:
    """Without names a limit counts all but group traffic and transactions; with names those; logins never."""
    groups = {"OffsetCommit", "OffsetFetch", "FindCoordinator", "JoinGroup", "SyncGroup", "LeaveGroup", "Heartbeat"}
    groups |= {f"{kind}GroupHeartbeat" for kind in ("Consumer", "Share", "Streams")}
    transactions = {"InitProducerId", "AddPartitionsToTxn", "AddOffsetsToTxn", "EndTxn", "TxnOffsetCommit"}
    assert {APIS[key].name for key in EXEMPT} == groups | transactions
    assert {APIS[key].name for key in NEVER} == {"ApiVersions", "SaslHandshake", "SaslAuthenticate"}
    assert [key for key in APIS if not rule().counts(key)] == sorted(EXEMPT | NEVER)
    named = frozenset({int(ApiKey.PRODUCE), int(ApiKey.HEARTBEAT), int(ApiKey.API_VERSIONS)})
    assert {key for key in APIS if rule(apis=named).counts(key)} == {ApiKey.PRODUCE, ApiKey.HEARTBEAT}


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    "fields", [{"key": ("client_ip",)}, {"key": ("client_ip", "client_id")}, {"client_ids": ("a",)}]
)
def test_early(fields: dict[str, Any], *, early: bool) -> None:
    """What asks for the client id has to wait for it."""
    assert rule(**{"key": ()} | fields).early is (fields == {"key": ("client_ip",)})
    limits = Limits([rule(Connections(5), **{"key": ()} | fields)])
    door = limits.knock(client("a"), 1, early=early)[1]
    assert bool(door.entries) is (early is (fields == {"key": ("client_ip",)}))


# Keys.


@pytest.mark.parametrize(
    ("key", "written"),
    [
        ((), "all"),
        (("client_ip",), "10.0.0.1"),
        (("client_id",), "c"),
        (("client_id", "listener"), "c public"),
        (("client_ip", "principal", "client_id"), "10.0.0.1 User:ANONYMOUS c"),
    ],
)
def test_key(key: tuple[str, ...], written: str) -> None:
    """A key is what its fields are, in the order of the configuration, or all clients."""
    limits = Limits([rule(key=key)])
    limits.enter(client(), 1)
    assert users(only(limits)) == {written: 1}
    assert text_of(only(limits).key_of(client())) == written


TEXTS = st.one_of(st.sampled_from(["", "a", "a\0", "\0a", "a\0a", "a a", "b"]), st.text(max_size=5))
CLIENTS = st.builds(Client, TEXTS, TEXTS, TEXTS, st.one_of(TEXTS, TEXTS.map(lambda text: text * KEY_CHARS_MAX)))


@example(Client("p\0b", "a", "", ""), Client("p", "b\0a", "", ""), list(FIELDS), 2)
@given(CLIENTS, CLIENTS, st.permutations(FIELDS), st.integers(1, 4))
def test_nobody_passes_for_another(one: Client, other: Client, fields: list[str], many: int) -> None:
    """Whatever clients call themselves, two share a meter only if they agree in every field of the key.

    In a key of several a zero byte is as good as a space.
    """
    limit = Limit(rule(key=tuple(fields[:many])))
    of_one, of_other = ([str(getattr(who, name)) for name in limit.rule.key] for who in (one, other))
    if many > 1:
        of_one, of_other = ([text.replace("\0", " ") for text in texts] for texts in (of_one, of_other))
    assert (limit.key_of(one) == limit.key_of(other)) is (of_one == of_other)
    assert len(limit.key_of(one)) <= KEY_CHARS_MAX
    assert "\0" not in text_of(limit.key_of(one))


def test_shared() -> None:
    """Connections that agree in the key share a meter, others do not."""
    limits = Limits([rule(LeakyBucket(1, 5, nodelay=True), key=("client_ip", "principal"))])
    one, same, other = (limits.enter(each, 1) for each in (client("a"), client("b"), client("c", "10.0.0.2")))
    assert one.meters(ApiKey.PRODUCE) == same.meters(ApiKey.FETCH) != other.meters(ApiKey.FETCH)
    (mine,), (its) = one.meters(ApiKey.PRODUCE), other.meters(ApiKey.PRODUCE)[0]
    assert mine.take(1, 6, 600)
    assert not same.meters(ApiKey.FETCH)[0].take(1, 1, 100)
    assert its.take(1, 6, 600)


def test_users() -> None:
    """A key is in use while a connection is under it, and remembered afterwards."""
    limits = Limits([rule(), rule(Concurrency(2)), rule(Connections(2), key=("client_ip",))])
    bounds = []
    for client_id in "aab":
        refused, bound = limits.knock(client(client_id), 1, early=True)
        bound.entries += limits.enter(client(client_id), 1).entries
        assert (refused is None) is (client_id == "a")
        bounds.append(bound)
    assert [users(limit) for limit in limits.limits] == [{"a": 2, "b": 1}, {"a": 2, "b": 1}, {"10.0.0.1": 2}]
    for bound in bounds:
        bound.leave()
        bound.leave()
    assert [users(limit) for limit in limits.limits] == [{"a": 0, "b": 0}, {"a": 0, "b": 0}, {"10.0.0.1": 0}]
    assert all(meter.idle(1) for limit in limits.limits for _, meter in limit.meters())


def test_slots_are_given_back() -> None:
    """A connection that ends gives back the slots that it holds, and who waits for one goes on."""
    limits = Limits([rule(Concurrency(2))])
    ((_, one),), ((_, other),) = bounds = [limits.enter(client(), 1).entries for _ in range(2)]
    assert isinstance(one, Hold)
    assert isinstance(other, Hold)
    assert one is not other
    assert one.slots is other.slots
    assert one.take(1, 2, 100)
    assert not other.take(1, 1, 100)
    granted: list[int] = []
    other.slots.wait(lambda: granted.append(1))
    Bound(bounds[0]).leave()
    assert granted == [1]
    assert other.slots.flying == 1
    assert users(only(limits)) == {"c": 1}


# How many keys.


def entered(limits: Limits, client_id: str, now: float) -> Meter:
    """Let a connection come and go; return its meter."""
    bound = limits.enter(client(client_id), now)
    ((_, meter),) = bound.entries
    bound.leave()
    return meter


def test_the_idle_go_first() -> None:
    """Of the keys nobody counts on an idle one goes first, whose key loses nothing, else the longest unused."""
    limits = Limits([rule(keys_max=3)])
    limit = only(limits)
    for client_id in "abc":
        entered(limits, client_id, 1).charge(1, 100)
    for client_id in "ac":
        entered(limits, client_id, 2).charge(2, 100)
    assert entered(limits, "b", 2).idle(2)
    entered(limits, "d", 2).charge(2, 100)
    assert list(users(limit)) == ["a", "c", "d"]
    entered(limits, "a", 2)
    entered(limits, "e", 2)
    assert list(users(limit)) == ["d", "a", "e"]
    assert limit.keys_refused == 0


def test_none_in_use_goes() -> None:
    """A key that a connection counts on stays; where all do, further keys share one meter, until one goes."""
    limits = Limits([rule(keys_max=2)])
    limit = only(limits)
    bounds = {client_id: limits.enter(client(client_id), 1) for client_id in "abcd"}
    assert users(limit) == {"a": 1, "b": 1}
    (shared,), same = bounds["c"].meters(ApiKey.FETCH), bounds["d"].meters(ApiKey.FETCH)
    assert (shared,) == same
    assert shared.take(1, 1, 100)
    assert shared.ask(1) == (1, True)
    assert shared.users == 2
    assert limit.snapshot(1)["keys_refused"] == 2
    bounds["a"].leave()
    assert limits.enter(client("e"), 1).meters(ApiKey.FETCH) != same
    assert users(limit) == {"b": 1, "e": 1}
    bounds["c"].leave()
    bounds["d"].leave()
    assert shared.users == 0
    assert limits.enter(client("f"), 1).meters(ApiKey.FETCH) == same


def test_those_in_use_are_not_in_the_way() -> None:
    """However many connections stay for ever, those that come and go find the place of one that went."""
    turns = 3
    limits = Limits([rule(keys_max=turns * TRIED_MAX)])
    limit = only(limits)
    for number in range(turns * TRIED_MAX - 1):
        limits.enter(client(f"stays-{number}"), 1)
    entered(limits, "went", 1)
    for _ in range(turns):
        entered(limits, "new", 1)
    assert limit.keys_refused == turns - 1
    assert "went" not in users(limit)
    assert users(limit)["new"] == 0
    assert len(users(limit)) == turns * TRIED_MAX


def most(times: list[float], rate: float) -> float:
    """Return by how many more at most pass in any time than leak out in it."""
    ahead, lowest = 0.0, float("inf")
    for number, now in enumerate(times):
        lowest = min(lowest, number - rate * now)
        ahead = max(ahead, number + 1 - rate * now - lowest)
    return ahead


STEPS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5), st.booleans(), st.integers(1, 9)), max_size=80)


@settings(deadline=None)
@given(st.floats(0.1, 20), st.integers(0, 5), st.integers(1, 4), STEPS)
def test_who_is_forgotten(rate: float, burst: int, keys_max: int, steps: list[tuple[float, int, bool, int]]) -> None:
    """A key passes its rate by its burst and one request, and by as much again each time that it was forgotten.

    It is never forgotten while it is in use, and there are never more than ``keys_max``.
    """
    limits = Limits([rule(LeakyBucket(rate, burst, nodelay=True), keys_max=keys_max)])
    limit = only(limits)
    now = 1000.0
    bounds: dict[int, Bound] = {}
    meters: dict[int, Meter] = {}
    passed: dict[int, list[float]] = {}
    begun: dict[int, int] = {}
    for gap, who, stays, many in steps:
        now += gap
        bound = bounds.pop(who, None) or limits.enter(client(str(who)), now)
        (meter,) = bound.meters(ApiKey.PRODUCE)
        if who not in meters or (meters[who] is not meter and not meters[who].idle(now)):
            begun[who] = begun.get(who, 0) + 1
        meters[who] = meter
        passed.setdefault(who, []).extend([now] * sum(meter.take(now, 1, 100) for _ in range(many)))
        if stays:
            bounds[who] = bound
        else:
            bound.leave()
        assert len(limit._meters) <= keys_max
        assert all(meters[each] in (limit._meters.get(str(each)), limit._shared) for each in bounds)
    for each, times in passed.items():
        assert most(times, rate) <= begun[each] * (burst + 1 + rate * GRACE_SECONDS) + 1e-6
    for bound in bounds.values():
        bound.leave()
    assert not any(users(limit).values())


# The memory that keys take.


def come_and_go(limits: Limits, client_id: str, number: int) -> None:
    """Let one of many clients come, send something, wait for a slot, and go."""
    now = 1000 + number / 7
    who = client(client_id, f"2001:db8:85a3:8d3:1319:8a2e:{number:04x}:7348", principal=f"User:service-{number}")
    for early in (True, False):
        limits.knock(who, now, early=early)[1].leave()
    bound = limits.enter(who, now)
    for meter in bound.meters(ApiKey.PRODUCE):
        assert meter.take(now, 1, 300)
        if isinstance(meter, Hold):
            meter.slots.wait(bound.leave)
            meter.slots.leave(bound.leave)
    bound.leave()


def bytes_per_key(kind: Kind, key: tuple[str, ...], many: int, client_id: str = "orders-producer-{}") -> float:
    """Measure what a limit retains for each of many clients that came and went.

    The smaller of two: what other threads allocate meanwhile, as those that measure coverage do, only adds.
    """
    return min(retained_bytes(kind, key, many, client_id) for _ in range(2)) / many


def retained_bytes(kind: Kind, key: tuple[str, ...], many: int, client_id: str) -> int:
    """Measure what a limit retains for all of them."""
    limits = Limits([rule(kind, key=key)])
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(many):
            come_and_go(limits, client_id.format(number), number)
        gc.collect()
        assert len(users(only(limits))) == many
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


BUCKET = LeakyBucket(10, 5)


# A dict that has just grown, for more than 5,461 or 21,845 entries, wastes the most.
@pytest.mark.parametrize(
    ("kind", "many"),
    [
        (BUCKET, 22_000),
        (LeakyBucket(1e6, 1e5, nodelay=True, unit=Unit.BYTES_IN), 5500),
        (FixedWindow(10**9, 10, Unit.BYTES_IN), 5500),
        (Concurrency(1), 5500),
        (Connections(5, 10), 5500),
    ],
)
def test_memory_of_a_key(kind: Kind, many: int) -> None:
    """A key of one field takes 250 bytes at most, whatever its meter."""
    assert bytes_per_key(kind, ("client_ip",), many) <= 250


def test_memory_of_a_key_of_three() -> None:
    """A key of three fields takes 450 bytes at most."""
    assert bytes_per_key(BUCKET, ("client_ip", "principal", "client_id"), 22_000) <= 450


def test_memory_of_long_names() -> None:
    """A key takes 1 KiB at most, however long its client id is."""
    assert bytes_per_key(BUCKET, ("client_id", "client_ip"), 400, "{}" + "\U0001f600" * 8000) <= 1024


# Connections.


def test_knock() -> None:
    """The first limit that refuses a connection, in the order of the file, is told, and then it counts with none."""
    limits = Limits(
        [
            rule(LeakyBucket(1)),
            rule(Connections(9), name="all", key=()),
            rule(Connections(2), name="per-address", key=("client_ip",)),
            rule(Connections(1), name="per-id"),
            rule(Connections(1), name="elsewhere", listeners=frozenset({"internal"}), key=()),
        ]
    )
    open_ = [limits.knock(client(), 1, early=True) for _ in range(3)]
    assert [limit and limit.rule.name for limit, _ in open_] == [None, None, "per-address"]
    assert [len(bound.entries) for _, bound in open_] == [2, 2, 0]
    assert [users(limit) for limit in limits.limits] == [{}, {"all": 2}, {"10.0.0.1": 2}, {}, {}]
    assert [limit.closed for limit in limits.limits] == [0, 0, 1, 0, 0]
    late = [limits.knock(client(client_id), 1, early=False) for client_id in "aab"]
    assert [limit and limit.rule.name for limit, _ in late] == [None, "per-id", None]
    assert users(limits.limits[3]) == {"a": 1, "b": 1}
    late[0][1].leave()
    assert limits.knock(client("a"), 1, early=False)[0] is None
    assert [limit.asked for limit in limits.limits] == [0, 3, 3, 4, 0]


def test_who_is_turned_back() -> None:
    """A connection that another limit refuses costs nothing: not even of a rate that it came under before."""
    limits = Limits(
        [
            rule(Connections(3, rate=0.1, burst=2), name="all", key=()),
            rule(Connections(1), name="per-address", key=("client_ip",)),
        ]
    )
    assert limits.knock(client(), 1, early=True)[0] is None
    for _ in range(100):
        assert limits.knock(client(), 1, early=True)[0] is limits.limits[1]
    for host in ("10.0.0.2", "10.0.0.3"):
        assert limits.knock(client(client_ip=host), 1, early=True)[0] is None
    assert limits.knock(client(client_ip="10.0.0.4"), 1, early=True)[0] is limits.limits[0]


def test_dry_knock() -> None:
    """A limit that is only tried out counts whom it would refuse, lets them in, and does not count them as open."""
    limits = Limits([rule(Connections(1), dry_run=True), rule(Connections(2), name="real")])
    bounds = []
    for refused_by in (None, None, limits.limits[1]):
        refused, bound = limits.knock(client(), 1, early=False)
        assert refused is refused_by
        bounds.append(bound)
    assert [limit.closed for limit in limits.limits] == [2, 1]
    assert [len(bound.entries) for bound in bounds] == [2, 1, 0]
    assert [users(limit) for limit in limits.limits] == [{"c": 1}, {"c": 2}]
    assert [(news.limit, news.begins) for news in limits.news(1)] == [(limit, True) for limit in limits.limits]
    for bound in bounds:
        bound.leave()
    assert all(meter.idle(1) for limit in limits.limits for _, meter in limit.meters())


# Requests.


def test_order() -> None:
    """A request is asked of the limits in the order of the file, and of those only that count its API."""
    kinds: list[Kind] = [FixedWindow(1, 1), Connections(1), Concurrency(1), LeakyBucket(1), FixedWindow(9, 1)]
    rules = [rule(kind, name=str(number)) for number, kind in enumerate(kinds)]
    rules[3] = rule(LeakyBucket(1), name="3", apis=frozenset({int(ApiKey.HEARTBEAT), int(ApiKey.FETCH)}))
    rules.append(rule(name="5", listeners=frozenset({"internal"})))
    limits = Limits(rules)
    bound = limits.knock(client(), 1, early=False)[1]
    bound.entries += limits.enter(client(), 1).entries

    def order(key: ApiKey) -> list[str]:
        return [meter.limit.rule.name for meter in bound.meters(key)]

    assert order(ApiKey.FETCH) == ["0", "2", "3", "4"]
    assert order(ApiKey.PRODUCE) == ["0", "2", "4"]
    assert order(ApiKey.HEARTBEAT) == ["3"]
    assert order(ApiKey.API_VERSIONS) == []
    assert [type(meter) for meter in bound.meters(ApiKey.FETCH)] == [Window, Hold, Bucket, Window]
    assert [type(meter) for _, meter in bound.entries] == [Doorway, Window, Hold, Bucket, Window]


def test_remaining() -> None:
    """What is left of a window, and for how long, is told for each key."""
    limits = Limits([rule(FixedWindow(5, 60), key=("client_ip", "client_id"))])
    for client_id, many in (("a", 2), ("b", 7), ("c", 0)):
        (window,) = limits.enter(client(client_id), 100).meters(ApiKey.FETCH)
        for _ in range(many):
            window.charge(100, 50)
    told = {key: meter.remaining(110) for key, meter in only(limits).meters() if isinstance(meter, Window)}
    assert told == {"10.0.0.1 a": (3, 50), "10.0.0.1 b": (0, 50), "10.0.0.1 c": (5, 0)}
    (snapshot,) = limits.snapshot(110).values()
    assert isinstance(snapshot, dict)
    assert snapshot["windows"] == {
        "10.0.0.1 b": {"remaining": 0, "resets_in": 50},
        "10.0.0.1 a": {"remaining": 3, "resets_in": 50},
    }


# What they tell.


def test_news() -> None:
    """That a key is held up is told once, and once that it is no longer, when it was quiet for a while."""
    limits = Limits([rule(name="one"), rule(name="two")])
    one, two = limits.limits
    assert limits.news(100) == []
    one.holds_up(client("a"), 100, 2)
    one.holds_up(client("a"), 101, 0.5)
    assert limits.news(101) == [News(one, "a", True, 2.5)]
    two.holds_up(client("a"), 102, 0)
    one.holds_up(client("b"), 102, 1)
    assert limits.news(103) == [News(one, "b", True, 1), News(two, "a", True, 0)]
    assert limits.news(102 + QUIET_SECONDS - 0.1) == []
    assert limits.news(102 + QUIET_SECONDS) == [News(one, "a", False, 2.5), News(two, "a", False, 0)]
    one.holds_up(client("a"), 113, 1)
    assert limits.news(113) == [News(one, "a", True, 1), News(one, "b", False, 1)]
    assert limits.news(200) == [News(one, "a", False, 1)]
    assert limits.news(300) == []
    one.holds_up(client("c"), 400, 1)
    assert [news.begins for news in limits.news(500)] == [True, False]


def test_the_longest_wait_counts() -> None:
    """A key is held up until the last of its requests is not, in whatever order they came."""
    limits = Limits([rule()])
    only(limits).holds_up(client(), 100, 30)
    only(limits).holds_up(client(), 101, 0.1)
    assert [news.begins for news in limits.news(101)] == [True]
    assert limits.news(130 + QUIET_SECONDS - 0.1) == []
    assert [news.begins for news in limits.news(130 + QUIET_SECONDS)] == [False]


def test_top() -> None:
    """Those who were held up the longest are told first, with what they have been and what they are now."""
    limits = Limits([rule()])
    limit = only(limits)
    assert limit.top() == {}
    for number in range(2 * TOP_KEYS):
        limit.holds_up(client(str(number)), 100, number)
    limits.news(200)
    limit.holds_up(client("3"), 200, 100.12345)
    top = limit.top()
    assert list(top.items())[:3] == [("3", 103.123), ("19", 19), ("18", 18)]
    assert len(top) == TOP_KEYS


def test_totals_are_bounded() -> None:
    """Of many keys that are held up so many are remembered, in the end those that were so the longest."""
    limits = Limits([rule()])
    limit = only(limits)
    for number in range(3 * TOTALS_MAX):
        limit.holds_up(client(str(number)), 100, 1 + number / TOTALS_MAX)
    assert len(limit.held) == TOTALS_MAX
    assert len(limits.news(101)) == TOTALS_MAX
    limit.holds_up(client("0"), 101, 7)
    assert len(limits.news(200)) == TOTALS_MAX
    assert limit.held == {}
    for number in range(TOTALS_MAX):
        limit.holds_up(client(f"new-{number}"), 300, 0.5)
    begins = [news.begins for news in limits.news(400)]
    assert (begins.count(True), begins.count(False)) == (TOTALS_MAX, TOTALS_MAX)
    assert len(limit._totals) == TOTALS_MAX // 2
    assert not any(key.startswith("new-") for key in limit._totals)
    assert limit.top()["0"] == 8


def test_snapshot() -> None:
    """A snapshot has the counters of each limit as plain values, by its name."""
    limits = Limits([rule(name="one"), rule(Concurrency(1), name="two")])
    one = limits.limits[0]
    one.asked, one.delayed, one.throttled, one.rejected, one.closed, one.delay_seconds = 5, 4, 3, 2, 1, 0.12345
    one.holds_up(client("a"), 1, 0.5)
    limits.enter(client("a"), 1)
    counters = dict.fromkeys(("asked", "delayed", "throttled", "rejected", "closed", "delay_seconds"), 0)
    assert limits.snapshot(1) == {
        "one": dict(zip(counters, (5, 4, 3, 2, 1, 0.123), strict=True))
        | {"keys": 1, "keys_refused": 0, "top": {"a": 0.5}},
        "two": counters | {"keys": 1, "keys_refused": 0, "top": {}},
    }


def test_counters_are_the_numbers_alone() -> None:
    """What metrics read is what a snapshot has, without anything that grows with the keys."""
    limits = Limits([rule(FixedWindow(5, 60), name="one")])
    limits.enter(client("a"), 1)
    snapshot = limits.snapshot(1)["one"]
    assert isinstance(snapshot, dict)
    counters = limits.counters()["one"]
    assert counters.items() <= snapshot.items()
    assert snapshot.keys() - counters.keys() == {"top", "windows"}


def test_of_many_windows_the_latest_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traffic never waits for 100,000 windows to be looked through: of many those that were used last are told."""
    monkeypatch.setattr(module, "WINDOWS_MAX", 2)
    limits = Limits([rule(FixedWindow(5, 60), key=("client_id",))])
    for client_id in "abc":
        (window,) = limits.enter(client(client_id), 100).meters(ApiKey.FETCH)
        window.charge(100, 50)
    assert set(only(limits).windows(100)) == {"b", "c"}


def test_example() -> None:
    """The example in the module's docstring is true."""
    assert doctest.testmod(module) == (0, 3)
