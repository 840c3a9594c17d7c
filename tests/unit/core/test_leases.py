"""Leases one step at a time: what a meter makes of what the store says, and the store of what it is told."""

import doctest
from typing import Any, cast

import pytest
from leases_stage import Sender, World

from kproxy.core import leased, leasestore
from kproxy.core.leased import Leased, LeasedBytesBucket, LeasedDoorway, LeasedFlow, LeasedSlots, LeasedStock
from kproxy.core.leases import DRY, ENTRIES_MAX, HOLD_SECONDS, KEY_CHARS_MAX, WAIT, Entry, key_of
from kproxy.core.leasestore import SILENT_SECONDS, Store, divide
from kproxy.core.limits import (
    Action,
    Client,
    Concurrency,
    Connections,
    FixedWindow,
    LeakyBucket,
    Limit,
    Limits,
    Rule,
    Unit,
)
from kproxy.core.meters import Hold
from kproxy.core.tenant import LEAVE_SECONDS, LOOKED_AT, Tenant

Kind = LeakyBucket | FixedWindow | Concurrency | Connections

NOW = 100.0


class Clock:
    """A clock that stands."""

    now = NOW

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def rule(kind: Kind, **more: Any) -> Rule:
    """Make a limit with a key."""
    return Rule("limit", kind, key=("client_id",), **more)


def limits(kind: Kind, processes: int = 2, **more: Any) -> Limits:
    """Make a limit of a process with leases."""
    return Limits([rule(kind, **more)], Tenant(processes, Clock()))


def client(name: str = "alice") -> Client:
    """Make a client."""
    return Client("public", "10.0.0.1", "User:ANONYMOUS", name)


def meter(kind: Kind, **more: Any) -> Any:
    """Make a meter that takes from leases."""
    return limits(kind, **more).limits[0].meter(client(), NOW)


def tenant_of(limit: Limit) -> Tenant:
    """Return whose leases a limit takes from."""
    assert limit.tenant is not None
    return limit.tenant


def urgent(made: Leased) -> bool:
    """Tell, once, whether the store is to be asked at once."""
    found = made.tenant.urgent
    made.tenant._urgent.clear()
    return found


def test_the_examples() -> None:
    """The modules' examples are so."""
    assert doctest.testmod(leasestore).failed == 0
    names = {"Limits": Limits, "Rule": Rule, "LeakyBucket": LeakyBucket, "Tenant": Tenant, "Client": Client}
    assert doctest.testmod(leased, extraglobs=names).failed == 0


def test_what_is_left_to_kinds_of_meters() -> None:
    """What only the kinds know is an error when it is asked of none."""
    nothing = Leased(Limit(rule(LeakyBucket(1))), NOW)
    for call in (nothing.reset, lambda: nothing.report(NOW), nothing.stays, lambda: nothing.renewed(None, None, NOW)):
        with pytest.raises(NotImplementedError):
            call()
    with pytest.raises(NotImplementedError):
        LeasedFlow.cost(cast("LeasedFlow", nothing), 1, 1)
    assert not nothing.in_use()
    nothing.silence()


def test_keys_are_short() -> None:
    """A key that would make a message long is told by its digest, the same each time, another for each key."""
    assert key_of("alice") == "alice"
    assert key_of("a" * KEY_CHARS_MAX) == "a" * KEY_CHARS_MAX
    long = [key_of(key) for key in ("a" * 65, "b" * 65, "ä", "\ud800")]
    assert len(set(long)) == 4
    assert {len(key) for key in long} == {32}


def test_wants_are_met_evenly() -> None:
    """Who wants little gets it; the others share the rest by their weight; nothing is made up."""
    assert divide(10, {}) == {}
    assert divide(10, {0: (1, 1), 1: (2, 1)}) == {0: 1, 1: 2}
    assert divide(9, {0: (float("inf"), 1), 1: (float("inf"), 2)}) == {0: 3.0, 1: 6.0}
    assert divide(-1, {0: (1, 1)}) == {0: 0.0}


# Flows.


