"""Several processes and the store between which leases go, with messages that take their time: all of it simulated.

What the shells of service do is done here by events of a heap, in the order of their times::

    world = World(Rule("calm", LeakyBucket(rate=100)), processes=3)
    world.client(0, "alice").send(world.now, 1)
    world.run(until=20.0)
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from random import Random

from kproxy.core.leased import Leased
from kproxy.core.leases import HOLD_SECONDS, Entry
from kproxy.core.leasestore import TICK_SECONDS, Store
from kproxy.core.limits import Bound, Client, Limit, Limits, Rule
from kproxy.core.meters import AnswerBucket, AnswerWindow, Bucket, Hold, Meter, Slots
from kproxy.core.tenant import RENEW_SECONDS, Tenant

LOOK_SECONDS = 0.002


class Process:
    """One process: its limits and leases, and one report under way at a time."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.number = number
        self.alive = True
        self.stuck = False
        self.tenant = Tenant(world.processes, lambda: world.now)
        self.tenant.wake = self.wake
        self.limits = Limits([world.rule], None if world.plain else self.tenant)
        self.reports = 0
        self._asking = 0
        self._due = 0.0
        world.at(world.now + 1, self._beat)

    def _beat(self) -> None:
        if self.alive:
            self.report()
            self.world.at(self.world.now + 1, self._beat)

    @property
    def limit(self) -> Limit:
        """Its only limit."""
        return self.limits.limits[0]

    def meter(self, name: str) -> Meter:
        """Return the meter of a client id."""
        return self.limit.meter(Client("public", "10.0.0.1", "User:ANONYMOUS", name), self.world.now)

    def wake(self) -> None:
        """See Tenant."""
        now = self.world.now
        due = now if self.tenant.urgent else now + RENEW_SECONDS
        if self._asking or (self._due > now and self._due <= due):
            return
        self._due = due
        self.world.at(due, self._report, due)

    def _report(self, due: float) -> None:
        if due != self._due or not self.alive:
            return
        self._due = 0.0
        self.report()

    def report(self) -> None:
        """Tell the store."""
        if not self.alive or self.stuck or self._asking:
            return
        self.reports += 1
        self._asking = self.reports
        entries = [tuple(entry) for entry in self.tenant.report(self.world.now)]
        self.world.send(self.number, -1, lambda: self.world.store_heard(self, entries))
        self.world.at(self.world.now + HOLD_SECONDS, self._silence, self._asking)

    def _silence(self, asking: int) -> None:
        if asking == self._asking and self.alive:
            self.tenant.silence()

    def told(self, entries: Sequence[Entry], *, answered: bool, lost: bool) -> None:
        """Hear the store."""
        if not self.alive:
            return
        if answered:
            self._asking = 0
        if lost:
            self.tenant.reset()
        self.tenant.renewed(entries, self.world.now, answered=answered)
        if self.tenant.active:
            self.wake()


