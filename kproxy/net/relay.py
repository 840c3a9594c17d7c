"""One client connection and the broker behind it: two asyncio Protocols around one core Exchange.

A read on either side goes through the exchange and leaves in one write on the other. A side that cannot write any
more stops the reads of the other (pause_writing -> pause_reading), so that memory stays bounded whatever is sent.

The broker is dialled when the client's first request is to be forwarded, and again at the next request when it went
away while nothing was under way: an idle client's socket outlives the broker behind it. What is under way when a
broker goes is never silently dropped: the client's connection is closed, so that it retries at once. What was read from
a client is sent before the upstream is closed, dialled late or not: a producer with acks=0 that sends and closes at
once loses nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import structlog

from kproxy.core.acceptor import Identity
from kproxy.core.access import Access, Permissions
from kproxy.core.account import Account
from kproxy.core.addresses import within
from kproxy.core.causes import Cause
from kproxy.core.exchange import Exchange, Front
from kproxy.core.guarded import Guarded
from kproxy.core.kinds import exchange_class
from kproxy.core.limits import Client, Limits
from kproxy.core.observed import Observed, Watch
from kproxy.core.rewrite import Advertise
from kproxy.core.sasl import Login, Mechanism
from kproxy.core.suppressor import Suppressor
from kproxy.core.tally import Tally
from kproxy.errors import AuthError, KproxyError, ProtocolError, Unsupported
from kproxy.net.entry import Entry
from kproxy.net.gate import Gate
from kproxy.net.link import RENEW_AT, ClusterLink, Opened
from kproxy.net.session import Session
from kproxy.net.sockets import keep_alive
from kproxy.net.tasks import Tasks
from kproxy.net.threshold import Guest
from kproxy.net.turns import Turns
from kproxy.wire.frames import describe_garbage

_log = structlog.get_logger(__name__)

LINGER_SECONDS = 10.0
"""How long a closed side may take to write what is queued for it, or a broker to take what a gone client sent."""

PARTING_SECONDS = 1.0
"""How long a client that is left in good order may take to see it, and to close its side, too; most do at once."""

LAST_ANSWER_SECONDS = 0.1
"""How long after its last answer such a client is told the end, as who finds both in one read may lose either.
kafka-python 3.0.12 drops what it has read with an end. Java, over TLS, does not look at the end until the socket has
something new for it (SslTransportLayer), and that is closed only once it has."""

WRITE_HIGH_BYTES = 64 * 1024
"""Queued bytes above which the other side's reads stop; asyncio's own default. One more read may come on top."""

TLS_BENEATH_BYTES = WRITE_HIGH_BYTES + 256_000
"""What is held beneath TLS, at most, once TLS itself is full: uvloop tells only what is within. The transport beneath
stops TLS at the same mark, and one read of uvloop's (UV_STREAM_RECV_BUF_SIZE) comes on top."""

RENEWED_SECONDS_MIN = 1.1
"""A broker refuses a renewal within a second of the login before it (SaslServerAuthenticator)."""

# Why a client's reads are paused; a bit each.
DIALLING, BROKER_FULL, RENEWING, DRAINING, CLIENT_FULL = 1, 2, 4, 8, 16