def test_a_bucket_before_anything_is_told() -> None:
    """A first request passes, more do not; then the store is asked, at once and once, for as long as it may take."""
    bucket = meter(LeakyBucket(10, 5))
    assert not bucket.take(NOW, 2, 100)
    assert bucket.take(NOW, 1, 100)
    assert not urgent(bucket)
    assert not bucket.take(NOW, 1, 100)
    assert bucket.unsure(NOW)
    assert urgent(bucket)
    assert bucket.unsure(NOW + 0.01)
    assert not urgent(bucket)
    assert not bucket.unsure(NOW + HOLD_SECONDS + 0.001)
    assert bucket.report(NOW) == (bucket.limit.id, "alice", (1.0, 1, 1), None)
    bucket.renewed((0.5, 1.0), None, NOW + 0.05)
    assert bucket.level == 1.0
    assert bucket.unsure(NOW + 0.05) is False  # it is known to wait
    assert bucket.ask(NOW + 0.05) == (0.1, False)


def test_a_share_is_pushed() -> None:
    """A share may change without the level being told; then what was charged before stays as it was."""
    bucket = meter(LeakyBucket(10, 5))
    bucket.renewed((1.0, 0.0), None, NOW)
    assert bucket.take(NOW, 1, 100)
    bucket.renewed((0.25, None), None, NOW)
    assert (bucket.level, bucket.flow.weight) == (1.0, 4.0)
    bucket.undo(1, 100)
    assert (bucket.low, bucket.flow.spent, bucket.limit.asked) == (0.0, 0.0, 0)


def test_a_no_that_is_sure() -> None:
    """What is over by what this process charged itself is over; the store need not be asked."""
    bucket = meter(LeakyBucket(1, 2), action=Action.REJECT)
    bucket.renewed((0.5, 0.0), None, NOW)
    for _ in range(4):
        bucket.charge(NOW, 100)
    assert not bucket.unsure(NOW)
    assert not urgent(bucket)
    assert bucket.ask(NOW) == (4.0, True)
    assert bucket.report(NOW)[2] == (4.0, 1, 1)
    # By the others' part only: not sure.
    bucket.renewed((0.1, 0.0), None, NOW + 4)
    bucket.charge(NOW + 4, 100)
    assert bucket.unsure(NOW + 4)
    assert urgent(bucket)
    assert bucket.ask(NOW + 4) == (1.0, False)  # if nobody ever answers
    assert bucket.ask(NOW + 6) == (8.0, True)


def test_debts_are_what_is_owed() -> None:
    """However small the share, a debt is by what is known of the whole."""
    bucket = meter(LeakyBucket(1000, 0, unit=Unit.BYTES_IN))
    bucket.renewed((0.01, 500.0), None, NOW)
    assert bucket.charge(NOW, 1000) == 1.5
    requests = meter(LeakyBucket(10))
    requests.renewed((0.1, 3.0), None, NOW)
    assert requests.charge(NOW, 1) == 0.4


def test_bytes_are_taken_and_put_back() -> None:
    """A take of bytes is for all of them; what another limit refuses is put back."""
    bucket = meter(LeakyBucket(1000, 1000, unit=Unit.BYTES_IN))
    assert isinstance(bucket, LeasedBytesBucket)
    bucket.renewed((0.5, 0.0), None, NOW)
    assert bucket.take(NOW, 1, 400)
    bucket.undo(1, 400)
    assert (bucket.level, bucket.low, bucket.flow.spent) == (0.0, 0.0, 0.0)
    assert not bucket.take(NOW, 2, 2000)
    answers = meter(LeakyBucket(1000, unit=Unit.BYTES_OUT))
    answers.renewed((0.5, 0.0), None, NOW)
    assert answers.take(NOW, 3, 100)
    answers.undo(3, 100)
    assert (answers.limit.asked, answers.level) == (0, 0.0)
    assert answers.answered(NOW, 2000) == 2.0


def test_a_store_that_says_nothing() -> None:
    """A flow that waits for the store then has an equal part; one that does not is left alone."""
    bucket = meter(LeakyBucket(10, 5), processes=4)
    bucket.silence()
    assert bucket.take(NOW, 1, 100)
    assert bucket.unsure(NOW)
    bucket.silence()
    assert (bucket.flow.weight, bucket.level) == (4.0, 4.0)