class World:
    """All of it. Times in seconds, from 1000.0 on."""

    def __init__(
        self, rule: Rule, processes: int, seed: int = 1, delay_seconds: float = 0.0005, *, plain: bool = False
    ) -> None:
        self.rule = rule
        self.plain = plain
        """There are no leases: each process has a limit of its own."""
        self.processes = processes
        self.now = 1000.0
        self.dice = Random(seed)
        self.delay_seconds = delay_seconds
        self.mute = False
        """The store says nothing any more."""
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = count()
        self._last: dict[tuple[int, int], float] = {}
        self.store = Store(Limits([rule]).limits)
        self.workers = [Process(self, number) for number in range(processes)]
        self.at(self.now, self._tick)

    def at(self, time: float, action: Callable[..., None], *arguments: object) -> None:
        """Do something at a time."""
        heapq.heappush(self._events, (max(time, self.now), next(self._order), action, arguments))

    def send(self, sender: int, receiver: int, action: Callable[[], None]) -> None:
        """Carry a message; none overtakes another on its way."""
        arrives = self.now + self.dice.uniform(0.5, 2) * self.delay_seconds
        arrives = self._last[sender, receiver] = max(arrives, self._last.get((sender, receiver), 0.0))
        self.at(arrives, action)

    def run(self, seconds: float) -> None:
        """Let time go by."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, action, arguments = heapq.heappop(self._events)
            action(*arguments)
        self.now = until

    def _tick(self) -> None:
        self.store.tick(self.now)
        self._flush(None)
        self.at(self.now + TICK_SECONDS, self._tick)

    def store_heard(self, process: Process, entries: Sequence[Entry]) -> None:
        """Let the store hear a report, and tell what it has to say."""
        if self.mute or not process.alive:
            return
        known = self.store.heard(process.number, entries, self.now)
        self._flush(process.number, lost=not known)

    def _flush(self, answered: int | None, *, lost: bool = False) -> None:
        for number in {*self.store.waiting(), *([] if answered is None else [answered])}:
            if self.mute:
                return
            entries = self.store.outgoing(number)
            mine = number == answered
            told = partial(self.workers[number].told, entries, answered=mine, lost=mine and lost)
            self.send(-1, number, told)

    def kill(self, number: int) -> None:
        """Let a process die, and the store be told."""
        self.workers[number].alive = False
        self.store.forget(number, self.now)
        self._flush(None)

    def meters(self, name: str) -> Iterator[Leased]:
        """Return the meters of a client id, of those who live."""
        for process in self.workers:
            meter = process.meter(name)
            process.limit.drop(meter)
            if process.alive and isinstance(meter, Leased):
                yield meter


class Sender:
    """A client on one connection, whose requests are counted.

    Attributes:
        passed: When each of its requests went on.
        refused: When one was over, and so was not sent.
        held: The longest that one was held, as the store had to be asked.
    """

    def __init__(self, world: World, process: int, name: str = "alice", size: int = 100) -> None:
        self.world = world
        self.process = world.workers[process]
        self.meter = self.process.meter(name)
        self.size = size
        self.passed: list[float] = []
        self.refused: list[float] = []
        self.held = 0.0

    def greedy(self, until: float, gap_seconds: float = 0.0) -> None:
        """Send one request after the other: the next when one has gone on, or was refused, and a moment later."""
        if self.world.now < until and self.process.alive:
            self.send(lambda: self.world.at(self.world.now + gap_seconds + 0.0005, self.greedy, until, gap_seconds))

    def send(self, then: Callable[[], None] = lambda: None, since: float | None = None) -> None:
        """Send a request as Admission lets it, with on_exceed delay where that makes sense, else refused."""
        if not self.process.alive:
            return
        now = self.world.now
        since = now if since is None else since
        meter = self.meter
        if meter.take(now, 1, self.size):
            self._go(then, since)
        elif meter.unsure(now):
            self.world.at(now + LOOK_SECONDS, self.send, then, since)
        else:
            wait, over = meter.ask(now)
            if over and self.world.rule.action.value != "delay":
                self.refused.append(now)
                then()
            elif isinstance(meter, Bucket):
                meter.charge(now, self.size)
                self.world.at(now + wait, self._go, then, since)
            elif over:
                self.world.at(now + wait, self.send, then, now + wait)
            else:  # post-paid bytes
                meter.charge(now, self.size)
                self._go(then, since)

    def _go(self, then: Callable[[], None], since: float) -> None:
        self.held = max(self.held, self.world.now - since)
        self.passed.append(self.world.now)
        if isinstance(self.meter, AnswerBucket | AnswerWindow):
            self.meter.answered(self.world.now, self.size)
        then()


class Flyer:
    """A client whose requests are in flight for a while, under a limit of concurrency."""

    def __init__(self, world: World, process: int, seconds: float, name: str = "alice") -> None:
        self.world = world
        self.process = world.workers[process]
        slots = self.process.meter(name)
        assert isinstance(slots, Slots)
        self.hold: Hold = slots.hold()
        self.seconds = seconds
        self.flown: list[tuple[float, float]] = []

    def greedy(self, until: float) -> None:
        """Send one request after the other."""
        world = self.world
        if world.now >= until or not self.process.alive:
            return
        if self.hold.take(world.now, 1, 100):
            self._fly(until)
        else:
            self.hold.slots.wait(lambda: self._granted(until))

    def _granted(self, until: float) -> None:
        self.hold.held += 1
        self._fly(until)

    def _fly(self, until: float) -> None:
        seconds = self.seconds * self.world.dice.uniform(0.5, 1.5)
        self.flown.append((self.world.now, self.world.now + seconds))
        self.world.at(self.world.now + seconds, self._land, until)

    def _land(self, until: float) -> None:
        if self.process.alive:
            self.hold.give_back(1)
            self.world.at(self.world.now + 0.0002, self.greedy, until)


def most_at_once(flights: list[tuple[float, float]]) -> int:
    """Return how many were in flight at once at most."""
    edges = sorted([(start, 1) for start, _ in flights] + [(end, -1) for _, end in flights])
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


class Visitor:
    """A connection that asks to be let in, under a limit on connections.

    Attributes:
        stay: From when until when it was there.
        turned_away: When it was not let in.
    """

    def __init__(self, world: World, process: int, name: str) -> None:
        self.world = world
        self.process = world.workers[process]
        self.client = Client("public", "10.0.0.1", "User:ANONYMOUS", name)
        self.stay: tuple[float, float] | None = None
        self.turned_away: float | None = None
        self._bound: Bound | None = None
        self._gone = False

    def knock(self) -> None:
        """Ask, as Metered does."""
        world, limits = self.world, self.process.limits
        if self._gone or not self.process.alive:
            return
        if limits.unsure(self.client, world.now, early=False):
            world.at(world.now + LOOK_SECONDS, self.knock)
            return
        refused_by, self._bound = limits.knock(self.client, world.now, early=False)
        if refused_by is None:
            self.stay = (world.now, 1e9)
        else:
            self.turned_away = world.now

    def go(self) -> None:
        """Be there no more."""
        self._gone = True
        if self.stay is not None and self._bound is not None and self.process.alive:
            self.stay = (self.stay[0], self.world.now)
            self._bound.leave()