@dataclass(slots=True)
class Shared:
    """What the connections of one listener share. Times in seconds."""

    name: str
    front: Front
    link: ClusterLink
    entry: Entry
    """How clients get in, and log in anew."""
    advertise_for: Callable[[str], Advertise]
    open_broker: Callable[["ClientSide"], Awaitable[Opened]]
    """Dial the broker that a connection is for, within the bounds of patience."""
    mechanism_for: Callable[[Identity], Mechanism | None]
    """How to log in to the brokers for a client; raises AuthError where there is no way."""
    advertised_host: str | None = None
    """None: whatever local address the client reached."""
    limits: Limits | None = None
    """None: there are none."""
    access: Access | None = None
    """None: there are no rules."""
    everything: Access = field(default_factory=lambda: Access(default_allow=True))
    """The rules of those who had some when there were any."""
    watch: Watch | None = None
    """None: nothing is timed, or logged."""
    turns: Turns | None = None
    """Whom to tell of a connection's end; None: this process has no others beside it."""
    connections_max: int = 10_000
    buffered_bytes_max: int = 512 * 1024 * 1024
    inventory: bool = False
    """Whether each connection has an account of its own."""
    tasks: Tasks = field(default_factory=Tasks)
    quiet: Suppressor = field(default_factory=Suppressor)
    connections: set["ClientSide"] = field(default_factory=set)
    buffered_bytes: int = 0
    """Queued for slow readers, over all connections; counted when a buffer fills, not per write."""
    draining: bool = False
    farewell: "Farewell | None" = None
    """Sends clients elsewhere, as the listener drains."""
    one_left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a connection has ended."""


class Farewell(Protocol):
    """See farewell."""

    def asked(self, client: "ClientSide") -> None:
        """See there."""

    def ended(self, client: "ClientSide") -> None:
        """See there."""


class BrokerSide(asyncio.Protocol):
    """The connection to the broker, once it is logged in."""

    def __init__(self, client: "ClientSide", opened: Opened) -> None:
        """Take over an opened connection for a client."""
        self._client: ClientSide | None = client
        self._exchange = client.exchange
        self._counted: Tally | Account = client.account or client.shared.front.tally
        self._to_client = client.transport.write
        self.transport = opened.conversation.transport
        self.transport.set_protocol(self)
        self.transport.set_write_buffer_limits(WRITE_HIGH_BYTES)
        self.opened = opened
        self._linger: asyncio.TimerHandle | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self.renew_in(opened.session_lifetime_ms)

    # asyncio's calls.

    def data_received(self, data: bytes) -> None:
        """Forward what the broker sent."""
        client = self._client
        if client is None:  # the client is gone; its answers go nowhere
            return
        try:
            out = self._exchange.from_broker(data)
        except ProtocolError as error:
            client.broker_broke_protocol(error)
            return
        if out:
            self._counted.bytes_out += len(out)
            self._to_client(out)
        if client.watching:
            client.look_after()

    def pause_writing(self) -> None:
        """Stop reading from the client: this broker does not keep up."""
        if self._client is not None:
            self._client.pause(BROKER_FULL)

    def resume_writing(self) -> None:
        """Read from the client again."""
        if self._client is not None:
            self._client.resume(BROKER_FULL)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the cause says enough
        """Tell the client's side."""
        for timer in (self._linger, self._renewal):
            if timer is not None:
                timer.cancel()
        if self._client is not None:
            client, self._client = self._client, None
            client.broker_lost_by(self)

    # What the client's side asks.

    def release(self, *, answers_expected: bool) -> None:
        """The client is gone: let the broker have what is queued, then close, within a bound.

        While answers are expected the socket stays open for reading: closed with unread bytes in it, it would send a
        reset, and the broker could lose requests that it has not read yet.
        """
        self._client = None
        transport = self.transport
        if transport.is_closing():
            return
        transport.resume_reading()
        if answers_expected and transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()
        if self._renewal is not None:
            self._renewal.cancel()
        self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abort)

    def renew_in(self, session_lifetime_ms: int) -> None:
        """Renew the login when its time comes (KIP-368); 0: never."""
        if not session_lifetime_ms:
            return
        delay = max(session_lifetime_ms / 1000 * RENEW_AT, RENEWED_SECONDS_MIN)
        self._renewal = asyncio.get_running_loop().call_later(delay, self._renew)

    def _renew(self) -> None:
        if self._client is not None:
            self._client.renew_login()


