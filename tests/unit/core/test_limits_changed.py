"""Limits that change while connections are under them: what stays counted, who comes under what, and when."""

from dataclasses import replace

import pytest
from metered_stage import Stage, bucket, doors, fetch, fetched, produce, produced, slots, window

from kproxy.core.directory import Directory
from kproxy.core.limits import Action, Client, LeakyBucket, Limit, Limits, Rule, Unit
from kproxy.core.meters import Doorway, Slots
from kproxy.core.tenant import Tenant

CLIENT = Client("public", "10.0.0.1", "User:ANONYMOUS", "c")


def change(stage: Stage, *rules: Rule) -> list[bool]:
    """Change the limits of a stage, and tell its connections; return who has followed."""
    stage.limits.change(rules)
    return [wire.exchange.limits_changed() for wire in stage.wires]


def slots_of(limit: Limit) -> Slots:
    """Return the slots of a limit's only key."""
    ((_, meter),) = limit.meters()
    assert isinstance(meter, Slots)
    return meter


def test_what_stays_the_same_goes_on() -> None:
    """A limit that is the same to the letter keeps what it has counted, wherever it stands; another begins anew."""
    full = window("full", count=2, window_seconds=20.0)
    stage = Stage(full, bucket("calm", rate=1e6))
    wire = stage.wire()
    wire.send(fetch(1) + fetch(2))
    assert change(stage, bucket("calm", rate=1e5), full) == [True]
    assert [limit.rule.name for limit in stage.limits.limits] == ["calm", "full"]
    assert [limit.asked for limit in stage.limits.limits] == [0, 2]
    wire.send(fetch(3))
    assert wire.broker_got == [1, 2]
    stage.after(20.0)
    assert wire.broker_got == [1, 2, 3]
    wire.send(fetch(4) + fetch(5))
    assert wire.broker_got[-1] == 4
    assert change(stage, replace(full, action=Action.CLOSE)) == [False]
    stage.after(20.0)
    wire.send(fetch(6) + fetch(7))
    assert wire.broker_got == [1, 2, 3, 4, 5, 6, 7]
    assert stage.limit.asked == 2


def test_a_limit_starts_for_who_is_connected() -> None:
    """The next request of an open connection comes under a limit that was not there before."""
    stage = Stage(bucket("wide", rate=1e6))
    wire = stage.wire()
    wire.send(fetch(1))
    change(stage, bucket("wide", rate=1e6), window("narrow", count=1))
    wire.send(fetch(2) + fetch(3))
    assert wire.times == [(1, 0.0), (2, 0.0)]
    stage.after(1.0)
    assert wire.times[-1] == (3, 1.0)


def test_a_limit_stops_for_who_is_connected() -> None:
    """What a limit held stays held for as long as it was told; nothing comes under it any more."""
    stage = Stage(bucket("one", rate=1.0))
    wire = stage.wire()
    wire.send(fetch(1) + fetch(2) + fetch(3) + fetch(4))
    assert change(stage) == [False]
    stage.after(1.0)
    assert wire.times == [(1, 0.0), (2, 1.0), (3, 1.0), (4, 1.0)]
    assert wire.exchange.limits_changed()
    wire.close()
    stage.check_idle()


def test_before_the_first_request() -> None:
    """A client whose id is not known yet comes under the limits that there are when it is."""
    stage = Stage(bucket("wide", rate=1e6, key=("client_id",)))
    wire = stage.wire()
    change(stage, window("narrow", count=1, key=("client_id",)))
    wire.send(fetch(1) + fetch(2))
    assert wire.broker_got == [1]


@pytest.mark.parametrize("acks", [-1, 0])
def test_slots_amid_requests(acks: int) -> None:
    """A limit on requests in flight counts those from now on; answers to earlier ones give nothing back."""
    stage = Stage(bucket("wide", rate=1e6))
    wire = stage.wire()
    wire.send(fetch(1) + fetch(2) + produce(3))
    change(stage, slots("two", max_in_flight=2))
    (limit,) = stage.limits.limits
    wire.send(produce(4, acks) + fetch(5))
    meter = slots_of(limit)
    assert meter.flying == (2 if acks else 1)
    for number in (1, 2):
        wire.answer(fetched(number))
    wire.answer(produced(3))
    assert meter.flying == (2 if acks else 1)
    wire.send(fetch(6) + fetch(7))
    assert wire.broker_got[-1] == (5 if acks else 6)
    if acks:
        wire.answer(produced(4))
    wire.answer(fetched(5))
    stage.after(0.0)
    for number in (6, 7):
        wire.answer(fetched(number))
        stage.after(0.0)
    assert wire.broker_got[-1] == 7
    assert meter.flying == 0
    wire.close()
    stage.check_idle()


def test_slots_that_are_no_more() -> None:
    """What was taken of a limit that is gone is given back with the answer, or at the end; nobody waits for it."""
    stage = Stage(slots("one", max_in_flight=1), bucket("wide", rate=1e6))
    wire, other = stage.wire(), stage.wire()
    wire.send(fetch(1))
    other.send(fetch(2))
    gone = slots_of(stage.limit)
    assert (gone.flying, other.broker_got) == (1, [])
    assert change(stage, bucket("wide", rate=1e6)) == [True, False]
    wire.send(fetch(3))
    assert wire.broker_got == [1, 3]
    wire.answer(fetched(1))
    stage.after(0.0)
    assert other.broker_got == [2]
    assert change(stage, bucket("other", rate=1e6)) == [True, True]
    other.answer(fetched(2))
    wire.answer(fetched(3))
    assert gone.flying == 0
    change(stage)
    assert wire.exchange._bound.entries == []
    for one in (wire, other):
        one.close()


