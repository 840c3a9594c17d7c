r"""OAUTHBEARER on both sides: the messages of RFC 7628 with Kafka's extensions (KIP-255, KIP-342).

The client says everything at once, a bearer token and named extensions; the broker consents with an empty token, or
tells an error, which the client answers with one byte before it is refused for good::

    n,,\x01auth=Bearer eyJhbGciOi...\x01logicalCluster=lkc-1\x01\x01     -> (empty)
    n,,\x01auth=Bearer eyJhbGciOi...\x01\x01                             -> {"status":"invalid_token"}
    \x01                                                                 -> SASL_AUTHENTICATION_FAILED (58)

The second form is what Kafka's brokers do by default (OAuthBearerSaslServer). kproxy refuses at once instead, as they
do with a message that they cannot read: aiokafka takes any answer to its token for consent, would go on as if it were
logged in, and be disconnected for ever without being told why, while every client understands error 58.

What a token means is the validator's affair. A token never shows in a repr, nor in an error's text.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kproxy.core.acceptor import Accepted, Challenge, Refused, ServerSession, Step, Work
from kproxy.core.sasl import Session
from kproxy.errors import AuthError, Malformed

NAME = "OAUTHBEARER"

INITIAL_BYTES_MAX = 64 * 1024
"""A client's first message. Tokens have 1 to 4 KiB; web servers bound a header, where a token usually travels, to 8 KiB
(nginx's large_client_header_buffers), and a broker takes 512 KiB (sasl.server.max.receive.size)."""

ERROR_CHARACTERS_MAX = 200
"""How much of what a broker says is told on."""

INVALID_TOKEN = "invalid_token"  # noqa: S105 - RFC 6750's word for a token that is not accepted
"""The status that Kafka's validators tell, whatever is wrong."""

_SEPARATOR = "\x01"
_DUMMY = b"\x01"
_PAIR = re.compile(r"([A-Za-z]+)=([\x21-\x7e \t\r\n]*)")
_EXTENSION_NAME = re.compile(r"[A-Za-z]+")
_EXTENSION_VALUE = re.compile(r"[\x21-\x7e \t\r\n]+")
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*)")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token of RFC 6750, 2.1
_AUTHZID = re.compile(r"(?:[^\x00=,]|=2C|=3D)+")  # saslname of RFC 5801, 4


@dataclass(frozen=True, slots=True)
class Initial:
    """A client's first message."""

    token: str = field(repr=False)
    authzid: str = ""
    """Whom the client wants to act as, without a type; empty: whomever the token names."""
    extensions: Mapping[str, str] = field(default_factory=dict)


def valid_token(text: str) -> bool:
    """Tell whether a text has the form of a bearer token (RFC 6750); it may be any good or not."""
    return _TOKEN.fullmatch(text) is not None


def valid_extension(name: str, value: str) -> bool:
    """Tell whether an extension can be sent (KIP-342)."""
    return (
        name != "auth" and _EXTENSION_NAME.fullmatch(name) is not None and _EXTENSION_VALUE.fullmatch(value) is not None
    )


def build_initial(initial: Initial) -> bytes:
    """Write a client's first message; the token and the extensions must be valid."""
    name = initial.authzid.replace("=", "=3D").replace(",", "=2C")
    pairs = [f"auth=Bearer {initial.token}", *(f"{key}={value}" for key, value in initial.extensions.items())]
    return _SEPARATOR.join((f"n,{'a=' * bool(name)}{name},", *pairs, "", "")).encode()


def parse_initial(message: bytes) -> Initial:
    """Read a client's first message.

    Raises:
        Malformed: it is none; the text holds nothing of it.
    """
    if len(message) > INITIAL_BYTES_MAX:
        raise Malformed(f"an OAUTHBEARER message above {INITIAL_BYTES_MAX} bytes")
    try:
        text = message.decode()
    except UnicodeDecodeError:
        raise Malformed("an OAUTHBEARER message that is not UTF-8") from None
    header, *parts = text.split(_SEPARATOR)
    if len(parts) < 3 or parts[-2:] != ["", ""]:
        raise Malformed("an OAUTHBEARER message without its separators")
    pairs: dict[str, str] = {}
    for part in parts[:-2]:
        pair = _PAIR.fullmatch(part)
        if pair is None or pair[1] in pairs:
            raise Malformed("an OAUTHBEARER message with a pair that is none, or is there twice")
        pairs[pair[1]] = pair[2]
    bearer = _BEARER.fullmatch(pairs.pop("auth", ""))
    if bearer is None:
        raise Malformed("an OAUTHBEARER message without a bearer token")
    return Initial(bearer[1], _authzid(header), pairs)