class ClientSide(asyncio.Protocol):
    """The connection to the client."""

    __slots__ = (
        "_backlog",
        "_backlog_bytes",
        "_buffered",
        "_cause",
        "_counted",
        "_dialling",
        "_ending",
        "_eof",
        "_full",
        "_holding",
        "_idle_mark",
        "_idle_since",
        "_linger",
        "_login",
        "_outdated",
        "_paused",
        "_tally",
        "_to_broker",
        "account",
        "broker",
        "exchange",
        "gate",
        "gone",
        "guest",
        "host",
        "node_id",
        "peer",
        "session",
        "shared",
        "transport",
        "watching",
    )

    exchange: Exchange
    transport: asyncio.Transport

    def __init__(self, shared: Shared, guest: Guest, node_id: int | None) -> None:
        """Serve a client of a listener that is in; ``node_id``: the broker its port or name is for, None: any."""
        self.shared = shared
        self.node_id = node_id
        self.guest = guest
        self.host = guest.host.removeprefix("::ffff:")  # IPv4 on a socket for both (RFC 4291)
        self.peer = f"{self.host}:{guest.port}"
        self.session: Session | None = None
        self.broker: BrokerSide | None = None
        self.gate: Gate | None = None
        self.gone = False
        self.watching = False
        """Something is to happen once the broker owes no answers: ``look_after`` is called after each read."""
        self._tally = shared.front.tally
        self._counted: Tally | Account = self._tally  # whose bytes_in and bytes_out grow
        self.account: Account | None = None
        """What this connection has moved; None where nobody asks."""
        self._to_broker: Callable[[bytes], None] | None = None
        self._backlog: list[bytes] = []  # for a broker that is being dialled
        self._dialling = False
        self._paused = 0
        self._full = False
        self._buffered = 0
        self._eof = False
        self._cause: Cause | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._login: Login | None = None
        self._holding = False  # requests are held back at the next boundary, to renew the login or to end
        self._ending: Cause | None = None  # why it ends after the last answer, once nothing more is taken
        self._outdated = False  # it would not be let in as it is now: it is to end when it is idle
        self._idle_mark: tuple[int, ...] = ()
        self._idle_since = 0.0

    # asyncio's calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        # uvloop's is one in all but name.
        self.transport = cast("asyncio.Transport", transport)
        shared = self.shared
        local = transport.get_extra_info("sockname")
        host = shared.advertised_host or (local[0] if local else "localhost")
        self.exchange = self.make_exchange(host)
        guest = self.guest
        if guest.offer is not None:
            self.exchange.introduced(guest.offer, guest.software, guest.client_id)
        if guest.proven is not None:
            self.session = Session(self, guest.proven)
        self._begin()
        self._tally.opened += 1
        self._tally.connections += 1
        if shared.inventory:
            self.account = self._counted = Account(self._tally.opened, time.time())
            self.exchange.count_in(self.account.requests)
        shared.connections.add(self)
        self.transport.set_write_buffer_limits(WRITE_HIGH_BYTES)
        keep_alive(transport)
        if self._tally.connections > shared.connections_max:
            self.end(Cause.TOO_MANY_CONNECTIONS, maximum=shared.connections_max)
        elif shared.draining:
            self.end(Cause.DRAINED)
        elif shared.limits is not None:
            self.gate = Gate(self, shared.limits)

    @property
    def identity(self) -> Identity:
        """Who the client is."""
        return self.guest.identity if self.session is None else self.session.identity

    @property
    def client(self) -> Client:
        """Who the client is to limits and logs, before its first request has told its client id."""
        return Client(self.shared.name, self.host, self.identity.principal, "")

    def make_exchange(self, host: str) -> Exchange:
        """Return the machine for this connection, whose client knows us as ``host``."""
        exchange: Exchange = self._kind(routed=False)(self.shared.front, self.shared.advertise_for(host))
        return exchange

    def _kind(self, *, routed: bool) -> Any:  # noqa: ANN401  its arguments differ
        shared = self.shared
        return exchange_class(
            routed=routed,
            guarded=shared.access is not None,
            limited=shared.limits is not None,
            observed=shared.watch is not None,
        )

    def _begin(self) -> None:
        """Put the machine under what is configured; the client is known by now."""
        shared = self.shared
        if shared.access is not None:
            permissions = Permissions(shared.access, self.identity.principal, self.identity.groups)
            cast("Guarded", self.exchange).guard(permissions, self._denied_for_good)
        if shared.watch is not None:
            cast("Observed", self.exchange).observe(shared.watch, self.client, self.guest.port, self.node_id)

    def _denied_for_good(self) -> None:
        """End the connection, once what goes to the broker has gone. Called from within the exchange."""
        asyncio.get_running_loop().call_soon(self.end, Cause.DENIED)

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
            to_broker = self._to_broker
            if to_broker is not None:
                to_broker(out)
            else:
                self._send_later(out)
        if exchange.replies:
            self._send_replies()
        if self._holding:
            self._held()
        if exchange.waits and self.gate is not None:
            self.gate.attend()

    def pass_on(self, out: bytes) -> None:
        """Do with what the exchange returned, other than for a read, as ``data_received`` does."""
        if out:
            if self._to_broker is not None:
                self._to_broker(out)
            else:
                self._send_later(out)
        if self.exchange.replies:
            self._send_replies()
        if self._holding:
            self._held()

    def pause_writing(self) -> None:
        """Stop reading from the broker, and from the client: it does not keep up, and each request makes an answer."""
        self._full = True
        self.pause(CLIENT_FULL)
        self._buffered = self.transport.get_write_buffer_size()
        if self.guest.tls is not None:
            self._buffered += TLS_BENEATH_BYTES
        self.shared.buffered_bytes += self._buffered
        if self.broker is not None and not self.broker.transport.is_closing():
            self.broker.transport.pause_reading()
        if self.shared.buffered_bytes > self.shared.buffered_bytes_max:
            self.end(Cause.BUFFERS_FULL, maximum=self.shared.buffered_bytes_max)

    def resume_writing(self) -> None:
        """Read from both again."""
        self._forget_buffered()
        self.resume(CLIENT_FULL)
        if self.broker is not None and not self.broker.transport.is_closing():
            self.broker.transport.resume_reading()

    def eof_received(self) -> bool:
        """The client sends no more; it may still read: answers under way reach it before the end."""
        self._eof = True
        self.watching = True
        self.look_after()
        # TLS has no half-closed connections: asyncio closes it, whatever is returned, and warns of True.
        return self.guest.tls is None and not self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the cause says enough
        """See asyncio."""
        self.gone = True
        if self._linger is not None:
            self._linger.cancel()
        self._forget_buffered()
        if isinstance(self.exchange, Observed):
            self.exchange.conclude()
        if self.gate is not None:
            self.gate.leave(by_client=self._cause in {None, Cause.CLIENT_CLOSED})
        if self.session is not None:
            self.session.leave()
        self._tally.connections -= 1
        self._tally.closed[self._cause or Cause.CLIENT_CLOSED] += 1
        self.settle_account()
        self.shared.connections.discard(self)
        if self.shared.farewell is not None:
            self.shared.farewell.ended(self)
        self.shared.one_left.set()
        if self.shared.turns is not None:
            self.shared.turns.ended()
        self._release_broker()

    def settle_account(self) -> None:
        """Move what was counted in an account of its own to the listener's tally."""
        if self.account is not None:
            self.account.fold(self._tally)

    def introduce(self, data: bytes) -> None:
        """Read the client id off ``data``, which begin with a request for a broker; called where a broker is reached.

        So it costs nothing per read; a client that only ever asks for ApiVersions stays unknown.
        """
        if self.account is not None and self.account.client_id is None:
            self.account.introduce(data)

    def _forget_buffered(self) -> None:
        self._full = False
        self.shared.buffered_bytes -= self._buffered
        self._buffered = 0

    # Reads, paused for one or more reasons.

    def pause(self, why: int) -> None:
        """Stop reading from the client for one more reason."""
        if not self._paused and not self.transport.is_closing():
            self.transport.pause_reading()
        self._paused |= why

    def resume(self, why: int) -> None:
        """Take one reason away; read again when it was the last."""
        was = self._paused
        self._paused &= ~why
        if was and not self._paused and not self.transport.is_closing():
            self.transport.resume_reading()

    # The broker: dialled at need, attached, lost, released.

    def _send_later(self, data: bytes) -> None:
        self._backlog.append(data)
        self.pause(DIALLING)
        if not self._dialling:
            self._dialling = True
            self.shared.tasks.spawn(f"dial for {self.peer}", self._dial())

    async def _dial(self) -> None:
        try:
            opened = await self.shared.open_broker(self)
        except KproxyError as error:
            self._dialling = False
            self._dial_failed(error)
            return
        self._dialling = False
        self._attach(BrokerSide(self, opened))

    def _attach(self, broker: BrokerSide) -> None:
        backlog = b"".join(self._backlog)
        self._backlog.clear()
        if backlog:
            self.introduce(backlog)
            broker.transport.write(backlog)
        if self.gone:
            broker.release(answers_expected=self.exchange.outstanding > 0)
            return
        self.broker = broker
        self._to_broker = broker.transport.write
        if self._full:
            broker.transport.pause_reading()
        self.resume(DIALLING)
        if self.watching:
            self.look_after()

    def _dial_failed(self, error: KproxyError) -> None:
        lost = sum(map(len, self._backlog))
        self._backlog.clear()
        self._tally.lost_bytes += lost
        cause = Cause.BROKER_LOGIN_FAILED if isinstance(error, AuthError) else Cause.BROKER_UNREACHABLE
        # Whether the client is still there to try again cannot be told: its reads are paused.
        self.end(cause, error=str(error), lost_bytes=lost)

    def broker_lost_by(self, broker: BrokerSide) -> None:  # noqa: ARG002  there is only one here
        """A broker's connection has ended."""
        self.broker_lost()

    def broker_lost(self) -> None:
        """The broker closed the connection: go on without it if nothing was under way, otherwise end."""
        self.broker = None
        self._to_broker = None
        renewing, self._login = self._login is not None, None
        self.resume(BROKER_FULL | RENEWING)
        exchange = self.exchange
        still_valid = self.shared.front.offer.covers(exchange.offer)
        sends_more = not self._eof or exchange.waits
        if exchange.idle and still_valid and not exchange.tied and sends_more and not renewing:
            return
        self.end(Cause.BROKER_CLOSED if still_valid else Cause.OFFER_CHANGED)

    def _release_broker(self) -> None:
        if self.broker is not None:
            broker, self.broker, self._to_broker = self.broker, None, None
            broker.release(answers_expected=self.exchange.outstanding > 0)

    # The end, and what waits for the last answer.

    def look_after(self) -> None:
        """See whether what waits for the last answer can happen: the end of a half-closed or draining connection."""
        if self._dialling:
            return
        exchange = self.exchange
        if self._eof:
            if exchange.waits:
                return
            # Half a request never becomes whole now, so nobody waits for its answer.
            if exchange.outstanding == 0 or not exchange.at_boundary:
                self.end(Cause.CLIENT_CLOSED)
        elif exchange.outstanding or not exchange.at_boundary:
            return
        elif self._ending is not None:
            self.end(self._ending)
        elif not exchange.idle or exchange.waits:
            return
        elif not self.shared.front.offer.covers(exchange.offer):
            self.end(Cause.OFFER_CHANGED)
        elif self._outdated:
            self.end(Cause.CONFIGURATION_CHANGED)

    def configuration_changed(self) -> bool:
        """Come under what is configured now; False: not yet, call it again soon.

        A connection that would not be let in now, or would be made otherwise, ends at its next idle moment.
        """
        if self._outdated or self._dialling:
            return False
        exchange, access = self.exchange, self.shared.access or self.shared.everything
        if isinstance(exchange, Guarded) and exchange.permissions.access is not access:
            exchange.guard_by(Permissions(access, self.identity.principal, self.identity.groups))
            self._outdated = exchange.tied  # a topic of its share session may be denied now
        self._outdated = self._outdated or self._is_outdated()
        if self._outdated:
            self.watching = True
            self.look_after()
            return False
        return self.gate is None or self.gate.limits_changed()

    @property
    def busy(self) -> bool:
        """Whether it is owed an answer, or has half a request here."""
        return self.exchange.outstanding > 0 or not self.exchange.at_boundary or self._dialling

    @property
    def outdated(self) -> bool:
        """Whether it is to end because something else is configured now."""
        return self._outdated and not self.gone

    def watch_changed(self) -> None:
        """See Observed."""
        if isinstance(self.exchange, Observed):
            self.exchange.watch_anew()

    def _is_outdated(self) -> bool:
        """Whether the connection is not as one that came now would be, and what is configured does not hold for it."""
        shared, entry, exchange = self.shared, self.shared.entry, self.exchange
        if (
            (shared.limits is not None and self.gate is None)
            or (shared.access is not None and not isinstance(exchange, Guarded))
            or (shared.watch is not None and not isinstance(exchange, Observed))
            or (entry.terms is not None and self.session is None)
            or (entry.tls is not None and self.guest.tls is None)
            or (entry.networks is not None and not within(self.host, entry.networks))
        ):
            return True
        try:
            mechanism = shared.mechanism_for(self.identity)
        except AuthError:
            return True
        return not all(shared.link.good(broker.opened, node_id, mechanism) for node_id, broker in self.brokers())

    def brokers(self) -> Iterable[tuple[int | None, BrokerSide]]:
        """Return the connections to brokers, by node id; None: to any."""
        return () if self.broker is None else ((self.node_id, self.broker),)

    def offer_changed(self) -> None:
        """The cluster offers something else now: end at the next idle moment if this client was told too much."""
        if not self.shared.front.offer.covers(self.exchange.offer):
            self.watching = True
            self.look_after()

    def drain(self, cause: Cause = Cause.DRAINED) -> None:
        """Let what is under way finish, then end; the request that is half here is let through, no other."""
        self._ending = cause
        if self.gate is not None:
            self.gate.flush()
        self.exchange.hold()
        self._holding = self.watching = True
        self._held()
        self.look_after()

    def part(self) -> None:
        """Tell the client, which has asked, to go elsewhere; then end."""
        self._ending = Cause.DRAINED
        self.exchange.part()
        self._send_replies()
        self.drain()

    def _held(self) -> None:
        """Go on once the request under way has been sent."""
        if not self.exchange.at_boundary:
            return
        if self._ending is not None:
            self.pause(DRAINING)
        if self._login is not None and not self._paused & RENEWING and self._to_broker is not None:
            self.pause(RENEWING)
            self._to_broker(self.exchange.ask(self._login.begin(), self._renewal_answered))

    def end(self, cause: Cause, **fields: object) -> None:
        """Close the client's connection for a reason; what is queued for it is written first, within a bound."""
        if self._cause is None:
            self._cause = cause
            self._tell(cause, fields)
        if self.gone or self.transport.is_closing():
            return
        if cause in _IN_GOOD_ORDER and self._linger is None:
            self.transport.set_protocol(_Parting(self))
            if self._paused:
                self.transport.resume_reading()
            self._linger = asyncio.get_running_loop().call_later(LAST_ANSWER_SECONDS, self._tell_end)
        else:
            self._close()

    def _tell_end(self) -> None:
        if self.guest.tls is None:
            self.transport.write_eof()
            self._linger = asyncio.get_running_loop().call_later(PARTING_SECONDS, self._close)
        else:
            self._close()

    def _close(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self.transport.close()
        self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.abort)

    def abort(self, cause: Cause) -> None:
        """Close at once, whatever is queued."""
        self._cause = self._cause or cause
        self.transport.abort()

    def _tell(self, cause: Cause, fields: dict[str, object]) -> None:
        if cause in _UNREMARKABLE:
            return
        now = asyncio.get_running_loop().time()
        left_out = self.shared.quiet.tell((cause, self.host, self.node_id), now)
        if left_out is None:
            return
        if left_out:
            fields["repeated"] = left_out
        if self.node_id is not None:
            fields["broker"] = self.node_id
        fields |= {"listener": self.shared.name, "client": self.peer, "cause": str(cause)}
        _log.warning("client connection closed", **fields)

    # What goes wrong.

    def client_broke_protocol(self, error: ProtocolError, data: bytes) -> None:
        """The client's bytes, the last of them ``data``, are no requests: end it, and say what they are."""
        cause, text = Cause.of_request(error), str(error)
        if self.exchange.expired and isinstance(error, Unsupported):
            cause, text = Cause.SESSION_EXPIRED, "the client did not log in anew in time (KIP-368)"
        garbage = None if self.exchange.begun or self.exchange.software is not None else describe_garbage(data)
        if garbage is not None:
            cause = Cause.TLS_ON_PLAIN_PORT if data[:1] == b"\x16" else Cause.HTTP_ON_KAFKA_PORT
            text = garbage
        self._release_broker()
        self.end(cause, error=text)

    def broker_broke_protocol(self, error: ProtocolError) -> None:
        """The broker's bytes cannot be what they must: forward nothing more."""
        self._release_broker()
        self.end(Cause.MALFORMED_ANSWER, error=str(error))

    def _send_replies(self) -> None:
        out = b"".join(self.exchange.replies)
        self.exchange.replies.clear()
        if out:
            self._counted.bytes_out += len(out)
            self.transport.write(out)
        if self.exchange.login is not None and self.session is not None:
            self.session.attend(self.exchange.login)
        elif self.exchange.leaves and self._ending is None and self.shared.farewell is not None:
            self.shared.farewell.asked(self)
        elif self.exchange.sasl_refused:
            self.exchange.sasl_refused = False
            if self.shared.quiet.tell(("sasl", self.host), asyncio.get_running_loop().time()) == 0:
                _log.warning(
                    "client tried to log in, but this listener asks for no credentials: "
                    "set the client's security.protocol to PLAINTEXT",
                    listener=self.shared.name,
                    client=self.peer,
                )

    # KIP-368: the upstream login is renewed between two requests; the client does not notice.

    def renew_login(self) -> None:
        """Begin to renew: at once at a request boundary, otherwise when the request under way has been sent."""
        if self.gone or self.broker is None or self._login is not None:
            return
        opened = self.broker.opened
        if opened.mechanism is None:
            return
        self._login = Login(opened.mechanism, opened.authenticate_version)
        self.exchange.hold()
        self._holding = True
        self._held()

    def _renewal_answered(self, body: bytes) -> None:
        """Take the broker's answer to the renewal's last request. Called from within the exchange."""
        if self._login is None or self._to_broker is None:
            return
        try:
            ask = self._login.answer(body)
        except AuthError as error:
            self._tally.login_failures += 1
            self.shared.link.login_failures += 1
            self.end(Cause.BROKER_LOGIN_FAILED, error=str(error))
            return
        if ask is not None:
            self._to_broker(self.exchange.ask(ask, self._renewal_answered))
        else:
            asyncio.get_running_loop().call_soon(self._renewed, self._login.session_lifetime_ms)

    def _renewed(self, session_lifetime_ms: int) -> None:
        self._login = None
        if self.gone or self.broker is None or self._to_broker is None:
            return
        self._tally.reauthentications += 1
        self.broker.renew_in(session_lifetime_ms)
        if self._ending is not None:
            self.look_after()
            return
        self._holding = False
        try:
            out = self.exchange.release()
        except ProtocolError as error:
            self.client_broke_protocol(error, b"")
            return
        if out:
            self._to_broker(out)
        if self.exchange.replies:
            self._send_replies()
        self.resume(RENEWING)

    # Idle connections.

    def sweep(self, now_seconds: float, idle_timeout_seconds: float) -> None:
        """End the connection when nothing has moved for too long. Called now and then, not per read."""
        exchange = self.exchange
        mark = exchange.progress
        if mark != self._idle_mark:
            self._idle_mark = mark
            self._idle_since = now_seconds
        elif now_seconds - self._idle_since >= idle_timeout_seconds:
            self.end(Cause.IDLE)


class _Parting(asyncio.Protocol):
    """A client's end in good order: our side is soon closed; what it still sends is read, and dropped.

    A socket that is closed with unread bytes in it sends a reset, and with that a client may lose answers that it has
    not read yet: it would then ask again for what was done.
    """

    def __init__(self, client: ClientSide) -> None:
        self._client = client

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._client.connection_lost(exc)


_IN_GOOD_ORDER = frozenset({Cause.BROKER_CLOSED, Cause.CONFIGURATION_CHANGED, Cause.DRAINED, Cause.OFFER_CHANGED})

# A limit tells when it begins to hold a key up, and when it ends.
_UNREMARKABLE = frozenset(
    {
        Cause.CLIENT_CLOSED,
        Cause.CONFIGURATION_CHANGED,
        Cause.IDLE,
        Cause.LIMITED,
        Cause.DRAINED,
        Cause.STOPPED,
    }
)
