"""What kproxy knows of its own users: no password, but what proves that somebody else knows it.

A Credential is SCRAM's (RFC 5802 section 3): salt, iterations, StoredKey and ServerKey. It serves PLAIN too, where the
password itself arrives and is derived again. ``Users`` is the table that mechanisms look names up in; it answers for
a name that it does not have as well, so that nobody learns from an answer, or from how long it takes, who is in it::

    alice = User("alice", {"SCRAM-SHA-512": derive("wonderland", "SCRAM-SHA-512")})
    found = Users([alice]).lookup("alice", "SCRAM-SHA-512")
    verify("wonderland", found.credential)   # blocks for milliseconds; True, and found.user is alice
    Users([alice]).lookup("bob", "SCRAM-SHA-512")   # a decoy: the same salt at every try, user is None

Never here: a password that outlives a call, a file, a comparison of secrets that ends at the first difference.
"""

import hashlib
import hmac
import secrets
import stringprep
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple
from unicodedata import ucd_3_2_0

HASHES = MappingProxyType({"SCRAM-SHA-512": "sha512", "SCRAM-SHA-256": "sha256"})
"""The hash of each mechanism, the one that PLAIN prefers first."""

ITERATIONS = 8192
"""Twice what kafka-configs.sh takes: 3 ms (SHA-256) and 6 ms (SHA-512) for each login of each client."""
ITERATIONS_MIN = 4096
"""RFC 7677 section 4, and Kafka's ScramMechanism."""
ITERATIONS_MAX = 1_000_000
"""A second of work with SHA-512; kafka-python's client takes no more. Kafka itself creates up to 16,384 only."""

SALT_BYTES = 16
SALT_BYTES_MIN = 8
"""RFC 8018 section 4.1: 64 bits at least."""
SALT_BYTES_MAX = 128

NAME_BYTES_MAX = 1024
"""RFC 4616 section 2 asks for 255 at least; the configuration has the same bound."""
PASSWORD_BYTES_MAX = 1024
"""The same; as UTF-8."""

# Of the process, so that a table that is read again shows an unknown user the same salt as before.
_DECOY_KEY = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Credential:
    """What proves a password in one mechanism; a copy of it is not the password, and must still be kept secret."""

    mechanism: str
    salt: bytes = field(repr=False)
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may log in at kproxy, with a credential for each mechanism that fits."""

    name: str
    credentials: Mapping[str, Credential] = field(repr=False)
    groups: frozenset[str] = frozenset()
    disabled: bool = False
    """Kept in the table, but no login succeeds."""

    @property
    def principal(self) -> str:
        """The name as rules and Kafka write it."""
        return f"User:{self.name}"


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """What a salted password becomes; without a repr, as ClientKey is as good as the password."""

    client_key: bytes
    stored_key: bytes
    server_key: bytes


def derive_keys(password: bytes, mechanism: str, salt: bytes, iterations: int) -> Keys:
    """Salt a password (RFC 5802 section 3). Blocks, 0.4 to 0.7 us an iteration."""
    name = HASHES[mechanism]
    salted = hashlib.pbkdf2_hmac(name, password, salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", name)
    return Keys(client_key, hashlib.new(name, client_key).digest(), hmac.digest(salted, b"Server Key", name))


def derive(password: str, mechanism: str, iterations: int = ITERATIONS, salt: bytes | None = None) -> Credential:
    """Make a credential of a password, with a random salt unless one is given. Blocks as ``verify`` does.

    Raises:
        ValueError: the password cannot be one; the text says why and does not quote it.
    """
    text = prepared(password).encode()
    if len(text) > PASSWORD_BYTES_MAX:
        raise ValueError(f"is too long; {PASSWORD_BYTES_MAX} bytes at most")
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    keys = derive_keys(text, mechanism, salt, iterations)
    return Credential(mechanism, salt, iterations, keys.stored_key, keys.server_key)


def verify(password: str, credential: Credential) -> bool:
    """Tell whether this is the credential's password, in a time that does not depend on the answer. Blocks."""
    try:
        text = prepared(password).encode()
    except ValueError:
        return False  # it is nobody's password, whoever asked
    keys = derive_keys(text, credential.mechanism, credential.salt, credential.iterations)
    return hmac.compare_digest(keys.stored_key, credential.stored_key)


_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def prepared(password: str) -> str:
    """Return a password's one form (SASLprep, RFC 4013, for stored strings), in which it is derived.

    Kafka's own clients do without (ScramFormatter.normalize), so that a password which this changes works with some
    clients only: whoever makes one had better refuse it.

    Raises:
        ValueError: it is empty, or holds what no password may; it is not quoted.
    """
    if password.isascii() and password.isprintable() and password:
        return password
    mapped = (" " if stringprep.in_table_c12(char) else char for char in password if not stringprep.in_table_b1(char))
    text = ucd_3_2_0.normalize("NFKC", "".join(mapped))
    if not text:
        raise ValueError("is empty")
    if any(prohibited(char) for char in text for prohibited in _PROHIBITED):
        raise ValueError("holds a character that no password may (RFC 4013): a control character, or a recent emoji")
    if any(map(stringprep.in_table_d1, text)) and not _one_direction(text):
        raise ValueError("mixes text that runs to the left with text that runs to the right (RFC 4013)")
    return text


