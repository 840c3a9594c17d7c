"""What becomes of requests over a limit: delayed, throttled or the end of the connection, for each kind of limit."""

from dataclasses import replace
from itertools import pairwise

import pytest
from metered_stage import (
    START,
    Stage,
    bucket,
    doors,
    fetch,
    fetched,
    heartbeat,
    in_pieces,
    produce,
    produced,
    slots,
    told,
    window,
)

from kproxy.core.limits import Action, Rule, Unit
from kproxy.errors import Malformed
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT16, INT32, put_string

DELAY, THROTTLE, REJECT, CLOSE = Action.DELAY, Action.THROTTLE, Action.REJECT, Action.CLOSE
BYTES_IN, BYTES_OUT = Unit.BYTES_IN, Unit.BYTES_OUT

FETCH_BYTES = len(fetch(1))
FETCHED_BYTES = len(fetched(1))

Times = list[float]


def fetches(count: int) -> bytes:
    """Write Fetch requests, alike but for their correlation ids, from 1 on."""
    return b"".join(fetch(number) for number in range(1, count + 1))


# Delayed.


@pytest.mark.parametrize(
    ("rule", "times"),
    [
        (bucket(rate=2.0), [0.0, 0.5, 1.0, 1.5]),
        (bucket(rate=2.0, burst=1.0), [0.0, 0.5, 1.0, 1.5]),
        (bucket(rate=2.0, burst=1.0, nodelay=True), [0.0, 0.0, 0.5, 1.0]),
        (bucket(rate=2.0, burst=9.0, action=CLOSE), [0.0, 0.5, 1.0, 1.5]),
        (bucket(rate=2.0, burst=9.0, action=THROTTLE), [0.0, 0.5, 1.0, 1.5]),
        (bucket(unit=BYTES_IN, rate=FETCH_BYTES * 4.0), [0.0, 0.25, 0.5, 0.75]),
        (
            bucket(unit=BYTES_IN, rate=1000.0, burst=FETCH_BYTES * 2.0, nodelay=True),
            [0.0, 0.0, 0.0, FETCH_BYTES / 1000],
        ),
        (window(count=2), [0.0, 0.0, 1.0, 1.0]),
        (window(count=3, window_seconds=0.25), [0.0, 0.0, 0.0, 0.25]),
        (window(unit=BYTES_IN, count=FETCH_BYTES + 1), [0.0, 0.0, 1.0, 1.0]),
        (window(unit=BYTES_IN, count=1), [0.0, 1.0, 2.0, 3.0]),
    ],
)
@pytest.mark.parametrize("pieces", [10_000, 1, 50])
def test_delayed(rule: Rule, times: Times, pieces: int) -> None:
    """What does not fit is held at a frame boundary, however it is cut, and goes in its order once it fits."""
    stage = Stage(rule)
    wire = stage.wire()
    for piece in in_pieces(fetches(4), pieces):
        wire.send(piece)
    stage.after(10)
    assert wire.times == [(number + 1, round(time, 6)) for number, time in enumerate(times)]
    assert wire.to_broker == fetches(4)
    assert wire.to_client == b""
    delayed = sum(time != times[0] for time in times)
    assert stage.limit.asked == 4
    assert stage.limit.throttled == 0
    assert stage.limit.delayed >= min(delayed, 1)


@pytest.mark.parametrize(
    ("rule", "time"),
    [
        (bucket(unit=BYTES_OUT, rate=FETCHED_BYTES), 1.375),  # an eighth of a second is caught up with
        (window(unit=BYTES_OUT, count=1), 1.5),
    ],
)
def test_delayed_for_answers(rule: Rule, time: float) -> None:
    """The bytes of an answer are what the next request waits for, and none that came before the answer."""
    stage = Stage(rule)
    wire = stage.wire()
    wire.send(fetches(2))
    stage.after(0.5)
    wire.answer(fetched(1))
    wire.send(fetch(3))
    stage.after(5)
    wire.answer(fetched(2))
    assert wire.times == [(1, 0.0), (2, 0.0), (3, time)]
    assert wire.to_client == fetched(1) + fetched(2)


