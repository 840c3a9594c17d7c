r"""SASL/PLAIN for clients of ours (RFC 4616): name and password in one token, ``authzid NUL name NUL password``.

The password is derived and compared with the user's credential; as that takes milliseconds it comes as Work, and a
success is remembered in a PasswordCache, so that thousands of clients who reconnect at once derive it once::

    mechanism = PlainServer(lambda: users, PasswordCache())
    step = mechanism.session().respond(b"\0alice\0wonderland")     # Work; Accepted when it is cached

``PassthroughPlain`` checks nothing: the password goes on to the brokers, whose login is the check.

Never here: a password in a reason, in a repr, or in the cache.
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

from kproxy.core.acceptor import Accepted, Identity, Refused, Step, Work
from kproxy.core.credentials import NAME_BYTES_MAX, PASSWORD_BYTES_MAX, Credential, Users, name_problem, shown, verify

PASSED_BYTES_MAX = 16 * 1024
"""A password that is passed through can be a token of some cloud's, which are up to a few KiB."""

CACHED_MAX = 10_000
"""Successes remembered, about 150 bytes each: more users than a users file holds."""


class PasswordCache:
    """Which passwords were right, the most recently used ones; may be asked from several threads.

    Only a keyed hash is kept, over name, password and the credential itself, so that a credential that was changed,
    or a user of the same name elsewhere, misses. The key is random and stays in this process.
    """

    def __init__(self, entries_max: int = CACHED_MAX, key: bytes | None = None) -> None:
        """Remember up to ``entries_max`` successes, under ``key`` (at most 64 bytes; default: a random one)."""
        self._entries_max = entries_max
        self._key = secrets.token_bytes(32) if key is None else key
        self._entries: OrderedDict[bytes, None] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def known(self, name: str, password: str, credential: Credential) -> bool:
        """Tell whether this was right before."""
        digest = self._digest(name, password, credential)
        with self._lock:
            if digest not in self._entries:
                return False
            self._entries.move_to_end(digest)
            return True

    def add(self, name: str, password: str, credential: Credential) -> None:
        """Remember that this was right; the one unused for the longest time gives way."""
        digest = self._digest(name, password, credential)
        with self._lock:
            self._entries[digest] = None
            self._entries.move_to_end(digest)
            if len(self._entries) > self._entries_max:
                self._entries.popitem(last=False)

    def _digest(self, name: str, password: str, credential: Credential) -> bytes:
        hashed = hashlib.blake2b(key=self._key, digest_size=32)
        numbers = f"{credential.mechanism} {credential.iterations}"
        texts = (name.encode(), password.encode(), numbers.encode(), credential.salt, credential.stored_key)
        for text in texts:  # each with its length, so that no two lists run together to the same bytes
            hashed.update(len(text).to_bytes(4, "big"))
            hashed.update(text)
        return hashed.digest()


class PlainServer:
    """PLAIN against users of our own; ``users`` is asked at every login, so that a new table counts at once."""

    name = "PLAIN"

    def __init__(self, users: Callable[[], Users], cache: PasswordCache, keep_password: bool = False) -> None:
        """Check against ``users()``; with ``keep_password`` an Identity holds the password, to be passed through."""
        self._users = users
        self._cache = cache
        self._keep_password = keep_password

    def session(self) -> "_Session":
        """Begin a login."""
        return _Session(self._check, PASSWORD_BYTES_MAX)

    def _check(self, name: str, password: str) -> Step:
        found = self._users().lookup(name)
        credential, user = found.credential, found.user
        kept = password if self._keep_password else None

        def derive() -> Accepted | Refused:
            # Many clients of one user may have come before the first of them was done; the others need not derive.
            known = self._cache.known(name, password, credential)
            right = (known and user is not None) or verify(password, credential)
            if user is None or not right:
                return Refused(f"{found.problem or 'wrong password'}: {shown(name)}")
            self._cache.add(name, password, credential)
            return Accepted(Identity(user.principal, user.groups, password=kept))

        if user is not None and self._cache.known(name, password, credential):
            return Accepted(Identity(user.principal, user.groups, password=kept))
        return Work(derive)


class PassthroughPlain:
    """PLAIN that takes everybody at their word: the password goes on to the brokers, whose login is the check."""

    name = "PLAIN"

    def session(self) -> "_Session":
        """Begin a login."""
        return _Session(self._believe, PASSED_BYTES_MAX)

    def _believe(self, name: str, password: str) -> Step:
        return Accepted(Identity(f"User:{name}", password=password))


class _Session:
    def __init__(self, check: Callable[[str, str], Step], password_bytes_max: int) -> None:
        self._check = check
        self._password_bytes_max = password_bytes_max
        self._done = False

    def respond(self, token: bytes) -> Step:
        """Check the only token there is."""
        if self._done:
            return Refused("the login is over already")
        self._done = True
        said = _parse(token, self._password_bytes_max)
        return said if isinstance(said, Refused) else self._check(*said)


class _Said(NamedTuple):
    name: str
    password: str


def _parse(token: bytes, password_bytes_max: int) -> _Said | Refused:
    """Read name and password."""
    if len(token) > 2 * NAME_BYTES_MAX + 2 + password_bytes_max:
        return Refused("a token that is too long")
    try:
        parts = token.decode().split("\0")
    except UnicodeDecodeError:
        return Refused("a token that is not UTF-8")
    if len(parts) != 3:
        return Refused("no token of PLAIN: it is not authzid NUL name NUL password")
    authzid, name, password = parts
    if problem := name_problem(name):
        return Refused(f"a user name that {problem}")
    if authzid not in {"", name}:
        return Refused(f"user {shown(name)} asks to be somebody else (authorization id)")
    if not password:
        return Refused(f"no password: {shown(name)}")
    if len(password.encode()) > password_bytes_max:
        return Refused(f"a password above {password_bytes_max} bytes: {shown(name)}")
    return _Said(name, password)
