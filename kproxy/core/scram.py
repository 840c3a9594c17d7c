r"""SCRAM-SHA-256 and SCRAM-SHA-512, both sides (RFC 5802, RFC 7677): a login in which no password travels.

``Scram`` logs in to a broker (a Mechanism of ``sasl``), ``ScramServer`` lets clients in (a ServerMechanism of
``acceptor``). The conversation, as RFC 7677 has it::

    client  n,,n=user,r=rOprNGfwEbeRWgbNEkqO
    server  r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096
    client  c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=
    server  v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=

As at Kafka's brokers: no channel binding, an authorization id only if it is the user's name, extensions that are not
known are passed over. A delegation token (``tokenauth=true``, KIP-48) is refused: no broker is asked for one here.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from kproxy.core.acceptor import Accepted, Challenge, Identity, Refused
from kproxy.core.credentials import HASHES, ITERATIONS_MIN, Found, Keys, Users, derive_keys, name_problem, shown
from kproxy.core.sasl import Session
from kproxy.errors import AuthError

TOKEN_BYTES_MAX = 8192
"""The longest name, its every character escaped, as user and as authorization id, and room for a nonce."""

ITERATIONS_UPSTREAM_MAX = 131_072
"""Eight times what a Kafka cluster lets anybody create (16,384): 0.1 s, once. It bounds what a hostile one costs."""

_KEYS_MAX = 4  # brokers of a cluster have the same credential; while it is changed there are two

_NAME = r"(?:[^=,\0]|=2C|=3D)+"
_PRINTABLE = r"[!-+\--~]+"
_BASE64 = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)?"
_EXTENSIONS = r"(?:,[A-Za-z]+=[^,\0]+)*"

_CLIENT_FIRST = re.compile(
    rf"(?P<gs2>(?P<binding>[ny]|p=[A-Za-z0-9.-]+),(?:a=(?P<authzid>{_NAME}))?,)"
    rf"(?P<bare>(?P<mandatory>m=[^,\0]+,)?n=(?P<name>{_NAME}),r=(?P<nonce>{_PRINTABLE})(?P<extensions>{_EXTENSIONS}))"
)
_SERVER_FIRST = re.compile(
    rf"(?P<mandatory>m=[^,\0]+,)?r=(?P<nonce>{_PRINTABLE}),s=(?P<salt>{_BASE64}),i=(?P<iterations>[0-9]+){_EXTENSIONS}"
)
_CLIENT_FINAL = re.compile(
    rf"(?P<unproven>c=(?P<channel>{_BASE64}),r=(?P<nonce>{_PRINTABLE}){_EXTENSIONS}),p=(?P<proof>{_BASE64})"
)
_SERVER_FINAL = re.compile(rf"(?:e=(?P<error>[^,\0]+)|v=(?P<signature>{_BASE64})){_EXTENSIONS}")


def _random_nonce() -> str:
    return secrets.token_urlsafe(24)


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


class ScramServer:
    """One SCRAM mechanism for clients of ours; ``users`` is asked at every login, so that a new table counts at once.

    No step is Work: the client derives the key, and the server's part are a few hashes.
    """

    def __init__(
        self, mechanism_name: str, users: Callable[[], Users], nonce: Callable[[], str] = _random_nonce
    ) -> None:
        """Offer ``mechanism_name``; ``nonce`` makes the server's part of each login's nonce."""
        self.name = mechanism_name
        self._hash = HASHES[mechanism_name]
        self._users = users
        self._nonce = nonce

    def session(self) -> "_ServerSession":
        """Begin a login."""
        return _ServerSession(self.name, self._hash, self._users, self._nonce)


class _ServerSession:
    def __init__(self, mechanism: str, hash_name: str, users: Callable[[], Users], nonce: Callable[[], str]) -> None:
        self._mechanism = mechanism
        self._hash = hash_name
        self._users = users
        self._make_nonce = nonce
        self._next: Callable[[str], Challenge | Accepted | Refused] = self._first

    def respond(self, token: bytes) -> Challenge | Accepted | Refused:
        """Answer client-first, then client-final; whatever is refused ends the login."""
        answer, self._next = self._next, self._over
        if len(token) > TOKEN_BYTES_MAX:
            return Refused(f"a token above {TOKEN_BYTES_MAX} bytes")
        try:
            text = token.decode()
        except UnicodeDecodeError:
            return Refused("a token that is not UTF-8")
        return answer(text)

    def _first(self, text: str) -> Challenge | Refused:
        match = _CLIENT_FIRST.fullmatch(text)
        if not match:
            return Refused("no client-first-message of SCRAM")
        if match["binding"].startswith("p="):
            return Refused("the client insists on channel binding, which is not offered")
        if match["mandatory"]:
            return Refused("the client insists on an extension of SCRAM that is not known")
        if ",tokenauth=true," in f"{match['extensions'].lower()},":  # Kafka reads it with Boolean.parseBoolean
            return Refused("a delegation token (tokenauth=true); log in with a name and password")
        name = _unescaped(match["name"])
        if problem := name_problem(name):
            return Refused(f"a user name that {problem}")
        if match["authzid"] not in {None, match["name"]}:
            return Refused(f"user {shown(name)} asks to be somebody else (authorization id)")
        self._name = name
        self._found: Found = self._users().lookup(name, self._mechanism)
        self._gs2, self._bare = match["gs2"].encode(), match["bare"]
        self._nonce = match["nonce"] + self._make_nonce()
        credential = self._found.credential
        salt = base64.b64encode(credential.salt).decode()
        self._server_first = f"r={self._nonce},s={salt},i={credential.iterations}"
        self._next = self._final
        return Challenge(self._server_first.encode())

    def _final(self, text: str) -> Accepted | Refused:
        match = _CLIENT_FINAL.fullmatch(text)
        if not match:
            return Refused("no client-final-message of SCRAM")
        if base64.b64decode(match["channel"]) != self._gs2:
            return Refused("the client's two messages differ in their channel binding")
        if not hmac.compare_digest(match["nonce"], self._nonce):
            return Refused("the client's nonce is not that of this login")
        proof = base64.b64decode(match["proof"])
        if len(proof) != hashlib.new(self._hash).digest_size:
            return Refused("the client's proof has the wrong length")
        # The same work for all: whether there is such a user is looked at when everything is done.
        credential, user, problem = self._found
        message = f"{self._bare},{self._server_first},{match['unproven']}".encode()
        client_key = _xor(proof, hmac.digest(credential.stored_key, message, self._hash))
        proven = hmac.compare_digest(hashlib.new(self._hash, client_key).digest(), credential.stored_key)
        signature = base64.b64encode(hmac.digest(credential.server_key, message, self._hash))
        if user is None or not proven:
            return Refused(f"{problem or 'wrong password'}: {shown(self._name)}")
        return Accepted(Identity(user.principal, user.groups), b"v=" + signature)

    def _over(self, text: str) -> Refused:  # noqa: ARG002  whatever it is
        return Refused("the login is over already")


def _unescaped(name: str) -> str:
    return name.replace("=2C", ",").replace("=3D", "=")


@dataclass(frozen=True, slots=True)
class Scram:
    """SCRAM credentials for a cluster. The password never shows in a repr.

    The password is taken as its UTF-8 bytes, without SASLprep: so does Kafka when it makes the credential
    (ScramFormatter.normalize). The salted password is kept for each salt and number of iterations that brokers ask
    for, so that thousands of connections to a cluster derive it once; that one time blocks for some milliseconds.
    """

    username: str
    password: str = field(repr=False)
    name: str = "SCRAM-SHA-512"
    nonce: Callable[[], str] = field(default=_random_nonce, repr=False, compare=False)
    _keys: dict[tuple[bytes, int], Keys] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a mechanism that is not SCRAM."""
        if self.name not in HASHES:
            raise ValueError(f"{self.name} is not a SCRAM mechanism; known: {', '.join(HASHES)}")

    def session(self) -> Session:
        """Begin a login."""
        return _ClientSession(self, self.nonce())

    def keys(self, salt: bytes, iterations: int) -> Keys:
        """Return what the password becomes; blocks when it is asked for the first time."""
        asked = (salt, iterations)
        if asked not in self._keys:
            keys = derive_keys(self.password.encode(), self.name, salt, iterations)
            if len(self._keys) >= _KEYS_MAX:
                del self._keys[next(iter(self._keys))]
            self._keys[asked] = keys
        return self._keys[asked]