def test_order_over_connections() -> None:
    """Those who share a key are served at its rate, in the order of arrival over all connections; others at once."""
    stage = Stage(bucket(rate=2.0, key=("client_ip",)))
    wires = [stage.wire() for _ in range(3)]
    other = stage.wire("10.0.0.2")
    for number, wire in enumerate((wires[1], wires[0], wires[2], other), start=1):
        wire.send(fetch(number))
    stage.after(5)
    assert [wire.times for wire in (*wires, other)] == [[(2, 0.5)], [(1, 0.0)], [(3, 1.0)], [(4, 0.0)]]


def test_what_comes_while_held_stays_behind() -> None:
    """Reads that come in spite of a pause, cut anywhere, keep their place."""
    stage = Stage(bucket(rate=1.0))
    wire = stage.wire()
    data = fetches(4)
    for number, piece in enumerate(in_pieces(data, 31)):
        stage.until(START + number * 0.1)
        wire.send(piece)
    stage.after(9)
    assert wire.to_broker == data
    assert wire.times == [(1, 0.2), (2, 1.0), (3, 2.0), (4, 3.0)]


@pytest.mark.parametrize(
    "rule", [bucket(), window(), slots(), bucket(action=THROTTLE), bucket(unit=BYTES_IN, rate=50.0)]
)
def test_too_early(rule: Rule) -> None:
    """To go on before the time has come lets nothing through, and costs nothing."""
    stage = Stage(rule)
    wire = stage.wire()
    wire.send(fetches(5))
    stage.after(0.5)
    passed, when = wire.broker_got, wire.exchange.wake_at
    for _ in range(3):
        assert wire.exchange.go_on() == b""
        assert (wire.exchange.waits, wire.exchange.wake_at) == (True, when)
    stage.after(999)
    assert wire.broker_got == [1, 2, 3, 4, 5]
    assert wire.times[len(passed)][1] == round(when - START, 6)
    assert stage.limit.asked == 5


def test_what_cannot_be_told_yet_behind_one_that_waited() -> None:
    """Where it is not told yet what the next request takes, more of it is waited for, and it goes in its turn."""
    stage = Stage(slots(max_in_flight=9), bucket("calm", rate=1.0))
    wire = stage.wire()
    wire.send(produce(1) + produce(2) + produce(3)[:14])
    stage.after(1)
    assert wire.to_broker == produce(1) + produce(2)
    wire.send(produce(3)[14:])
    stage.after(1)
    assert wire.times == [(1, 0.0), (2, 1.0), (3, 2.0)]


def test_a_request_is_cut_through() -> None:
    """Of a request that passes each part goes as it comes, and all of it is charged at its beginning."""
    stage = Stage(bucket(unit=BYTES_IN, rate=1e6))
    wire = stage.wire()
    whole = fetch(1, size=1_000_000)
    wire.send(whole[:100])
    assert wire.to_broker == whole[:100]
    middle = whole[100:70_000]
    assert wire.exchange.from_client(middle) is middle
    stage.after(0.5)
    wire.send(whole[70_000:] + fetch(2))
    assert len(wire.to_broker) == len(whole) - len(middle)
    assert wire.exchange.wake_at == pytest.approx(START + len(whole) / 1e6)


def test_a_huge_request_waits_as_any() -> None:
    """Of a request of 100 MiB that must wait no more than a read is held, and the rest follows when it has gone on."""
    stage = Stage(bucket(rate=1.0))
    wire = stage.wire()
    head = INT32.pack(100 * 1024 * 1024) + fetch(2)[4:]
    wire.send(fetch(1) + head)
    assert wire.to_broker == fetch(1)
    stage.after(1)
    assert wire.to_broker == fetch(1) + head
    rest = bytes(65536)
    assert wire.exchange.from_client(rest) is rest
    assert not wire.exchange.at_boundary