def _authzid(header: str) -> str:
    """Read the GS2 header: no channel binding, perhaps a name."""
    binding, _, rest = header.partition(",")
    name, comma, more = rest.partition(",")
    if binding != "n" or not comma or more:
        raise Malformed("an OAUTHBEARER message with a header that is not supported")
    if not name:
        return ""
    if not name.startswith("a=") or not _AUTHZID.fullmatch(name, 2):
        raise Malformed("an OAUTHBEARER message with a name that is none")
    return name[2:].replace("=2C", ",").replace("=3D", "=")


def build_error(status: str = INVALID_TOKEN) -> bytes:
    """Write a server's error as Kafka's brokers do."""
    return json.dumps({"status": status}, separators=(",", ":")).encode()


def parse_error(message: bytes) -> str:
    """Return what a server's error says, in a short line without control characters."""
    try:
        status = json.loads(message[:INITIAL_BYTES_MAX])["status"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "with an error that cannot be read"
    if not isinstance(status, str) or not status.isprintable():
        return "with an error that cannot be read"
    return status[:ERROR_CHARACTERS_MAX]


# The server's side.


class Validator(Protocol):
    """What knows which tokens are good."""

    def validate(self, token: str) -> Accepted | Refused | Work:
        """Tell whether a token is good, and whose it is; Work: it takes a while. Never raises."""


class _ServerSession:
    """One login: a message, and where errors are told first, the byte that answers one."""

    def __init__(self, validator: Validator, tells_errors: bool) -> None:
        self._validator = validator
        self._tells_errors = tells_errors
        self._begun = False
        self._refused: Refused | None = None

    def respond(self, token: bytes) -> Step:
        if self._refused is not None:
            return self._refused
        if self._begun:
            return Refused("an OAUTHBEARER message too many")
        self._begun = True
        try:
            initial = parse_initial(token)
        except Malformed as error:
            return Refused(str(error))
        step = self._validator.validate(initial.token)
        if isinstance(step, Work):
            run = step.run
            return Work(lambda: self._conclude(initial, run()))
        return self._conclude(initial, step)

    def _conclude(self, initial: Initial, step: Challenge | Accepted | Refused) -> Challenge | Accepted | Refused:
        if isinstance(step, Accepted) and initial.authzid:
            name = step.identity.principal.partition(":")[2]
            if initial.authzid != name:
                return Refused("the client asks to be another than its token says")
        if isinstance(step, Refused) and self._tells_errors:
            self._refused = step
            return Challenge(build_error())
        return step


@dataclass(frozen=True, slots=True)
class OauthServer:
    """OAUTHBEARER as a ServerMechanism. Extensions are read and not used."""

    validator: Validator
    tells_errors: bool = False
    """Tell a bad token's error first and refuse at the next message, as Kafka's brokers do; see above."""
    name: str = field(default=NAME, init=False)

    def session(self) -> ServerSession:
        """Begin a login."""
        return _ServerSession(self.validator, self.tells_errors)


# The client's side.


class _ClientSession:
    def __init__(self, token_of: Callable[[], str], extensions: Mapping[str, str]) -> None:
        self._token_of = token_of
        self._extensions = extensions
        self._token = ""
        self._error = ""

    def first(self) -> bytes:
        self._token = self._token_of()
        if not valid_token(self._token):
            raise AuthError("the token for the brokers holds characters that no token has (RFC 6750)")
        return build_initial(Initial(self._token, extensions=self._extensions))

    def challenge(self, token: bytes) -> bytes | None:
        if self._error:
            raise AuthError(f"{NAME} login refused: {self._error}")
        if not token:
            return None
        # Some issuers quote what they refuse.
        self._error = parse_error(token.replace(self._token.encode(), b"***"))
        return _DUMMY


@dataclass(frozen=True, slots=True)
class Oauthbearer:
    """OAUTHBEARER as a Mechanism. The token is asked for at each login, so that a login always has the newest.

    ``token_of`` raises AuthError where there is none, and the session's ``first`` does, then.
    """

    token_of: Callable[[], str] = field(repr=False)
    extensions: Mapping[str, str] = field(default_factory=dict)
    name: str = field(default=NAME, init=False)

    def __post_init__(self) -> None:
        """Refuse extensions that cannot be sent."""
        for name, value in self.extensions.items():
            if not valid_extension(name, value):
                raise ValueError(f"{name!r} is no SASL extension, or its value cannot be sent")

    def session(self) -> Session:
        """Begin a login."""
        return _ClientSession(self.token_of, self.extensions)
