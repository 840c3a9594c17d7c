"""Meters that take from leases: the same to whoever asks them as those in ``meters``, but ``unsure`` of a no at times.

What each keeps beyond its plain kind: a bucket the share of its rate, a window the tokens in hand, slots and doors what
they may have out. A share of a half, and a first request that counts for two, until the store says otherwise::

    >>> limit = Limits([Rule("two", LeakyBucket(rate=2, burst=3))], Tenant(2, clock=lambda: 10.0)).limits[0]
    >>> bucket = limit.meter(Client("public", "10.0.0.1", "User:ANONYMOUS", "alice"), now=10.0)
    >>> bucket.renewed((0.5, 0.0), None, now=10.0)
    >>> bucket.take(10.0, 1, 100), bucket.level
    (True, 2.0)

Never here: what is told when (see tenant).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from kproxy.core.leases import DRY, HOLD_SECONDS, LINGER_SECONDS, Entry, Flow, Stock
from kproxy.core.meters import (
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

if TYPE_CHECKING:
    from kproxy.core.tenant import Tenant


class Leased(Meter):
    """What all meters that take from leases have in common; they have no __slots__, as each has two bases."""

    tenant: "Tenant"
    key: str
    active: bool
    """It has something to report at the next renewal."""
    listed: bool
    """It is looked at for whether it has been left."""
    used_at: float

    def lease(self, tenant: "Tenant", key: str, now: float) -> None:
        """Begin, as a key of a tenant's."""
        self.tenant = tenant
        self.key = key
        self.active = self.listed = False
        self.used_at = now
        self.reset()

    @property
    def part(self) -> int:
        """How many of a limit's count one process has where all have the same."""
        return max(self.limit.count // self.tenant.processes, 1)

    def touch(self) -> None:
        """It has changed: report it at the next renewal."""
        if not self.active:
            self.tenant.touch(self)

    def forgotten(self) -> None:
        """See Meter: give everything back."""
        self.tenant.forget(self)

    def reset(self) -> None:
        """Begin without leases; what is in use stays so."""
        raise NotImplementedError

    def report(self, now: float) -> Entry:
        """Return what to tell the store."""
        raise NotImplementedError

    def stays(self) -> bool:
        """Whether there is something to report the next time, too, used or not."""
        raise NotImplementedError

    def in_use(self) -> bool:
        """Whether it would be missed, however long nothing has happened."""
        return False

    def renewed(self, flow: Entry | None, stock: Entry | None, now: float) -> None:
        """Take what the store has told."""
        raise NotImplementedError

    def silence(self) -> None:
        """The store says nothing."""


class LeasedFlow(Leased, Bucket):
    """A bucket whose rate is shared."""

    flow: Flow
    low: float
    """What the level of the whole is at least."""

    def reset(self) -> None:
        """See Leased. A first request passes, as always; what comes behind it is held until there is a share."""
        self.flow = Flow(max(float(self.tenant.processes), self.limit.free + 1.0))
        self.low = min(self.level, 0.0)

    def _charge(self, now: float, cost: float) -> float:
        """Charge so much; return what the level of the whole then is, as far as it is known."""
        limit, flow = self.limit, self.flow
        leaked = (now - self.at) * limit.rate
        self.level = min(max(self.level - leaked, limit.lowest) + cost * flow.weight, limit.level_max)
        self.low = min(max(self.low - leaked, limit.lowest) + cost, limit.level_max)
        self.at = now
        flow.spent += cost
        self.touch()
        return self.low

    def _verdict(self, level: float) -> int:
        """Tell what a level means for a request: it passes, waits, or is over."""
        return (level > self.limit.free) + (level > max(self.limit.burst, self.limit.free))

    def ask(self, now: float) -> tuple[float, bool]:
        """See Meter. A wait is for what is known, whatever the share."""
        limit = self.limit
        leaked = (now - self.at) * limit.rate
        if self.level - leaked <= limit.free:
            return 0.0, False
        low = self.low - leaked
        if low <= limit.free:
            low = self.level - leaked  # nobody says how it is
        return (low - limit.floor) / limit.rate, low > limit.burst

    def undo(self, many: int, size: int) -> None:
        """See Meter."""
        cost = self.cost(many, size)
        self.level -= cost * self.flow.weight
        self.low -= cost
        self.flow.spent -= cost
        self.limit.asked -= many

    def cost(self, many: int, size: int) -> int:
        """Return what so many requests cost."""
        raise NotImplementedError

    def no(self, now: float) -> None:
        """It does not pass."""
        self.flow.miss(now)
        self.touch()

    def unsure(self, now: float) -> bool:
        """See Meter: when it would be told something else if the level were as low as it may be."""
        flow = self.flow
        leaked = (now - self.at) * self.limit.rate
        verdict = self._verdict(self.level - leaked)
        if not verdict:
            return False
        self.no(now)
        if flow.known and verdict == self._verdict(self.low - leaked):
            return False
        if flow.ask(now):
            self.tenant.urge(self)
        return now - flow.asked_at < HOLD_SECONDS

    def report(self, now: float) -> Entry:
        """See Leased."""
        return self.limit.id, self.key, self.flow.report(now, self.users), None

    def stays(self) -> bool:
        """See Leased: who wants more must know what the others do."""
        return self.flow.hungry

    def renewed(self, flow: Entry | None, stock: Entry | None, now: float) -> None:  # noqa: ARG002  it has none
        """See Leased: a share, and the level of the whole, which does not hold what was spent since the report."""
        assert flow is not None  # noqa: S101  it reports one
        share, level = flow
        self.flow.renewed(share, level)
        if level is not None:
            low = self.low - (now - self.at) * self.limit.rate
            self.low = max(level + self.flow.spent, low, self.limit.lowest)
            self.level = max(level + self.flow.spent * self.flow.weight, self.low)
            self.at = now

    def silence(self) -> None:
        """See Leased: an equal part is its share."""
        if self.flow.asking:
            self.flow.weight = float(self.tenant.processes)
            self.level = min(self.level, max(self.low, 0.0) * self.flow.weight)


class LeasedBucket(LeasedFlow):
    """See Bucket."""

    def take(self, now: float, many: int, size: int) -> bool:  # noqa: ARG002  see Meter
        """See Meter."""
        limit = self.limit
        level = max(self.level - (now - self.at) * limit.rate, 0.0)
        if level + (many - 1) * self.flow.weight > limit.free:
            return False
        limit.asked += many
        self._charge(now, many)
        return True

    def cost(self, many: int, size: int) -> int:  # noqa: ARG002  see LeasedFlow
        """See LeasedFlow."""
        return many

    def charge(self, now: float, size: int) -> float:  # noqa: ARG002  see Meter
        """See Meter. A debt is what is truly owed, as far as it is known, whatever the share."""
        limit = self.limit
        limit.asked += 1
        level = self._charge(now, 1)
        if level - 1.0 <= limit.owing:
            return 0.0
        self.no(now)
        return (level - limit.floor) / limit.rate


class LeasedBytes(LeasedFlow, BytesBucket):
    """What counts bytes."""

    def _add(self, now: float, size: int) -> float:
        limit = self.limit
        level = self._charge(now, size)
        if level <= limit.owing:
            return 0.0
        self.no(now)
        return (level - limit.floor) / limit.rate


class LeasedBytesBucket(LeasedBytes):
    """See BytesBucket."""

    def take(self, now: float, many: int, size: int) -> bool:
        """See Meter."""
        limit = self.limit
        level = max(self.level - (now - self.at) * limit.rate, limit.lowest)
        if level > limit.free or level + size > (limit.owing if many == 1 else limit.free):
            return False
        limit.asked += many
        self._charge(now, size)
        return True

    def cost(self, many: int, size: int) -> int:  # noqa: ARG002  see LeasedFlow
        """See LeasedFlow."""
        return size


class LeasedAnswerBucket(LeasedBytes, AnswerBucket):
    """See AnswerBucket."""

    def cost(self, many: int, size: int) -> int:  # noqa: ARG002  see LeasedFlow
        """See LeasedFlow: a request costs nothing."""
        return 0


class LeasedStock(Leased, Window):
    """A window whose tokens are shared."""

    stock: Stock
    whole: int
    """What is left of the window, as the store has told, for all processes."""

    def reset(self) -> None:
        """See Leased."""
        self.stock = Stock()
        self.ends = 0.0
        self.whole = self.limit.count

    def left(self, now: float) -> int:
        """Return how many may be taken now."""
        if self.ends and self.ends - now < GRACE_SECONDS:
            self.stock.forget()
            self.ends = 0.0
            self.whole = self.limit.count
        return self.stock.have

    def spend(self, now: float, cost: int) -> None:
        """Take so many, there or not."""
        if not self.ends:
            self.ends = now + self.limit.window_seconds  # until the store says when it ends
        self.stock.have -= cost
        self.stock.spent += cost
        self.touch()

    def no(self, now: float) -> None:
        """There is none left."""
        if self.stock.miss(now, 1):
            self.tenant.urge(self)

    def unsure(self, now: float) -> bool:
        """See Meter."""
        if self.left(now) > 0:
            return False
        self.no(now)
        return self.stock.unsure(now)

    def ask(self, now: float) -> tuple[float, bool]:
        """See Meter."""
        if self.left(now) > 0:
            return 0.0, False
        return (self.ends - now if self.ends else self.limit.window_seconds), True

    def _add(self, now: float, cost: int) -> float:
        self.left(now)
        self.spend(now, cost)
        if self.stock.have >= 0:
            return 0.0
        self.no(now)
        return self.ends - now

    def _take_back(self, cost: int) -> None:
        self.stock.have += cost
        self.stock.spent -= cost

    def remaining(self, now: float) -> tuple[int, float]:
        """See Window: of what there is for all processes."""
        self.left(now)
        return max(self.whole - self.stock.spent, 0), max(self.ends - now, 0.0)

    def report(self, now: float) -> Entry:
        """See Leased. Wanted in hand is twice what went since the last report, or half of what was wanted then."""
        stock = self.stock
        self.left(now)
        want = max(2 * stock.spent, stock.want // 2, stock.need)
        return self.limit.id, self.key, None, stock.report(want)

    def stays(self) -> bool:
        """See Leased: that less is wanted is told, too."""
        return self.stock.want > 0 and self.stock.answer != DRY

    def renewed(self, flow: Entry | None, stock: Entry | None, now: float) -> None:  # noqa: ARG002  it has none
        """See Leased."""
        assert stock is not None  # noqa: S101  it reports one
        *more, ends_in, self.whole = stock
        self.stock.renewed(*more)
        if ends_in:
            self.ends = now + ends_in
        elif not self.stock.spent:
            self.ends = 0.0
        if self.stock.give_up():
            self.tenant.urge(self)

    def silence(self) -> None:
        """See Leased."""
        self.stock.silence(self.part)


class LeasedWindow(LeasedStock):
    """See Window."""

    def take(self, now: float, many: int, size: int) -> bool:  # noqa: ARG002  see Meter
        """See Meter."""
        if self.left(now) < many:
            return False
        self.spend(now, many)
        self.limit.asked += many
        return True


class LeasedBytesWindow(LeasedStock, BytesWindow):
    """See BytesWindow."""

    def take(self, now: float, many: int, size: int) -> bool:
        """See Meter."""
        if self.left(now) < size:
            return False
        self.spend(now, size)
        self.limit.asked += many
        return True


class LeasedAnswerWindow(LeasedStock, AnswerWindow):
    """See AnswerWindow."""

    def take(self, now: float, many: int, size: int) -> bool:  # noqa: ARG002  see Meter
        """See Meter."""
        if self.left(now) <= 0:
            return False
        self.limit.asked += many
        return True


class LeasedSlots(Leased, Slots):
    """See Slots: ``count`` of them are in hand."""

    def reset(self) -> None:
        """See Leased."""
        self.stock = Stock()
        self.count = 0
        self.peak = 0
        """How many were in use at once since the last report."""

    @property
    def full(self) -> bool:
        """See Slots; but nobody is turned away before the store has said that there are no more."""
        return super().full and not self._unsure()

    def _unsure(self) -> bool:
        now = self.tenant.clock()
        if self.stock.miss(now, len(self.waiters or ()) or 1):
            self.tenant.urge(self)
        return self.stock.unsure(now)

    def wait(self, granted: Callable[[], None]) -> None:
        """See Slots."""
        super().wait(granted)
        self._unsure()

    def hold(self) -> Hold:
        """See Slots."""
        return LeasedHold(self)

    def grant(self) -> None:
        """See Slots; what the store wants back goes before those who wait."""
        if self.stock.give_up(self.flying):
            self.tenant.urge(self)
        self.count = self.stock.have
        super().grant()

    def report(self, now: float) -> Entry:
        """See Leased. Wanted in hand is what is in use, or was, who waits, and one more."""
        stock = self.stock
        stock.give_up(self.flying)
        self.count = stock.have
        flying, waiting = self.flying, len(self.waiters or ())
        if not waiting and flying < self.count:
            stock.hungry = False
            stock.need = 0
        elif waiting and not stock.hungry:
            stock.miss(now, waiting)
        want = max(self.peak, flying) + max(waiting, stock.need)
        self.peak = flying
        return self.limit.id, self.key, None, stock.report(want + (want > 0), flying)

    def stays(self) -> bool:
        """See Leased."""
        return self.stock.want > 0

    def in_use(self) -> bool:
        """See Leased."""
        return self.flying > 0 or bool(self.waiters)

    def renewed(self, flow: Entry | None, stock: Entry | None, now: float) -> None:  # noqa: ARG002  it has none
        """See Leased."""
        assert stock is not None  # noqa: S101  it reports one
        self.stock.renewed(*stock[:4])
        self.grant()

    def silence(self) -> None:
        """See Leased."""
        if self.stock.silence(self.part):
            self.grant()


class LeasedHold(Hold):
    """See Hold."""

    __slots__ = ()

    slots: LeasedSlots

    def take(self, now: float, many: int, size: int) -> bool:
        """See Meter."""
        if not super().take(now, many, size):
            return False
        slots = self.slots
        slots.peak = max(slots.peak, slots.flying)
        slots.touch()
        return True


class LeasedDoorway(Leased, Doorway):
    """See Doorway: of those that are open so many are in hand, and of the rate there is a share."""

    def reset(self) -> None:
        """See Leased."""
        self.flow = Flow(max(float(self.tenant.processes), self.limit.free + 1.0))
        self.stock = Stock()
        self.low = 0.0
        """See LeasedFlow."""
        self.refused_at = 0.0

    def _too_many(self) -> bool:
        return self.limit.count > 0 and self.opened >= self.stock.have

    def _too_fast(self, now: float) -> bool:
        return self.limit.rate > 0 and self.level - (now - self.at) * self.limit.rate > self.limit.free

    def unsure(self, now: float) -> bool:
        """See Meter: whether the next is let in."""
        unsure = False
        if self._too_many():
            self.refused_at = now
            if self.stock.miss(now, 1):
                self.tenant.urge(self)
            unsure = self.stock.unsure(now)
        if self._too_fast(now):
            self.flow.miss(now)
            if self.low - (now - self.at) * self.limit.rate <= self.limit.free:
                if self.flow.ask(now):
                    self.tenant.urge(self)
                unsure = unsure or now - self.flow.asked_at < HOLD_SECONDS
        return unsure

    def enter(self, now: float) -> bool:
        """See Doorway."""
        limit = self.limit
        limit.asked += 1
        if self._too_many() or self._too_fast(now):
            return False
        if limit.rate:
            leaked = (now - self.at) * limit.rate
            self.level = max(self.level - leaked, 0.0) + self.flow.weight
            self.low = max(self.low - leaked, 0.0) + 1.0
            self.at = now
            self.flow.spent += 1.0
        self.opened += 1
        self.touch()
        return True

    def undo(self, many: int, size: int) -> None:  # noqa: ARG002  see Meter
        """See Meter."""
        if self.limit.rate:
            self.level -= many * self.flow.weight
            self.low -= many
            self.flow.spent -= many

    def leave(self) -> None:
        """See Doorway."""
        super().leave()
        self.touch()

    def report(self, now: float) -> Entry:
        """See Leased. Wanted in hand is what is open, and one more for a while."""
        flow = self.flow.report(now, self.users) if self.limit.rate else None
        stock = None
        if self.limit.count:
            mine = self.stock
            mine.give_up(self.opened)
            if self.opened < mine.have or now - self.refused_at >= LINGER_SECONDS:
                mine.hungry = False
                mine.need = 0
            spare = max(mine.need, int(mine.want != self.opened + 1))
            stock = mine.report(self.opened + spare, self.opened)
        return self.limit.id, self.key, flow, stock

    def stays(self) -> bool:
        """See Leased."""
        return self.flow.hungry or self.stock.hungry

    def in_use(self) -> bool:
        """See Leased."""
        return self.opened > 0

    def renewed(self, flow: Entry | None, stock: Entry | None, now: float) -> None:
        """See Leased."""
        if flow is not None:
            share, level = flow
            self.flow.renewed(share, level)
            if level is not None:
                low = self.low - (now - self.at) * self.limit.rate
                self.low = max(level + self.flow.spent, low, 0.0)
                self.level = max(level + self.flow.spent * self.flow.weight, self.low)
                self.at = now
        if stock is not None:
            self.stock.renewed(*stock[:4])
            if self.stock.give_up(self.opened):
                self.tenant.urge(self)

    def silence(self) -> None:
        """See Leased."""
        self.stock.silence(self.part)


LEASED: dict[type[Meter], type[Leased]] = {
    Bucket: LeasedBucket,
    BytesBucket: LeasedBytesBucket,
    AnswerBucket: LeasedAnswerBucket,
    Window: LeasedWindow,
    BytesWindow: LeasedBytesWindow,
    AnswerWindow: LeasedAnswerWindow,
    Slots: LeasedSlots,
    Doorway: LeasedDoorway,
}