# Throttled.


@pytest.mark.parametrize(
    ("rule", "times", "told_ms"),
    [
        (bucket(rate=2.0), [0.0, 0.0, 1.0, 1.0], [1000, 1000, 1000, 1000]),
        (bucket(rate=2.0, burst=1.0, nodelay=True), [0.0, 0.0, 0.0, 1.0], [1000, 1000, 1000, 0]),
        (bucket(unit=BYTES_IN, rate=FETCH_BYTES * 2.0), [0.0, 0.5, 1.0, 1.5], [500, 500, 500, 500]),
        (window(count=2), [0.0, 0.0, 0.0, 1.0], [1000, 1000, 1000, 0]),
        (window(unit=BYTES_IN, count=FETCH_BYTES + 1), [0.0, 0.0, 1.0, 1.0], [1000, 1000, 1000, 1000]),
        (bucket(unit=BYTES_OUT, rate=FETCHED_BYTES * 2.0), [0.0, 0.0, 0.0, 0.0], [500, 1000, 1500, 2000]),
        (window(unit=BYTES_OUT, count=1), [0.0, 0.0, 0.0, 0.0], [1000, 1000, 1000, 1000]),
    ],
)
def test_throttled(rule: Rule, times: Times, told_ms: list[int]) -> None:
    """A request over a limit passes, is told of, and nothing follows it for as long as its key is in debt."""
    stage = Stage(replace(rule, action=THROTTLE))
    wire = stage.wire()
    wire.broker = fetched
    wire.send(fetches(4))
    stage.after(9)
    assert wire.times == [(number + 1, time) for number, time in enumerate(times)]
    assert wire.client_got == [(number + 1, ms) for number, ms in enumerate(told_ms)]


def test_throttled_by_what_comes_late() -> None:
    """An answer that makes its key owe mutes the connection; the pause is told in all that leaves before its end."""
    stage = Stage(bucket(unit=BYTES_OUT, action=THROTTLE, rate=FETCHED_BYTES))
    wire = stage.wire()
    wire.send(fetches(2))
    stage.after(5)
    wire.answer(fetched(1))
    wire.send(fetch(3))
    stage.after(0.75)
    wire.answer(fetched(2))
    stage.after(0.25)
    wire.answer(fetched(3))
    assert wire.times == [(1, 0.0), (2, 0.0), (3, 5.875)]
    assert wire.client_got == [(1, 875), (2, 125), (3, 1875)]  # an eighth is caught up with


def test_nothing_is_told_when_it_is_over() -> None:
    """An answer that leaves when the pause is over is as the broker sent it, though no request has come since."""
    stage = Stage(bucket(action=THROTTLE, rate=2.0))
    wire = stage.wire()
    wire.send(fetches(2))
    stage.after(0.875)
    wire.answer(fetched(1))
    stage.after(0.125)
    wire.answer(fetched(2))
    assert wire.client_got == [(1, 125), (2, 0)]


@pytest.mark.parametrize("theirs_ms", [0, 1, 999, 1000, 1001, 60_000])
def test_never_below_the_brokers(theirs_ms: int) -> None:
    """Where the broker tells a longer pause that one is left."""
    stage = Stage(bucket(action=THROTTLE, rate=2.0))
    wire = stage.wire()
    wire.send(fetches(2))
    wire.answer(fetched(1, theirs_ms) + fetched(2))
    assert wire.client_got == [(1, max(theirs_ms, 1000)), (2, 1000)]


def test_what_is_not_limited_is_not_told() -> None:
    """An answer that no limit counts is not changed, though its connection is muted."""
    stage = Stage(bucket(action=THROTTLE, rate=2.0))
    wire = stage.wire()
    exempt = frames.request(ApiKey.FIND_COORDINATOR, 1, 7, "c", put_string("g") + b"\x00")
    wire.send(exempt + fetches(2))
    answer = frames.response(
        7, ApiKey.FIND_COORDINATOR, 1, INT32.pack(0) + INT16.pack(15) + INT16.pack(-1) * 2 + bytes(8)
    )
    wire.answer(answer + fetched(1) + fetched(2))
    assert wire.to_client.startswith(answer[:12])
    assert told(wire.to_client[len(answer) :]) == [(1, 1000), (2, 1000)]


