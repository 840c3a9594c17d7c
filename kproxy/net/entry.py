"""What the ports of one listener know about letting clients in, and what they share while they do.

A connection that is not in yet is an Arrival. Their number is bounded: the newest pushes out the oldest one of the
address that has the most of them, so that whoever floods the door pushes out itself.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from kproxy.core.acceptor import ANONYMOUS, Accepted, Challenge, Identity, Refused, Step, Work
from kproxy.core.addresses import Network, within
from kproxy.core.arrivals import ArrivalRate
from kproxy.core.causes import Cause
from kproxy.core.clientlogin import Terms
from kproxy.core.distinguished import Certificate
from kproxy.core.exchange import Front
from kproxy.core.penalty import Penalty
from kproxy.core.suppressor import Suppressor
from kproxy.core.tally import Tally
from kproxy.errors import AuthError
from kproxy.net.tasks import Tasks
from kproxy.net.tls import ServerTls
from kproxy.net.turns import Turns

_log = structlog.get_logger(__name__)

NOBODY = Identity(ANONYMOUS)

HELD_BYTES_MAX = 32 * 1024 * 1024
"""What may be kept of all clients that are not in, beyond a read each: 64 tokens of the largest size."""


class Removable(Protocol):
    """An arrival, as the crowd sees it."""

    host: str

    def push_out(self, cause: Cause) -> None:
        """End."""


class Crowd:
    """The connections of one listener that are on their way in, oldest first."""

    def __init__(self, waiting_max: int, tally: Tally) -> None:
        """Hold ``waiting_max`` of them."""
        self.waiting_max = waiting_max
        self._tally = tally
        self._arrivals: OrderedDict[Removable, None] = OrderedDict()
        self._hosts: Counter[str] = Counter()
        self.held_bytes = 0
        """Kept of what they sent."""

    def join(self, arrival: Removable) -> None:
        """Take one more in, and push one out where there are too many."""
        self._arrivals[arrival] = None
        self._hosts[arrival.host] += 1
        self._tally.waiting = len(self._arrivals)
        if len(self._arrivals) > self.waiting_max:
            ((host, _),) = self._hosts.most_common(1)
            oldest = next(one for one in self._arrivals if one.host == host)
            self.leave(oldest)
            oldest.push_out(Cause.TOO_MANY_WAITING)

    def clear(self, cause: Cause) -> None:
        """End them all."""
        for arrival in list(self._arrivals):
            self.leave(arrival)
            arrival.push_out(cause)

    def leave(self, arrival: Removable) -> None:
        """It is in, or gone; may be said twice."""
        if arrival not in self._arrivals:
            return
        del self._arrivals[arrival]
        self._hosts[arrival.host] -= 1
        if not self._hosts[arrival.host]:
            del self._hosts[arrival.host]
        self._tally.waiting = len(self._arrivals)


@dataclass(slots=True)
class Entry:
    """How clients get in at one listener. Times in seconds."""

    name: str
    front: Front
    tasks: Tasks
    networks: tuple[Network, ...] | None = None
    """Whom to let in at all; None: anybody."""
    proxies: tuple[Network, ...] | None = None
    """Load balancers, whose connections begin with a PROXY header; None: there are none."""
    tls: ServerTls | None = None
    principal_of: Callable[[Certificate | None], str] | None = None
    """Who a client is by its certificate, or by having none; may raise PrincipalError. None: none is asked for."""
    node_of: Callable[[str], int | None] | None = None
    """Which broker a server name leads to, None: any; for ``addressing: sni``."""
    terms: Terms | None = None
    """How clients log in; None: they do not."""
    executor: Executor | None = None
    """Where Work is done; None: in the loop's own."""
    judge: Callable[[Identity, str, int | None], Awaitable[None]] | None = None
    """Try a client's own password upstream, given its address and its broker; raises as a dial. None: kproxy knows its
    users."""
    turns: Turns | None = None
    """Whom to tell that a connection that was accepted has ended; None: this process has no others beside it."""
    login_timeout_seconds: float = 10.0
    waiting_max: int = 1000
    arrivals_per_second: float = 1000.0
    """Of one address; for those that are not open at once."""
    penalty: Penalty = field(default_factory=Penalty)
    quiet: Suppressor = field(default_factory=Suppressor)
    tally: Tally = field(init=False)
    rate: ArrivalRate = field(init=False)
    crowd: Crowd = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nobody there."""
        self.tally = self.front.tally
        self.rate = ArrivalRate(self.arrivals_per_second)
        self.crowd = Crowd(self.waiting_max, self.tally)

    def succeed(self, before: "Entry") -> None:
        """Take over from the entry before, whose arrivals still come in by it: what they may be together stays."""
        self.crowd, self.penalty, self.quiet = before.crowd, before.penalty, before.quiet
        self.crowd.waiting_max = self.waiting_max
        if self.arrivals_per_second == before.arrivals_per_second:
            self.rate = before.rate

    @property
    def open_at_once(self) -> bool:
        """Whoever connects is in."""
        return self.proxies is None and self.tls is None and self.terms is None

    def objection(self, host: str) -> Cause | None:
        """Say why an address may not even try to get in, if so; counts it otherwise."""
        if self.networks is not None and not within(host, self.networks):
            return Cause.ADDRESS_DENIED
        if self.open_at_once or self.rate.allows(host, asyncio.get_running_loop().time()):
            return None
        return Cause.TOO_MANY_ARRIVALS

    def turn_away(self, cause: Cause, host: str, **fields: object) -> None:
        """Count, and log at a bounded rate, that a connection ended before it was in."""
        self.tally.turned_away[cause] += 1
        if self.turns is not None:
            self.turns.ended()
        if cause in (Cause.CLIENT_CLOSED, Cause.DRAINED):
            return
        left_out = self.quiet.tell((cause, host), asyncio.get_running_loop().time())
        if left_out is None:
            return
        if left_out:
            fields["repeated"] = left_out
        _log.warning("client turned away", **fields, listener=self.name, client=host, cause=str(cause))

    async def find_out(self, step: Step | None, host: str, node_id: int | None) -> Accepted | Challenge | Refused:
        """Have a step worked out where it stops nobody, and a claim judged by the brokers.

        Raises:
            UpstreamError, ProtocolError: no broker could judge.
        """
        assert step is not None  # noqa: S101  there is something to find out
        if isinstance(step, Work):
            step = await asyncio.get_running_loop().run_in_executor(self.executor, step.run)
        if isinstance(step, Accepted) and self.judge is not None:
            try:
                await self.judge(step.identity, host, node_id)
            except AuthError as error:
                return Refused(str(error))
        return step
