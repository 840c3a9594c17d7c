"""What limits make of a request that does not pass at once: refused, held up until it fits, or told to slow down.

An Admission is one connection's: it is about the request at the head of the line, from its first look until it has
gone on, and then about the next. All limits are asked before any is charged; a refusal beats a wait, the first in the
order of the configuration is told, and of several waits the longest counts. A request over a limit is, by the limit's
``on_exceed``:

- delayed: it waits until it fits.
- throttled: it passes, and what its key owes by then is for the connection to pay (``owes``).
- rejected, or the connection is closed: then it is charged nowhere. Where a rejection cannot be told to the client it
  is throttled instead.

What is within a burst is spread out, whatever ``on_exceed`` says. No wait is longer than its limit's ``max_wait``: then
the request passes all the same. On a connection that carries heartbeats none is longer than a second. ``dry_run``
counts what would happen, and charges what then would have been charged::

    limit = admission.refusal(meters, refusable, now)      # None, and so it is charged:
    while not admission.passes(meters, refusable, size, now):             # all at once, but for a window that is full
        ...                                                    # until ``wake_at``, or until ``wake`` was called
    owes_seconds = admission.owes(now)
    admission.forget()
"""

from collections.abc import Callable
from enum import IntEnum

from kproxy.core.limits import HEARTBEAT_WAIT_SECONDS, Action, Client, Limit
from kproxy.core.meters import GRACE_SECONDS, AnswerBucket, AnswerWindow, Bucket, Hold, Meter, Slots, Window

LOOK_SECONDS = 0.002
"""How soon a request that a meter is ``unsure`` of is looked at again: about what it takes to ask other processes."""


class Refusable(IntEnum):
    """Whether a request can be answered with a refusal."""

    NOT = 0
    USUAL = 1
    """As brokers do (KIP-599)."""
    PRODUCE = 2
    """Where the limit says ``reject_produce``."""

    def by(self, limit: Limit) -> bool:
        """Whether a limit rejects it."""
        rule = limit.rule
        if rule.action is not Action.REJECT:
            return False
        return self is Refusable.USUAL or (self is Refusable.PRODUCE and rule.reject_produce)

    def told_by(self, limit: Limit) -> bool:
        """Whether a limit throttles it."""
        return limit.rule.action is Action.THROTTLE or (limit.rule.action is Action.REJECT and not self.by(limit))


