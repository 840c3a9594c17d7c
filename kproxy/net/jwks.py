"""The keys that sign clients' tokens: a JWK set (RFC 7517) from a file or an issuer's address, kept fresh.

A set that cannot be had or read changes nothing: the keys that are known stay, with a warning. Only public keys for
signatures are taken, each with the algorithms that fit it, so that a key can never serve for another's algorithm
(RFC 8725, 3.1); symmetric keys are left out::

    jwks = Jwks(KeysOfFile(path))
    jwks.load()                       # at the start: raises where there is no key; blocks
    jwks.start(tasks)                 # then looks for new ones by itself
    jwks.keys                         # a tuple, replaced as a whole
    if jwks.may_renew: jwks.renew()   # a token names a key that is not known; blocks, in some other thread

Never here: a token.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import AllowedPublicKeys, ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from kproxy.core.suppressor import Suppressor
from kproxy.errors import ConfigError, KproxyError, UpstreamError
from kproxy.net.fetch import Endpoint
from kproxy.net.tasks import Tasks

_log = structlog.get_logger(__name__)

FILE_BYTES_MAX = 1024 * 1024
KEYS_MAX = 100
"""An issuer has two or three: the last, the present and the next one."""

RSA_BITS_MIN = 2048
"""RFC 7518, 3.3."""
RSA_BITS_MAX = 8192
"""More would cost milliseconds a login, on the loop."""

REFRESH_SECONDS = 300.0
"""Of an address. As Strimzi's oauth.jwks.refresh.seconds; Kafka's sasl.oauthbearer.jwks.endpoint.refresh.ms is 1 h."""

FILE_LOOK_SECONDS = 5.0
"""How often a file is looked at, which costs one stat."""

RETRY_SECONDS = 10.0
"""After a failure (Kafka's sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms)."""

RENEW_GAP_SECONDS = 5.0
"""Between two looks that tokens with unknown keys cause: anybody can make such tokens."""

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ALGORITHMS = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
ALGORITHMS = frozenset({*_RSA, *(name for names in _ALGORITHMS.values() for name in names)})
"""Every algorithm that a token may be signed with; all are asymmetric."""


class Key(NamedTuple):
    """A public key, and the algorithms that it may verify."""

    kid: str | None
    algorithms: frozenset[str]
    public: AllowedPublicKeys


def parse_jwks(raw: bytes) -> tuple[Key, ...]:
    """Read a JWK set; keys of other kinds and for other uses are passed over, as RFC 7517, 5 asks.

    Raises:
        ValueError: it is none, or holds no key that can be used; the text quotes nothing of it.
    """
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    entries = data.get("keys") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise ValueError('not a JWK set, which has a list "keys"')  # noqa: TRY004 - one kind of error for all that is wrong
    if len(entries) > KEYS_MAX:
        raise ValueError(f"above {KEYS_MAX} keys")
    keys = tuple(key for entry in entries if isinstance(entry, dict) and (key := _key(entry)) is not None)
    if not keys:
        raise ValueError("no key that can verify signatures (RSA from 2048 bits, EC P-256 to P-521, Ed25519, Ed448)")
    return keys


def _key(entry: Mapping[str, Any]) -> Key | None:
    kid, kind, curve, only = (entry.get(name) for name in ("kid", "kty", "crv", "alg"))
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    if not isinstance(kind, str) or not all(isinstance(text, str | None) for text in (kid, curve, only)):
        return None
    fitting = _RSA if kind == "RSA" else _ALGORITHMS.get((kind, curve or ""), ())
    algorithms = frozenset(name for name in fitting if only in {None, name})
    if not algorithms:
        return None
    try:
        public = _public(kind, entry)
    except (PyJWTError, ValueError, TypeError):
        return None
    if isinstance(public, RSAPublicKey) and not RSA_BITS_MIN <= public.key_size <= RSA_BITS_MAX:
        return None
    return Key(kid, algorithms, public)


def _public(kind: str, entry: Mapping[str, Any]) -> Any:  # noqa: ANN401 - the library's types say private or public
    """Make the key of its public members alone, whatever else stands there."""
    members = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y"), "OKP": ("kty", "crv", "x")}[kind]
    public = {name: str(entry[name]) for name in members if name in entry}
    if kind == "RSA":
        return RSAAlgorithm.from_jwk(public)
    return ECAlgorithm.from_jwk(public) if kind == "EC" else OKPAlgorithm.from_jwk(public)


class KeySource(Protocol):
    """Where a set comes from."""

    interval_seconds: float
    """How often to look."""
    shown: str
    """What a log calls it."""

    def read(self) -> bytes | None:
        """Return the set, or None when it is the one returned last. Blocks.

        Raises:
            KproxyError: it cannot be had; the text says why, and where.
        """


class KeysOfFile:
    """A set in a file, which is read again when the file has changed."""

    def __init__(self, path: Path, interval_seconds: float = FILE_LOOK_SECONDS) -> None:
        """Prepare; nothing is read yet."""
        self.interval_seconds = interval_seconds
        self.shown = str(path)
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> bytes | None:
        """See KeySource."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen == self._seen:
                return None
            with self._path.open("rb") as file:
                raw = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise ConfigError(f"the key file {self.shown} cannot be read: {error.strerror or error}") from None
        if len(raw) > FILE_BYTES_MAX:
            raise ConfigError(f"the key file {self.shown} is above {FILE_BYTES_MAX} bytes")
        self._seen = seen
        return raw


class KeysOfUrl:
    """A set at an issuer's address (OpenID's ``jwks_uri``)."""

    def __init__(self, endpoint: Endpoint, interval_seconds: float = REFRESH_SECONDS) -> None:
        """Prepare; nothing is fetched yet."""
        self.interval_seconds = interval_seconds
        self.shown = endpoint.shown
        self._endpoint = endpoint

    def read(self) -> bytes | None:
        """See KeySource."""
        answer = self._endpoint.get()
        if answer.status != 200:
            hint = "; give the address that it leads to" if 300 <= answer.status < 400 else ""
            raise UpstreamError(f"{self.shown}: HTTP status {answer.status} instead of keys{hint}")
        return answer.body


class Jwks:
    """A set of keys that is kept fresh. ``load`` and ``renew`` are for any thread, all else is for the loop."""

    def __init__(
        self, source: KeySource, *, clock: Callable[[], float] = time.monotonic, gap_seconds: float = RENEW_GAP_SECONDS
    ) -> None:
        """Prepare an empty set; ``clock`` counts seconds."""
        self.keys: tuple[Key, ...] = ()
        """The keys that are known; replaced as a whole."""
        self._source = source
        self._clock = clock
        self._gap_seconds = gap_seconds
        self._lock = threading.Lock()  # one look at a time
        self._trouble = ""  # what is wrong with the set that was read last
        self._renewing = False
        self._renew_at = clock()
        self._task: asyncio.Task[None] | None = None
        self._quiet = Suppressor(interval_seconds=60)

    def load(self) -> None:
        """Look for keys now.

        Raises:
            KproxyError: they cannot be had, in one line that says where and why. What was known stays.
        """
        with self._lock:
            self._load()

    def _load(self) -> None:
        raw = self._source.read()
        if raw is not None:
            self._trouble = self._take(raw)
        if self._trouble:
            raise ConfigError(f"{self._source.shown}: {self._trouble}")

    def _take(self, raw: bytes) -> str:
        """Replace the keys; return what is wrong with the new ones, if anything."""
        try:
            keys = parse_jwks(raw)
        except ValueError as error:
            return str(error)
        if self.keys and _changed(self.keys, keys):
            _log.info("the keys for tokens have changed", source=self._source.shown, keys=len(keys))
        self.keys = keys
        return ""

    def _look(self) -> bool:
        """Load, and tell whether that went well; the lock is held."""
        try:
            self._load()
        except KproxyError as error:
            if self._quiet.tell(str(error), self._clock()) is not None:
                told = "no new keys for tokens; those that are known stay"
                _log.warning(told, reason=str(error), keys=len(self.keys))
            return False
        return True

    def _look_alone(self) -> bool:
        with self._lock:
            return self._look()

    @property
    def may_renew(self) -> bool:
        """Whether a token with an unknown key is worth a look for new ones: not right after the last such look."""
        return self._renewing or self._clock() >= self._renew_at

    def renew(self) -> None:
        """Look for new keys because of a token; whoever comes while another looks waits for that. Never raises."""
        with self._lock:
            if self._clock() < self._renew_at:
                return  # somebody has looked while we waited
            self._renewing = True
            try:
                self._look()
            finally:
                # In this order: whoever sees that nobody looks must see the new keys.
                self._renew_at = self._clock() + self._gap_seconds
                self._renewing = False

    def start(self, tasks: Tasks) -> None:
        """Look for keys from now on, and at once where none is known."""
        self._task = tasks.spawn(f"keys of {self._source.shown}", self._keep())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        interval = self._source.interval_seconds
        wait = interval if self.keys else 0.0
        while True:
            await asyncio.sleep(wait)
            went_well = await asyncio.to_thread(self._look_alone)
            wait = interval if went_well else min(interval, RETRY_SECONDS)


def _changed(old: tuple[Key, ...], new: tuple[Key, ...]) -> bool:
    """Tell whether two sets differ in names or kinds of keys, or in their number."""
    return [key[:2] for key in old] != [key[:2] for key in new]
