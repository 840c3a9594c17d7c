"""A client's login for as long as it holds, and the logins that follow it on the same connection (KIP-368).

As Kafka does: when a login has ended the connection stays, but whatever the client asks for next, other than to log in
anew, ends it. A client that knows KIP-368 logs in again in time, and nobody notices. Neither who it is nor how it
proves it may change.
"""

import asyncio
from typing import TYPE_CHECKING

from kproxy.core.acceptor import Accepted, Challenge, Identity, Refused, Work
from kproxy.core.causes import Cause
from kproxy.core.clientlogin import ClientLogin, Proven
from kproxy.core.exchange import LoginRequest
from kproxy.errors import KproxyError, ProtocolError
from kproxy.net.entry import Entry
from kproxy.wire.apis import ApiKey
from kproxy.wire.handshake import (
    ILLEGAL_SASL_STATE,
    parse_sasl_authenticate_request,
    sasl_authenticate_illegal_state,
    sasl_authenticate_response,
    sasl_handshake_response,
)

if TYPE_CHECKING:
    from kproxy.net.relay import ClientSide

LOGGING_IN = 128
"""Why a client's reads are paused (see relay)."""


class Session:
    """The login of one client's connection. ``attend`` to it when the exchange has a ``login``; ``leave`` it last."""

    __slots__ = ("_client", "_end", "_login", "_loop", "_refusal", "_shared", "proven")

    def __init__(self, client: "ClientSide", proven: Proven) -> None:
        """Begin with what the first login came to."""
        self._client: ClientSide | None = client
        self._shared = client.shared
        self._loop = asyncio.get_running_loop()
        self._login: ClientLogin | None = None
        self._refusal: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None
        self.proven = proven
        self._hold()

    @property
    def _entry(self) -> Entry:
        """How clients log in now, which need not be as this one did."""
        return self._shared.entry

    @property
    def identity(self) -> Identity:
        """Who the client is."""
        return self.proven.identity

    def leave(self) -> None:
        """The connection is gone."""
        self._client = None
        for timer in (self._end, self._refusal):
            if timer is not None:
                timer.cancel()

    def attend(self, request: LoginRequest) -> None:
        """Take the client's next step towards a new login."""
        client = self._client
        assert client is not None  # noqa: S101  it has just been read from
        client.pause(LOGGING_IN)
        try:
            if request.key == ApiKey.SASL_HANDSHAKE:
                self._handshake(request)
            else:
                self._authenticate(request)
        except ProtocolError as error:
            client.client_broke_protocol(error, b"")

    def _handshake(self, request: LoginRequest) -> None:
        terms = self._entry.terms
        if terms is None or request.version == 0:  # bare tokens have no place among requests
            self._answer(sasl_handshake_response(ILLEGAL_SASL_STATE, ()))
            return
        login = self._login = ClientLogin(terms, self.proven)
        body = login.handshake(request.body)
        if login.refused is None:
            self._answer(body)
        else:
            self._refuse(body, login.refused)

    def _authenticate(self, request: LoginRequest) -> None:
        login = self._login
        if login is None or login.over:
            self._answer(sasl_authenticate_illegal_state(request.version))
            return
        step = login.respond(parse_sasl_authenticate_request(request.version, request.body))
        if isinstance(step, Work) or (isinstance(step, Accepted) and login.terms.judged_upstream):
            self._entry.tasks.spawn("a new login", self._find_out(step, request))
        else:
            self._settle(step, request)

    async def _find_out(self, step: Work | Accepted, request: LoginRequest) -> None:
        client = self._client
        if client is None:
            return
        try:
            found = await self._entry.find_out(step, client.host, client.node_id)
        except KproxyError as error:
            client.end(Cause.BROKER_UNREACHABLE, error=str(error))
            return
        if self._client is not None:
            self._settle(found, request)

    def _settle(self, step: Challenge | Accepted | Refused, request: LoginRequest) -> None:
        login = self._login
        assert login is not None  # noqa: S101  it has taken the token
        body = sasl_authenticate_response(request.version, login.answer(step))
        if login.refused is not None:
            self._refuse(body, login.refused)
            return
        if login.proven is not None:
            self.proven, self._login = login.proven, None
            self._entry.tally.logins[login.mechanism, True] += 1
            self._hold()
        self._answer(body, logged_in=self._login is None)

    def _answer(self, body: bytes, *, logged_in: bool = False) -> None:
        client = self._client
        if client is None or client.transport.is_closing():
            return
        try:
            out = client.exchange.login_answered(body, logged_in=logged_in)
        except ProtocolError as error:
            client.client_broke_protocol(error, b"")
            return
        if client.exchange.login is None:
            client.resume(LOGGING_IN)
        client.pass_on(out)

    def _refuse(self, body: bytes, reason: str) -> None:
        client = self._client
        assert client is not None  # noqa: S101  it is there to be refused
        self._entry.tally.logins[self._login.mechanism if self._login else "unknown", False] += 1
        delay = self._entry.penalty.take(client.host, self._loop.time())
        self._refusal = self._loop.call_later(delay, self._say_no, body, reason)

    def _say_no(self, body: bytes, reason: str) -> None:
        client = self._client
        if client is not None and not client.transport.is_closing():
            try:
                client.exchange.login_refused(body)
            except ProtocolError as error:
                client.client_broke_protocol(error, b"")
                return
            client.pass_on(b"")
            client.end(Cause.LOGIN_REFUSED, error=reason)

    def _hold(self) -> None:
        """Wait for the end of the login."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
        if self.proven.lifetime_ms:
            self._end = self._loop.call_later(self.proven.lifetime_ms / 1000, self._expired)

    def _expired(self) -> None:
        if self._client is not None:
            self._client.exchange.expire()