class Admission:
    """See the module. ``leave`` it last."""

    def __init__(self, client: Client, wake: Callable[[], None]) -> None:
        """Begin with no request; ``wake`` is called when it ``passes`` before ``wake_at``, from another's exchange."""
        self.client = client
        self.grouped = False
        """The connection carries heartbeats."""
        self._wake = wake
        self._needs: list[Hold] = []  # whose slots the request still needs
        self._spared: list[Meter] = []  # of dry runs: they would have refused it
        self.forget()

    def forget(self) -> None:
        """The request has gone on, or was refused: begin with the next."""
        self.midway = False
        """The request at the head has been looked at, and has not gone on."""
        self.wake_at = 0.0
        """When to ask again whether it ``passes``."""
        self._since = 0.0
        self._delayed = False  # it waits for a window, and that is counted
        self.charged = False
        """It is charged everywhere, and only waits for its time, and for slots."""
        self._owes_until = 0.0
        self._needs.clear()
        self._spared.clear()
        self._queue: Slots | None = None  # where it waits in turn, since ``_queued_at``; ``_queue_full`` then
        self._queued_at = 0.0
        self._queue_full = False
        self._granted = False  # and has been given a slot

    def leave(self) -> None:
        """The request will not go on by itself: give back its place."""
        if self._queue is not None:
            if self._granted:
                self._queue.give_back(1)
            else:
                self._queue.leave(self._grant)
        self.forget()

    def hurry(self, wake_at: float) -> None:
        """The connection carries heartbeats, now or soon: what waits already goes on by then."""
        self.grouped = True
        self.wake_at = min(self.wake_at, wake_at)

    def longest(self, limit: Limit) -> float:
        """Return the longest wait that a limit may impose here."""
        longest = limit.rule.max_wait_seconds
        return min(longest, HEARTBEAT_WAIT_SECONDS) if self.grouped else longest

    # Refused.

    def refusal(self, meters: tuple[Meter, ...], refusable: Refusable, now: float) -> Limit | None:
        """Return the first limit that refuses the request; see ``refused``."""
        if not self.midway:
            self.midway = True
            self._since = now
        if self.charged:
            return None
        for meter in meters:
            limit = meter.limit
            rule = limit.rule
            if rule.action is not Action.CLOSE and not refusable.by(limit):
                continue
            over = not meter.slots.free and meter.slots.full if isinstance(meter, Hold) else meter.ask(now)[1]
            if not over or meter in self._spared or meter.unsure(now):
                continue
            if not rule.dry_run:
                return limit
            self._spared.append(meter)
            self._count_refusal(limit, now)
        return None

    def refused(self, limit: Limit, meters: tuple[Meter, ...], now: float) -> float:
        """Count that a limit refused the request; return in how many seconds one like it will not be over."""
        self._count_refusal(limit, now)
        self.forget()
        waits = [meter.ask(now)[0] for meter in meters if meter.limit is limit and not isinstance(meter, Hold)]
        return min(max(waits, default=0.0), self.longest(limit))

    def _count_refusal(self, limit: Limit, now: float) -> None:
        limit.asked += 1
        if limit.rule.action is Action.CLOSE:
            limit.closed += 1
        else:
            limit.rejected += 1
        limit.holds_up(self.client, now, 0.0)

    # Admitted.

    def passes(self, meters: tuple[Meter, ...], refusable: Refusable, size: int, now: float) -> bool:
        """Whether the request, which no limit refuses, goes on now; otherwise ask again at ``wake_at``.

        When it goes on it has been charged, and has its slots.
        """
        if not self.charged and not self._charge(meters, refusable, size, now):
            return False
        return now >= self.wake_at and self._seize(refusable, now)

    def owes(self, now: float) -> float:
        """Return for how many seconds more nothing may follow the request that ``passes``; 0.0: anything may."""
        owed = self._owes_until - now
        if self.grouped:
            owed = min(owed, HEARTBEAT_WAIT_SECONDS)
        return owed if owed >= GRACE_SECONDS else 0.0

    def _charge(self, meters: tuple[Meter, ...], refusable: Refusable, size: int, now: float) -> bool:
        """Charge the request to all of its meters, and find out how long it waits, or what it owes.

        Not while a full window makes it wait, or others have yet to be asked: then it is charged nowhere yet, and False
        is returned.
        """
        waits = 0.0
        for meter in meters:
            limit = meter.limit
            if meter.unsure(now):
                if not limit.rule.dry_run:
                    self.wake_at = now + LOOK_SECONDS
                    return False
                continue
            if isinstance(meter, Window) and limit.rule.action is Action.DELAY and not limit.rule.dry_run:
                wait = min(meter.ask(now)[0], self._since + self.longest(limit) - now)
                if wait >= GRACE_SECONDS:
                    waits = max(waits, wait)
                    self._count_delay(limit, now, wait, again=self._delayed)
        if waits:
            self._delayed = True
            self.wake_at = now + waits
            return False
        for meter in meters:
            if meter in self._spared:
                continue
            if isinstance(meter, Hold):
                self._needs.append(meter)
                continue
            limit = meter.limit
            rule = limit.rule
            unsure = rule.dry_run and meter.unsure(now)
            wait, over = meter.ask(now)
            debt = meter.charge(now, size)
            if unsure:
                continue
            spread = isinstance(meter, Bucket) and not over
            delayed = rule.action is Action.DELAY and (isinstance(meter, Bucket) or rule.dry_run)
            if wait and (spread or delayed):
                wait = min(wait, self.longest(limit))
                self._count_delay(limit, now, wait)
                if not rule.dry_run:
                    waits = max(waits, wait)
            if debt and refusable.told_by(limit):
                self._owe(limit, now, debt)
        self.charged = True
        self.wake_at = now + waits
        return True

    def _count_delay(self, limit: Limit, now: float, seconds: float, *, again: bool = False) -> None:
        limit.delayed += not again
        limit.delay_seconds += seconds
        limit.holds_up(self.client, now, seconds)

    def _owe(self, limit: Limit, now: float, seconds: float) -> None:
        seconds = min(seconds, self.longest(limit))
        limit.throttled += 1
        limit.delay_seconds += seconds
        limit.holds_up(self.client, now, seconds)
        if not limit.rule.dry_run:
            self._owes_until = max(self._owes_until, now + seconds)

    def _seize(self, refusable: Refusable, now: float) -> bool:
        """Take the slots that the request needs, or wait in turn for one."""
        while self._needs:
            hold = self._needs[0]
            slots, limit = hold.slots, hold.limit
            if self._granted:
                hold.held += 1
            elif slots.free:
                hold.seize()
            elif limit.rule.dry_run:
                self._count_delay(limit, now, 0.0)
                hold.seize()
            elif self._queue is None:
                self._queue, self._queued_at, self._queue_full = slots, now, slots.full
                slots.wait(self._grant)
                self.wake_at = now + self.longest(limit)
                return False
            else:  # for long enough
                slots.leave(self._grant)
                hold.seize()
            limit.asked += 1
            if self._queue is not None:
                waited = now - self._queued_at
                self._count_delay(limit, now, waited)
                if self._queue_full and refusable.told_by(limit):
                    limit.throttled += 1
                    self._owes_until = max(self._owes_until, now + waited)
                self._queue = None
                self._granted = False
            self._needs.pop(0)
        return True

    def _grant(self) -> None:
        """It is the request's turn: called by who gives a slot back."""
        self._granted = True
        self.wake_at = 0.0
        self._wake()

    # Answered.

    def answered(
        self, meters: tuple[AnswerBucket | AnswerWindow, ...], refusable: Refusable, size: int, now: float
    ) -> float:
        """Charge an answer of ``size`` bytes; return for how many seconds nothing may follow, as ``owes``."""
        owed = 0.0
        for meter in meters:
            debt = meter.answered(now, size)
            limit = meter.limit
            if debt and refusable.told_by(limit):
                debt = min(debt, self.longest(limit))
                limit.throttled += 1
                limit.delay_seconds += debt
                limit.holds_up(self.client, now, debt)
                if not limit.rule.dry_run:
                    owed = max(owed, debt)
        return owed