def test_a_debt_is_a_deadline() -> None:
    """What a request owes is owed since it was charged: one that was delayed in the meantime owes that much less."""
    rules = (bucket("told", THROTTLE, unit=BYTES_IN, rate=FETCH_BYTES / 2.0), bucket("spread", DELAY, rate=1.0))
    stage = Stage(*rules)
    first, wire = stage.wire(), stage.wire()
    first.send(fetch(1))
    stage.after(0.5)
    wire.send(fetches(2))
    stage.after(9)
    # At 0.5 s the first owes 3.5 s (its own 2 and 1.5 of the other's), and is delayed by 0.5.
    assert first.times == [(1, 0.0)]
    assert wire.times == [(1, 1.0), (2, 4.0)]


# The end of the connection.


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        (bucket(rate=2.0), 1),
        (bucket(rate=2.0, burst=2.0, nodelay=True), 3),
        (bucket(unit=BYTES_IN, rate=2.0), 1),
        (window(count=2), 2),
        (window(unit=BYTES_IN, count=FETCH_BYTES + 1), 2),
        (slots(max_in_flight=3, waiting=0), 3),
    ],
)
def test_closed(rule: Rule, passed: int) -> None:
    """A request over such a limit ends the connection; what came before it is forwarded, and nothing more, ever."""
    stage = Stage(replace(rule, action=CLOSE, name="strict"))
    wire = stage.wire()
    wire.send(fetches(4))
    assert wire.broker_got == list(range(1, passed + 1))
    assert wire.exchange.refused_by is stage.limit
    assert wire.exchange.waits
    wire.send(fetch(9))
    wire.flush()
    assert wire.broker_got == list(range(1, passed + 1))
    assert (stage.limit.asked, stage.limit.closed) == (passed + 1, 1)
    wire.answer(fetched(1))
    assert wire.client_got == [(1, 0)]
    wire.exchange.leave()
    stage.check_idle()


def test_a_request_refused_is_charged_nowhere() -> None:
    """What one limit refuses counts for no other."""
    stage = Stage(
        bucket("calm", DELAY, rate=2.0), slots("slots"), bucket("strict", CLOSE, rate=0.1, key=("client_ip",))
    )
    one, two = stage.wire(), stage.wire("10.0.0.2")
    one.send(fetch(1))
    one.answer(fetched(1))
    stage.after(0.5)
    one.send(fetch(2))
    assert one.exchange.refused_by is stage.limits.limits[2]
    two.send(fetch(3))
    assert two.times == [(3, 0.5)]
    assert [limit.asked for limit in stage.limits.limits] == [2, 2, 3]


# Several.


def test_the_longest_wait_counts() -> None:
    """Of several limits that delay, the longest wait counts, and each is charged once."""
    stage = Stage(bucket("a", rate=4.0), window("b", count=1, window_seconds=0.75), bucket("c", rate=1.0))
    wire = stage.wire()
    wire.send(fetches(3))
    stage.after(9)
    assert wire.times == [(1, 0.0), (2, 1.0), (3, 2.0)]
    assert [limit.asked for limit in stage.limits.limits] == [3, 3, 3]


def test_a_refusal_beats_a_wait() -> None:
    """A request that one limit would delay and another refuses is refused, at once; the first in order is told."""
    stage = Stage(bucket("calm", DELAY), bucket("second", CLOSE), bucket("third", CLOSE))
    wire = stage.wire()
    wire.send(fetches(2))
    assert wire.exchange.refused_by is stage.limits.limits[1]
    assert [limit.asked for limit in stage.limits.limits] == [1, 2, 1]
    assert [limit.closed for limit in stage.limits.limits] == [0, 1, 0]


