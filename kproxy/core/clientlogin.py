"""A client's login: what it sends until it is in, or out (KIP-43, KIP-152), and when it logs in anew (KIP-368).

``ClientLogin`` is the conversation: a SaslHandshake, then tokens. ``Entrance`` takes a new connection's bytes up to
the end of its first login, and answers ApiVersions on the way; afterwards an Exchange hands the requests of later
logins over one by one. Before a login a client gets nothing else: any other API, or a frame above 512 KiB, ends it.

What takes long is the caller's to run (see acceptor)::

    out = entrance.receive(data)           # goes to the client, unless ``refused``: then later, and then the end
    if entrance.work is not None:
        out = entrance.worked(entrance.work.run())       # elsewhere, reads paused
    if entrance.claim is not None:
        out = entrance.worked(entrance.claim)            # once the brokers have let it in, or with a Refused
    entrance.login.proven                  # who it is, once it is in; ``leftover`` is for the exchange

Never here: a socket, the time; whose credentials are right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kproxy.core.acceptor import Accepted, Challenge, Identity, Refused, ServerMechanism, ServerSession, Step, Work
from kproxy.core.exchange import CLIENT_ID_BYTES_MAX, REQUEST_BYTES_MIN, Front
from kproxy.errors import FrameTooLarge, Malformed, Unsupported
from kproxy.wire import apiversions, frames
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.handshake import (
    ILLEGAL_SASL_STATE,
    SASL_AUTHENTICATION_FAILED,
    UNSUPPORTED_SASL_MECHANISM,
    SaslAuthenticateAnswer,
    parse_sasl_authenticate_request,
    parse_sasl_handshake_request,
    sasl_authenticate_response,
    sasl_handshake_response,
)
from kproxy.wire.primitives import INT32

FRAME_BYTES_MAX = 512 * 1024
"""Kafka's sasl.server.max.receive.size."""

REQUESTS_MAX = 20
"""How many requests a login may take; the longest, SCRAM after two ApiVersions, has five."""

LIFETIME_SECONDS_MAX = 100.0 * 365 * 86_400
"""Java's clients count it in nanoseconds and refuse what does not fit in an INT64, 292 years (Utils.msToNs)."""

FAILED = "Authentication failed"
"""All that a client is told: it must not learn whether it was the user or the password."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How the clients of a listener log in. ``wall_clock``: seconds since 1970."""

    mechanisms: Mapping[str, ServerMechanism]
    wall_clock: Callable[[], float]
    session_lifetime_seconds: float = 0.0
    """How long a login holds (connections.max.reauth.ms); 0: as long as what proved it."""
    judged_upstream: bool = False
    """The brokers judge the client's own password: whoever is Accepted here is only a ``claim``."""


@dataclass(slots=True)
class Proven:
    """What a login has come to."""

    identity: Identity
    mechanism: str
    lifetime_ms: int
    """For how long; 0: without end."""


@dataclass(slots=True)
class ClientLogin:
    """One login: ``handshake``, then ``respond`` to each token and ``answer`` with the step, until one of both is set.

    ``before``: what the login before this one came to; neither who it is nor how it proves it may change (KIP-368).
    """

    terms: Terms
    before: Proven | None = None
    proven: Proven | None = None
    refused: str | None = None
    """Why the client is out, for the log."""
    mechanism: str = ""
    _session: ServerSession | None = field(default=None, repr=False)

    @property
    def over(self) -> bool:
        """It is in, or out."""
        return self.proven is not None or self.refused is not None

    def handshake(self, body: bytes) -> bytes:
        """Take a SaslHandshake; return the body of its answer."""
        names = tuple(self.terms.mechanisms)
        wanted = parse_sasl_handshake_request(body)
        if self._session is not None:
            self.refused = "a second SaslHandshake"
            return sasl_handshake_response(ILLEGAL_SASL_STATE, names)
        mechanism = self.terms.mechanisms.get(wanted)
        if mechanism is None:
            self.refused = f"it asks for {_shown(wanted)}, this listener has {', '.join(names)}"
            return sasl_handshake_response(UNSUPPORTED_SASL_MECHANISM, names)
        if self.before is not None and self.before.mechanism != wanted:
            self.refused = f"it asks for {wanted} where it had logged in by {self.before.mechanism}"
            return sasl_handshake_response(ILLEGAL_SASL_STATE, names)
        self.mechanism = wanted
        self._session = mechanism.session()
        return sasl_handshake_response(0, names)

    def respond(self, token: bytes) -> Step:
        """Take the client's next token."""
        return Refused("a token before a SaslHandshake") if self._session is None else self._session.respond(token)

    def answer(self, step: Challenge | Accepted | Refused) -> SaslAuthenticateAnswer:
        """Take what a token came to; return what its answer says."""
        if isinstance(step, Challenge):
            return SaslAuthenticateAnswer(0, None, step.token, 0)
        if isinstance(step, Accepted):
            if self.before is None or self.before.identity.principal == step.identity.principal:
                lifetime_ms = self._lifetime_ms(step.identity)
                if lifetime_ms >= 0:
                    self.proven = Proven(step.identity, self.mechanism, lifetime_ms)
                    return SaslAuthenticateAnswer(0, None, step.token, lifetime_ms)
                step = Refused("what proves it has just ended")
            else:
                step = Refused(f"it was {self.before.identity.principal} and is {step.identity.principal} now")
        self.refused = step.reason
        return SaslAuthenticateAnswer(SASL_AUTHENTICATION_FAILED, FAILED, b"", 0)

    def _lifetime_ms(self, identity: Identity) -> int:
        """Return how long this login holds, at least a millisecond; 0: without end, -1: it has ended."""
        ends = [self.terms.session_lifetime_seconds] if self.terms.session_lifetime_seconds else []
        if identity.expires_at is not None:
            ends.append(identity.expires_at - self.terms.wall_clock())
        if not ends:
            return 0
        left = min(*ends, LIFETIME_SECONDS_MAX)
        return max(int(left * 1000), 1) if left > 0 else -1