class _ClientSession:
    def __init__(self, mechanism: Scram, nonce: str) -> None:
        self._mechanism = mechanism
        self._nonce = nonce
        name = mechanism.username.replace("=", "=3D").replace(",", "=2C")
        self._bare = f"n={name},r={nonce}"
        self._signature: bytes | None = None
        self._done = False

    def first(self) -> bytes:
        return f"n,,{self._bare}".encode()

    def challenge(self, token: bytes) -> bytes | None:
        name = self._mechanism.name
        if self._done:
            raise AuthError(f"{name}: the broker goes on after the end of the login")
        try:
            text = token[: TOKEN_BYTES_MAX + 1].decode()
        except UnicodeDecodeError:
            raise AuthError(f"{name}: the broker's message is not UTF-8") from None
        if len(token) > TOKEN_BYTES_MAX:
            raise AuthError(f"{name}: the broker's message is above {TOKEN_BYTES_MAX} bytes")
        last = _SERVER_FINAL.fullmatch(text)
        if last and last["error"]:
            reason = "".join(char if char.isprintable() else "?" for char in last["error"][:200])
            raise AuthError(f"{name} login refused: {reason}")
        if self._signature is None:
            return self._final(text)
        self._done = True
        signature = base64.b64decode(last["signature"]) if last else b""
        if not hmac.compare_digest(signature, self._signature):
            raise AuthError(f"{name}: the broker is not genuine: it could not prove that it has the user's credential")
        return None

    def _final(self, text: str) -> bytes:
        name = self._mechanism.name
        match = _SERVER_FIRST.fullmatch(text)
        if not match:
            raise AuthError(f"{name}: the broker's first message is not one of SCRAM")
        if match["mandatory"]:
            raise AuthError(f"{name}: the broker insists on an extension of SCRAM that is not known")
        if not match["nonce"].startswith(self._nonce) or match["nonce"] == self._nonce:
            raise AuthError(f"{name}: the broker is not genuine: its nonce does not go on from ours")
        salt, digits = base64.b64decode(match["salt"]), match["iterations"]
        iterations = int(digits) if len(digits) <= 9 else ITERATIONS_UPSTREAM_MAX + 1
        if not ITERATIONS_MIN <= iterations <= ITERATIONS_UPSTREAM_MAX:
            bounds = f"{ITERATIONS_MIN} to {ITERATIONS_UPSTREAM_MAX} are accepted"
            raise AuthError(f"{name}: the broker asks for {digits[:20]} iterations; {bounds}")
        keys, hash_name = self._mechanism.keys(salt, iterations), HASHES[name]
        unproven = f"c=biws,r={match['nonce']}"  # biws: "n,,", no channel binding
        message = f"{self._bare},{text},{unproven}".encode()
        self._signature = hmac.digest(keys.server_key, message, hash_name)
        proof = _xor(keys.client_key, hmac.digest(keys.stored_key, message, hash_name))
        return f"{unproven},p={base64.b64encode(proof).decode()}".encode()