def test_refused_while_it_waits_for_a_window() -> None:
    """A request that waits for its window is asked for again when that ends, by all limits."""
    stage = Stage(
        window("calm", count=1, key=("client_ip",)), bucket("strict", CLOSE, rate=0.5, burst=1.0, nodelay=True)
    )
    wire, other = stage.wire(), stage.wire("10.0.0.2")
    wire.send(fetches(2))
    stage.after(0.5)
    other.send(fetch(7))
    stage.after(0.5)
    assert (wire.broker_got, other.broker_got) == ([1], [7])
    assert wire.exchange.refused_by is stage.limits.limits[1]
    assert [limit.asked for limit in stage.limits.limits] == [2, 3]


# No wait is longer than max_wait.


@pytest.mark.parametrize(
    "rule",
    [
        bucket(rate=0.01),
        bucket(rate=0.01, burst=9.0),
        bucket(unit=BYTES_IN, rate=0.1),
        window(window_seconds=600.0),
        window(unit=BYTES_IN, window_seconds=600.0),
        slots(),
        bucket(action=THROTTLE, rate=0.01),
        window(action=THROTTLE, window_seconds=600.0),
        bucket(action=THROTTLE, unit=BYTES_IN, rate=0.1),
    ],
)
def test_max_wait(rule: Rule) -> None:
    """What would have to wait longer than max_wait passes then, and nothing longer is told."""
    stage = Stage(replace(rule, max_wait_seconds=2.0))
    wire = stage.wire()
    wire.send(fetches(5))
    stage.after(60)
    assert wire.broker_got == [1, 2, 3, 4, 5]
    waits = [after - before for (_, before), (_, after) in pairwise(wire.times)]
    assert max(waits) == 2.0
    wire.answer(b"".join(map(fetched, range(1, 6))))
    assert max(ms for _, ms in wire.client_got) <= 2000


# Connections that carry heartbeats.


@pytest.mark.parametrize(
    "rule", [bucket(rate=0.01), window(window_seconds=600.0), slots(), bucket(action=THROTTLE, rate=0.01)]
)
@pytest.mark.parametrize("first", [heartbeat(9), frames.request(ApiKey.JOIN_GROUP, 5, 9, "c", bytes(40))])
def test_grouped(rule: Rule, first: bytes) -> None:
    """Where heartbeats are sent no wait is longer than a second, and nothing is told that would silence them."""
    stage = Stage(rule)
    wire = stage.wire()
    wire.send(first + fetches(3))
    stage.after(9)
    waits = [after - before for (_, before), (_, after) in pairwise(wire.times)]
    assert max(waits) == 1.0
    wire.answer(frames.response(9, ApiKey.HEARTBEAT, 3, bytes(6)) + b"".join(map(fetched, range(1, 4))))
    assert told(wire.to_client)[1:] == [(1, 0), (2, 0), (3, 0)]


@pytest.mark.parametrize(
    "rule", [bucket(rate=0.01), window(window_seconds=600.0), slots(), bucket(action=THROTTLE, rate=0.01)]
)
@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("behind", [False, True])
def test_a_heartbeat_behind(rule: Rule, size: int, behind: bool) -> None:
    """A heartbeat that comes while its connection is held up waits for a second at most, however it is cut."""
    stage = Stage(rule)
    wire = stage.wire()
    wire.send(fetches(2) + (fetch(3) if rule.action is THROTTLE else b"") + (heartbeat(9) if behind else b""))
    for piece in in_pieces(b"" if behind else heartbeat(9), size):
        wire.send(piece)
    stage.after(2)
    number, time = wire.times[-1]
    assert (number, time <= 2.0) == (9, True)
    assert max(after - before for (_, before), (_, after) in pairwise(wire.times)) <= 1.0