# Stocks.


def test_a_window_without_tokens() -> None:
    """Without tokens nothing passes and the store is asked; what it gives is taken, and what it says of the window."""
    window = meter(FixedWindow(10, 60.0))
    assert isinstance(window, LeasedStock)
    assert not window.take(NOW, 1, 100)
    assert window.ask(NOW) == (60.0, True)
    assert window.unsure(NOW)
    assert urgent(window)
    assert window.report(NOW) == (window.limit.id, "alice", None, (0, 0, 0, 1, 1, 0))
    window.renewed(None, (1, 5, None, 0, 0, 10), NOW)
    assert not window.unsure(NOW)
    assert window.ask(NOW) == (0.0, False)
    assert window.take(NOW, 5, 100)
    window.undo(1, 100)
    assert window.remaining(NOW) == (6, 60.0)
    assert window.report(NOW)[3] == (1, 1, 4, 8, 0, 0)
    window.renewed(None, (1, 0, None, 0, 30.0, 6), NOW)
    assert window.remaining(NOW) == (6, 30.0)
    assert window.take(NOW, 1, 100)
    assert not window.take(NOW, 1, 100)
    assert window.unsure(NOW)
    window.renewed(None, (1, 0, None, WAIT, 30.0, 5), NOW)
    assert window.unsure(NOW)
    window.renewed(None, (1, 0, None, DRY, 30.0, 5), NOW)
    assert not window.unsure(NOW)
    urgent(window)
    assert not window.stays()
    assert not window.unsure(NOW)
    assert not urgent(window)
    assert window.left(NOW + 30) == 0  # the window is over
    assert window.unsure(NOW + 30)
    assert urgent(window)


def test_what_is_wanted_back_is_given() -> None:
    """What the store wants back goes at once, and it is told so; more is never given than there is."""
    window = meter(FixedWindow(10, 60.0))
    window.renewed(None, (1, 8, None, 0, 0, 10), NOW)
    window.renewed(None, (1, 0, 3, 0, 0, 10), NOW)
    assert (window.stock.have, urgent(window)) == (3, True)
    window.renewed(None, (1, 0, 5, 0, 0, 10), NOW)
    assert (window.stock.have, urgent(window)) == (3, False)


def test_more_than_there_is() -> None:
    """What goes whether or not there are tokens is a debt until the window ends."""
    window = meter(FixedWindow(1000, 60.0, Unit.BYTES_OUT))
    assert not window.take(NOW, 1, 1)
    window.renewed(None, (1, 1000, None, 0, 0, 1000), NOW)
    assert window.take(NOW, 1, 1)
    window.undo(1, 1)
    assert window.answered(NOW, 900) == 0.0
    assert window.answered(NOW + 1, 900) == 59.0
    assert window.remaining(NOW + 1) == (0, 59.0)
    bytes_in = meter(FixedWindow(1000, 60.0, Unit.BYTES_IN))
    assert not bytes_in.take(NOW, 1, 500)
    bytes_in.renewed(None, (1, 1000, None, 0, 0, 1000), NOW)
    assert bytes_in.take(NOW, 1, 500)
    bytes_in.undo(1, 500)
    assert bytes_in.stock.have == 1000
    bytes_in.silence()
    assert bytes_in.stock.have == 1000


def slots_of(kind: Concurrency, count: int) -> tuple[LeasedSlots, Hold]:
    """Make slots, some of which are in hand."""
    slots = meter(kind)
    assert isinstance(slots, LeasedSlots)
    slots.renewed(None, (1, count, None, 0, 0, kind.max_in_flight), NOW)
    return slots, slots.hold()


def test_slots_in_hand() -> None:
    """Slots in hand are taken at once; who finds none waits, and goes on when the store gives one."""
    slots, hold = slots_of(Concurrency(5), 2)
    assert hold.take(NOW, 2, 100)
    assert not hold.take(NOW, 1, 100)
    granted: list[int] = []
    slots.wait(lambda: granted.append(1))
    assert urgent(slots)
    assert slots.report(NOW)[3] == (1, 2, 0, 4, 1, 2)
    slots.renewed(None, (2, 1, None, 0, 0, 5), NOW)
    assert (granted, slots.flying) == ([1], 3)
    assert slots.report(NOW)[3] == (2, 3, 0, 4, 0, 3)
    assert slots.in_use()
    slots.wait(lambda: granted.append(2))
    slots.stock.hungry = False  # the store gave one that somebody else has got
    assert slots.report(NOW)[3] == (2, 3, 0, 5, 1, 3)


