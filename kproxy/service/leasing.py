"""Leases carried over the channel: between a worker's Tenant and the supervisor's Store (see core.leases).

One report of a worker is under way at a time, and no more than UNHEARD_MAX messages to it that it has not told to have
got, so that no queue in between can grow, whoever is stuck::

    worker      {"leases": [...], "got": 7}                a report; seven messages have come so far
    supervisor  {"leases": [...], "answer": 1}             its answer; what others' reports bring comes without
    supervisor  {"leases": [], "answer": 1, "lost": 1}     it was silent for too long: begin anew
"""

import asyncio
from collections.abc import Callable, Iterable

from kproxy.core.leases import HOLD_SECONDS
from kproxy.core.leasestore import TICK_SECONDS, Store
from kproxy.core.limits import Limit
from kproxy.core.tenant import RENEW_SECONDS, Tenant
from kproxy.service.channel import Message

HEARTBEAT_SECONDS = 1.0
"""How often a worker reports though there is nothing to tell; after five the store takes its leases away."""

CROWDED_SECONDS = 0.01
"""Between two reports when one message does not hold all that there is to tell: 10,000 keys a second then, at most."""

UNHEARD_MAX = 3


class Holder:
    """A worker's end. ``heard`` takes what comes with "leases" in it; ``close`` it once."""

    def __init__(self, tenant: Tenant, send: Callable[[Message], None]) -> None:
        """Report what a tenant has to tell, from now on."""
        self._tenant = tenant
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._got = 0
        self._asking = False
        self._crowded = False
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._overdue: asyncio.TimerHandle | None = None
        tenant.wake = self._wake
        self._plan(HEARTBEAT_SECONDS)

    def close(self) -> None:
        """Report no more."""
        self._tenant.wake = lambda: None
        for timer in (self._timer, self._overdue):
            if timer is not None:
                timer.cancel()
        self._timer = self._overdue = None

    def heard(self, message: Message) -> None:
        """Take what the supervisor has sent."""
        now = self._loop.time()
        self._got += 1
        answer = "answer" in message
        if answer:
            self._asking = False
            if self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None
        if "lost" in message:
            self._tenant.reset()
        self._tenant.renewed(message["leases"], now, answered=answer)
        if answer:
            self._plan(HEARTBEAT_SECONDS)
            if self._tenant.active:
                self._wake()

    def _wake(self) -> None:
        if self._asking:
            return  # once there is an answer
        if self._crowded:
            self._plan(CROWDED_SECONDS)
        else:
            self._plan(0.0 if self._tenant.urgent else RENEW_SECONDS)

    def _plan(self, delay: float) -> None:
        due = self._loop.time() + delay
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_later(delay, self._report)

    def _report(self) -> None:
        self._timer = None
        entries = self._tenant.report(self._loop.time())
        self._crowded = self._tenant.crowded
        self._asking = True
        self._overdue = self._loop.call_later(HOLD_SECONDS, self._silence)
        self._send({"leases": entries, "got": self._got})

    def _silence(self) -> None:
        self._overdue = None
        self._tenant.silence()


class Bank:
    """The supervisor's end, for all workers. ``close`` it once."""

    def __init__(self, limits: Iterable[Limit], send: Callable[[int, Message], None]) -> None:
        """Keep leases of limits; ``send`` tells a worker something."""
        self.store = Store(limits)
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._sent: dict[int, int] = {}
        self._got: dict[int, int] = {}
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    def close(self) -> None:
        """Keep them no more."""
        self._timer.cancel()

    def change(self, limits: Iterable[Limit]) -> None:
        """Keep leases of these from now on; what was there before stays as it is."""
        self.store.change(limits)

    def heard(self, worker: int, message: Message) -> None:
        """Take a worker's report, and answer it."""
        self._got[worker] = message["got"]
        known = self.store.heard(worker, message["leases"], self._loop.time())
        self._tell(worker, {"answer": 1} if known else {"answer": 1, "lost": 1})
        self._tell_waiting()

    def forget(self, worker: int) -> None:
        """A worker has ended."""
        self.store.forget(worker, self._loop.time())
        self._sent.pop(worker, None)
        self._got.pop(worker, None)
        self._tell_waiting()

    def _tell(self, worker: int, more: Message) -> None:
        self._sent[worker] = self._sent.get(worker, 0) + 1
        self._send(worker, {"leases": self.store.outgoing(worker)} | more)

    def _tell_waiting(self) -> None:
        for worker in self.store.waiting():
            if self._sent.get(worker, 0) - self._got.get(worker, 0) < UNHEARD_MAX:
                self._tell(worker, {})

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        self.store.tick(self._loop.time())
        self._tell_waiting()