def _shown(name: str) -> str:
    """Write what a stranger sent into a log line."""
    return repr(name[:40])


class Entrance:
    """A connection until it is in. See the module for how to use it."""

    def __init__(self, front: Front, terms: Terms) -> None:
        """Begin with nothing read."""
        self._front = front
        self._buffer = b""
        self._asked = 0
        self._bare = False  # tokens come without a header: SaslHandshake v0
        self._awaiting: tuple[int, int] | None = None  # correlation id and version of the token that is worked on
        self.login = ClientLogin(terms)
        self.work: Work | None = None
        """To be run, and ``worked`` told; nothing more is taken meanwhile."""
        self.claim: Accepted | None = None
        """To be tried at a broker, and ``worked`` told; see Terms."""
        self.offer = front.offer
        """What the client was told that it may ask for."""
        self.software: apiversions.ClientSoftware | None = None
        """What it said that it is (KIP-511)."""
        self.client_id = b""
        """What it calls itself (see exchange)."""

    @property
    def begun(self) -> bool:
        """Something that is a request has been here."""
        return self._asked > 0

    @property
    def pending(self) -> bool:
        """Something has to be found out first."""
        return self.work is not None or self.claim is not None

    @property
    def held_bytes(self) -> int:
        """How much of a client that is not in yet is kept."""
        return len(self._buffer)

    @property
    def leftover(self) -> bytes:
        """What came behind the login."""
        return self._buffer

    def receive(self, data: bytes) -> bytes:
        """Take what the client sent; return what it gets. Look at ``login`` and ``work`` afterwards.

        Raises:
            FrameTooLarge: a frame above the maximum.
            Unsupported: an API that needs a login, or a version that was not offered.
            Malformed: bytes that are no request.
        """
        self._buffer += data
        return self._proceed()

    def worked(self, step: Challenge | Accepted | Refused) -> bytes:
        """Go on with what ``work`` came to; returns and raises as ``receive``."""
        self.work = self.claim = None
        return self._answer(step) + self._proceed()

    def _proceed(self) -> bytes:
        out = []
        while not (self.pending or self.login.over) and len(self._buffer) >= 4:
            (size,) = INT32.unpack_from(self._buffer)
            least = 0 if self._bare else REQUEST_BYTES_MIN
            if size > FRAME_BYTES_MAX:
                raise FrameTooLarge(f"frame of {size} bytes before a login; the maximum is {FRAME_BYTES_MAX}")
            if size < least:
                raise Malformed(f"frame of {size} bytes before a login")
            if len(self._buffer) < 4 + size:
                break
            frame, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
            self._asked += 1
            if self._asked > REQUESTS_MAX:
                raise Malformed(f"more than {REQUESTS_MAX} requests before a login")
            out.append(self._token(frame, 0, -1) if self._bare else self._take(frame))
        return b"".join(out)

    def _take(self, frame: bytes) -> bytes:
        key, version, correlation_id, _ = frames.REQUEST_HEAD.unpack_from(frame)
        if key == ApiKey.API_VERSIONS and version > apiversions.VERSION_MAX:
            self._count(key, 0)
            return frames.response(correlation_id, key, version, apiversions.unsupported_version_response())
        if key not in _BEFORE_LOGIN or not 0 <= version <= APIS[key].max_version:
            name = APIS[key].name if key in APIS else f"API {key}"
            raise Unsupported(f"{name} version {version} before a login")
        self._count(key, version)
        body = frame[frames.request_body_at(frame, 0, len(frame)) :]
        if key == ApiKey.API_VERSIONS:
            self.offer = self._front.offer
            answer, software = self.offer.introduce(version, body)
            self.software = software or self.software
            self.client_id = frames.client_id_bytes(frame, 0, CLIENT_ID_BYTES_MAX)
        elif key == ApiKey.SASL_HANDSHAKE:
            answer = self.login.handshake(body)
            self._bare = version == 0
        else:
            return self._token(parse_sasl_authenticate_request(version, body), correlation_id, version)
        return frames.response(correlation_id, key, version, answer)

    def _count(self, key: int, version: int) -> None:
        self._front.tally.requests[key << 16 | version] += 1

    def _token(self, token: bytes, correlation_id: int, version: int) -> bytes:
        self._awaiting = correlation_id, version
        step = self.login.respond(token)
        if isinstance(step, Work):
            self.work = step
            return b""
        if isinstance(step, Accepted) and self.login.terms.judged_upstream:
            self.claim = step
            return b""
        return self._answer(step)

    def _answer(self, step: Challenge | Accepted | Refused) -> bytes:
        assert self._awaiting is not None  # noqa: S101  a token has been taken
        correlation_id, version = self._awaiting
        answer = self.login.answer(step)
        if version < 0:  # a refusal has no form there: the connection just ends
            return b"" if self.login.refused is not None else INT32.pack(len(answer.token)) + answer.token
        body = sasl_authenticate_response(version, answer)
        return frames.response(correlation_id, int(ApiKey.SASL_AUTHENTICATE), version, body)


_BEFORE_LOGIN = frozenset({int(ApiKey.API_VERSIONS), int(ApiKey.SASL_HANDSHAKE), int(ApiKey.SASL_AUTHENTICATE)})