def test_slots_that_are_wanted_back() -> None:
    """A slot that is wanted back goes when its request is answered, before who waits here."""
    slots, hold = slots_of(Concurrency(5), 2)
    assert hold.take(NOW, 2, 100)
    granted: list[int] = []
    slots.wait(lambda: granted.append(1))
    urgent(slots)
    slots.renewed(None, (1, 0, 1, WAIT, 0, 5), NOW)
    assert (slots.count, urgent(slots)) == (2, False)
    hold.give_back(1)
    assert (slots.count, slots.flying, granted, urgent(slots)) == (1, 1, [], True)
    hold.give_back(1)
    assert (slots.count, slots.flying, granted) == (1, 1, [1])


def test_slots_are_full() -> None:
    """Nobody is turned away before the store has said that there are no more slots; an equal part when it is silent."""
    slots, _ = slots_of(Concurrency(6, waiting=0), 0)
    before = slots.full
    slots.renewed(None, (1, 0, None, DRY, 0, 6), NOW)
    assert (before, slots.full) == (False, True)
    alone, hold = slots_of(Concurrency(6), 0)
    alone.silence()
    assert alone.count == 0
    granted: list[int] = []
    alone.wait(lambda: granted.append(1))
    alone.silence()
    assert (alone.count, granted) == (3, [1])
    assert not hold.take(NOW, 3, 100)


def test_a_doorway() -> None:
    """A connection is let in while there is room in hand and the share allows it; else the store is asked."""
    door = meter(Connections(max_open=4, rate=10, burst=5))
    assert isinstance(door, LeasedDoorway)
    assert door.unsure(NOW)
    assert urgent(door)
    assert not door.enter(NOW)
    door.renewed((0.5, 0.0), (1, 2, None, 0, 0, 4), NOW)
    assert not door.unsure(NOW)
    assert door.enter(NOW)
    assert door.report(NOW)[2:] == ((1.0, 0, 1), (1, 2, 0, 2, 0, 1))
    assert door.enter(NOW)
    assert door.in_use()
    assert door.unsure(NOW)  # there is no room
    door.renewed((0.5, None), (1, 0, None, DRY, 0, 4), NOW)
    assert not door.unsure(NOW)
    door.undo(1, 0)
    door.leave()
    assert door.flow.spent == 0.0
    door.renewed((0.5, 9.0), (1, 0, 1, 0, 0, 4), NOW)
    assert door.stock.have == 1
    assert urgent(door)
    door.leave()
    assert not door.unsure(NOW)  # too fast, for sure
    assert not door.enter(NOW)
    door.renewed((0.1, 0.0), (1, 1, None, 0, 0, 4), NOW + 1)
    assert door.enter(NOW + 1)
    assert door.unsure(NOW + 1)  # too fast by the others' part only
    assert urgent(door)
    assert door.unsure(NOW + 1)
    assert not urgent(door)


def test_a_doorway_that_is_refused() -> None:
    """Who was turned away for want of room wants one more, for as long as somebody still asks; or has a part alone."""
    door = meter(Connections(max_open=4))
    assert door.unsure(NOW)
    assert door.stays()
    assert door.report(NOW)[3] == (0, 0, 0, 1, 1, 0)
    door.silence()
    assert door.stock.have == 2
    door.stock.have = 0
    assert door.report(NOW + 2)[3] == (0, 0, 0, 0, 0, 0)
    assert not door.stays()
    door.undo(1, 0)
    only_rate = meter(Connections(rate=5, burst=1))
    assert only_rate.enter(NOW)
    assert only_rate.report(NOW)[3] is None
    only_rate.renewed((1.0, 1.0), None, NOW)


# Tenants.


