"""Connections under limits that several processes hold together: held while the store is asked, and then as ever."""

import pytest
from metered_stage import Stage, Wire, bucket, doors, fetch, slots, window

from kproxy.core.admission import LOOK_SECONDS
from kproxy.core.leases import HOLD_SECONDS
from kproxy.core.leasestore import Store
from kproxy.core.limits import Action, Limits, Rule
from kproxy.core.tenant import Tenant


class Shared(Stage):
    """A stage whose limits two processes hold together; the store is asked when the test says so."""

    def __init__(self, *rules: Rule) -> None:
        super().__init__(*rules)
        self.tenant = Tenant(2, self.clock)
        self.limits = Limits(rules, self.tenant)
        self.store = Store(Limits(rules).limits)

    def ask_store(self) -> None:
        """Carry what there is to tell to the store, and its answer back."""
        now = self.clock.now
        self.store.heard(0, self.tenant.report(now), now)
        self.tenant.renewed(self.store.outgoing(0), now, answered=True)


def refused(wire: Wire) -> str | None:
    """Return the name of the limit that ends a connection."""
    limit = wire.exchange.refused_by
    return None if limit is None else limit.rule.name


@pytest.mark.parametrize("action", list(Action))
def test_a_request_is_held_until_the_store_has_answered(action: Action) -> None:
    """Whatever ``on_exceed`` says, a request waits for the tokens that are there, and nothing is counted as a delay."""
    stage = Shared(window(action=action, count=2, window_seconds=60.0))
    wire = stage.wire()
    wire.send(fetch(1) + fetch(2))
    assert (wire.broker_got, wire.exchange.waits, refused(wire)) == ([], True, None)
    assert wire.exchange.wake_at == stage.clock.now + LOOK_SECONDS
    stage.after(0.01)
    assert wire.broker_got == []
    stage.ask_store()
    stage.after(LOOK_SECONDS)
    assert wire.broker_got == [1, 2]
    assert (stage.limit.delayed, stage.limit.rejected, stage.limit.throttled, stage.limit.closed) == (0, 0, 0, 0)


def test_a_refusal_is_one_when_the_store_says_so() -> None:
    """When there are no tokens left anywhere the request is refused as it would be by one process."""
    stage = Shared(window(action=Action.CLOSE, count=1, window_seconds=60.0))
    wire = stage.wire()
    wire.send(fetch(1))
    stage.ask_store()
    stage.after(LOOK_SECONDS)
    wire.send(fetch(2))
    assert refused(wire) is None
    stage.ask_store()
    stage.ask_store()
    stage.after(LOOK_SECONDS)
    assert (wire.broker_got, refused(wire)) == ([1], "limit")


def test_nobody_waits_for_a_store_that_is_gone() -> None:
    """When the store says nothing the request goes on by what this process knows."""
    stage = Shared(bucket(rate=10.0, burst=5.0, action=Action.CLOSE))
    wire = stage.wire()
    wire.send(fetch(1) + fetch(2))
    assert wire.broker_got == [1]
    stage.after(HOLD_SECONDS + 0.01)
    assert wire.broker_got == [1]
    assert refused(wire) is None
    stage.after(0.2)
    assert wire.broker_got == [1, 2]


@pytest.mark.parametrize("rule", [bucket(dry_run=True, action=Action.CLOSE), window(dry_run=True, count=5)])
def test_a_dry_run_holds_nobody(rule: Rule) -> None:
    """What is only tried out keeps nobody waiting for the store, and does not count as over what it cannot know."""
    stage = Shared(rule)
    wire = stage.wire()
    wire.send(fetch(1) + fetch(2))
    assert wire.broker_got == [1, 2]
    assert (stage.limit.closed, stage.limit.delayed) == (0, 0)


def test_a_slot_is_waited_for() -> None:
    """A request that finds no slot in hand waits in turn, and goes on when the store has given one."""
    stage = Shared(slots(max_in_flight=3))
    wire = stage.wire()
    wire.send(fetch(1) + fetch(2))
    assert wire.broker_got == []
    stage.ask_store()
    assert wire.woken
    stage.after(0.001)
    assert wire.broker_got == [1, 2]
    wire.close()
    stage.check_idle()


@pytest.mark.parametrize("by_client_id", [False, True])
def test_a_connection_waits_to_be_let_in(by_client_id: bool) -> None:
    """What comes on a connection is held until it is let in; who finds no room is ended then, and not before."""
    key = ("client_id",) if by_client_id else ("client_ip",)
    stage = Shared(doors(max_open=1, key=key))
    first, second = stage.wire(), stage.wire()
    half = len(fetch(1)) // 2
    for wire in (first, second):
        wire.send(fetch(1)[:half])
        wire.send(fetch(1)[half:] + fetch(2))
    assert (first.broker_got, first.exchange.waits) == ([], True)
    stage.after(0.01)
    assert (first.broker_got, second.broker_got) == ([], [])
    stage.ask_store()
    stage.after(LOOK_SECONDS)
    assert (first.broker_got, second.broker_got) == ([1, 2], [])
    assert refused(second) is None
    stage.ask_store()
    stage.ask_store()
    stage.after(LOOK_SECONDS)
    assert (refused(first), refused(second)) == (None, "limit")
    assert second.broker_got == []


def test_who_goes_before_it_is_let_in() -> None:
    """A connection that ends while it waits to be let in holds nothing, and what it sent goes through."""
    stage = Shared(doors(max_open=1, key=("client_ip",)))
    wire = stage.wire()
    wire.send(fetch(1))
    wire.flush()
    assert wire.broker_got == [1]
    wire.close()
    stage.check_idle()
