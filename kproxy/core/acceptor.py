"""Letting a client in: what the server side of a SASL mechanism is, whichever it is (RFC 4422).

A ServerMechanism makes a ServerSession per login, and a session answers the client's tokens with steps. A step that
takes long, such as deriving a key from a password, or fetching the keys that sign tokens, comes as Work: the shell
runs it where it stops nobody, and goes on with what it returns::

    session = mechanism.session()
    step = session.respond(token)          # of the client
    if isinstance(step, Work):
        step = step.run()                  # in a bounded pool of threads
    Challenge(token)                       # the client gets the token, and answers
    Accepted(identity, token)              # it is in; the token goes out with the consent
    Refused(reason)                        # it is not; the reason is for our log alone

A client never learns why it was refused: an unknown user and a wrong password look alike, and take as long.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

ANONYMOUS = "User:ANONYMOUS"
"""Who has not logged in, as Kafka calls it (KafkaPrincipal.ANONYMOUS)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is, once that is proven."""

    principal: str
    """As Kafka writes it: ``User:alice``."""
    groups: frozenset[str] = frozenset()
    """Which groups of the users file it is in; rules may name them."""
    expires_at: float | None = None
    """When what proved it ends, in seconds since 1970 (a token's ``exp``); None: never."""
    password: str | None = field(default=None, repr=False)
    """What it logged in with, where that is passed through to the brokers; else None."""


class Challenge(NamedTuple):
    """The client has to answer this."""

    token: bytes


class Accepted(NamedTuple):
    """The client has proven who it is."""

    identity: Identity
    token: bytes = b""


class Refused(NamedTuple):
    """The client has not; ``reason`` is for the log, and holds no secret."""

    reason: str


class Work(NamedTuple):
    """The step must be worked out, which blocks; never raises."""

    run: Callable[[], Challenge | Accepted | Refused]


Step = Challenge | Accepted | Refused | Work


class ServerSession(Protocol):
    """One login of one client under way."""

    def respond(self, token: bytes) -> Step:
        """Take the client's next token. Never raises: what cannot be read is Refused."""


class ServerMechanism(Protocol):
    """One SASL mechanism as kproxy offers it."""

    @property
    def name(self) -> str:
        """The name that SaslHandshake carries."""

    def session(self) -> ServerSession:
        """Begin a login."""