def test_garbage_behind() -> None:
    """What is no request is no heartbeat: it is refused in its turn."""
    stage = Stage(bucket(rate=1.0))
    wire = stage.wire()
    wire.send(fetches(2) + bytes(20))
    stage.until(START + 0.99)
    with pytest.raises(Malformed, match="request of 0 bytes"):
        stage.after(1)


# Dry runs.


@pytest.mark.parametrize(
    ("rule", "counts"),
    [
        (bucket(rate=2.0), "delayed"),
        (bucket(rate=2.0, burst=1.0), "delayed"),
        (window(count=2), "delayed"),
        (slots(), "delayed"),
        (bucket(rate=2.0, action=THROTTLE), "throttled"),
        (window(count=2, action=THROTTLE), "throttled"),
        (bucket(unit=BYTES_OUT, rate=2.0, action=THROTTLE), "throttled"),
        (bucket(rate=2.0, action=CLOSE), "closed"),
        (window(count=2, action=CLOSE), "closed"),
        (slots(action=CLOSE, waiting=0), "closed"),
        (bucket(rate=2.0, action=REJECT, reject_produce=True), "rejected"),
        (bucket(rate=2.0, action=REJECT), "throttled"),
    ],
)
def test_dry_run(rule: Rule, counts: str) -> None:
    """A limit that is only tried out counts what it would do, and changes neither a byte nor a time."""
    stage = Stage(replace(rule, dry_run=True))
    wire = stage.wire()
    data = b"".join(produce(number) for number in range(1, 7))
    for piece in in_pieces(data, 200):
        wire.send(piece)
    assert wire.to_broker == data
    assert not wire.exchange.waits
    wire.answer(b"".join(map(produced, range(1, 7))))
    wire.send(produce(7))
    wire.answer(produced(7))
    assert wire.to_client == b"".join(map(produced, range(1, 8)))
    assert wire.exchange.wake_at == 0.0
    limit = stage.limit
    assert getattr(limit, counts) > 0
    assert limit.asked == 7
    assert sum((limit.delayed, limit.throttled, limit.closed, limit.rejected)) == getattr(limit, counts)
    assert list(limit.top()) == ["all"]
    wire.exchange.leave()
    stage.check_idle()


def test_a_dry_run_charges_as_it_would() -> None:
    """What a dry run would refuse is not charged by it, so that it refuses no more than it would at work."""
    rule = bucket(rate=1.0, action=CLOSE, dry_run=True)
    stage = Stage(rule, bucket("real", rate=4.0))
    wire = stage.wire()
    wire.send(fetches(9))
    stage.after(9)
    assert wire.times == [(number, (number - 1) / 4) for number in range(1, 10)]
    # Each is looked at when the one before it has gone on: at 0, 0, 0.25, ...; the first and the sixth are let in.
    assert (stage.limit.asked, stage.limit.closed) == (9, 7)


# Clients at the door.


def test_the_door() -> None:
    """A connection above its limit is refused as it comes, or with its first request, and takes no place."""
    stage = Stage(doors("one", max_open=1, key=("client_ip",)), doors("two", max_open=1, key=("client_id",)))
    one, two, three = stage.wire("10.0.0.1"), stage.wire("10.0.0.1"), stage.wire("10.0.0.3")
    assert one.exchange.refused_by is None
    assert two.exchange.refused_by is stage.limits.limits[0]
    assert two.exchange.waits
    one.send(fetch(1))
    two.send(fetch(2))
    refused_by = []
    for piece in (fetch(3)[:10], fetch(3)[10:] + fetch(4)):
        three.send(piece)
        refused_by.append(three.exchange.refused_by)
    assert refused_by == [None, stage.limits.limits[1]]
    three.send(fetch(5))
    for wire in (one, two, three):
        wire.flush()
        wire.exchange.leave()
    assert [wire.broker_got for wire in (one, two, three)] == [[1], [], []]
    stage.check_idle()
    four = stage.wire("10.0.0.1")
    four.send(fetch(6))
    assert four.broker_got == [6]
