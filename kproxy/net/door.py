"""A listening port: accepts connections, and brings each in, step by step.

An accept loop of our own, since asyncio's server would begin with TLS before anybody could look at the address, or at
the header that a load balancer sends first (HAProxy's PROXY protocol)::

    accept -> address allowed? -> PROXY header -> address allowed? -> TLS -> login (see threshold) -> relay

All of that together is bounded in time, and what does not get through it is never dialled for.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from kproxy.core.addresses import within
from kproxy.core.causes import Cause
from kproxy.errors import Malformed
from kproxy.net import tls
from kproxy.net.entry import Entry
from kproxy.net.threshold import Admit, Guest, Threshold
from kproxy.net.turns import Acceptor
from kproxy.wire import proxyprotocol


class Door:
    """One port. ``open`` it once, ``close`` it once."""

    def __init__(
        self, sock: socket.socket, entry: Callable[[], Entry], admit: Admit, node_id: int | None = None
    ) -> None:
        """Prepare to accept on a bound socket, which is the door's from now on.

        Each connection comes in by the ``entry`` of the moment; ``admit`` makes a client's side. ``node_id``: the
        broker that the port is for, None: any, or a name tells.
        """
        self._entry = entry
        self._admit = admit
        self._node_id = node_id
        self._acceptor = Acceptor(sock, self._arrived, entry().name, entry().turns)

    def open(self, backlog: int) -> None:
        """Begin to accept."""
        self._acceptor.open(backlog)

    def resize(self, backlog: int) -> None:
        """Have so many connections wait to be accepted."""
        self._acceptor.resize(backlog)

    def close(self) -> None:
        """Accept no more."""
        self._acceptor.close()

    def _arrived(self, conn: socket.socket, address: tuple[Any, ...]) -> None:
        entry = self._entry()
        host = str(address[0])
        cause = None if entry.proxies is not None else entry.objection(host)
        if cause is not None:
            conn.close()
            entry.turn_away(cause, host)
            return
        arrival = Arrival(conn, Guest(host, int(address[1]), node_id=self._node_id), entry, self._admit)
        arrival.task = entry.tasks.spawn(f"let in {host}", arrival.enter())


class Arrival:
    """One connection between its accept and its login."""

    __slots__ = ("_admit", "_conn", "_entry", "_guest", "_passed", "_pushed_out", "host", "task")

    def __init__(self, conn: socket.socket, guest: Guest, entry: Entry, admit: Admit) -> None:
        """Bring in a connection."""
        self._conn = conn
        self._entry = entry
        self._admit = admit
        self._passed = False
        self._pushed_out: Cause | None = None
        self._guest = guest
        self.host = guest.host
        self.task: asyncio.Task[None] | None = None

    def push_out(self, cause: Cause) -> None:
        """End."""
        self._pushed_out = cause
        if self.task is not None:
            self.task.cancel()

    def passed(self) -> None:
        """A Threshold has it now: from here on it waits there, or not at all."""
        self._passed = True
        self._entry.crowd.leave(self)

    async def enter(self) -> None:
        """Go through all that stands before the login."""
        entry = self._entry
        loop = asyncio.get_running_loop()
        if entry.open_at_once:
            try:
                await loop.connect_accepted_socket(lambda: self._admit(self._guest), self._conn)
            except OSError:  # it is gone already
                self._conn.close()
                entry.turn_away(Cause.CLIENT_CLOSED, self.host)
            return
        deadline = loop.time() + entry.login_timeout_seconds
        entry.crowd.join(self)
        cause, error = await self._pass(deadline)
        entry.crowd.leave(self)
        if cause is not None:
            self._conn.close()
            entry.turn_away(cause, self.host, **({"error": error} if error else {}))

    async def _pass(self, deadline: float) -> tuple[Cause | None, str]:
        """Return why it did not get as far as the login, in two forms; None: it did."""
        entry = self._entry
        try:
            async with asyncio.timeout_at(deadline):
                if entry.proxies is not None:
                    if not within(self.host, entry.proxies):
                        return Cause.PROXY_HEADER, "it is none of trusted_proxies"
                    if not await self._read_proxy_header():
                        return Cause.CLIENT_CLOSED, ""
                    if (cause := entry.objection(self.host)) is not None:
                        return cause, ""
                await self._connect(deadline)
        except Malformed as error:
            return Cause.PROXY_HEADER, str(error)
        except TimeoutError:
            return None if self._passed else Cause.LOGIN_TIMEOUT, ""
        except asyncio.CancelledError:
            if self._pushed_out is None:
                self._conn.close()
                raise
            return self._pushed_out, ""
        except (ssl.SSLError, OSError) as error:
            cause = Cause.UNKNOWN_SERVER_NAME if isinstance(error, tls.UnrecognizedName) else Cause.TLS_FAILED
            return cause, tls.explain(error)
        return None, ""

    async def _connect(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        entry = self._entry

        def factory() -> Threshold:
            return Threshold(entry, self._guest, self._admit, deadline, self.passed)

        if entry.tls is None:
            await loop.connect_accepted_socket(factory, self._conn)
        else:
            # The timeout around it ends the handshake; this one must only not end it before.
            with tls.alerting(self._conn):
                await loop.connect_accepted_socket(
                    factory,
                    self._conn,
                    ssl=entry.tls.context,
                    ssl_handshake_timeout=entry.login_timeout_seconds + 1,
                    ssl_shutdown_timeout=tls.SHUTDOWN_SECONDS,
                )

    async def _read_proxy_header(self) -> bool:
        """Read the header, and not a byte behind it, which is TLS's; take the client's address from it.

        Returns:
            Whether there is one: a load balancer that only looks whether the port is open goes without a word.
        """
        header, taken = None, b""
        while header is None:
            await self._readable()
            try:
                seen = self._conn.recv(proxyprotocol.HEADER_BYTES_MAX, socket.MSG_PEEK)
            except ConnectionError:
                seen = b""
            if not seen:
                if not taken:
                    return False
                raise Malformed("the connection ended in the middle of its PROXY header")
            header = proxyprotocol.parse(taken + seen)
            # As long as it is not whole, all that is there belongs to it.
            taken += self._conn.recv(len(seen) if header is None else header.header_bytes - len(taken))
        if not header.local:
            self._entry.crowd.leave(self)
            self.host = self._guest.host = header.source_host
            self._guest.port = header.source_port
            self._entry.crowd.join(self)
        return True

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(self._conn.fileno(), wake)
        try:
            await ready
        finally:
            loop.remove_reader(self._conn.fileno())
