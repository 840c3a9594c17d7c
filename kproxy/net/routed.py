"""A client connection before a whole cluster (``addressing: single``): a relay with a broker connection per lane.

Everything that is not about lanes is relay.ClientSide's. The lane is switched only while it owes nothing, so at any
time one broker connection speaks; the others are idle and are kept for when their lane is wanted again. What was read
goes where it must before the connection ends, also what waits for a look-up or another lane, and also when the client
is gone: then nobody waits for answers.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import structlog

from kproxy.core.causes import Cause
from kproxy.core.directory import Directory
from kproxy.core.routed import FanOut, Lookup, Reach, RoutedExchange, Turn
from kproxy.errors import AuthError, KproxyError, Malformed, ProtocolError
from kproxy.net.dial import RETRY_GAP_SECONDS, Dialler
from kproxy.net.finder import Finder
from kproxy.net.link import Opened
from kproxy.net.relay import BROKER_FULL, BrokerSide, ClientSide, Shared
from kproxy.net.threshold import Guest
from kproxy.wire.routing import Target

_log = structlog.get_logger(__name__)

ROUTING = 32
"""Why a client's reads are paused (see relay): its next request's broker is being found, or another lane finishes."""

LOOKUP_SECONDS = 5.0
"""How long a request waits for its leader or coordinator to be known; then any broker refuses it in proper form."""

FAN_OUT_SECONDS = 10.0

_ELECTED = frozenset({Target.LEADER_NAME, Target.LEADER_ID, Target.GROUP, Target.TXN})
"""What another broker takes over when one is gone."""


@dataclass(slots=True)
class Routing:
    """What the routed connections of one listener share besides relay.Shared."""

    directory: Directory
    finder: Finder
    dialler: Dialler


class LaneSide(BrokerSide):
    """The connection to one of the brokers."""

    def __init__(self, client: "RoutedClientSide", opened: Opened, node_id: int) -> None:
        """Take over an opened connection to a broker."""
        super().__init__(client, opened)
        self.node_id = node_id
        self.full = False

    def data_received(self, data: bytes) -> None:
        """Forward what the broker sent; a broker whose turn it is not has nothing to say."""
        client = self._client
        if client is not None and client.broker is not self:
            client.broker_broke_protocol(Malformed("an answer that was not asked for"))
            return
        super().data_received(data)

    def pause_writing(self) -> None:
        """Stop reading from the client: this broker does not keep up, whether its lane is in use or not."""
        self.full = True
        super().pause_writing()

    def resume_writing(self) -> None:
        """Read from the client again unless another lane is still full."""
        self.full = False
        if self._client is not None:
            cast("RoutedClientSide", self._client).lane_has_room()

    def eof_received(self) -> None:
        """The broker closes the connection: nothing more may be taken for it, from this moment on."""
        if self._client is not None:
            client, self._client = self._client, None
            client.broker_lost_by(self)

    def _renew(self) -> None:
        client = self._client
        if client is None:
            return
        if client.broker is self:
            client.renew_login()
        else:
            cast("RoutedClientSide", client).forget_lane(self)


class RoutedClientSide(ClientSide):
    """The connection to a client that may want any broker."""

    __slots__ = ("_deciding", "_lane", "_lanes", "_patient_until", "routing")

    exchange: RoutedExchange

    def __init__(self, shared: Shared, guest: Guest, routing: Routing) -> None:
        """Serve a client of a listener with one address for all brokers."""
        super().__init__(shared, guest, None)
        self.routing = routing
        self._lanes: dict[int, LaneSide] = {}
        self._lane: int | None = None  # whose connection ``broker`` is
        self._deciding = False
        self._patient_until: float | None = None  # how long a broker that cannot be reached is tried, or its successor

    def make_exchange(self, host: str) -> RoutedExchange:
        """Return the machine for this connection."""
        shared = self.shared
        exchange: RoutedExchange = self._kind(routed=True)(
            shared.front, shared.advertise_for(host), self.routing.directory
        )
        return exchange

    def data_received(self, data: bytes) -> None:
        """Forward what the client sent."""
        exchange = self.exchange
        try:
            out = exchange.from_client(data)
        except ProtocolError as error:
            self.client_broke_protocol(error, data)
            return
        self._counted.bytes_in += len(data)
        if out:
            self._to_lane(out)
        if exchange.replies:
            self._send_replies()
        if exchange.pending is not None:
            self._advance()
        if self._holding:
            self._held()
        if exchange.waits and self.gate is not None:
            self.gate.attend()

    def pass_on(self, out: bytes) -> None:
        """See relay."""
        if out:
            self._to_lane(out)
        if self.exchange.replies:
            self._send_replies()
        if self.exchange.pending is not None:
            self._advance()
        if self._holding:
            self._held()

    def connection_lost(self, exc: Exception | None) -> None:
        """See relay; what is pending still goes where it must."""
        super().connection_lost(exc)
        self.exchange.abandon()
        if self.exchange.pending is not None:
            self._advance()

    def drain(self, cause: Cause = Cause.DRAINED) -> None:
        """See relay; what was read goes first, also where that takes a look-up or another lane."""
        self._ending = cause
        if self.gate is not None:
            self.gate.flush()
        if self.exchange.pending is None:
            super().drain(cause)

    # Lanes.

    def brokers(self) -> Iterable[tuple[int | None, BrokerSide]]:
        """See relay."""
        return self._lanes.items()

    def _to_lane(self, out: bytes) -> None:
        """Send something to the lane's broker, which is connected: nothing is taken for one that is not."""
        broker = self.broker
        node_id = self.exchange.lane
        if broker is not None and (node_id is None or node_id == self._lane):
            broker.transport.write(out)
            return
        lane = self._lanes[cast("int", node_id)]
        self._use(lane)
        lane.transport.write(out)

    def _leave(self) -> None:
        """Let the lane in use be idle."""
        if self._full and self.broker is not None and not self.broker.transport.is_closing():
            self.broker.transport.resume_reading()  # idle from now on, and its end must be seen
        self.broker = None
        self._to_broker = None

    def _use(self, lane: LaneSide) -> None:
        if lane is not self.broker:
            self._leave()
        self.broker = lane
        self._to_broker = lane.transport.write
        self._lane = lane.node_id
        self.exchange.reached(lane.node_id)
        if self._full:
            lane.transport.pause_reading()

    def lane_has_room(self) -> None:
        """A lane has written what was queued for it."""
        if not any(lane.full for lane in self._lanes.values()):
            self.resume(BROKER_FULL)

    def forget_lane(self, lane: LaneSide) -> None:
        """Close an idle lane; it is dialled again when it is wanted."""
        self._lane_ended(lane)
        lane.release(answers_expected=False)

    def broker_lost_by(self, broker: BrokerSide) -> None:
        """See relay; nothing was lost if the lane owed nothing, whatever is withheld for it or another."""
        lane = cast("LaneSide", broker)
        in_use = lane is self.broker
        if in_use and (not self.exchange.quiet or not self.exchange.at_boundary or self._login is not None):
            self._lanes.pop(lane.node_id, None)
            self.broker_lost()
            self.end(Cause.BROKER_CLOSED)
            return
        if in_use:
            self.broker = None
            self._to_broker = None
        self._lane_ended(lane)
        if in_use and not self.shared.front.offer.covers(self.exchange.offer) and not self.gone:
            self.end(Cause.OFFER_CHANGED)

    def _lane_ended(self, lane: LaneSide) -> None:
        """An idle lane is no more; with it ends a share session, and the client must know."""
        if self._lanes.get(lane.node_id) is not lane:  # another connection to that broker has taken its place
            return
        del self._lanes[lane.node_id]
        self.lane_has_room()
        exchange = self.exchange
        if exchange.tied and exchange.tied_to_lane == lane.node_id and not self.gone:
            self.end(Cause.BROKER_CLOSED)
        else:
            exchange.lost(lane.node_id)

    def _release_broker(self) -> None:
        for lane in list(self._lanes.values()):
            lane.release(answers_expected=lane is self.broker and self.exchange.outstanding > 0)
        self._lanes.clear()
        self.broker = None
        self._to_broker = None

    async def _reach(self, reach: Reach) -> None:
        try:
            opened = await self._open(reach)
        except KproxyError as error:
            self._deciding = False
            self._not_reached(error)
            return
        if opened is not None:
            self._patient_until = None
            lane = self._lanes[opened[1]] = LaneSide(self, *opened)
            self._use(lane)
        self._deciding = False
        self._go_on(give_up=opened is None and reach.route.target is Target.NODE)

    async def _open(self, reach: Reach) -> tuple[Opened, int] | None:
        """Dial a broker; None: its place is taken by another, or there is no such broker."""
        loop = asyncio.get_running_loop()
        dialler, link = self.routing.dialler, self.shared.link
        node_id = reach.node_id
        if node_id not in (None, *link.up_nodes()) and await self._is_another_now(reach):
            return None  # it is known to be down: no need to see a dial fail first
        while True:
            try:
                return await dialler.try_once(node_id, self.shared.mechanism_for(self.identity))
            except KproxyError as error:
                now = loop.time()
                if self._patient_until is None:
                    self._patient_until = now + self._patience(reach, now)
                if now >= self._patient_until:
                    raise
                if isinstance(error, AuthError):
                    await asyncio.sleep(self._patient_until - now)
                    raise
            if await self._is_another_now(reach):
                return None
            await asyncio.sleep(RETRY_GAP_SECONDS)
            await link.wait_up(node_id, RETRY_GAP_SECONDS)

    async def _is_another_now(self, reach: Reach) -> bool:
        """Tell whether another broker than this, which cannot be reached, is right by now."""
        if reach.route.target is Target.NODE:
            return reach.node_id not in self.shared.link.view.brokers  # no such broker: any refuses in proper form
        if reach.route.target not in _ELECTED:
            return False
        await self.routing.finder.ask(reach.route)
        return self.routing.directory.find(reach.route) not in (None, reach.node_id)

    def _patience(self, reach: Reach, now_seconds: float) -> float:
        """Another leader is elected within seconds: wait for that; for a broker that nobody replaces, as relay does."""
        if reach.node_id is not None and reach.route.target in _ELECTED:
            return self.shared.link.settings.dial_patience_max_seconds
        return self.routing.dialler.patience(self.host, reach.node_id, now_seconds)

    def _not_reached(self, error: KproxyError) -> None:
        self._backlog.append(self.exchange.forsake())
        self._dial_failed(error)

    # What is pending.

    def _advance(self) -> None:
        """See to what the next request waits for."""
        if self._deciding:
            return
        self.pause(ROUTING)
        pending = self.exchange.pending
        if isinstance(pending, Turn):
            self.watching = True
            self._turn()
        elif isinstance(pending, Reach):
            self._deciding = True
            self.shared.tasks.spawn(f"dial for {self.peer}", self._reach(pending))
        elif isinstance(pending, Lookup):
            self._deciding = True
            self.shared.tasks.spawn(f"lookup for {self.peer}", self._look_up(pending))
        elif isinstance(pending, FanOut):
            self._deciding = True
            self.shared.tasks.spawn(f"fan-out for {self.peer}", self._fan_out(pending))

    def _turn(self) -> None:
        if self.exchange.quiet and isinstance(self.exchange.pending, Turn):
            self._go_on(give_up=False)

    async def _look_up(self, lookup: Lookup) -> None:
        node_id = await self.routing.finder.find(lookup.route, LOOKUP_SECONDS)
        self._deciding = False
        self._go_on(give_up=node_id is None)

    async def _fan_out(self, fan_out: FanOut) -> None:
        bodies = await self.routing.dialler.ask_all(fan_out.key, fan_out.version, fan_out.body, FAN_OUT_SECONDS)
        self._deciding = False
        try:
            self.exchange.join(fan_out, bodies)
        except ProtocolError as error:
            self.broker_broke_protocol(error)
            return
        self._go_on(give_up=False)

    def _go_on(self, *, give_up: bool) -> None:
        exchange = self.exchange
        try:
            out = exchange.proceed(give_up=give_up)
        except ProtocolError as error:
            self.client_broke_protocol(error, b"")
            return
        if out:
            self.introduce(out)
            self._to_lane(out)
        if self.gone:
            self.settle_account()
            self._release_broker()
            exchange.abandon()
        elif exchange.replies:
            self._send_replies()
        if exchange.pending is not None:
            self._advance()
            return
        if self.gone:
            return
        self.resume(ROUTING)
        if self._ending is not None and not self._holding:
            super().drain(self._ending)
        elif self._holding:
            self._held()
        if self.watching:
            self.look_after()

    def _renewed(self, session_lifetime_ms: int) -> None:
        super()._renewed(session_lifetime_ms)
        if self.exchange.pending is not None:
            self._advance()

    def look_after(self) -> None:
        """See relay; and turn when the lane has become quiet."""
        if isinstance(self.exchange.pending, Turn):
            self._turn()
            return
        if self.exchange.pending is None:
            super().look_after()

    def _send_replies(self) -> None:
        super()._send_replies()
        if self.exchange.log_dirs_refused:
            self.exchange.log_dirs_refused = False
            if self.shared.quiet.tell("log dirs", asyncio.get_running_loop().time()) == 0:
                _log.warning(
                    "log directories cannot be told through one address for all brokers; use addressing ports for that",
                    listener=self.shared.name,
                    client=self.peer,
                )
