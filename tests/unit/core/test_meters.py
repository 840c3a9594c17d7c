"""Meters against plain models of what they promise, which keep every charge and replay all of them in exact fractions.

The schedules of the models are of multiples of 1/1024 s, in which floats are exact, too; those of the promises are of
any floats. More of them by hand: a profile of Hypothesis with more examples.
"""

import doctest
import heapq
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.core import meters
from kproxy.core.limits import (
    Action,
    Concurrency,
    Connections,
    FixedWindow,
    LeakyBucket,
    Limit,
    Rule,
    Unit,
)
from kproxy.core.meters import (
    CATCH_UP_SECONDS,
    GRACE_SECONDS,
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

unhurried = settings(deadline=None)

GRACE, TICK = Fraction(1, 1000), Fraction(1, 1_000_000)

EVER = 1e9
"""A longest wait that is none."""

METERS: dict[tuple[type, Unit], type[Meter]] = {
    (LeakyBucket, Unit.REQUESTS): Bucket,
    (LeakyBucket, Unit.BYTES_IN): BytesBucket,
    (LeakyBucket, Unit.BYTES_OUT): AnswerBucket,
    (FixedWindow, Unit.REQUESTS): Window,
    (FixedWindow, Unit.BYTES_IN): BytesWindow,
    (FixedWindow, Unit.BYTES_OUT): AnswerWindow,
    (Concurrency, Unit.REQUESTS): Slots,
    (Connections, Unit.REQUESTS): Doorway,
}


def rule(kind: LeakyBucket | FixedWindow | Concurrency | Connections, **fields: Any) -> Rule:
    """Make a rule that applies to all."""
    return Rule("limit", kind, **fields)


def meter(kind: LeakyBucket | FixedWindow, **fields: Any) -> Meter:
    """Make a meter of requests or bytes, of the class that its kind and unit ask for."""
    made = METERS[type(kind), kind.unit](Limit(rule(kind, **fields)), 0.0)
    assert type(made) is made.limit.meter_class
    return made


# What they are held against.


class BucketModel:
    """A leaky bucket that keeps all of its charges."""

    def __init__(self, kind: LeakyBucket, action: Action, max_wait_seconds: float) -> None:
        """Begin with none."""
        self.unit = kind.unit
        self.rate, self.burst = Fraction(kind.rate), Fraction(kind.burst)
        self.spread_to = self.burst if kind.nodelay else Fraction(0)
        self.refuses = action in (Action.REJECT, Action.CLOSE)
        self.level_max = self.burst + self.rate * Fraction(max_wait_seconds) + 1
        self.lowest = Fraction(0) if kind.unit is Unit.REQUESTS else -self.rate * Fraction(CATCH_UP_SECONDS)
        self.charges: list[tuple[Fraction, int]] = []

    def level(self, now: float) -> Fraction:
        """Replay all charges."""
        level = at = Fraction(0)
        for time, cost in [*self.charges, (Fraction(now), 0)]:
            level = min(max(level - (time - at) * self.rate, self.lowest) + cost, self.level_max)
            at = time
        return level

    def cost(self, size: int) -> int:
        """Return what a request counts."""
        return {Unit.REQUESTS: 1, Unit.BYTES_IN: size, Unit.BYTES_OUT: 0}[self.unit]

    def ask(self, now: float) -> tuple[Fraction, bool]:
        """Return how long the next request waits, and whether it is over."""
        level = self.level(now)
        wait = max(level - self.spread_to, Fraction(0)) / self.rate
        if wait <= GRACE and (not self.refuses or level <= self.burst + self.rate * TICK):
            return Fraction(0), False
        return wait, level > self.burst

    def charge(self, now: float, size: int) -> Fraction:
        """Charge a request: one that comes within the burst owes nothing, but bytes are paid for afterwards."""
        return self.add(now, self.cost(size))

    def add(self, now: float, cost: int) -> Fraction:
        """Charge a cost."""
        before = self.level(now)
        self.charges.append((Fraction(now), cost))
        decides = before if self.unit is Unit.REQUESTS else before + cost
        owes = decides > self.burst and (decides - self.spread_to) / self.rate > GRACE
        return (before + cost - self.spread_to) / self.rate if owes else Fraction(0)

    def idle(self, now: float) -> bool:
        """It is empty."""
        return self.level(now) <= 0


class WindowModel:
    """A fixed window that keeps all of its charges."""

    def __init__(self, kind: FixedWindow, action: Action, max_wait_seconds: float) -> None:  # noqa: ARG002 - both alike
        """Begin with none."""
        self.unit = kind.unit
        self.count, self.seconds = kind.count, Fraction(kind.window_seconds)
        self.charges: list[tuple[Fraction, int]] = []

    def window(self, now: float) -> tuple[int, Fraction]:
        """Return what is used of the window, and how long it lasts: 0, 0 if there is none."""
        used, ends = 0, Fraction(-1)
        for time, cost in self.charges:
            if ends - time < GRACE:
                used, ends = 0, time + self.seconds
            used += cost
        left = ends - Fraction(now)
        return (0, Fraction(0)) if left < GRACE else (used, left)

    def ask(self, now: float) -> tuple[Fraction, bool]:
        """Return how long the next request waits, and whether it is over."""
        used, left = self.window(now)
        return (left, True) if used >= self.count else (Fraction(0), False)

    def charge(self, now: float, size: int) -> Fraction:
        """Charge a request; where answers count, it only owes what they do."""
        if self.unit is Unit.BYTES_OUT:
            return self.ask(now)[0]
        return self.add(now, 1 if self.unit is Unit.REQUESTS else size)

    def add(self, now: float, cost: int) -> Fraction:
        """Charge a cost."""
        self.charges.append((Fraction(now), cost))
        used, left = self.window(now)
        return left if used > self.count else Fraction(0)

    def idle(self, now: float) -> bool:
        """There is no window."""
        return not self.window(now)[1]


Model = BucketModel | WindowModel


def passes(model: Model, now: float, sizes: Sequence[int]) -> bool:
    """Take requests one by one, which is charged: did none of them wait, and none owe?"""
    return all(not any(model.ask(now)) and not model.charge(now, size) for size in sizes)


class Twins:
    """A meter and its model, held against each other at every step of a schedule."""

    def __init__(self, kind: LeakyBucket | FixedWindow, action: Action, max_wait_seconds: float) -> None:
        """Make both."""
        self.kind = kind
        self.meter = meter(kind, action=action, max_wait_seconds=max_wait_seconds)
        model = BucketModel if isinstance(kind, LeakyBucket) else WindowModel
        self.model: Model = model(kind, action, max_wait_seconds)  # type: ignore[arg-type]  # each its own
        self.asked = 0

    def step(self, now: float, what: str, sizes: list[int]) -> None:
        """Do one thing to both."""
        if what == "answer":
            if isinstance(self.meter, AnswerBucket | AnswerWindow):
                for size in sizes:
                    assert self.meter.answered(now, size) == pytest.approx(float(self.model.add(now, size)))
        elif what == "pass":
            for size in sizes:
                assert self.meter.ask(now) == self._asked(now)
                assert self.meter.charge(now, size) == pytest.approx(float(self.model.charge(now, size)))
                self.asked += 1
        elif self._take(now, sizes) and what == "undo":
            self.meter.undo(len(sizes), sum(sizes))
            self.asked -= len(sizes)
            del self.model.charges[self.before :]
        self.agree(now)

    def _asked(self, now: float) -> tuple[Any, bool]:
        wait, over = self.model.ask(now)
        return pytest.approx(float(wait)), over

    def _take(self, now: float, sizes: list[int]) -> bool:
        expected = copy(self.model)
        expected.charges = list(self.model.charges)
        taken = passes(expected, now, sizes)
        if self.kind.unit is Unit.BYTES_IN and isinstance(self.kind, LeakyBucket) and len(sizes) > 1:
            taken = taken and not any(expected.ask(now))  # the sizes are not known, so it is more careful
        assert self.meter.take(now, len(sizes), sum(sizes)) is taken
        self.before = len(self.model.charges)
        if taken:
            self.model.charges = expected.charges
            self.asked += len(sizes)
        return taken

    def agree(self, now: float) -> None:
        """Compare all that can be seen."""
        assert self.meter.limit.asked == self.asked
        assert self.meter.ask(now) == self._asked(now)
        assert self.meter.idle(now) is self.model.idle(now)
        if isinstance(self.model, BucketModel):
            assert isinstance(self.meter, Bucket)
            assert self.meter.now_at(now) == max(self.model.level(now), 0)
        else:
            assert isinstance(self.meter, Window)
            used, left = self.model.window(now)
            assert self.meter.remaining(now) == (max(self.model.count - used, 0), float(left))


UNITS = st.sampled_from(Unit)
ACTIONS = st.sampled_from(Action)
GAPS = st.one_of(st.just(0), st.integers(0, 4), st.integers(0, 4096), st.integers(0, 2**16)).map(lambda gap: gap / 1024)
SIZES = st.lists(st.one_of(st.sampled_from([100, 500]), st.integers(14, 10_000)), min_size=1, max_size=12)
STEPS = st.tuples(GAPS, st.sampled_from(["take", "take", "undo", "pass", "pass", "answer"]), SIZES)
SCHEDULES = st.lists(STEPS, max_size=25)
BEGIN = st.integers(1, 10**6)

BUCKETS = (
    ([1 / 8, 0.5, 1.0, 3.0, 10.0, 1000.0, 5000.0], [0.0, 0.25, 1.0, 2.5, 10.0, 100.0]),
    ([100.0, 4096.0, 1e6], [0.0, 0.5, 100.0, 500.0, 20_000.0]),
)
"""Rates and bursts, of requests and of bytes."""

COUNTS = ([1, 2, 3, 10, 30], [1, 100, 600, 3000, 30_000])


def kinds(kind: type, unit: Unit) -> st.SearchStrategy[LeakyBucket | FixedWindow]:
    """Make buckets or windows of a unit, in numbers that floats have exactly."""
    in_bytes = unit is not Unit.REQUESTS
    if kind is LeakyBucket:
        rates, bursts = map(st.sampled_from, BUCKETS[in_bytes])
        return st.builds(LeakyBucket, rates, bursts, st.booleans(), st.just(unit))
    return st.builds(
        FixedWindow, st.sampled_from(COUNTS[in_bytes]), st.sampled_from([1 / 64, 1.0, 10.5]), st.just(unit)
    )


@pytest.mark.parametrize("unit", Unit)
@pytest.mark.parametrize("kind", [LeakyBucket, FixedWindow])
@unhurried
@given(data=st.data(), max_wait_seconds=st.sampled_from([0.125, 1.0, 30.0, EVER]), schedule=SCHEDULES)
def test_models(
    data: st.DataObject,
    kind: type,
    unit: Unit,
    max_wait_seconds: float,
    schedule: list[tuple[float, str, list[int]]],
) -> None:
    """Buckets and windows say at every step of any schedule what a replay of all charges says.

    ``take`` is what one after the other would have been told, and after ``undo`` all is as it was.
    """
    twins = Twins(data.draw(kinds(kind, unit)), data.draw(ACTIONS), max_wait_seconds)
    now = float(data.draw(BEGIN))
    for gap, what, sizes in schedule:
        now += gap
        twins.step(now, what, sizes)
    twins.agree(now + 1 / 1024)


def test_byte_groups() -> None:
    """Of several requests a bucket of bytes knows the sum only: they pass if even one more would.

    So it says no to some that pass one by one, and never yes to any that do not.
    """
    bucket = meter(LeakyBucket(100, 300, unit=Unit.BYTES_IN))
    assert not bucket.take(1, 2, 250)
    assert bucket.take(1, 1, 212)
    assert bucket.ask(1) == (1.995, False)
    assert not bucket.take(1, 1, 100)
    patient = meter(LeakyBucket(100, 300, nodelay=True, unit=Unit.BYTES_IN))
    assert not patient.take(1, 2, 313)
    assert patient.take(1, 2, 312)


def test_catching_up() -> None:
    """Bytes that a key did not use for an eighth of a second are made up for, those of a longer pause are not.

    A new key has nothing to catch up with.
    """
    bucket = meter(LeakyBucket(1000, unit=Unit.BYTES_IN))
    assert BytesBucket(bucket.limit, 10).charge(10, 1125) == 1.125
    assert bucket.charge(10, 1125) == 1
    assert bucket.charge(11.0625, 1000) == 0.9375
    assert bucket.charge(15, 1000) == 0.875


# Promises, on clocks and rates as they come.

RATES = st.floats(0.01, 10_000)
OF_REQUESTS = st.builds(LeakyBucket, RATES, st.floats(0, 50), st.booleans())
OF_BYTES = st.builds(LeakyBucket, st.floats(1, 1e6), st.floats(0, 5000), st.booleans(), st.just(Unit.BYTES_IN))
ANY_GAPS = st.one_of(st.just(0.0), st.floats(0, 0.01), st.floats(0, 3))


class Flow:
    """Requests of one key that wait as they are told, each on a connection of its own, and when they pass."""

    def __init__(self, meter: Meter) -> None:
        """Begin with none passed."""
        self.meter = meter
        self.refuses = meter.limit.rule.action in (Action.REJECT, Action.CLOSE)
        self.passed: list[tuple[float, int]] = []

    def run(self, arrivals: Sequence[tuple[float, list[int]]]) -> None:
        """Let groups of requests come, and all of them pass or be refused."""
        queue = [(now, order, sizes) for order, (now, sizes) in enumerate(arrivals)]
        order = len(queue)
        while queue:
            now, _, sizes = heapq.heappop(queue)
            if self.meter.take(now, len(sizes), sum(sizes)):
                self.passed += [(now, size) for size in sizes]
                continue
            for size in sizes:
                wait, over = self.meter.ask(now)
                if wait and isinstance(self.meter, Window) and not self.refuses:
                    heapq.heappush(queue, (now + wait, order, [size]))
                    order += 1
                elif not (over and self.refuses):
                    self.meter.charge(now, size)
                    self.passed.append((now + wait, size))

    def most(self, rate: float) -> float:
        """Return by how much at most more has passed in any time than what leaks out in it."""
        self.passed.sort()
        sums = [0, *accumulate(1 if type(self.meter) is Bucket else size for _, size in self.passed)]
        ahead = 0.0
        lowest = float("inf")
        for (before, after), (now, _) in zip(pairwise(sums), self.passed, strict=True):
            lowest = min(lowest, before - rate * now)
            ahead = max(ahead, after - rate * now - lowest)
        return ahead


def arrivals(begin: float, groups: list[tuple[float, list[int]]]) -> list[tuple[float, list[int]]]:
    """Turn gaps into times."""
    times = accumulate((gap for gap, _ in groups), initial=begin)
    return list(zip(list(times)[1:], (sizes for _, sizes in groups), strict=True))


GROUPS = st.lists(st.tuples(ANY_GAPS, SIZES), max_size=30)


@unhurried
@given(st.one_of(OF_REQUESTS, OF_BYTES), ACTIONS, BEGIN, GROUPS)
def test_rate(kind: LeakyBucket, action: Action, begin: int, groups: list[tuple[float, list[int]]]) -> None:
    """In no time at all does more pass than leaks out in it and a millisecond, the burst, and one request.

    What is spread out does not even have the burst ahead; bytes may catch up with an eighth of a second.
    """
    flow = Flow(meter(kind, action=action, max_wait_seconds=EVER))
    flow.run(arrivals(begin, groups))
    largest = 1 if kind.unit is Unit.REQUESTS else max((size for _, size in flow.passed), default=0)
    ahead = (kind.burst if kind.nodelay else 0) + (0 if kind.unit is Unit.REQUESTS else kind.rate * CATCH_UP_SECONDS)
    assert flow.most(kind.rate) <= ahead + largest + kind.rate * (GRACE_SECONDS + 1e-8)


@unhurried
@given(RATES, st.floats(0, 20), BEGIN, st.integers(1, 5), st.lists(st.floats(0, 1), max_size=100))
def test_rate_throttled(rate: float, burst: float, begin: int, connections: int, dice: list[float]) -> None:
    """What owes passes and pays afterwards: so that each connection has one more ahead."""
    bucket = meter(LeakyBucket(rate, burst, nodelay=True), max_wait_seconds=EVER)
    flow = Flow(bucket)
    free = [float(begin)] * connections
    for die in dice:
        free.sort()
        now = free[0]
        debt = 0.0 if bucket.take(now, 1, 100) else bucket.charge(now, 100)
        flow.passed.append((now, 100))
        free[0] = max(now + debt, free[1] if connections > 1 and die < 0.2 else 0.0)
    assert flow.most(rate) <= burst + 1 + connections + rate * (GRACE_SECONDS + 1e-8)


@unhurried
@given(
    st.one_of(
        st.builds(FixedWindow, st.integers(1, 50), st.floats(0.01, 10)),
        st.builds(FixedWindow, st.integers(1, 25_000), st.floats(0.01, 10), st.just(Unit.BYTES_IN)),
    ),
    ACTIONS,
    BEGIN,
    GROUPS,
)
def test_window(kind: FixedWindow, action: Action, begin: int, groups: list[tuple[float, list[int]]]) -> None:
    """No more pass than ``count`` from a first request until ``window_seconds`` later; of bytes, and one request."""
    flow = Flow(meter(kind, action=action))
    flow.run(arrivals(begin, groups))
    ends = used = 0.0
    for now, size in sorted(flow.passed, key=lambda entry: entry[0]):
        if ends - now < GRACE_SECONDS:
            ends, used = now + kind.window_seconds, 0
        assert used < kind.count
        used += size if kind.unit is Unit.BYTES_IN else 1


@unhurried
@given(OF_REQUESTS, ACTIONS, BEGIN, st.lists(st.floats(1, 3), max_size=50))
def test_below_rate(kind: LeakyBucket, action: Action, begin: int, paces: list[float]) -> None:
    """A key below its rate never waits and never owes; neither does the first request of any key."""
    one, other = (meter(kind, action=action) for _ in range(2))
    now = float(begin)
    for pace in [0.0, *paces]:
        now += pace / kind.rate
        assert one.take(now, 1, 100)
        assert other.ask(now) == (0, False)
        assert other.charge(now, 100) == 0


@unhurried
@given(OF_BYTES, ACTIONS, BEGIN, st.lists(st.tuples(st.floats(1, 3), st.integers(14, 10_000)), max_size=30))
def test_below_byte_rate(kind: LeakyBucket, action: Action, begin: int, paces: list[tuple[float, int]]) -> None:
    """A key below its rate of bytes never waits, and owes nothing but a request that is larger than the burst.

    And of that no more than it is late by anyway.
    """
    bytes_in = meter(kind, action=action)
    bytes_out = meter(replace(kind, unit=Unit.BYTES_OUT), action=action)
    assert isinstance(bytes_out, AnswerBucket)
    now = float(begin)
    last = 0
    for pace, size in paces:
        now += pace * last / kind.rate
        last = size
        for each in (bytes_in, bytes_out):
            assert each.ask(now) == (0, False)
        assert bytes_out.take(now, 1, size)
        longest = size / kind.rate + 1e-8 if size > kind.burst - 1e-3 else 0
        assert bytes_out.answered(now, size) <= longest
        assert bytes_in.charge(now, size) <= longest


@pytest.mark.parametrize("unit", Unit)
@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("begin", [0.0, 0.3, 1e6])
def test_first(unit: Unit, action: Action, begin: float) -> None:
    """The first request of a key never waits, however low its rate is, and none of it is remembered before."""
    small = 1 if unit is Unit.REQUESTS else 100
    for kind in (
        LeakyBucket(1e-6, 0, unit=unit),
        LeakyBucket(5, 100, nodelay=True, unit=unit),
        FixedWindow(small, 3600, unit),
    ):
        fresh = meter(kind, action=action)
        assert fresh.idle(begin)
        assert fresh.ask(begin) == (0, False)
        if unit is not Unit.BYTES_IN or kind != LeakyBucket(1e-6, 0, unit=unit):
            assert fresh.take(begin, 1, 100)


@unhurried
@given(st.one_of(OF_REQUESTS, OF_BYTES), UNITS, ACTIONS, BEGIN, st.lists(st.integers(14, 5000), min_size=1))
def test_wait_told(kind: LeakyBucket, unit: Unit, action: Action, begin: int, sizes: list[int]) -> None:
    """Who comes again after exactly the wait that was told passes, whatever the rounding of floats."""
    now = begin / 7
    for either in (replace(kind, unit=unit), FixedWindow(len(sizes), 1 / kind.rate, unit)):
        each = meter(either, action=action, max_wait_seconds=EVER)
        for size in sizes:
            each.charge(now, size)
            if isinstance(each, AnswerBucket | AnswerWindow):
                each.answered(now, size)
        wait, over = each.ask(now)
        assert wait >= 0
        assert not over or wait
        assert each.ask(now + wait) == (0, False)
        assert each.take(now + wait, 1, 0)


def test_fractions() -> None:
    """A rate may be a fraction: 0.25 is one every four seconds."""
    bucket = meter(LeakyBucket(0.25))
    assert [bucket.take(now, 1, 100) for now in (10, 13.9, 14, 17.9, 18)] == [True, False, True, False, True]


WAITS = {False: [0, 0.5, 1, 1.5, 2], True: [0, 0, 0, 0, 0.5]}


@pytest.mark.parametrize("nodelay", [False, True])
def test_burst(*, nodelay: bool) -> None:
    """Up to the burst requests are spread out, or not with nodelay; above it they are over and owe."""
    bucket = meter(LeakyBucket(2, 3, nodelay))
    asked = []
    owed = []
    for _ in range(5):
        asked.append(bucket.ask(10))
        owed.append(bucket.charge(10, 100))
    assert asked == [(wait, index == 4) for index, wait in enumerate(WAITS[nodelay])]
    assert owed == [0, 0, 0, 0, 1 if nodelay else 2.5]


@pytest.mark.parametrize(("gap", "passes"), [(0.499, True), (0.4985, False)])
@pytest.mark.parametrize(("burst", "nodelay"), [(0, False), (3, True)])
def test_grace(burst: float, gap: float, *, nodelay: bool, passes: bool) -> None:
    """A wait of no more than a millisecond is none, with nodelay neither."""
    bucket = meter(LeakyBucket(2, burst, nodelay))
    for _ in range(int(burst) + 1):
        assert bucket.take(10, 1, 100)
    assert (bucket.ask(10 + gap) == (0, False)) is passes
    assert bucket.take(10 + gap, 1, 100) is passes


@pytest.mark.parametrize("nodelay", [False, True])
@unhurried
@given(
    rate=st.integers(1, 2000),
    burst=st.integers(0, 30),
    gaps=st.lists(st.one_of(st.integers(0, 20), st.integers(0, 3000)), max_size=60),
)
def test_limit_req(rate: int, burst: int, gaps: list[int], *, nodelay: bool) -> None:
    """A bucket that rejects decides as APISIX's limit-req, which counts in thousandths and whole milliseconds.

    resty.limit.req: excess = max(excess - rate * elapsed + 1000, 0); above burst it rejects, and forgets the request.
    """
    bucket = meter(LeakyBucket(rate, burst, nodelay), action=Action.REJECT, max_wait_seconds=EVER)
    excess = last = -1
    now = 1_000_000
    for gap in gaps:
        now += gap
        asked = 0 if last < 0 else max(excess - rate * (now - last) + 1000, 0)
        wait, over = bucket.ask(now / 1000)
        assert over is (asked > burst * 1000)
        if not over:
            excess, last = asked, now
            delay = 0 if nodelay else excess / 1000 / rate
            if abs(delay - GRACE_SECONDS) > 1e-9:
                assert wait == pytest.approx(delay if delay > GRACE_SECONDS else 0, abs=1e-9)
            assert bucket.charge(now / 1000, 100) == 0


@unhurried
@given(
    st.one_of(OF_REQUESTS, OF_BYTES),
    UNITS,
    st.floats(0.01, 30),
    BEGIN,
    st.lists(st.tuples(ANY_GAPS, st.integers(14, 10**6)), min_size=1, max_size=50),
)
def test_max_wait(
    kind: LeakyBucket, unit: Unit, max_wait_seconds: float, begin: int, schedule: list[tuple[float, int]]
) -> None:
    """A key that was silent for ``max_wait`` owes one unit at most, whatever came before, and then its burst."""
    bucket = meter(replace(kind, unit=unit), max_wait_seconds=max_wait_seconds)
    now = float(begin)
    for gap, size in schedule:
        now += gap
        bucket.charge(now, size)
        if isinstance(bucket, AnswerBucket):
            bucket.answered(now, size)
    now += max_wait_seconds
    assert bucket.ask(now)[0] <= (kind.burst + 1) / kind.rate + 1e-8
    assert bucket.ask(now + 1 / kind.rate + 1e-8)[1] is False
    assert bucket.idle(now + (kind.burst + 1) / kind.rate + 1e-8)


def test_answers() -> None:
    """Bytes of answers are charged when they come; requests cost nothing, they wait for what was answered before."""
    bucket = meter(LeakyBucket(80, 50, nodelay=True, unit=Unit.BYTES_OUT))
    assert isinstance(bucket, AnswerBucket)
    assert bucket.take(10, 1000, 10**9)
    assert [bucket.answered(10, 60), bucket.answered(10, 40)] == [0, 0.5]
    assert bucket.ask(10) == (0.5, True)
    assert not bucket.take(10, 1, 0)
    assert bucket.charge(10, 10**9) == 0.5
    assert bucket.charge(10.25, 10**9) == 0.25
    assert bucket.take(10.5, 1, 10**9)


def test_answers_in_a_window() -> None:
    """A window of answers begins with the first answer, and requests wait for its end once it is full."""
    window = meter(FixedWindow(100, 10, Unit.BYTES_OUT))
    assert isinstance(window, AnswerWindow)
    assert window.take(10, 1000, 10**9)
    assert [window.answered(12, 60), window.answered(13, 40)] == [0, 0]
    assert not window.take(13, 1, 0)
    assert window.answered(14, 60) == 8
    assert window.ask(14) == (8, True)
    assert not window.take(14, 1, 0)
    assert window.charge(15, 10**9) == 7
    assert window.remaining(15) == (0, 7)
    assert window.take(22, 1, 10**9)
    assert window.remaining(22) == (100, 0)


def test_window_of_requests() -> None:
    """A window begins with the first request and not before, and is over when it has lasted."""
    window = meter(FixedWindow(3, 10))
    assert isinstance(window, Window)
    assert window.remaining(100) == (3, 0)
    assert window.take(100, 2, 0)
    assert window.remaining(104) == (1, 6)
    assert not window.take(104, 2, 0)
    assert window.take(104, 1, 0)
    assert window.ask(104) == (6, True)
    assert window.charge(104, 0) == 6
    assert window.remaining(104) == (0, 6)
    assert window.take(110, 3, 0)
    assert window.remaining(110) == (0, 10)


def test_undone_window() -> None:
    """Where another limit says no, the request has not begun a window either."""
    for unit in (Unit.REQUESTS, Unit.BYTES_IN):
        window = meter(FixedWindow(500, 10, unit))
        assert isinstance(window, Window)
        assert window.take(100, 1, 400)
        window.undo(1, 400)
        assert window.idle(100)
        assert window.take(105, 1, 400)
        assert window.take(106, 1, 100)
        window.undo(1, 100)
        assert window.remaining(106) == (499 if unit is Unit.REQUESTS else 100, 9)


# Slots.


class SlotsModel:
    """Who holds slots, and who waits for one."""

    def __init__(self, count: int) -> None:
        """Begin with nobody."""
        self.count = count
        self.held: dict[int, int] = {}
        self.line: list[int] = []
        self.granted: list[int] = []

    @property
    def flying(self) -> int:
        """Count them all."""
        return sum(self.held.values())

    def add(self, who: int, many: int) -> None:
        """Take or give back; the first in line goes on while there is room."""
        self.held[who] = self.held.get(who, 0) + many
        while self.line and self.flying < self.count:
            first = self.line.pop(0)
            self.held[first] = self.held.get(first, 0) + 1
            self.granted.append(first)


CONNECTIONS = 6


@unhurried
@given(
    st.integers(1, 5),
    st.integers(0, 4),
    st.lists(
        st.tuples(
            st.integers(0, CONNECTIONS - 1),
            st.sampled_from(["take", "undo", "wait", "wait", "leave", "seize", "back", "back"]),
            st.integers(1, 4),
        ),
        max_size=60,
    ),
)
def test_slots(count: int, waiting: int, schedule: list[tuple[int, str, int]]) -> None:
    """Who waits for a slot is served in turn, none is given above ``max`` but by ``seize``, and none is lost."""
    slots = Slots(Limit(rule(Concurrency(count, waiting))), 0.0)
    holds = [Hold(slots) for _ in range(CONNECTIONS)]
    model = SlotsModel(count)
    granted: list[int] = []

    def grant_to(who: int) -> Callable[[], None]:
        def grant() -> None:
            assert slots.flying <= count
            holds[who].held += 1
            granted.append(who)

        return grant

    grants = [grant_to(who) for who in range(CONNECTIONS)]
    taken = 0
    for who, what, many in schedule:
        hold = holds[who]
        if what in ("take", "undo"):
            fits = not model.line and model.flying + many <= count
            assert hold.take(1.0, many, 100) is fits
            if fits and what == "undo":
                hold.undo(many, 100)
            elif fits:
                model.add(who, many)
                taken += many
        elif what == "wait" and who not in model.line and not slots.free:
            slots.wait(grants[who])
            model.line.append(who)
        elif what == "leave":
            slots.leave(grants[who])
            model.line = [each for each in model.line if each != who]
        elif what == "seize":
            hold.seize()
            model.add(who, 1)
        elif what == "back":
            back = min(many, hold.held)
            hold.give_back(back)
            model.add(who, -back)
        assert granted == model.granted
        assert [hold.held for hold in holds] == [model.held.get(each, 0) for each in range(CONNECTIONS)]
        assert slots.flying == model.flying
        assert slots.free is (not model.line and model.flying < count)
        assert slots.full is (len(model.line) >= waiting)
        assert slots.idle(1.0) is (not model.flying and not model.line)
        assert slots.limit.asked == taken
    while any(hold.held for hold in holds):
        for who, hold in enumerate(holds):
            model.add(who, -hold.held)
            hold.give_back(hold.held)
            assert granted == model.granted
    assert slots.idle(1.0)
    assert slots.waiters is None


def test_a_grant_that_waits_again() -> None:
    """Who is called because it has a slot may wait for the next at once, behind all others."""
    slots = Slots(Limit(rule(Concurrency(1))), 0.0)
    called: list[str] = []

    def again() -> None:
        called.append("again")
        slots.wait(again)

    Hold(slots).seize()
    slots.wait(again)
    slots.wait(lambda: called.append("other"))
    for _ in range(3):
        slots.give_back(1)
    assert called == ["again", "other", "again"]


def test_what_makes_no_sense() -> None:
    """Slots are asked through a Hold, which is for each connection, and a Doorway is only entered and left."""
    slots = Slots(Limit(rule(Concurrency(1))), 0.0)
    hold, door = Hold(slots), Doorway(Limit(rule(Connections(1))), 0.0)
    calls: list[Callable[[], object]] = [
        lambda: slots.take(1.0, 1, 1),
        lambda: slots.undo(1, 1),
        lambda: hold.ask(1.0),
        lambda: hold.charge(1.0, 1),
        lambda: hold.idle(1.0),
        lambda: door.take(1.0, 1, 1),
    ]
    for call in calls:
        with pytest.raises(NotImplementedError):
            call()


# Connections.


@unhurried
@given(
    st.integers(0, 4),
    st.sampled_from([0.0, 0.125, 1.0, 8.0]),
    st.sampled_from([0.0, 1.0, 3.5]),
    BEGIN,
    st.lists(st.tuples(GAPS, st.booleans()), max_size=60),
)
def test_doorway(max_open: int, rate: float, burst: float, begin: int, schedule: list[tuple[float, bool]]) -> None:
    """A connection is let in while fewer than ``max`` are open and its rate, but for the burst, is not exceeded.

    Who is not let in is not counted.
    """
    door = Doorway(Limit(rule(Connections(max_open, rate, burst))), 0.0)
    model = BucketModel(LeakyBucket(rate or 1.0, burst), Action.CLOSE, EVER)
    opened = knocks = 0
    now = float(begin)
    assert door.idle(now)
    for gap, ends in schedule:
        now += gap
        if ends:
            if opened:
                door.leave()
                opened -= 1
        else:
            knocks += 1
            allowed = (not max_open or opened < max_open) and (not rate or model.level(now) <= burst + rate / 10**6)
            assert door.enter(now) is allowed
            if allowed:
                opened += 1
                model.add(now, 1)
        assert door.opened == opened
        assert door.limit.asked == knocks
        assert door.idle(now) is (not opened and (not rate or model.level(now) == 0))


@unhurried
@given(RATES, st.integers(0, 20), BEGIN)
def test_doorway_in_time(rate: float, burst: int, begin: int) -> None:
    """A client that comes as often as its rate says is let in, whatever the rounding of floats."""
    door = Doorway(Limit(rule(Connections(0, rate, burst))), 0.0)
    for _ in range(burst + 1):
        assert door.enter(begin)
    assert not door.enter(begin)
    assert all(door.enter(begin + step / rate) for step in range(1, 30))


def test_example() -> None:
    """The example in the module's docstring is true."""
    names = {"Limit": Limit, "Rule": Rule, "LeakyBucket": LeakyBucket}
    assert doctest.testmod(meters, extraglobs=names) == (0, 2)
