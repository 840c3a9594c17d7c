"""Logging in to a broker: the client side of SASL, as a machine without a socket.

A Mechanism makes a Session per login; a Session answers challenges (the shape of franz-go's sasl package, which
SCRAM and OAUTHBEARER fit too). ``Login`` is the Kafka conversation around it: SaslHandshake v1, then SaslAuthenticate
until the mechanism is done (KIP-43, KIP-152), the same for a first login and for a re-authentication (KIP-368)::

    login = Login(Plain("gateway", "secret"), authenticate_version=2)
    ask = login.begin()                # send ask.frame; the body of its answer goes to login.answer(body)
    while ask is not None:
        ask = login.answer(body_of_the_answer_to(ask))
    login.session_lifetime_ms          # 0: no limit
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from kproxy.errors import AuthError
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.handshake import (
    ILLEGAL_SASL_STATE,
    UNSUPPORTED_SASL_MECHANISM,
    parse_sasl_authenticate_response,
    parse_sasl_handshake_response,
    sasl_authenticate_request,
    sasl_handshake_request,
)

CLIENT_ID = "kproxy"

# Java's clients use 2147483640 and up for SASL (SaslClientAuthenticator.MIN_RESERVED_CORRELATION_ID); so do we.
_FIRST_CORRELATION_ID = 2_147_483_640
_ROUNDS_MAX = 7  # SCRAM needs 2, GSSAPI 3; the reserved ids end after this many

_NONE = 0


class Session(Protocol):
    """One login under way."""

    def first(self) -> bytes:
        """Return the client's first token."""

    def challenge(self, token: bytes) -> bytes | None:
        """Answer the broker's token; None: there is nothing more to say. Raises AuthError when it is not genuine."""


class Mechanism(Protocol):
    """Credentials for one SASL mechanism."""

    @property
    def name(self) -> str:
        """The name that SaslHandshake carries."""

    def session(self) -> Session:
        """Begin a login."""


class _PlainSession:
    def __init__(self, token: bytes) -> None:
        self._token = token

    def first(self) -> bytes:
        return self._token

    def challenge(self, token: bytes) -> bytes | None:  # noqa: ARG002  the broker's last token is empty
        return None


@dataclass(frozen=True, slots=True)
class Plain:
    """SASL/PLAIN (RFC 4616). The password never shows in a repr."""

    username: str
    password: str = field(repr=False)
    name: str = field(default="PLAIN", init=False)

    def session(self) -> Session:
        """Begin a login: one token, NUL username NUL password."""
        return _PlainSession(f"\0{self.username}\0{self.password}".encode())


class Ask(NamedTuple):
    """A request of our own: a whole frame, and what its answer must be read as."""

    frame: bytes
    correlation_id: int
    key: int
    version: int

    def __repr__(self) -> str:
        """Leave the frame out: it holds the password."""
        return f"Ask(key={self.key}, version={self.version})"


class Login:
    """One SASL conversation. ``begin``, then ``answer`` with each answer's body until it returns None: logged in."""

    def __init__(self, mechanism: Mechanism, authenticate_version: int = 1) -> None:
        """Prepare a login; ``authenticate_version`` is the highest SaslAuthenticate version that the broker has."""
        self._mechanism = mechanism
        self._version = authenticate_version
        self._session = mechanism.session()
        self._next_id = _FIRST_CORRELATION_ID
        self._rounds = 0
        self.session_lifetime_ms = 0
        """How long the broker will keep this session (KIP-368); 0: no limit. Known when the login is done."""

    def _ask(self, key: int, version: int, body: bytes) -> Ask:
        correlation_id = self._next_id
        self._next_id += 1
        return Ask(frames.request(key, version, correlation_id, CLIENT_ID, body), correlation_id, key, version)

    def begin(self) -> Ask:
        """Return the first request, SaslHandshake v1."""
        return self._ask(ApiKey.SASL_HANDSHAKE, 1, sasl_handshake_request(self._mechanism.name))

    def answer(self, body: bytes) -> Ask | None:
        """Take the body of the answer to the last request; return the next request, or None when logged in.

        Raises:
            AuthError: the broker refused; the text says what it said, and holds no secret.
            ProtocolError: the answer cannot be read.
        """
        if self._rounds == 0:
            self._check_handshake(body)
            token: bytes | None = self._session.first()
        else:
            answer = parse_sasl_authenticate_response(self._version, body)
            if answer.error_code != _NONE:
                reason = answer.error_message or f"error {answer.error_code}"
                raise AuthError(f"{self._mechanism.name} login refused: {reason}")
            token = self._session.challenge(answer.token)
            self.session_lifetime_ms = answer.session_lifetime_ms
        if token is None:
            return None
        self._rounds += 1
        if self._rounds > _ROUNDS_MAX:
            raise AuthError(f"{self._mechanism.name} login does not end")
        return self._ask(ApiKey.SASL_AUTHENTICATE, self._version, sasl_authenticate_request(self._version, token))

    def _check_handshake(self, body: bytes) -> None:
        answer = parse_sasl_handshake_response(body)
        if answer.error_code == _NONE:
            return
        name = self._mechanism.name
        if answer.error_code == UNSUPPORTED_SASL_MECHANISM:
            offered = ", ".join(answer.mechanisms) or "none"
            raise AuthError(f"the broker does not offer {name}; it offers: {offered}")
        if answer.error_code == ILLEGAL_SASL_STATE:
            raise AuthError("the broker's listener does not use SASL; remove the credentials or use its SASL port")
        raise AuthError(f"the broker refused the SASL handshake for {name}: error {answer.error_code}")
