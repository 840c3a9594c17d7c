"""kproxy's own token for the brokers: from a file that somebody keeps fresh, or by OAuth's client credentials grant.

A source is looked after in the background, so that a login never waits: a token is replaced after 80 % of its time,
and while that fails it is used as long as it lasts::

    source = TokenSource(ClientCredentials(Endpoint("https://id.example.com/token"), "kproxy", secret))
    source.start(tasks)
    await source.ready.wait()                # with a bound of the caller's: there may never be one
    Oauthbearer(source.current)              # a token, or AuthError that says why there is none

Neither token nor secret shows in a repr, a log line or an error.
"""

import asyncio
import json
import random
import re
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote_plus

import structlog

from kproxy.core.oauthbearer import INITIAL_BYTES_MAX, valid_token
from kproxy.core.suppressor import Suppressor
from kproxy.errors import AuthError, KproxyError, UpstreamError
from kproxy.net.fetch import Answer, Endpoint
from kproxy.net.oauth import unverified_expiry
from kproxy.net.tasks import Tasks

_log = structlog.get_logger(__name__)

RENEW_AT = 0.8
"""The share of a token's time after which it is replaced (Kafka's sasl.login.refresh.window.factor)."""

LIFETIME_SECONDS = 300.0
"""Of a token whose endpoint does not say how long it lasts: then it is replaced, and used until it is."""

FILE_LOOK_SECONDS = 5.0
"""How often a file is looked at. Kubernetes writes a new token when a fifth of the old one's time is left."""

BACKOFF_SECONDS = 1.0
BACKOFF_SECONDS_MAX = 30.0
"""After failures (Kafka's sasl.login.retry.backoff.ms is 100 ms to 10 s); a wrong secret does not mend itself."""

_LOOK_AT_CLOCK_SECONDS = 60.0  # a machine that slept wakes with a token that expired meanwhile
_ERROR = re.compile(r"[A-Za-z0-9_.:/-]{1,100}")


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token."""

    value: str = field(repr=False)
    expires_at: float | None
    """In seconds since 1970; None: nobody says."""
    renew_after_seconds: float
    """When to ask for the next one, counted from when it came."""


class TokenOrigin(Protocol):
    """Where tokens come from."""

    shown: str
    """What a log calls it."""

    def read(self, now: float) -> Token:
        """Return a token. Blocks.

        Raises:
            KproxyError: there is none; the text says why, and where.
        """


class TokenFile:
    """A token in a file; what is around it, such as a newline, is left out. A JWT's own end is honoured."""

    def __init__(self, path: Path, look_seconds: float = FILE_LOOK_SECONDS) -> None:
        """Prepare; nothing is read yet."""
        self.shown = str(path)
        self._path = path
        self._look_seconds = look_seconds

    def __repr__(self) -> str:
        return f"TokenFile({self.shown})"

    def read(self, now: float) -> Token:  # noqa: ARG002 - a TokenOrigin's
        """See TokenOrigin. The file is small: it is read at each look, rather than its time asked."""
        try:
            with self._path.open("rb") as file:
                raw = file.read(INITIAL_BYTES_MAX + 1)
        except OSError as error:
            raise AuthError(f"the token file {self.shown} cannot be read: {error.strerror or error}") from None
        value = raw.decode("ascii", errors="replace").strip()
        if len(raw) > INITIAL_BYTES_MAX or not valid_token(value):
            raise AuthError(f"the token file {self.shown} holds no token; write the token alone into it")
        return Token(value, unverified_expiry(value), self._look_seconds)


