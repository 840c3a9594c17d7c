"""The ports that clients connect to: the bootstrap port, and in ``ports`` addressing one more per broker.

A listener opens when its cluster has answered, follows brokers that come and go, and hands each accepted connection to
a relay. Its sockets come from outside (the supervisor owns them), bound and not yet listening.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from kproxy.core.acceptor import Identity
from kproxy.core.access import CAPPED, HIDDEN, KEYS, Access, TopicNames
from kproxy.core.addressbook import AddressBook, NameLayout, PortLayout, SingleLayout
from kproxy.core.addresses import Network
from kproxy.core.causes import Cause
from kproxy.core.clientlogin import Terms
from kproxy.core.directory import Directory
from kproxy.core.distinguished import Certificate
from kproxy.core.exchange import FRAME_BYTES_MAX, Front
from kproxy.core.limits import Limits
from kproxy.core.observed import Watch
from kproxy.core.offer import Offer
from kproxy.core.sasl import Mechanism
from kproxy.core.tally import ClientIds, Tally
from kproxy.core.view import Change
from kproxy.errors import UpstreamError
from kproxy.net import heap
from kproxy.net.denials import DenialLog
from kproxy.net.dial import Dialler
from kproxy.net.door import Door
from kproxy.net.entry import Entry
from kproxy.net.farewell import ASK_SECONDS, Farewell
from kproxy.net.finder import Finder
from kproxy.net.following import follow
from kproxy.net.link import ClusterLink, Opened
from kproxy.net.relay import ClientSide, Shared
from kproxy.net.routed import RoutedClientSide, Routing
from kproxy.net.tasks import Tasks
from kproxy.net.threshold import Guest
from kproxy.net.tls import ServerTls
from kproxy.net.topiclookup import TopicLookup
from kproxy.net.turns import Turns

_log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0
"""How soon a port that could not be had is tried again."""

TRIM_SECONDS = 10.0
"""How often memory may be given back. Meanwhile nothing else happens: 10 ms with 6,000 connections, and 2 ms more for
each 5 MiB that are given back (45 ms were seen, when 3,000 of those had gone at once)."""

TRIM_AFTER = 200
"""Connections with TLS, of which each may have left a quarter of a MiB in pieces."""

SWEEPS_PER_TIMEOUT = 20
"""How exact the idle timeout is: a connection is closed at most a twentieth late."""


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """What a listener must know; times in seconds."""

    name: str
    bind_host: str
    bind_port: int
    addressing: str
    layout: PortLayout
    advertised_host: str | None
    advertised_port: int
    request_bytes_max: int = FRAME_BYTES_MAX
    idle_timeout_seconds: float = 600.0
    connections_max: int = 10_000
    buffered_bytes_max: int = 512 * 1024 * 1024
    backlog: int = 4096
    networks: tuple[Network, ...] | None = None
    """Whom to let in at all; None: anybody."""
    proxies: tuple[Network, ...] | None = None
    """Load balancers whose connections begin with a PROXY header; None: there are none."""
    tls: ServerTls | None = None
    principal_of: Callable[[Certificate | None], str] | None = None
    names: NameLayout | None = None
    """For addressing sni."""
    terms: Terms | None = None
    login_timeout_seconds: float = 10.0
    waiting_max: int = 1000
    arrivals_per_second: float = 1000.0
    mechanism_for: Callable[[Identity], Mechanism | None] | None = None
    """How to log in to the brokers for a client; None: as kproxy does."""
    access: Access | None = None
    """None: everybody may do everything. It counts and learns, and so is one listener's alone."""


SocketSource = Callable[[str, int | None, int], Awaitable[socket.socket]]
"""(listener name, node id or None for the bootstrap port, port) -> a bound socket; raises OSError for want of it."""


@dataclass(frozen=True, slots=True)
class Around:
    """What there is around a listener in its process."""

    limits: Limits | None = None
    watch: Watch | None = None
    executor: Executor | None = None
    """Does the hard work of logins."""
    inventory: bool = False
    """Keep an account per connection."""
    client_ids_max: int = 0
    """With it, sums by so many client ids."""


