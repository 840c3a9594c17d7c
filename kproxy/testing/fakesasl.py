"""The login of one connection to a FakeBroker, as SaslServerAuthenticator does it, with PLAIN.

Order matters: before a login nothing but ApiVersions and SASL is allowed; from a SaslHandshake on nothing but
SaslAuthenticate is, in a later login (KIP-368) too; and when a session's lifetime is over nothing but a new login::

    SaslHandshake v1 -> SaslAuthenticate v0-2 (token: NUL user NUL password)
    SaslHandshake v0 -> a bare frame with the token, answered by an empty one (KIP-43)
"""

from collections.abc import Callable, Mapping

from kproxy.testing.fakeanswers import sasl_authenticate
from kproxy.wire import handshake
from kproxy.wire import primitives as p
from kproxy.wire.apis import APIS, ApiKey

SASL_AUTHENTICATION_FAILED = 58
ILLEGAL_SASL_STATE = 34
UNSUPPORTED_SASL_MECHANISM = 33

_BEFORE_LOGIN = {ApiKey.API_VERSIONS, ApiKey.SASL_HANDSHAKE}


class Login:
    """What one connection has said of itself so far; ``users`` None: the broker speaks no SASL."""

    def __init__(self, users: Mapping[str, str] | None, lifetime_ms: int, clock: Callable[[], float]) -> None:
        self._users = users
        self._lifetime_ms = lifetime_ms
        self._clock = clock
        self._user: str | None = None
        self._expires: float | None = None
        self._shaken = False
        self.wants_bare_token = False

    def objection(self, key: int) -> str | None:
        """Say why a request of this API is out of place, or None."""
        name = APIS[key].name if key in APIS else f"API {key}"
        if self._users is None or (key == ApiKey.SASL_AUTHENTICATE and self._shaken):
            return None
        if self._shaken:
            return f"{name} between SaslHandshake and SaslAuthenticate"
        if key in _BEFORE_LOGIN:
            return None
        if self._user is None or key == ApiKey.SASL_AUTHENTICATE:
            return f"{name} before a SaslHandshake"
        if self._expires is not None and self._clock() > self._expires:
            return f"{name} after the session's lifetime"
        return None

    def handshake(self, version: int, body: bytes) -> tuple[bytes, bool]:
        """Return the answer to a SaslHandshake, and whether the connection goes on."""
        if self._users is None:
            return handshake.sasl_handshake_response(ILLEGAL_SASL_STATE, ()), True
        if handshake.parse_sasl_handshake_request(body) != "PLAIN":
            return handshake.sasl_handshake_response(UNSUPPORTED_SASL_MECHANISM, ("PLAIN",)), False
        self._shaken = version > 0
        self.wants_bare_token = version == 0
        return handshake.sasl_handshake_response(0, ("PLAIN",)), True

    def authenticate(self, version: int, body: bytes) -> tuple[bytes, bool]:
        """Return the answer to a SaslAuthenticate, and whether the login succeeded."""
        if self._users is None:
            return sasl_authenticate(version, ILLEGAL_SASL_STATE, "no SASL on this listener", 0), False
        self._shaken = False
        start = p.compact_array(body, 0)[1] if version >= 2 else 4
        if not self._accept(body[start : -1 if version >= 2 else None]):
            message = "Authentication failed: Invalid username or password"
            return sasl_authenticate(version, SASL_AUTHENTICATION_FAILED, message, 0), False
        return sasl_authenticate(version, 0, None, self._lifetime_ms), True

    def bare_token(self, token: bytes) -> bytes | None:
        """Return the answer to a token that came without a SaslAuthenticate; None: refused, close."""
        self.wants_bare_token = False
        return bytes(4) if self._accept(token) else None

    def _accept(self, token: bytes) -> bool:
        """Check a PLAIN token (RFC 4616: authorization id, NUL, user, NUL, password); one user per connection."""
        _, _, rest = token.partition(b"\0")
        user, _, password = rest.decode(errors="replace").partition("\0")
        if self._users is None or self._users.get(user) != password or self._user not in {None, user}:
            return False
        self._user = user
        if self._lifetime_ms:
            self._expires = self._clock() + self._lifetime_ms / 1000
        return True