def test_one_message_holds_so_many() -> None:
    """More keys than go into a message are told in the next; the urgent go first, and none twice."""
    made = limits(FixedWindow(10, 60.0))
    limit = made.limits[0]
    tenant = tenant_of(limit)
    meters = [limit.meter(client(f"client {number}"), NOW) for number in range(ENTRIES_MAX + 20)]
    assert not tenant.active
    for each in meters:
        assert isinstance(each, LeasedStock)
        each.touch()
    meters[-1].unsure(NOW)
    assert tenant.crowded
    first = tenant.report(NOW)
    assert len(first) == ENTRIES_MAX
    assert first[0][1] == f"client {ENTRIES_MAX + 19}"
    second = tenant.report(NOW)
    assert len({entry[1] for entry in first + second}) == ENTRIES_MAX + 20
    assert not tenant.urgent


def test_what_is_not_used_is_given_back() -> None:
    """A key that nobody used for a while is left, told so once, and begins anew when it is used again."""
    made = limits(LeakyBucket(10), processes=2)
    limit = made.limits[0]
    tenant = tenant_of(limit)
    meters = [cast("LeasedFlow", limit.meter(client(f"client {number}"), NOW)) for number in range(LOOKED_AT + 5)]
    for each in meters:
        each.take(NOW, 1, 100)
    tenant.report(NOW)
    tenant.renewed(
        [(limit.id, "client 0", (1.0, 0.0), None), (limit.id, "nobody", (1.0, 0.0), None)], NOW, answered=True
    )
    assert [each.flow.known for each in meters[:2]] == [True, False]
    later = NOW + LEAVE_SECONDS
    left = tenant.report(later)
    assert [entry[2:] for entry in left] == [(None, None)] * LOOKED_AT
    assert [each.flow.known for each in meters[:2]] == [False, False]
    assert len(tenant.report(later)) == 5
    assert tenant.report(later) == []
    tenant.renewed([(limit.id, "client 0", (1.0, 0.0), None)], later, answered=True)
    assert not any(each.flow.known for each in meters)  # it is an answer to what was before
    meters[0].unsure(later)
    meters[1].take(later, 1, 100)
    assert len(tenant.report(later)) == 1


def test_what_is_in_use_is_kept() -> None:
    """A key with something in flight is not left, however long that takes."""
    slots, hold = slots_of(Concurrency(5), 5)
    assert hold.take(NOW, 1, 100)
    slots.report(NOW)
    slots.active = False
    slots.tenant._active.clear()
    assert slots.tenant.report(NOW + 100) == []
    hold.give_back(1)
    assert [entry[2:] for entry in slots.tenant.report(NOW + 100)] == [(None, None)]


def test_a_key_that_is_forgotten() -> None:
    """When there is no room for a key any more its leases are given back; one that has none is just gone."""
    made = limits(FixedWindow(10, 60.0), keys_max=1)
    limit = made.limits[0]
    tenant = tenant_of(limit)
    first = limit.meter(client("first"), NOW)
    assert first.unsure(NOW)
    limit.drop(first)
    second = limit.meter(client("second"), NOW)
    limit.drop(second)
    assert [entry[1:] for entry in tenant.report(NOW)] == [("first", None, None)]
    third = limit.meter(client("third"), NOW)
    assert tenant.report(NOW) == []
    shared = limit.meter(client("fourth"), NOW)
    assert shared is not third
    assert shared.unsure(NOW)
    assert limit.meter(client("fifth"), NOW) is shared


def test_a_tenant_begins_anew() -> None:
    """What the store has forgotten is asked for again, in use or not."""
    made = limits(FixedWindow(10, 60.0))
    limit = made.limits[0]
    tenant = tenant_of(limit)
    used, unused = (cast("LeasedStock", limit.meter(client(name), NOW)) for name in ("used", "unused"))
    used.renewed(None, (1, 5, None, 0, 0, 10), NOW)
    used.touch()
    tenant.reset()
    assert (used.stock.have, unused.listed) == (0, False)
    assert [entry[1] for entry in tenant.report(NOW)] == ["used"]
    woken: list[bool] = []
    tenant.wake = lambda: woken.append(tenant.urgent)
    unused.unsure(NOW)
    assert woken == [True]
    tenant.report(NOW)
    tenant.silence()
    assert unused.stock.have == 5


