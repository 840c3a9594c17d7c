"""The arithmetic of limits, one object per limit and key: leaky bucket, fixed window, slots in flight, connections.

Each meter is asked in two ways. ``take`` is the common path, one call per limit and read: do all of these requests pass
without a wait? Then they are charged. Where it says no, nothing was charged, and the requests are looked at one by
one: ``ask`` says how long the next must wait and whether the limit's ``on_exceed`` is to act, ``charge`` counts it and
says how long the key is in debt. All times are seconds of one monotonic clock, handed in; no clock is read here.

The semantics are those of APISIX's limit-req, limit-count and limit-conn, where they make sense for Kafka:

- **Leaky bucket.** ``level`` is what was charged and has not yet leaked out at ``rate``. A request that finds it at 0
  passes; within ``burst`` it waits until all before it has leaked out (with nodelay not at all); above it is over. As
  with limit-req a wait below a millisecond is none, but what is refused above ``burst`` is so however short the wait.
  Unlike there a request that is delayed is charged when it comes and goes when its time has come, so that waiting
  requests keep their order, over all connections of the key.
- **Bytes are post-paid**: a request passes while there is no debt, and then its whole cost is charged, so that one
  larger than the burst passes, too. Bytes of answers are charged when their size is known. What a key did not use for
  up to CATCH_UP_SECONDS is made up for, as a client that was told to wait is back a round trip later than it could be.
- **Fixed window.** It begins with a key's first request, or its first answer where those are counted.
- **Slots.** ``flying`` requests are with the broker; who comes above ``max`` waits in turn. (limit-conn sleeps for a
  fixed time instead, however long the others take.)

Nothing here waits for another process. Where several share a limit there are other meters in their place (see leased),
which take from a local lease, renewed in the background; whoever asks them sees no difference but ``unsure``.

A key's debt is never remembered beyond what ``max_wait`` can pay off, as nobody is made to wait longer. Two requests,
a quarter of a second apart, a bucket with rate 2 and no burst::

    >>> bucket = Bucket(Limit(Rule("two", LeakyBucket(rate=2, burst=0))), 10.0)
    >>> bucket.take(10.0, 1, 100), bucket.take(10.25, 1, 100), bucket.ask(10.25)
    (True, False, (0.25, True))
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kproxy.core.limits import Limit

GRACE_SECONDS: Final = 0.001
"""A wait that is no longer is none (limit-req's ``delay >= 0.001``); a timer is no more exact."""

CATCH_UP_SECONDS: Final = 0.125
"""How much unused time a bucket of bytes remembers: whoever waits as told is back a round trip later, each time."""

TICK_SECONDS: Final = 0.000_001
"""So much too early is in time where waits are not asked for: who waited exactly as told is not refused for the
rounding of floats."""


class Meter:
    """What one limit knows of one key. ``users``: how many connections count on it, so that it may not be forgotten."""

    __slots__ = ("limit", "users")

    def __init__(self, limit: "Limit", now: float) -> None:  # noqa: ARG002  for those to whom time matters
        """Begin with nothing charged."""
        self.limit = limit
        self.users = 0

    def take(self, now: float, many: int, size: int) -> bool:
        """Charge ``many`` requests of ``size`` bytes together if all pass without a wait; otherwise charge nothing.

        It is what ``ask`` and ``charge`` would say of one after the other, but for several in a BytesBucket.
        """
        raise NotImplementedError

    def undo(self, many: int, size: int) -> None:
        """Take back what ``take`` has just charged, as another limit said no."""
        raise NotImplementedError

    def ask(self, now: float) -> tuple[float, bool]:
        """Return how long the next request must wait, and whether it is over the limit (and not just to be spread)."""
        raise NotImplementedError

    def charge(self, now: float, size: int) -> float:
        """Charge one request of ``size`` bytes; return how long the key is in debt by it, 0.0 within the limit."""
        raise NotImplementedError

    def idle(self, now: float) -> bool:
        """Tell whether a new meter in its place would say the same."""
        raise NotImplementedError

    def unsure(self, now: float) -> bool:  # noqa: ARG002  for those that take from leases
        """Tell whether what does not pass now may do so in a moment, as others have yet to be asked: hold it so long.

        Asking is itself what makes them be asked.
        """
        return False

    def forgotten(self) -> None:
        """There is no room for it any more."""


class Bucket(Meter):
    """A leaky bucket of requests."""

    __slots__ = ("at", "level")

    def __init__(self, limit: "Limit", now: float) -> None:
        """Begin empty, with nothing to catch up with."""
        super().__init__(limit, now)
        self.level = 0.0
        self.at = now

    def take(self, now: float, many: int, size: int) -> bool:  # noqa: ARG002  see Meter
        """See Meter."""
        limit = self.limit
        level = self.level - (now - self.at) * limit.rate
        level = many + level if level > 0.0 else float(many)
        if level - 1.0 > limit.free:
            return False
        self.level = level
        self.at = now
        limit.asked += many
        return True

    def undo(self, many: int, size: int) -> None:  # noqa: ARG002  see Meter
        """See Meter."""
        self.level -= many
        self.limit.asked -= many

    def now_at(self, now: float) -> float:
        """Return the level, with what has leaked out by now."""
        return max(self.level - (now - self.at) * self.limit.rate, 0.0)

    def ask(self, now: float) -> tuple[float, bool]:
        """See Meter."""
        limit = self.limit
        level = self.now_at(now)
        if level <= limit.free:
            return 0.0, False
        return (level - limit.floor) / limit.rate, level > limit.burst

    def charge(self, now: float, size: int) -> float:  # noqa: ARG002  see Meter
        """See Meter; a request that came within the burst makes no debt."""
        limit = self.limit
        level = self.now_at(now)
        limit.asked += 1
        self.level = min(level + 1.0, limit.level_max)
        self.at = now
        return (level + 1.0 - limit.floor) / limit.rate if level > limit.owing else 0.0

    def idle(self, now: float) -> bool:
        """See Meter."""
        return self.now_at(now) == 0.0


class BytesBucket(Bucket):
    """A leaky bucket of the bytes of requests."""

    __slots__ = ()

    def take(self, now: float, many: int, size: int) -> bool:
        """See Meter; several, whose sizes are not known, only pass where the last would with all bytes before it."""
        limit = self.limit
        level = self.level - (now - self.at) * limit.rate
        if level > limit.free:
            return False
        level = size + (level if level > limit.lowest else limit.lowest)  # noqa: FURB136  a call takes longer
        if level > (limit.owing if many == 1 else limit.free):
            return False
        self.level = level
        self.at = now
        limit.asked += many
        return True

    def undo(self, many: int, size: int) -> None:
        """See Meter."""
        self.level -= size
        self.limit.asked -= many

    def charge(self, now: float, size: int) -> float:
        """See Meter; the debt is the request's own, too."""
        self.limit.asked += 1
        return self._add(now, size)

    def _add(self, now: float, size: int) -> float:
        limit = self.limit
        level = self.level - (now - self.at) * limit.rate
        level = size + (level if level > limit.lowest else limit.lowest)  # noqa: FURB136  a call takes longer
        self.level = min(level, limit.level_max)
        self.at = now
        return (level - limit.floor) / limit.rate if level > limit.owing else 0.0


class AnswerBucket(BytesBucket):
    """A leaky bucket of the bytes of answers: requests cost nothing, they only wait for what was answered before."""

    __slots__ = ()

    def take(self, now: float, many: int, size: int) -> bool:  # noqa: ARG002  see Meter
        """See Meter."""
        limit = self.limit
        if self.level - (now - self.at) * limit.rate > limit.free:
            return False
        limit.asked += many
        return True

    def undo(self, many: int, size: int) -> None:  # noqa: ARG002  see Meter
        """See Meter."""
        self.limit.asked -= many

    def charge(self, now: float, size: int) -> float:  # noqa: ARG002  see Meter
        """See Meter."""
        self.limit.asked += 1
        return self._add(now, 0)

    def answered(self, now: float, size: int) -> float:
        """Charge an answer of ``size`` bytes; returns as ``charge``."""
        return self._add(now, size)


class Window(Meter):
    """A fixed window of requests."""

    __slots__ = ("ends", "used")

    def __init__(self, limit: "Limit", now: float) -> None:
        """Begin without a window: the first request begins one."""
        super().__init__(limit, now)
        self.ends = 0.0
        self.used = 0

    def take(self, now: float, many: int, size: int) -> bool:  # noqa: ARG002  see Meter
        """See Meter."""
        limit = self.limit
        if self.ends - now < GRACE_SECONDS:
            if many > limit.count:
                return False
            self.ends = now + limit.window_seconds
            self.used = many
        else:
            used = self.used + many
            if used > limit.count:
                return False
            self.used = used
        limit.asked += many
        return True

    def undo(self, many: int, size: int) -> None:  # noqa: ARG002  see Meter
        """See Meter."""
        self._take_back(many)
        self.limit.asked -= many

    def _take_back(self, cost: int) -> None:
        self.used -= cost
        if not self.used:
            self.ends = 0.0  # it was this that began it

    def ask(self, now: float) -> tuple[float, bool]:
        """See Meter."""
        if self.idle(now) or self.used < self.limit.count:
            return 0.0, False
        return self.ends - now, True

    def charge(self, now: float, size: int) -> float:  # noqa: ARG002  see Meter
        """See Meter."""
        self.limit.asked += 1
        return self._add(now, 1)

    def _add(self, now: float, cost: int) -> float:
        limit = self.limit
        if self.idle(now):
            self.ends = now + limit.window_seconds
            self.used = 0
        self.used += cost
        return self.ends - now if self.used > limit.count else 0.0

    def remaining(self, now: float) -> tuple[int, float]:
        """Return what is left in the window, and in how many seconds it ends."""
        if self.idle(now):
            return self.limit.count, 0.0
        return max(self.limit.count - self.used, 0), self.ends - now

    def idle(self, now: float) -> bool:
        """See Meter: the window is over. A wait for less than a millisecond of it would be none."""
        return self.ends - now < GRACE_SECONDS


class BytesWindow(Window):
    """A fixed window of the bytes of requests."""

    __slots__ = ()

    def take(self, now: float, many: int, size: int) -> bool:
        """See Meter."""
        limit = self.limit
        over = self.ends - now < GRACE_SECONDS
        used = size if over else self.used + size
        if used > limit.count:
            return False
        if over:
            self.ends = now + limit.window_seconds
        self.used = used
        limit.asked += many
        return True

    def undo(self, many: int, size: int) -> None:
        """See Meter."""
        self._take_back(size)
        self.limit.asked -= many

    def charge(self, now: float, size: int) -> float:
        """See Meter."""
        self.limit.asked += 1
        return self._add(now, size)


class AnswerWindow(BytesWindow):
    """A fixed window of the bytes of answers; see AnswerBucket."""

    __slots__ = ()

    def take(self, now: float, many: int, size: int) -> bool:  # noqa: ARG002  see Meter
        """See Meter."""
        limit = self.limit
        if self.used >= limit.count and self.ends - now >= GRACE_SECONDS:
            return False
        limit.asked += many
        return True

    def undo(self, many: int, size: int) -> None:  # noqa: ARG002  see Meter
        """See Meter."""
        self.limit.asked -= many

    def charge(self, now: float, size: int) -> float:  # noqa: ARG002  see Meter
        """See Meter."""
        self.limit.asked += 1
        return self.ask(now)[0]

    def answered(self, now: float, size: int) -> float:
        """Charge an answer of ``size`` bytes; returns as ``charge``."""
        return self._add(now, size)


class Slots(Meter):
    """Requests that are with the broker, over all connections of the key."""

    __slots__ = ("count", "flying", "waiters")

    def __init__(self, limit: "Limit", now: float) -> None:
        """Begin with all slots free."""
        super().__init__(limit, now)
        self.count = limit.count
        self.flying = 0
        self.waiters: deque[Callable[[], None]] | None = None
        """Who waits for a slot, in turn: each is called when it has one."""

    @property
    def free(self) -> bool:
        """The next request gets a slot at once."""
        return not self.waiters and self.flying < self.count

    @property
    def full(self) -> bool:
        """As many wait as may."""
        return len(self.waiters or ()) >= self.limit.waiting

    def wait(self, granted: Callable[[], None]) -> None:
        """Wait in turn; ``granted`` is called once, when a slot has become the caller's."""
        if self.waiters is None:
            self.waiters = deque()
        self.waiters.append(granted)

    def leave(self, granted: Callable[[], None]) -> None:
        """Wait no longer."""
        if self.waiters is not None and granted in self.waiters:
            self.waiters.remove(granted)
            self._tidy()

    def give_back(self, many: int) -> None:
        """End ``many`` requests; who waits goes on in their place."""
        self.flying -= many
        self.grant()

    def grant(self) -> None:
        """Give what is free to who waits, in turn."""
        while self.waiters and self.flying < self.count:
            self.flying += 1
            granted = self.waiters.popleft()
            self._tidy()
            granted()

    def hold(self) -> "Hold":
        """Return what one connection has of it."""
        return Hold(self)

    def _tidy(self) -> None:
        if not self.waiters:
            self.waiters = None  # an empty deque has 760 bytes

    def idle(self, now: float) -> bool:  # noqa: ARG002  see Meter
        """See Meter."""
        return not self.flying and not self.waiters


class Hold(Meter):
    """The slots that one connection has of a key: they are given back with its answers, or when it ends."""

    __slots__ = ("held", "slots")

    def __init__(self, slots: Slots) -> None:
        """Begin with none."""
        super().__init__(slots.limit, 0.0)
        self.slots = slots
        self.held = 0

    def take(self, now: float, many: int, size: int) -> bool:  # noqa: ARG002  see Meter
        """See Meter."""
        slots = self.slots
        flying = slots.flying + many
        if flying > slots.count or slots.waiters:
            return False
        slots.flying = flying
        self.held += many
        slots.limit.asked += many
        return True

    def undo(self, many: int, size: int) -> None:  # noqa: ARG002  see Meter
        """See Meter."""
        self.give_back(many)
        self.limit.asked -= many

    def seize(self) -> None:
        """Take a slot whether or not one is free: nobody waits longer than ``max_wait``."""
        self.slots.flying += 1
        self.held += 1

    def give_back(self, many: int) -> None:
        """See Slots."""
        self.held -= many
        self.slots.give_back(many)


class Doorway(Meter):
    """Connections that are open, and how fast they come, over all of a key."""

    __slots__ = ("at", "level", "opened")

    def __init__(self, limit: "Limit", now: float) -> None:
        """Begin with none open."""
        super().__init__(limit, now)
        self.opened = 0
        self.level = 0.0
        self.at = 0.0

    def enter(self, now: float) -> bool:
        """Let one more in, or not; ``leave`` when it ends. Who is not let in costs nothing."""
        limit = self.limit
        limit.asked += 1
        if limit.count and self.opened >= limit.count:
            return False
        if limit.rate:
            level = max(self.level - (now - self.at) * limit.rate, 0.0)
            if level > limit.free:
                return False
            self.level = level + 1.0
            self.at = now
        self.opened += 1
        return True

    def undo(self, many: int, size: int) -> None:  # noqa: ARG002  see Meter
        """See Meter: what ``enter`` has charged; ``leave`` all the same."""
        self.level -= many

    def leave(self) -> None:
        """One has ended."""
        self.opened -= 1

    def idle(self, now: float) -> bool:
        """See Meter."""
        return not self.opened and self.level - (now - self.at) * self.limit.rate <= 0.0