class ClientCredentials:
    """The client credentials grant (RFC 6749, 4.4)."""

    def __init__(
        self,
        endpoint: Endpoint,
        client_id: str,
        client_secret: str,
        *,
        scope: str | None = None,
        client_auth: Literal["basic", "post"] = "basic",
    ) -> None:
        """Prepare. ``client_auth`` says where the secret goes: into the Authorization header, or into the form."""
        self.shown = endpoint.shown
        self._endpoint = endpoint
        self._form = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
        self._authorization: str | None = None
        if client_auth == "basic":
            # Each is encoded as in a form first (RFC 6749, 2.3.1).
            pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"
            self._authorization = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            self._form |= {"client_id": client_id, "client_secret": client_secret}

    def __repr__(self) -> str:
        return f"ClientCredentials({self.shown})"

    def read(self, now: float) -> Token:
        """See TokenOrigin."""
        answer = self._endpoint.post(self._form, self._authorization)
        told = _told(answer)
        if answer.status != 200:
            error = told.get("error")
            shown = f" ({error})" if isinstance(error, str) and _ERROR.fullmatch(error) else ""
            raise AuthError(f"{self.shown} gives no token: HTTP status {answer.status}{shown}")
        value, kind, lifetime = told.get("access_token"), told.get("token_type", "bearer"), told.get("expires_in")
        if not isinstance(value, str) or not valid_token(value) or not isinstance(kind, str):
            raise UpstreamError(f"{self.shown}: an answer without an access_token")
        if kind.lower() != "bearer":
            raise UpstreamError(f"{self.shown}: a token of another type than Bearer")
        lifetime_seconds = _seconds(lifetime)
        expires_at = unverified_expiry(value) if lifetime_seconds is None else now + lifetime_seconds
        left = LIFETIME_SECONDS if expires_at is None else max(expires_at - now, 0.0)
        return Token(value, expires_at, left * RENEW_AT)


def _told(answer: Answer) -> Mapping[str, Any]:
    try:
        told = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _seconds(lifetime: object) -> float | None:
    """Read ``expires_in``; some endpoints write the number as a text."""
    if isinstance(lifetime, str) and lifetime.isascii() and lifetime.isdigit() and len(lifetime) <= 10:
        return float(lifetime)
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not 0 <= lifetime < 1e10:
        return None
    return float(lifetime)


class TokenSource:
    """The newest token of one origin. ``start`` it once, ``close`` it once; all of it is for the loop."""

    def __init__(
        self,
        origin: TokenOrigin,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """Prepare; ``now`` is seconds since 1970, ``dice`` 0 to 1."""
        self.ready = asyncio.Event()
        """Set once there has been a token."""
        self._origin = origin
        self._now = now
        self._sleep = sleep
        self._dice = dice
        self._token: Token | None = None
        self._trouble = "it has not been asked yet"
        self._task: asyncio.Task[None] | None = None
        self._quiet = Suppressor(interval_seconds=60)

    def __repr__(self) -> str:
        return f"TokenSource({self._origin.shown})"

    def current(self) -> str:
        """Return a token that is valid now.

        Raises:
            AuthError: there is none, in one line that says why.
        """
        if self._token is None:
            raise AuthError(f"no token for the brokers yet: {self._trouble}")
        expires_at = self._token.expires_at
        if expires_at is not None and expires_at <= self._now():
            why = self._trouble or "no newer one is there"
            raise AuthError(f"the token of {self._origin.shown} for the brokers has expired: {why}")
        return self._token.value

    def start(self, tasks: Tasks) -> None:
        """Ask for a token now, and for the next one in time."""
        self._task = tasks.spawn(f"token of {self._origin.shown}", self._keep())

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        failures = 0
        while True:
            asked_at = self._now()
            try:
                token = await asyncio.to_thread(self._origin.read, asked_at)
            except KproxyError as error:
                self._trouble = str(error)
                if self._quiet.tell(self._trouble, self._now()) is not None:
                    _log.warning("no new token for the brokers", reason=self._trouble)
                pause = min(BACKOFF_SECONDS * 2 ** min(failures, 10), BACKOFF_SECONDS_MAX) * (0.8 + 0.4 * self._dice())
                failures += 1
            else:
                self._token, self._trouble, failures = token, "", 0
                self.ready.set()
                pause = max(token.renew_after_seconds, BACKOFF_SECONDS)
            await self._wait_until(asked_at + pause)

    async def _wait_until(self, due: float) -> None:
        while (left := due - self._now()) > 0:
            await self._sleep(min(left, _LOOK_AT_CLOCK_SECONDS))