def test_slots_change_after_change() -> None:
    """However often limits change amid requests of several APIs, in the end every slot has been given back."""
    stage = Stage(slots("first", max_in_flight=9))
    limits = [stage.limit]
    wire = stage.wire()
    wire.send(fetch(1))
    wire.answer(fetched(1))
    wire.send(produce(2) + fetch(3))
    for number in range(4, 16, 3):
        change(stage, bucket("wide", rate=1e6 + number))
        wire.send(fetch(number) + produce(number + 1))
        change(stage, slots(f"limit-{number}", max_in_flight=99))
        limits.append(stage.limit)
        wire.send(produce(number + 2))
    assert len(wire.broker_got) == 15
    wire.answer(produced(2) + fetched(3))
    for number in range(4, 16, 3):
        wire.answer(fetched(number) + produced(number + 1) + produced(number + 2))
    assert [slots_of(limit).flying for limit in limits] == [0] * 5
    wire.close()


def test_slots_of_a_connection_that_ends() -> None:
    """A connection that ends gives back what it holds of a limit that is gone."""
    stage = Stage(slots("one", max_in_flight=1))
    wire = stage.wire()
    wire.send(fetch(1))
    gone = slots_of(stage.limit)
    change(stage)
    wire.close()
    assert (gone.flying, gone.users) == (0, 0)


def test_bytes_of_answers_under_way() -> None:
    """An answer that is under way is charged to the limits of the moment it begins."""
    stage = Stage(bucket("wide", rate=1e6))
    wire = stage.wire()
    wire.send(fetch(1))
    change(stage, bucket("out", Action.DELAY, Unit.BYTES_OUT, rate=len(fetched(1))))
    wire.answer(fetched(1))
    wire.send(fetch(2))
    assert wire.broker_got == [1]
    change(stage)
    stage.after(1.0)
    wire.answer(fetched(2))
    wire.send(fetch(3))
    assert wire.broker_got == [1, 2, 3]


def test_connections() -> None:
    """Who is connected holds a place of a limit on connections that stays, none of one that is new or gone."""
    two = doors("two", max_open=2)
    stage = Stage(two)
    first = stage.wire()
    (_, door) = next(stage.limit.meters())
    assert isinstance(door, Doorway)
    change(stage, two, bucket("wide", rate=1e6))
    assert door.opened == 1
    change(stage, doors("one", max_open=1))
    assert door.opened == 0
    second = stage.wire()
    assert second.exchange.refused_by is None
    assert stage.wire().exchange.refused_by is not None
    for wire in (first, second):
        wire.close()
    stage.check_idle()


def test_not_while_the_login_is_renewed() -> None:
    """A connection whose requests are withheld follows once they have gone, and slots stay right."""
    stage = Stage(slots("one", max_in_flight=1))
    wire = stage.wire()
    wire.exchange.hold()
    wire.send(fetch(1))
    old = slots_of(stage.limit)
    assert change(stage, slots("other", max_in_flight=1)) == [False]
    wire._upstream(wire.exchange.release())
    assert wire.broker_got == [1]
    assert wire.exchange.limits_changed()
    wire.answer(fetched(1))
    assert old.flying == 0
    wire.send(fetch(2))
    new = slots_of(stage.limit)
    assert new.flying == 1
    wire.answer(fetched(2))
    assert new.flying == 0


def test_every_broker_behind_it() -> None:
    """A connection with all brokers behind it follows as well."""
    stage = Stage(bucket("wide", rate=1e6))
    wire = stage.routed_wire(Directory())
    assert change(stage, window("narrow", count=1)) == [True]
    assert [entry[0].rule.name for entry in wire.exchange._bound.entries] == []


def test_news_of_a_limit_that_is_gone() -> None:
    """A key that the log was told of is told of once more when its limit ends; others are not."""
    limits = Limits([Rule("calm", LeakyBucket(1.0), key=("client_id",))])
    (limit,) = limits.limits
    limit.holds_up(CLIENT, 10.0, 2.0)
    assert [(news.key, news.begins) for news in limits.news(10.0)] == [("c", True)]
    limit.holds_up(CLIENT._replace(client_id="d"), 10.0, 1.0)
    limits.change([])
    assert [(news.key, news.begins, news.seconds) for news in limits.news(10.5)] == [("c", False, 2.0)]
    assert limits.news(11.0) == []


def test_leases_are_given_back() -> None:
    """Of a limit that is gone no lease is kept: what nobody holds goes at once, the rest with who holds it."""
    tenant = Tenant(2, lambda: 0.0)
    limits = Limits([Rule("calm", LeakyBucket(1.0), key=("client_id",), keys_max=1)], tenant)
    (limit,) = limits.limits
    alone, shared = (limit.meter(CLIENT._replace(client_id=name), 0.0) for name in "ab")
    for meter in (alone, shared):
        assert meter.take(0.0, 1, 40)
    assert len(tenant.report(0.0)) == 2
    limit.drop(alone)
    limits.change([])
    assert tenant.report(0.1)[0] == (limit.id, "a", None, None)
    limit.drop(shared)
    assert (limit.id, "\0", None, None) in [(entry[0], "\0", *entry[2:]) for entry in tenant.report(0.2)]


def test_the_same_in_all_processes() -> None:
    """A limit's id does not depend on the order in which a process happens to keep a set."""
    names = [f"listener-{number}" for number in range(50)]
    ids = {Limit(Rule("calm", LeakyBucket(1.0), listeners=frozenset(order))).id for order in (names, names[::-1])}
    text = Rule("calm", LeakyBucket(1.0), listeners=frozenset(names)).text()
    assert len(ids) == 1
    assert repr(sorted(names)) in text
