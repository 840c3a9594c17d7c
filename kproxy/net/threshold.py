"""A client between its accepted connection and the relay: who it is, by its certificate or by its login.

An asyncio Protocol that knows ApiVersions and SASL and nothing else; when it knows who the client is, it hands the
transport over to a ClientSide, which then has never seen a stranger. What a refused client is told is held back for a
while (see core.penalty), with its reads paused.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from kproxy.core.acceptor import Identity
from kproxy.core.causes import Cause
from kproxy.core.clientlogin import Entrance, Proven
from kproxy.core.distinguished import PrincipalError
from kproxy.core.offer import Offer
from kproxy.errors import KproxyError, ProtocolError, Unsupported
from kproxy.net import tls
from kproxy.net.entry import HELD_BYTES_MAX, NOBODY, Entry
from kproxy.net.sockets import keep_alive
from kproxy.wire.apiversions import ClientSoftware
from kproxy.wire.frames import describe_garbage

if TYPE_CHECKING:
    from kproxy.net.relay import ClientSide

GONE_SECONDS = 5.0
"""How long a client that is turned away may take to read why."""


@dataclass(slots=True)
class Guest:
    """What is known of a client when it comes in."""

    host: str
    port: int
    identity: Identity = NOBODY
    proven: Proven | None = None
    """What its login came to, where it has logged in."""
    offer: Offer | None = None
    """What it has been told that it may ask for."""
    software: ClientSoftware | None = None
    client_id: bytes = b""
    node_id: int | None = None
    """The broker that the port it came to, or the name it asked for, leads to."""
    tls: str | None = None
    """Its TLS version, None: plain."""


Admit = Callable[[Guest], "ClientSide"]


class Threshold(asyncio.Protocol):
    """One client on its way in, TLS already done."""

    __slots__ = (
        "_admit",
        "_cause",
        "_counted",
        "_deadline",
        "_entrance",
        "_entry",
        "_error",
        "_guest",
        "_on_connected",
        "_timer",
        "host",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(
        self, entry: Entry, guest: Guest, admit: Admit, deadline: float, on_connected: Callable[[], None]
    ) -> None:
        """Let ``guest`` in by ``deadline``, in the loop's time, or not at all; tell when it is here."""
        self._entry = entry
        self._guest = guest
        self._admit = admit
        self._deadline = deadline
        self._on_connected = on_connected
        self._entrance: Entrance | None = None
        self._cause = Cause.CLIENT_CLOSED
        self._error: dict[str, object] = {}
        self._counted = 0  # of what is held, in the crowd's sum
        self._timer: asyncio.TimerHandle | None = None
        self.host = guest.host

    # asyncio's calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        # uvloop's is one in all but name.
        self.transport = cast("asyncio.Transport", transport)
        self._on_connected()  # first, for nobody counts twice among those who wait
        keep_alive(transport)
        entry, guest = self._entry, self._guest
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None and entry.tls is not None:
            tls.keep_unread(transport)
            guest.tls = ssl_object.version()
            if entry.principal_of is not None:
                try:
                    guest.identity = Identity(entry.principal_of(tls.peer_certificate(ssl_object)))
                except PrincipalError as error:
                    self._end(Cause.LOGIN_REFUSED, error=str(error))
                    return
            if entry.node_of is not None:
                guest.node_id = entry.node_of(entry.tls.server_name(ssl_object) or "")
        if entry.terms is None:
            self._let_in(b"")
            return
        self._entrance = Entrance(entry.front, entry.terms)
        entry.crowd.join(self)
        self._timer = asyncio.get_running_loop().call_at(self._deadline, self._too_late)

    def data_received(self, data: bytes) -> None:
        """See how far the client gets with that."""
        entrance = self._entrance
        if entrance is None or self.transport.is_closing():
            return
        busy = entrance.pending or entrance.login.over  # a pause of its reads may come too late
        try:
            out = entrance.receive(data)
        except ProtocolError as error:
            self._broke_protocol(error, data)
            return
        self._count_held(entrance.held_bytes)
        if self._entry.crowd.held_bytes > HELD_BYTES_MAX:
            self._end(Cause.TOO_MANY_WAITING)
            return
        if not busy:
            self._go_on(out)

    def eof_received(self) -> bool:
        """Nobody who is not in yet may close by halves."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the cause says enough
        """It went away before it was in."""
        self._leave()
        self._entry.turn_away(self._cause, self.host, **self._error)

    # How far it got.

    def push_out(self, cause: Cause) -> None:
        """End."""
        self._end(cause)

    def _go_on(self, out: bytes) -> None:
        """Do with what the entrance returned, and see what it has come to."""
        entrance = self._entrance
        assert entrance is not None  # noqa: S101  there is a login
        login = entrance.login
        if login.refused is not None:
            self._refuse(out, login.refused)
        elif login.proven is not None:
            self._log_in(login.proven, out)
        else:
            if out:
                self.transport.write(out)
            if entrance.pending:
                self.transport.pause_reading()
                self._entry.tasks.spawn(f"login of {self.host}", self._find_out(entrance))

    async def _find_out(self, entrance: Entrance) -> None:
        """See to what the entrance waits for: hard work, or the brokers' judgement."""
        entry = self._entry
        try:
            step = await entry.find_out(entrance.work or entrance.claim, self.host, self._guest.node_id)
        except KproxyError as error:
            self._end(Cause.BROKER_UNREACHABLE, error=str(error))
            return
        if self.transport.is_closing():
            return
        try:
            out = entrance.worked(step)
        except ProtocolError as error:
            self._broke_protocol(error, b"")
            return
        self._count_held(entrance.held_bytes)
        self._go_on(out)
        if entrance.login.refused is None and not entrance.pending and not self.transport.is_closing():
            self.transport.resume_reading()

    def _log_in(self, proven: Proven, out: bytes) -> None:
        entrance, guest = self._entrance, self._guest
        assert entrance is not None  # noqa: S101  there is a login
        self._entry.tally.logins[proven.mechanism, True] += 1
        guest.proven, guest.identity = proven, proven.identity
        guest.offer, guest.software, guest.client_id = entrance.offer, entrance.software, entrance.client_id
        self._leave()
        if out:
            self.transport.write(out)
        self._let_in(entrance.leftover)

    def _let_in(self, leftover: bytes) -> None:
        """Hand the transport over."""
        client = self._admit(self._guest)
        self.transport.set_protocol(client)
        client.connection_made(self.transport)
        if leftover and not self.transport.is_closing():
            client.data_received(leftover)

    def _refuse(self, out: bytes, reason: str) -> None:
        entrance = self._entrance
        assert entrance is not None  # noqa: S101  there is a login
        loop = asyncio.get_running_loop()
        self._entry.tally.logins[entrance.login.mechanism or "unknown", False] += 1
        self._cause = Cause.LOGIN_REFUSED
        if self._timer is not None:
            self._timer.cancel()
        self.transport.pause_reading()
        delay = self._entry.penalty.take(self.host, loop.time())
        self._timer = loop.call_later(delay, self._say_no, out, reason)

    def _say_no(self, out: bytes, reason: str) -> None:
        if out:
            self.transport.write(out)
        self._end(Cause.LOGIN_REFUSED, error=reason)

    def _broke_protocol(self, error: ProtocolError, data: bytes) -> None:
        entrance = self._entrance
        assert entrance is not None  # noqa: S101  it read them
        cause, text = Cause.of_request(error), str(error)
        garbage = None if entrance.begun else describe_garbage(data)
        if garbage is not None:
            cause = Cause.TLS_ON_PLAIN_PORT if data[:1] == b"\x16" else Cause.HTTP_ON_KAFKA_PORT
            text = garbage
        elif isinstance(error, Unsupported):
            cause = Cause.LOGIN_REQUIRED
            text = f"{text}: set the client's security.protocol to one with SASL"
        self._end(cause, error=text)

    def _too_late(self) -> None:
        self._end(Cause.LOGIN_TIMEOUT)

    def _end(self, cause: Cause, **fields: object) -> None:
        """Close for a reason, which ``connection_lost`` counts."""
        if self.transport.is_closing():
            return
        self._cause = cause
        self._error = fields
        self._entrance = None  # and with it what was kept: the connection may take a while to end
        self._count_held(0)
        self.transport.close()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(GONE_SECONDS, self.transport.abort)

    def _leave(self) -> None:
        """It is no longer on its way in."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._count_held(0)
        self._entry.crowd.leave(self)

    def _count_held(self, held_bytes: int) -> None:
        self._entry.crowd.held_bytes += held_bytes - self._counted
        self._counted = held_bytes
