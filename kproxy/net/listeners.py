"""The ports that clients connect to: the bootstrap port, and in ``ports`` addressing one more per broker.

A listener opens when its cluster has answered, follows brokers that come and go, and hands each accepted connection to
a relay. Its sockets come from outside (the supervisor owns them), bound and not yet listening.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from kproxy.core.access import CAPPED, HIDDEN, KEYS, Access
from kproxy.core.addressbook import AddressBook, PortLayout, SingleLayout
from kproxy.core.causes import Cause
from kproxy.core.directory import Directory
from kproxy.core.exchange import FRAME_BYTES_MAX, Front
from kproxy.core.limits import Limits
from kproxy.core.offer import Offer
from kproxy.core.tally import Tally
from kproxy.core.view import Change
from kproxy.errors import UpstreamError
from kproxy.net.denials import DenialLog
from kproxy.net.dial import Dialler
from kproxy.net.finder import Finder
from kproxy.net.link import ClusterLink, Opened
from kproxy.net.relay import ClientSide, Shared
from kproxy.net.routed import RoutedClientSide, Routing
from kproxy.net.tasks import Tasks
from kproxy.net.topiclookup import TopicLookup

_log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0
"""How soon a port that could not be had is tried again."""

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
    access: Access | None = None
    """None: everybody may do everything. It counts and learns, and so is one listener's alone."""


SocketSource = Callable[[str, int | None, int], Awaitable[socket.socket]]
"""(listener name, node id or None for the bootstrap port, port) -> a bound socket; raises OSError for want of it."""


class Listener:
    """One listener of one cluster. ``open`` it once the link is ready."""

    def __init__(
        self, settings: ListenerSettings, link: ClusterLink, sockets: SocketSource, limits: Limits | None = None
    ) -> None:
        """Prepare a listener; nothing is open yet."""
        self.settings = settings
        self._limits = limits
        self.tally = Tally()
        self._link = link
        self._sockets = sockets
        self._tasks = Tasks()
        self._servers: dict[int | None, asyncio.Server] = {}
        self._unmappable: set[int] = set()
        single = settings.addressing == "single"
        layout = SingleLayout(settings.advertised_port) if single else settings.layout
        self._book = AddressBook(layout, settings.advertised_port, link.saw_endpoint)
        self._dialler = Dialler(link, self.tally)
        self._routing: Routing | None = None
        if single:
            directory = Directory()
            self._routing = Routing(directory, Finder(link, directory), self._dialler)
        self._shared: Shared | None = None
        self._opening = asyncio.Lock()
        self._offer: Offer | None = None  # the cluster's, of which clients get what rules leave
        if settings.access is not None:
            settings.access.denied = self.tally.denied
            settings.access.tell = DenialLog(settings.name)
            settings.access.names.wanted = TopicLookup(link, settings.access.names, self._tasks)

    @property
    def address(self) -> str:
        """The address that clients should use; where each broker has a name of its own, the first one's."""
        host = self.settings.advertised_host or self.settings.bind_host
        host = host.replace("{node}", str(min(self._link.view.brokers, default=0)))
        return f"{host}:{self.settings.advertised_port}"

    async def open(self) -> None:
        """Open the bootstrap port and the brokers' ports. Raises OSError where one can't be had."""
        offer = self._link.view.offer
        if offer is None:
            raise UpstreamError("the cluster has not answered")
        settings = self.settings
        self._offer = offer
        self._shared = Shared(
            name=settings.name,
            front=Front(self._offered(offer), self.tally, settings.request_bytes_max),
            link=self._link,
            advertise_for=self._book.advertise_for,
            open_broker=self._open_broker,
            advertised_host=settings.advertised_host,
            limits=self._limits,
            access=settings.access,
            connections_max=settings.connections_max,
            buffered_bytes_max=settings.buffered_bytes_max,
            tasks=self._tasks,
        )
        if self._routing is None:
            for node_id in sorted(self._link.view.brokers):
                await self._open_port(node_id)
        await self._open_port(None)
        self._tasks.spawn(f"sweep {settings.name}", self._sweep())

    async def _open_port(self, node_id: int | None) -> None:
        if node_id in self._servers:
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
        loop = asyncio.get_running_loop()
        shared = self._shared
        assert shared is not None  # noqa: S101  open() has made it
        routing = self._routing

        def accept() -> ClientSide:
            return ClientSide(shared, node_id) if routing is None else RoutedClientSide(shared, routing)

        self._servers[node_id] = await loop.create_server(accept, sock=sock, backlog=settings.backlog)

    async def _open_broker(self, client: ClientSide) -> Opened:
        return await self._dialler.dial(client.peer.rpartition(":")[0], client.node_id)

    def cluster_changed(self, change: Change) -> None:
        """Follow the cluster: ports for new brokers, none for forgotten ones, and what is offered now."""
        shared, offer = self._shared, self._link.view.offer
        if shared is None or offer is None:
            return
        if self._offer is not offer:
            self._offer = offer
            shared.front.offer = self._offered(offer)
            for client in list(shared.connections):
                client.offer_changed()
        for node_id in change.forgotten:
            server = self._servers.pop(node_id, None)
            if server is not None:
                server.close()
        if change.added and self._routing is None:
            self._tasks.spawn(f"ports of {self.settings.name}", self._open_new_ports())

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
        timeout = self.settings.idle_timeout_seconds
        shared = self._shared
        assert shared is not None  # noqa: S101  open() has made it
        while True:
            await asyncio.sleep(max(timeout / SWEEPS_PER_TIMEOUT, 0.05))
            for client in list(shared.connections):
                client.sweep(loop.time(), timeout)

    async def drain(self, timeout_seconds: float) -> None:
        """Accept no more; let what is in flight finish, then close; whoever is left after the timeout is cut off."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        shared = self._shared
        if shared is None:
            return
        shared.draining = True
        for client in list(shared.connections):
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
        if self._routing is not None:
            await self._routing.finder.close()
