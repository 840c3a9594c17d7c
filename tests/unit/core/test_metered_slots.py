"""Limits on concurrency over several connections: never above the maximum, in turn, and every slot is given back."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metered_stage import Stage, Wire, bucket, fetch, fetched, heartbeat, in_pieces, produce, produced, slots

from kproxy.core.directory import Directory
from kproxy.core.limits import Action, Rule
from kproxy.core.meters import Hold, Slots
from kproxy.core.routed import FanOut
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT32

ALL_APIS = frozenset(range(100))


def meter(stage: Stage) -> Slots:
    """Return the slots that all of a stage's connections share."""
    ((_, found),) = stage.limit.meters()
    assert isinstance(found, Slots)
    return found


def flying(stage: Stage) -> int:
    """Tell how many requests are with the broker."""
    return meter(stage).flying


def other(key: int, number: int, version: int = 1) -> bytes:
    """Write a request of any API."""
    return frames.request(key, version, number, "c", bytes(40))


def test_first_come_first_served() -> None:
    """Over all connections no more than the maximum are in flight, and who waits gets the next slot in turn."""
    stage = Stage(slots(max_in_flight=2))
    one, two, three = (stage.wire() for _ in range(3))
    one.send(fetch(1) + fetch(2) + fetch(3))
    three.send(fetch(4))
    two.send(fetch(5) + fetch(6))
    assert [wire.broker_got for wire in (one, two, three)] == [[1, 2], [], []]
    stage.after(1)
    one.answer(fetched(1))
    assert (one.woken, two.woken, three.woken) == (True, False, False)
    stage.after(1)
    assert [wire.broker_got for wire in (one, two, three)] == [[1, 2, 3], [], []]
    one.answer(fetched(2) + fetched(3))
    stage.after(0)
    assert [wire.broker_got for wire in (one, two, three)] == [[1, 2, 3], [5], [4]]
    three.answer(fetched(4))
    stage.after(0)
    assert two.times == [(5, 2.0), (6, 2.0)]
    assert stage.limit.delayed == 4
    assert stage.limit.delay_seconds == pytest.approx(1 + 2 + 2 + 0)


def test_at_the_first_byte() -> None:
    """A slot is free again when the size of the answer is here, however long the answer is and who reads it."""
    stage = Stage(slots())
    one, two = stage.wire(), stage.wire()
    one.send(fetch(1))
    two.send(fetch(2))
    for piece in in_pieces(INT32.pack(90_000_000)[:3], 1):
        one.answer(piece)
        assert not two.woken
    one.answer(INT32.pack(90_000_000)[3:])
    assert two.woken
    stage.after(0)
    assert two.broker_got == [2]


def test_at_the_first_byte_of_what_is_held() -> None:
    """So it is where the answer is held to tell a throttle time at its end."""
    stage = Stage(slots(), bucket("told", Action.THROTTLE, rate=2.0, key=("client_ip",)))
    one, two = stage.wire("10.0.0.1"), stage.wire("10.0.0.2")
    one.send(produce(1))
    one.answer(produced(1))
    one.send(produce(2))
    two.send(fetch(3))
    woken = []
    for piece in in_pieces(produced(2)[:8], 1):
        one.answer(piece)
        woken.append(two.woken)
    assert woken == [False] * 7 + [True]
    one.answer(produced(2)[8:])
    assert one.to_client == produced(1) + produced(2, throttle_ms=1000)


@pytest.mark.parametrize(
    ("request_", "taken", "with_polls"),
    [
        pytest.param(fetch(1), 1, 1, id="Fetch"),
        pytest.param(fetch(1, wait_ms=500), 0, 1, id="Fetch that may wait"),
        pytest.param(fetch(1, wait_ms=500, version=15), 0, 1, id="Fetch v15 that may wait"),
        pytest.param(produce(1), 1, 1, id="Produce"),
        pytest.param(produce(1, acks=0), 0, 0, id="Produce, acks=0"),
        pytest.param(produce(1, acks=0, version=7), 0, 0, id="Produce v7, acks=0"),
        pytest.param(other(ApiKey.JOIN_GROUP, 1), 0, 1, id="JoinGroup"),
        pytest.param(other(ApiKey.SYNC_GROUP, 1), 0, 1, id="SyncGroup"),
        pytest.param(other(ApiKey.SHARE_FETCH, 1), 0, 1, id="ShareFetch"),
        pytest.param(other(ApiKey.HEARTBEAT, 1), 1, 1, id="Heartbeat"),
        pytest.param(other(ApiKey.LIST_OFFSETS, 1), 1, 1, id="ListOffsets"),
        pytest.param(frames.request(ApiKey.API_VERSIONS, 0, 1, "c", b""), 0, 0, id="ApiVersions"),
        pytest.param(other(ApiKey.SASL_HANDSHAKE, 1), 0, 0, id="SaslHandshake"),
    ],
)
@pytest.mark.parametrize("size", [1, 9, 1000])
def test_who_takes_a_slot(request_: bytes, taken: int, with_polls: int, size: int) -> None:
    """A slot is for requests that the broker answers at once; ``count_long_polls`` is about those that may wait."""
    stage = Stage(
        slots(max_in_flight=9, apis=ALL_APIS), slots("polls", max_in_flight=9, count_long_polls=True, apis=ALL_APIS)
    )
    wire = stage.wire()
    for piece in in_pieces(request_ * 2, size):
        wire.send(piece)
    assert flying_of(stage) == [2 * taken, 2 * with_polls]
    wire.close()
    stage.check_idle()