# The store.


def store_of(kind: Kind) -> tuple[Store, str]:
    """Make a store with one limit."""
    limit = Limit(rule(kind))
    return Store([limit]), limit.id


def told(store: Store, who: int) -> dict[str, tuple[Entry | None, Entry | None]]:
    """Return what a process is told, by key."""
    return {key: (flow, stock) for _, key, flow, stock in store.outgoing(who)}


def test_a_limit_that_the_store_does_not_know() -> None:
    """What is reported of a limit that is no more, or not yet, is left out, and so is an end without a beginning."""
    store, limit = store_of(FixedWindow(10, 60.0))
    assert store.heard(0, [("other", "alice", (1.0, 0, 1), None), (limit, "alice", None, None)], NOW)
    assert store.waiting() == []
    store.heard(0, [(limit, "alice", (1.0, 0, 1), None)], NOW)  # of the wrong kind
    store.heard(0, [(limit, "alice", None, None)], NOW)
    store.tick(NOW)
    assert store._accounts == {}


def test_limits_that_stay_keep_their_leases() -> None:
    """When limits change those that are the same keep what is lent, in any order; those that are gone forget it."""
    store, gone = store_of(FixedWindow(10, 60.0))
    stays, comes = Limit(rule(FixedWindow(20, 60.0))), Limit(rule(FixedWindow(30, 60.0)))
    store.change([Limit(rule(FixedWindow(10, 60.0))), stays])
    for limit in (gone, stays.id):
        store.heard(0, [(limit, "alice", None, (0, 0, 0, 1, 1, 0))], NOW)
        store.heard(1, [(limit, "alice", None, (0, 0, 0, 2, 1, 0))], NOW)
    store.change([comes, Limit(rule(FixedWindow(20, 60.0)))])
    assert [limit for limit, *_ in store.outgoing(0)] == [stays.id]
    assert {limit for limit, _ in store._accounts} == {limit for limit, _ in store._swept} == {stays.id}
    assert store._hungry.keys() == {(stays.id, "alice")}
    store.heard(0, [(gone, "alice", None, (1, 10, 0, 1, 1, 0)), (comes.id, "bob", None, (0, 0, 0, 1, 1, 0))], NOW)
    store.tick(NOW)
    assert {limit for limit, _ in store._accounts} == {stays.id, comes.id}


def test_who_is_silent_loses_its_leases() -> None:
    """What a process had that says nothing for too long is there for others; when it comes back it begins anew."""
    store, limit = store_of(FixedWindow(10, 60.0))
    store.heard(0, [(limit, "alice", None, (0, 0, 0, 1, 1, 0))], NOW)
    assert told(store, 0)["alice"][1] == [1, 10, None, 0, 0, 10]
    later = NOW + SILENT_SECONDS
    store.heard(1, [(limit, "alice", None, (0, 0, 0, 2, 1, 0))], later - 1)
    assert told(store, 0)["alice"][1] == [1, 0, 1, 0, 0, 10]
    assert told(store, 1)["alice"][1] == [1, 0, None, WAIT, 0, 10]
    store.tick(later)
    assert told(store, 1)["alice"][1] == [2, 10, None, 0, 0, 10]
    assert not store.heard(0, [(limit, "alice", None, (1, 9, 1, 2, 0, 0))], later)
    assert store.heard(0, [], later)


def test_charges_of_who_was_silent_count() -> None:
    """What was charged on a flow counts, also if it is told by one that has lost its leases."""
    store, limit = store_of(LeakyBucket(10, 100))
    store.heard(0, [(limit, "alice", (1.0, 0, 1), None)], NOW)
    store.tick(NOW + SILENT_SECONDS)
    assert not store.heard(0, [(limit, "alice", (50.0, 0, 1), None)], NOW + SILENT_SECONDS)
    flow, _ = told(store, 0)["alice"]
    assert flow is not None
    assert flow[1] >= 49


