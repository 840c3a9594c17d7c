r"""The two SASL messages: SaslHandshake (17) and SaslAuthenticate (36), as bodies.

Only the wrapping is here: what a token means is the mechanism's affair. A token is a secret or a proof of one, so
it must never reach a repr, a log line or an error's text. With SaslHandshake v0 the tokens that follow are bare
frames (a size, then the token) and SaslAuthenticate is not used (KIP-152).

A handshake for PLAIN, and the answer of a broker that offers it::

    >>> sasl_handshake_request("PLAIN")
    b'\x00\x05PLAIN'
    >>> parse_sasl_handshake_response(b"\x00\x00\x00\x00\x00\x01\x00\x05PLAIN")
    SaslHandshakeAnswer(error_code=0, mechanisms=('PLAIN',))
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kproxy.errors import Malformed
from kproxy.wire import primitives
from kproxy.wire.primitives import INT16, INT32, INT64

UNSUPPORTED_SASL_MECHANISM = 33
ILLEGAL_SASL_STATE = 34
SASL_AUTHENTICATION_FAILED = 58


@dataclass(frozen=True, slots=True)
class SaslHandshakeAnswer:
    """A broker's answer to SaslHandshake: 0 or an error code, and the mechanisms it has enabled."""

    error_code: int
    mechanisms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SaslAuthenticateAnswer:
    """A broker's answer to one token.

    ``session_lifetime_ms`` is the time until the broker wants to see the credentials again (KIP-368); 0: never.
    """

    error_code: int
    error_message: str | None
    token: bytes = field(repr=False)
    session_lifetime_ms: int


def sasl_handshake_request(mechanism: str) -> bytes:
    """Write a SaslHandshake request, v0 or v1 (the version only says how the tokens will be wrapped)."""
    return primitives.put_string(mechanism)


def parse_sasl_handshake_request(body: bytes) -> str:
    """Read the mechanism that a client chose, v0 or v1."""
    mechanism, pos = primitives.string(body, 0)
    _expect_end(body, pos)
    return mechanism


def sasl_handshake_response(error_code: int, mechanisms: Sequence[str]) -> bytes:
    """Write a SaslHandshake response, v0 or v1."""
    return b"".join(
        (INT16.pack(error_code), INT32.pack(len(mechanisms)), *(primitives.put_string(name) for name in mechanisms))
    )


def sasl_handshake_illegal_state() -> bytes:
    """Write the refusal of a handshake that is out of place: after login, or where no SASL is spoken."""
    return sasl_handshake_response(ILLEGAL_SASL_STATE, ())


def sasl_authenticate_illegal_state(version: int) -> bytes:
    """Write the refusal of a SaslAuthenticate, v0 to v2, where no SASL is spoken."""
    refusal = SaslAuthenticateAnswer(ILLEGAL_SASL_STATE, "this listener asks for no credentials", b"", 0)
    return sasl_authenticate_response(version, refusal)


def parse_sasl_authenticate_request(version: int, body: bytes) -> bytes:
    """Read the token that a client sends, v0 to v2."""
    size, pos = primitives.compact_array(body, 0) if version >= 2 else primitives.int32(body, 0)
    if size < 0:
        raise Malformed("SASL token is null")
    start, pos = pos, primitives.skip(body, pos, size)
    _expect_end(body, primitives.skip_tags(body, pos) if version >= 2 else pos)
    return bytes(body[start:pos])


def sasl_authenticate_response(version: int, answer: SaslAuthenticateAnswer) -> bytes:
    """Write the answer to a client's token, v0 to v2; v0 has no room for the session's lifetime."""
    error_code, message, token, lifetime_ms = (
        INT16.pack(answer.error_code),
        answer.error_message,
        answer.token,
        INT64.pack(answer.session_lifetime_ms),
    )
    if version >= 2:
        text = b"\x00" if message is None else primitives.put_compact_string(message)
        return b"".join((error_code, text, primitives.put_uvarint(len(token) + 1), token, lifetime_ms, b"\x00"))
    text = INT16.pack(-1) if message is None else primitives.put_string(message)
    return b"".join((error_code, text, INT32.pack(len(token)), token, lifetime_ms if version == 1 else b""))


def parse_sasl_handshake_response(body: bytes) -> SaslHandshakeAnswer:
    """Read a broker's answer to SaslHandshake, v0 or v1."""
    error_code, pos = primitives.int16(body, 0)
    count, pos = primitives.array(body, pos)
    mechanisms = []
    for _ in range(count):
        name, pos = primitives.string(body, pos)
        mechanisms.append(name)
    _expect_end(body, pos)
    return SaslHandshakeAnswer(error_code, tuple(mechanisms))


def sasl_authenticate_request(version: int, token: bytes) -> bytes:
    """Write a SaslAuthenticate request, v0 to v2, around one token of the mechanism."""
    if version < 2:
        return INT32.pack(len(token)) + token
    return primitives.put_uvarint(len(token) + 1) + token + b"\x00"


def parse_sasl_authenticate_response(version: int, body: bytes) -> SaslAuthenticateAnswer:
    """Read a broker's answer to SaslAuthenticate, v0 to v2; v0 names no session lifetime, which counts as none."""
    flexible = version >= 2
    error_code, pos = primitives.int16(body, 0)
    if flexible:
        message, pos = primitives.compact_nullable_string(body, pos)
        size, pos = primitives.compact_array(body, pos)
    else:
        message, pos = primitives.nullable_string(body, pos)
        size, pos = primitives.int32(body, pos)
    if size < 0:
        raise Malformed("SASL token is null")
    start, pos = pos, primitives.skip(body, pos, size)
    token = bytes(body[start:pos])
    lifetime_ms = 0
    if version >= 1:
        lifetime_ms, pos = primitives.int64(body, pos)
    if flexible:
        pos = primitives.skip_tags(body, pos)
    _expect_end(body, pos)
    return SaslAuthenticateAnswer(error_code, message, token, lifetime_ms)


def _expect_end(body: bytes, pos: int) -> None:
    if pos != len(body):
        raise Malformed("bytes behind the end of a SASL message")