def test_long_polls_beside_others() -> None:
    """Answers give back the slots of their own requests, in whatever order those with and without slots come."""
    stage = Stage(slots(max_in_flight=9), slots("all", max_in_flight=99, count_long_polls=True))
    wire = stage.wire()
    kinds = "pfpzqfzzpffqp"
    made = {"p": fetch(1, wait_ms=9), "f": fetch(1), "z": produce(1, acks=0), "q": produce(1)}
    wire.send(b"".join(made[kind] for kind in kinds))
    left = [kind for kind in kinds if kind != "z"]
    for kind in left[:]:
        assert flying_of(stage) == [len(left) - left.count("p"), len(left)]
        wire.answer(produced(1) if kind == "q" else fetched(1))
        left.pop(0)
    assert flying_of(stage) == [0, 0]


def flying_of(stage: Stage) -> list[int]:
    """Tell for each limit how many requests are with the broker."""
    return [found.flying for limit in stage.limits.limits for _, found in limit.meters() if isinstance(found, Slots)]


@pytest.mark.parametrize("state", ["holding", "queued", "granted", "queued for the second"])
def test_a_connection_that_dies(state: str) -> None:
    """Whatever a connection holds or waits for when it ends, the next in turn gets it."""
    second = state == "queued for the second"
    stage = Stage(slots(max_in_flight=1 + second), slots("second", apis=frozenset({ApiKey.PRODUCE})))
    holder, dying, next_ = (stage.wire() for _ in range(3))
    if state != "holding":
        holder.send(produce(1))
    dying.send(produce(2))
    next_.send(fetch(3))
    assert (dying.broker_got, next_.broker_got) == ([2] if state == "holding" else [], [])
    if state == "granted":
        holder.answer(produced(1))
        assert dying.woken
    dying.close()
    if state == "queued":
        assert not next_.woken
        holder.answer(produced(1))
    assert next_.woken
    stage.after(0)
    assert next_.broker_got == [3]
    next_.answer(fetched(3))
    for wire in (holder, next_):
        wire.close()
    stage.check_idle()


def test_flushed_while_it_waits() -> None:
    """What is let through at the end leaves its place in turn, and its answer gives back nobody else's slot."""
    stage = Stage(slots())
    one, two, three = (stage.wire() for _ in range(3))
    one.send(fetch(1))
    two.send(fetch(2))
    three.send(fetch(3))
    two.flush()
    assert two.broker_got == [2]
    two.answer(fetched(2))
    assert (flying(stage), three.woken) == (1, False)
    one.answer(fetched(1))
    stage.after(0)
    assert three.broker_got == [3]
    three.close()
    one.flush()
    assert one.broker_got == [1]
    assert flying(stage) == 0


def test_more_than_are_awaited() -> None:
    """Slots are given back in the order of the requests, also after some that were let through without."""
    stage = Stage(slots(max_in_flight=2))
    wire = stage.wire()
    wire.send(fetch(1) + fetch(2) + fetch(3) + fetch(4))
    wire.flush()
    wire.answer(fetched(1) + fetched(2) + fetched(3))
    assert flying(stage) == 0
    wire.answer(fetched(4))
    assert flying(stage) == 0


def test_waiting_no_longer() -> None:
    """Who has waited for max_wait goes on without a free slot, and that one more is counted as any."""
    stage = Stage(slots(max_wait_seconds=2.0))
    one, two = stage.wire(), stage.wire()
    one.send(fetch(1))
    two.send(fetch(2))
    stage.after(3)
    assert two.times == [(2, 2.0)]
    assert (flying(stage), len(meter(stage).waiters or ())) == (2, 0)
    one.answer(fetched(1))
    assert flying(stage) == 1
    two.answer(fetched(2))
    assert flying(stage) == 0


def test_a_heartbeat_in_the_queue() -> None:
    """A connection that turns out to carry heartbeats, when it has waited longer than those may, goes on at once."""
    stage = Stage(slots())
    one, two = stage.wire(), stage.wire()
    one.send(fetch(1))
    two.send(fetch(2))
    stage.after(0.75)
    two.send(heartbeat(3)[:-1])
    stage.after(9)
    two.send(heartbeat(3)[-1:])
    assert [time for _, time in two.times] == [1.75, 9.75]