def test_tokens_of_the_window_before() -> None:
    """Tokens that are shown after their window has ended are worth nothing, and are taken away."""
    store, limit = store_of(FixedWindow(10, 60.0))
    store.heard(0, [(limit, "alice", None, (0, 0, 0, 1, 1, 0))], NOW)
    store.heard(0, [(limit, "alice", None, (1, 9, 1, 2, 0, 0))], NOW)
    told(store, 0)
    store.heard(0, [(limit, "alice", None, (1, 4, 5, 10, 0, 0))], NOW + 60)
    (_, stock) = told(store, 0)["alice"]
    assert stock is not None
    assert stock[1:] == [10, None, 0, 0, 10]
    store.heard(0, [(limit, "alice", None, (1, 4, 5, 0, 0, 0))], NOW + 60)
    (_, stock) = told(store, 0)["alice"]
    assert stock is not None
    assert stock[1:3] == [0, 0]


def test_what_is_to_be_told_is_put_together() -> None:
    """Grants that were not sent yet add up, and a share that changes again is told once."""
    store, limit = store_of(Concurrency(10))
    store.heard(0, [(limit, "alice", None, (0, 0, 0, 2, 1, 0))], NOW)
    store.heard(1, [(limit, "alice", None, (0, 0, 0, 2, 1, 0))], NOW)
    assert told(store, 0)["alice"][1] == [1, 10, 2, 0, 0, 10]
    flows, limit = store_of(LeakyBucket(10))
    flows.heard(0, [(limit, "alice", (1.0, 0, 1), None)], NOW)
    flows.heard(1, [(limit, "alice", (1.0, 0, 1), None)], NOW)
    flow, _ = told(flows, 0)["alice"]
    assert flow is not None
    assert flow[0] == pytest.approx(0.5, abs=0.05)
    assert flow[1] is not None
    flows.heard(2, [(limit, "alice", (1.0, 0, 1), None)], NOW)
    (changed, _) = told(flows, 0)["alice"]
    assert changed is not None
    assert changed[1] is None
    flows.forget(2, NOW)
    (changed, _) = told(flows, 0)["alice"]
    assert changed is not None
    assert changed[0] == pytest.approx(0.5, abs=0.05)
    flows.forget(7, NOW)


def test_accounts_that_nobody_needs() -> None:
    """What nobody uses and nothing is owed on is forgotten; the rest is kept until then."""
    flows, limit = store_of(LeakyBucket(10))
    flows.heard(0, [(limit, "alice", (5.0, 0, 1), None)], NOW)
    flows.heard(0, [(limit, "alice", None, None)], NOW)
    flows.tick(NOW)
    assert len(flows._accounts) == 1
    flows.tick(NOW + 1)
    assert flows._accounts == {}
    windows, limit = store_of(FixedWindow(10, 2.0))
    windows.heard(0, [(limit, "alice", None, (0, 0, 1, 1, 1, 0))], NOW)
    windows.heard(1, [(limit, "alice", None, (0, 0, 0, 20, 1, 0))], NOW)
    windows.heard(0, [(limit, "alice", None, None)], NOW)
    windows.heard(1, [(limit, "alice", None, None)], NOW)
    windows.tick(NOW + 1)
    assert len(windows._accounts) == 1
    windows.tick(NOW + 2)
    assert windows._accounts == {}


def test_dry_runs_hold_nobody_up() -> None:
    """A limit that is tried out asks the store, and keeps nobody waiting for it."""
    kinds: list[Kind] = [Connections(max_open=1), FixedWindow(5, 60.0)]
    world = World(rule(kinds[0], action=Action.CLOSE, dry_run=True), 2)
    assert not world.workers[0].limits.unsure(client(), world.now, early=False)
    assert world.workers[0].tenant.urgent
    assert not Limits([rule(kinds[0])]).unsure(client(), world.now, early=False)
    other = Limits([Rule("limit", kinds[0], key=("client_id",), client_ids=("bob",))], Tenant(2, Clock()))
    assert not other.unsure(client(), world.now, early=False)
    sender = Sender(World(rule(kinds[1], action=Action.CLOSE), 1), 0)
    sender.send()
    sender.world.run(0.1)
    assert len(sender.passed) == 1