class Listener:
    """One listener of one cluster. ``open`` it once the link is ready; ``change`` it, ``drain`` it, ``close`` it."""

    def __init__(
        self,
        settings: ListenerSettings,
        link: ClusterLink,
        sockets: SocketSource,
        around: Around = Around(),
        *,
        turns: Turns | None = None,
        tally: Tally | None = None,
    ) -> None:
        """Prepare a listener; nothing is open yet.

        ``turns``: among the processes that share its sockets. ``tally``: where it counts on, as another's successor.
        """
        self.settings = settings
        self._around = around
        self._turns = turns
        self._watch = around.watch
        self.tally = tally or Tally()
        self._count()
        self.link = self._link = link
        self._sockets = sockets
        self._tasks = Tasks()
        self._doors: dict[int | None, Door] = {}
        self._unmappable: set[int] = set()
        single = settings.addressing == "single"
        self._a_port_each = settings.addressing == "ports"
        layout = SingleLayout(settings.advertised_port) if single else settings.names or settings.layout
        self._book = AddressBook(layout, settings.advertised_port, link.saw_endpoint)
        self._dialler = Dialler(link, self.tally)
        self._routing: Routing | None = None
        if single:
            directory = Directory()
            self._routing = Routing(directory, Finder(link, directory), self._dialler)
        self._shared: Shared | None = None
        self._opening = asyncio.Lock()
        self._is_shut = False
        self._following: asyncio.Task[None] | None = None
        self._offer: Offer | None = None  # the cluster's, of which clients get what rules leave
        self._names = TopicNames()
        self._names.wanted = TopicLookup(link, self._names, self._tasks)
        self._arm(settings.access)
        self._name_for(self._watch)

    def _name_for(self, watch: Watch | None) -> None:
        """Have what is told of requests name topics as rules do."""
        if watch is not None:
            watch.names = self._names

    def _arm(self, access: Access | None) -> None:
        """Have rules count and learn here."""
        if access is not None:
            access.denied = self.tally.denied
            access.tell = DenialLog(self.settings.name)
            access.names = self._names

    def _count(self) -> None:
        """Count what is asked for."""
        self.tally.latencies = None if self._watch is None else self._watch.latencies
        ids, ids_max = self.tally.client_ids, self._around.client_ids_max
        if (0 if ids is None else ids.ids_max) != ids_max:
            self.tally.client_ids = ClientIds(ids_max) if ids_max else None

    @property
    def missed(self) -> int:
        """How many requests were not told to the log (see Watch)."""
        return 0 if self._watch is None else self._watch.missed

    def _mechanism_for(self, identity: Identity) -> Mechanism | None:
        """Return how to log in to the brokers for a client. Raises AuthError where there is no way."""
        mapped = self.settings.mechanism_for
        return self._link.settings.mechanism if mapped is None else mapped(identity)

    @property
    def address(self) -> str:
        """The address that clients should use; where each broker has a name of its own, the first one's."""
        settings = self.settings
        if settings.names is not None:
            return f"{settings.names.bootstrap_name}:{settings.advertised_port}"
        host = settings.advertised_host or settings.bind_host
        host = host.replace("{node}", str(min(self._link.view.brokers, default=0)))
        return f"{host}:{settings.advertised_port}"

    def _make_entry(self, front: Front) -> Entry:
        settings = self.settings
        terms = settings.terms
        return Entry(
            name=settings.name,
            front=front,
            tasks=self._tasks,
            networks=settings.networks,
            proxies=settings.proxies,
            tls=settings.tls,
            principal_of=settings.principal_of,
            node_of=None if settings.names is None else settings.names.node_of,
            terms=terms,
            executor=self._around.executor,
            turns=self._turns,
            judge=self._judge if terms is not None and terms.judged_upstream else None,
            login_timeout_seconds=settings.login_timeout_seconds,
            waiting_max=settings.waiting_max,
            arrivals_per_second=settings.arrivals_per_second,
        )

    @property
    def is_open(self) -> bool:
        """Whether clients can connect now."""
        return None in self._doors

    @property
    def clients(self) -> list[ClientSide]:
        """The connections of clients that there are now."""
        return [] if self._shared is None else list(self._shared.connections)

    def snapshot(self) -> dict[str, object]:
        """Return the tally as plain values, with what is counted in accounts."""
        for client in self.clients:
            client.settle_account()
        return self.tally.snapshot()

    def close_client(self, number: int) -> bool:
        """End a connection by its account's number; False where there is none."""
        for client in self.clients:
            if client.account is not None and client.account.number == number:
                client.end(Cause.CLOSED_BY_OPERATOR)
                return True
        return False

    async def open(self, *, patiently: bool = False) -> None:
        """Open the bootstrap port and the brokers' ports. Raises OSError where one can't be had.

        ``patiently``: a broker's port that can't be had is tried again and again, and the others open.
        """
        offer = self._link.view.offer
        if offer is None:
            raise UpstreamError("the cluster has not answered")
        self._offer = offer
        if self._shared is None:
            self._shared = self._make_shared(offer)
        if self._a_port_each and patiently:
            self._tasks.spawn(f"ports of {self.settings.name}", self._open_new_ports())
        elif self._a_port_each:
            for node_id in sorted(self._link.view.brokers):
                await self._open_port(node_id)
        await self._open_port(None)
        self._tasks.spawn(f"sweep {self.settings.name}", self._sweep())
        self._tasks.spawn(f"trim for {self.settings.name}", self._trim())

    def _make_shared(self, offer: Offer) -> Shared:
        settings = self.settings
        front = Front(self._offered(offer), self.tally, settings.request_bytes_max, settings.terms is not None)
        return Shared(
            name=settings.name,
            front=front,
            link=self._link,
            entry=self._make_entry(front),
            advertise_for=self._book.advertise_for,
            open_broker=self._open_broker,
            mechanism_for=self._mechanism_for,
            advertised_host=settings.advertised_host,
            limits=self._around.limits,
            access=settings.access,
            watch=self._around.watch and self._watch,
            turns=self._turns,
            connections_max=settings.connections_max,
            buffered_bytes_max=settings.buffered_bytes_max,
            inventory=self._around.inventory,
            tasks=self._tasks,
        )

    async def _open_port(self, node_id: int | None) -> None:
        if node_id in self._doors:
            return
        settings = self.settings
        port = settings.bind_port if node_id is None else settings.layout.bind_port_of(node_id)
        if port is None or (node_id is not None and settings.layout.advertised_port_of(node_id) is None):
            assert node_id is not None  # noqa: S101  the bootstrap port is never None
            if node_id not in self._unmappable:
                self._unmappable.add(node_id)
                _log.error(
                    "no port for this broker: clients are given the bootstrap port for it; "
                    "set broker_ports or another broker_port_start",
                    listener=settings.name,
                    broker=node_id,
                )
            return
        sock = await self._sockets(settings.name, node_id, port)
        if self._is_shut:  # meanwhile
            sock.close()
            return
        shared = self._shared
        assert shared is not None  # noqa: S101  open() has made it
        routing = self._routing

        def admit(guest: Guest) -> ClientSide:
            if routing is not None:
                return RoutedClientSide(shared, guest, routing)
            return ClientSide(shared, guest, guest.node_id)

        door = self._doors[node_id] = Door(sock, lambda: shared.entry, admit, node_id)
        door.open(settings.backlog)

    async def _open_broker(self, client: ClientSide) -> Opened:
        return await self._dialler.dial(client.host, client.node_id, self._mechanism_for(client.identity))

    async def _judge(self, identity: Identity, host: str, node_id: int | None) -> None:
        """Log in to a broker for a client, to see whether it may; raises as a dial."""
        await self._dialler.judge(host, node_id, self._mechanism_for(identity))

    def cluster_changed(self, change: Change) -> None:
        """Follow the cluster: ports for new brokers, none for forgotten ones, and what is offered now."""
        shared, offer = self._shared, self._link.view.offer
        if shared is None or offer is None:
            return
        if self._offer is not offer:
            self._offer = offer
            self._offer_to_all(shared, offer)
        if change.replaced:
            self._names.forget()
            if self._routing is not None:
                self._routing.directory.forget()
            self._tasks.spawn(f"farewell of {self.settings.name}", self._send_back(shared))
        for node_id in change.forgotten:
            door = self._doors.pop(node_id, None)
            if door is not None:
                door.close()
        if change.added and self._a_port_each:
            self._tasks.spawn(f"ports of {self.settings.name}", self._open_new_ports())

    def change(self, settings: ListenerSettings, around: Around) -> None:
        """Go on by other settings, with the same ports and addresses; clients follow as they can (see following)."""
        before, self.settings = self.settings, settings
        if settings.access is not None and settings.access.same(before.access):
            self.settings = replace(settings, access=before.access)  # with all that it has learnt
        else:
            self._arm(settings.access)
        if self._watch is None:
            self._watch = around.watch
            self._name_for(self._watch)
        else:
            self._watch.follow(around.watch)
        self._around = around
        self._count()
        self._dialler.settings_changed()
        if self._shared is not None:
            self._change_shared(self._shared)
            self._follow(self._shared.connections)

    def _change_shared(self, shared: Shared) -> None:
        settings, around = self.settings, self._around
        front = shared.front
        front.request_bytes_max = settings.request_bytes_max
        front.asks_login = settings.terms is not None
        entry = self._make_entry(front)
        entry.succeed(shared.entry)
        shared.entry = entry
        shared.limits, shared.access = around.limits, settings.access
        shared.watch = around.watch and self._watch
        shared.connections_max = settings.connections_max
        shared.buffered_bytes_max = settings.buffered_bytes_max
        shared.inventory = around.inventory
        for door in self._doors.values():
            door.resize(settings.backlog)
        if self._offer is not None:
            self._offer_to_all(shared, self._offer)

    def _follow(self, clients: Iterable[ClientSide]) -> None:
        if self._following is not None:
            self._following.cancel()
        self._following = self._tasks.spawn(f"clients of {self.settings.name}", follow(list(clients)))

    async def _send_back(self, shared: Shared) -> None:
        """Have all begin anew, at another cluster; those that know how from their bootstrap servers (see farewell).

        librdkafka (seen with 2.16) keeps a leader's epoch, and takes none that is lower, though the topic has another
        id: where the new cluster is the younger one it fetches nothing any more. Sent back it forgets what it knew.
        """
        shared.farewell = farewell = Farewell()
        farewell.add(shared.connections)
        await farewell.begin(ASK_SECONDS)
        self._follow(shared.connections - farewell.staying)
        await asyncio.sleep(ASK_SECONDS)
        self._follow(shared.connections)

    def _offer_to_all(self, shared: Shared, offer: Offer) -> None:
        shared.front.offer = self._offered(offer)
        for client in list(shared.connections):
            client.offer_changed()

    def _offered(self, offer: Offer) -> Offer:
        """Return what clients are offered: not what is denied to all, where they do better without it."""
        access = self.settings.access
        if access is None:
            return offer
        hidden = frozenset() if access.dry_run else access.denied_apis & frozenset(KEYS[name] for name in HIDDEN)
        capped = CAPPED if access.rules or not access.default_allow else {}
        return offer.without(hidden, capped)

    async def _open_new_ports(self) -> None:
        async with self._opening:
            while not (self._shared is None or self._shared.draining):
                failed = False
                for node_id in sorted(self._link.view.brokers):
                    try:
                        await self._open_port(node_id)
                    except OSError as error:
                        failed = True
                        _log.error(
                            "broker's port cannot be opened; trying again",
                            listener=self.settings.name,
                            broker=node_id,
                            error=str(error),
                        )
                if not failed:
                    return
                await asyncio.sleep(RETRY_SECONDS)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        shared = self._shared
        assert shared is not None  # noqa: S101  open() has made it
        while True:
            timeout = self.settings.idle_timeout_seconds
            await asyncio.sleep(max(timeout / SWEEPS_PER_TIMEOUT, 0.05))
            for client in list(shared.connections):
                client.sweep(loop.time(), timeout)

    async def _trim(self) -> None:
        """Give memory back where many connections with TLS have come, and gone; see heap."""
        trimmed_at = 0
        while True:
            await asyncio.sleep(TRIM_SECONDS)
            came = self.tally.opened + self.tally.turned_away.total()
            if self.settings.tls is not None and came - trimmed_at >= TRIM_AFTER:
                trimmed_at = came
                heap.trim()

    def shut(self) -> None:
        """Accept no more."""
        self._is_shut = True
        for door in self._doors.values():
            door.close()
        self._doors.clear()

    def leave(self, farewell: Farewell) -> None:
        """Accept no more, and let nobody in; those that are in go on until ``drain``."""
        self.shut()
        shared = self._shared
        if shared is not None:
            shared.entry.crowd.clear(Cause.DRAINED)
            shared.draining = True
            shared.farewell = farewell

    async def drain(self, timeout_seconds: float, farewell: Farewell | None = None) -> None:
        """Let what is in flight finish, then close; whoever is left after the timeout is cut off.

        ``farewell``: by which it was told to ``leave``; who is to be sent elsewhere stays until it says so.
        """
        if farewell is None:
            self.leave(farewell := Farewell())
        shared = self._shared
        if shared is None:
            return
        for client in shared.connections - farewell.staying:
            client.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while shared.connections:
                    shared.one_left.clear()
                    await shared.one_left.wait()
        if shared.connections:
            _log.warning("drain timeout: cutting off", listener=self.settings.name, clients=len(shared.connections))
        for client in list(shared.connections):
            client.abort(Cause.STOPPED)
        await asyncio.sleep(0)

    async def close(self) -> None:
        """End the listener's tasks."""
        await self._tasks.close()
        self._dialler.close()
        if self._routing is not None:
            await self._routing.finder.close()