def _one_direction(text: str) -> bool:
    """RFC 3454 section 6, for a text with right-to-left characters in it."""
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(map(stringprep.in_table_d2, text))


def name_problem(name: str) -> str | None:
    """Say what keeps a text from being a user's name, or None; names end up in logs, rules and metrics.

    A name is taken as it is: Kafka does not prepare names, and two that look alike are two.
    """
    if not name:
        return "is empty"
    if not name.isprintable():
        return "holds a control character, or another one that cannot be printed"
    if len(name.encode()) > NAME_BYTES_MAX:
        return f"is too long; {NAME_BYTES_MAX} bytes at most"
    return None


def shown(name: str) -> str:
    """Write a name that a client claims to have into a reason: quoted, and short."""
    return repr(name if len(name) <= 64 else name[:61] + "...")


class Found(NamedTuple):
    """What a table has on a name: always a credential to work with, and whose it is."""

    credential: Credential
    user: User | None
    """None: whatever is proven, the login must fail."""
    problem: str = ""
    """Why it must, for the log."""


class _Shape(NamedTuple):
    """What a client sees of a credential, apart from the salt itself."""

    mechanism: str
    iterations: int
    salt_bytes: int


class Users:
    """All users of a listener, immutable: a file that changed makes another table.

    A decoy has the iterations and the salt's length of a real credential, chosen by the name and as often as real
    ones have them. ``decoy_key`` decides its salt: processes, and kproxies, that serve the same clients should share
    one, as a salt that differs from one connection to the next tells that there is no such user.
    """

    __slots__ = ("_by_name", "_decoy_key", "_shapes")

    def __init__(self, users: Iterable[User] = (), decoy_key: bytes = _DECOY_KEY) -> None:
        self._by_name = {user.name: user for user in users}
        self._decoy_key = decoy_key
        self._shapes: dict[str | None, list[_Shape]] = {
            name: self._shapes_of(name) or [_Shape(name or next(iter(HASHES)), ITERATIONS, SALT_BYTES)]
            for name in (*HASHES, None)
        }

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[User]:
        return iter(self._by_name.values())

    def get(self, name: str) -> User | None:
        """Return a user as the table has it, disabled or not. Not for logins: use ``lookup``."""
        return self._by_name.get(name)

    def lookup(self, name: str, mechanism: str | None = None) -> Found:
        """Return a credential to check a login against: the user's own, or a decoy. None: of any mechanism (PLAIN).

        The caller does the same work for either, and in the end refuses where ``user`` is None.
        """
        decoy = self._decoy(name, mechanism)  # made in vain for most, so that it takes as long for all
        user = self._by_name.get(name)
        if user is None:
            return Found(decoy, None, "no such user")
        credential = _of(user, mechanism)
        if credential is None:
            return Found(decoy, None, f"the user has no credential for {mechanism or 'any mechanism'}")
        if user.disabled:
            return Found(credential, None, "the user is disabled")
        return Found(credential, user)

    def _shapes_of(self, mechanism: str | None) -> list[_Shape]:
        found = (_of(user, mechanism) for user in self._by_name.values())
        # Sorted, so that one user more or less moves few names from one shape to another.
        shapes = Counter(_Shape(each.mechanism, each.iterations, len(each.salt)) for each in found if each)
        return sorted(shapes.elements())

    def _decoy(self, name: str, mechanism: str | None) -> Credential:
        text = f"{mechanism or ''}\0{name}".encode(errors="surrogatepass")
        digest = hmac.digest(self._decoy_key, text, "sha512")
        shapes = self._shapes[mechanism]
        shape = shapes[int.from_bytes(digest[:8], "big") * len(shapes) >> 64]
        key_bytes = hashlib.new(HASHES[shape.mechanism]).digest_size
        stream = hashlib.shake_256(digest).digest(shape.salt_bytes + 2 * key_bytes)
        salt, keys = stream[: shape.salt_bytes], stream[shape.salt_bytes :]
        return Credential(shape.mechanism, salt, shape.iterations, keys[:key_bytes], keys[key_bytes:])


def _of(user: User, mechanism: str | None) -> Credential | None:
    """Return the user's credential for a mechanism, or its best one."""
    names = HASHES if mechanism is None else (mechanism,)
    return next((user.credentials[name] for name in names if name in user.credentials), None)