def test_told_how_long_it_waited() -> None:
    """Who came when enough waited already is told to pause for as long as it had to wait (throttle)."""
    stage = Stage(slots(action=Action.THROTTLE, waiting=1))
    one, two, three = (stage.wire() for _ in range(3))
    one.send(fetch(1))
    two.send(fetch(2))
    three.send(fetch(3) + fetch(4))
    stage.after(1)
    one.answer(fetched(1))
    stage.after(1)
    two.answer(fetched(2))
    stage.after(0)
    three.answer(fetched(3))
    stage.after(9)
    assert (two.client_got, three.client_got) == ([(2, 0)], [(3, 2000)])
    assert three.times == [(3, 2.0), (4, 4.0)]
    assert (stage.limit.throttled, stage.limit.delayed) == (1, 2)


def test_what_kproxy_answers_takes_no_slot() -> None:
    """Before a whole cluster, what no broker of the connection's is asked takes no slot of theirs."""
    stage = Stage(slots())
    wire = stage.routed_wire(Directory())
    wire.send(frames.request(ApiKey.LIST_GROUPS, 0, 1, "c", b""))
    assert isinstance(getattr(wire.exchange, "pending"), FanOut)  # noqa: B009
    wire.send(fetch(2))
    assert flying(stage) == 1
    stage = Stage(slots())
    stage.wire().send(frames.request(ApiKey.LIST_GROUPS, 0, 1, "c", b""))
    assert flying(stage) == 1


# Any order of events.


def holds(wires: list[Wire]) -> int:
    """Count the slots that connections hold."""
    return sum(found.held for wire in wires for _, found in wire.exchange._bound.entries if isinstance(found, Hold))


class Crowd:
    """Connections that share two limits, of which anything may happen at any time."""

    def __init__(self, *rules: Rule) -> None:
        self.stage = Stage(*rules)
        self.alive: list[Wire] = []
        self.number = 0
        self.seen: dict[Wire, int] = {}

    def step(self, rng: Random) -> None:
        """Let something happen."""
        action = rng.choice("csssssaaaaaawwtld")
        if action == "c" or not self.alive:
            self.alive.append(self.stage.wire())
            return
        wire = rng.choice(self.alive)
        if action == "s" and (not wire.exchange.waits or rng.random() < 0.1):
            self._send(rng, wire)
        elif action == "a":
            self._answer(wire, rng.choice((1, 1, 2, 99)))
        elif action == "w":
            wire.go_on_in_time()
        elif action == "t":
            self.stage.after(rng.choice((0.0, 0.1, 1.0)))
        elif action == "l" and rng.random() < 0.3:
            self._die(wire, flush=rng.random() < 0.5)
        self.check()

    def _send(self, rng: Random, wire: Wire) -> None:
        data = b""
        for _ in range(rng.choice((1, 1, 2, 5))):
            self.number += 1
            data += rng.choice((fetch, fetch, lambda n: fetch(n, wait_ms=9), produce, lambda n: produce(n, acks=0)))(
                self.number
            )
        for piece in in_pieces(data, rng.choice((7, 60, 1000))):
            wire.send(piece)

    def _answer(self, wire: Wire, most: int) -> None:
        owed = wire.exchange.asked - wire.exchange.answered
        for _ in range(min(owed, most)):
            key = wire.exchange._next_answer() >> 16
            wire.answer(produced(1) if key == ApiKey.PRODUCE else fetched(1))

    def _die(self, wire: Wire, *, flush: bool) -> None:
        if flush:
            wire.flush()
        wire.close()
        self.alive.remove(wire)

    def check(self) -> None:
        """What is in flight is what connections hold, or have been given and not taken yet."""
        granted = sum(wire.exchange._admission._granted for wire in self.alive)
        assert sum(flying_of(self.stage)) == holds(self.alive) + granted
        for limit in self.stage.limits.limits:
            for _, found in limit.meters():
                assert isinstance(found, Slots)
                assert found.flying >= 0
                if limit.rule.max_wait_seconds > 1e6:
                    assert found.flying <= limit.count
                if found.waiters:
                    assert found.flying >= limit.count

    def end(self) -> None:
        """Answer all that was asked, until nothing waits; nothing is left."""
        for _ in range(10_000):
            self.stage.after(0.0)
            for wire in self.alive:
                self._answer(wire, 99)
            if not any(wire.exchange.waits or wire.exchange.outstanding for wire in self.alive):
                break
            self.stage.after(1.0)
        assert flying_of(self.stage) in ([], [0, 0])
        for wire in self.alive[:]:
            assert wire.exchange.idle
            self._die(wire, flush=False)
        self.stage.check_idle()


@given(st.randoms(use_true_random=False), st.sampled_from([2.0, 1e9]), st.sampled_from(list(Action)[:2]))
@settings(max_examples=60, deadline=None)
def test_any_order(rng: Random, max_wait_seconds: float, action: Action) -> None:
    """Whatever happens in whatever order, no slot is lost or given twice, and none above the maximum in time."""
    crowd = Crowd(
        slots("one", action, max_in_flight=3, waiting=2, max_wait_seconds=max_wait_seconds),
        slots("two", max_in_flight=2, max_wait_seconds=max_wait_seconds, apis=frozenset({ApiKey.PRODUCE})),
    )
    for _ in range(rng.randrange(60)):
        crowd.step(rng)
    crowd.end()
