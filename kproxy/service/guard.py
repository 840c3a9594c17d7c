"""Who may use the admin API, decided before anything else looks at a request.

With a key: whoever has it, as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``, compared in constant time. Without
one nobody but this machine can connect, which leaves its browsers: a page from elsewhere can have them send requests
here. So a name that is none of this machine's (DNS rebinding) is refused, and so is what would change something and
carries an Origin, as browsers' requests do. /healthz and /readyz answer everybody, with a status and no more.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

import structlog
from starlette.responses import JSONResponse

from kproxy.core.suppressor import Suppressor

_log = structlog.get_logger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
AUTHORIZED = "kproxy.authorized"
"""In a request's scope: whether its sender may see everything."""

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class Guard:
    """Stands before an ASGI application."""

    def __init__(self, app: _App, key: str | None, hosts: frozenset[str] | None, clock: Callable[[], float]) -> None:
        """Let through to ``app`` whoever has ``key``; ``hosts``: the names by which it may be called, None: any."""
        self._app = app
        self.admit(key, hosts)
        self._clock = clock
        self._quiet = Suppressor()

    def admit(self, key: str | None, hosts: frozenset[str] | None) -> None:
        """Let these through from the next request on."""
        self._key = None if key is None else key.encode()
        self._hosts = hosts

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":  # websockets; nothing else comes without a lifespan
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is None:
            # Cancelled is who does not read his answer while kproxy ends: no fault that is worth a traceback.
            with suppress(asyncio.CancelledError):
                await self._app(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    def _refusal(self, scope: _Scope, headers: dict[bytes, bytes]) -> JSONResponse | None:
        if self._key is None:
            if self._hosts is not None and _host(headers.get(b"host", b"")) not in self._hosts:
                return _refuse(scope, 403, "called by a name that is not this machine's; use localhost or 127.0.0.1")
            if scope["method"] not in {"GET", "HEAD"} and b"origin" in headers:
                return _refuse(scope, 403, "a request from a web page; use kproxy's own commands, or curl")
            scope[AUTHORIZED] = True
            return None
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        scope[AUTHORIZED] = hmac.compare_digest(given, self._key)
        if scope[AUTHORIZED] or scope["path"] in OPEN_PATHS:
            return None
        if given:
            client = scope.get("client") or ("unix socket",)
            repeated = self._quiet.tell(client[0], self._clock())
            if repeated is not None:
                _log.warning("admin API: wrong key", client=client[0], path=scope["path"], repeated=repeated)
        text = "wrong key" if given else "give the key, as Authorization: Bearer KEY or X-API-Key: KEY"
        return JSONResponse({"error": text}, 401, {"WWW-Authenticate": "Bearer"})


def _refuse(scope: _Scope, status: int, text: str) -> JSONResponse | None:
    """Refuse, but for what tells nothing."""
    scope[AUTHORIZED] = False
    return None if scope["path"] in OPEN_PATHS else JSONResponse({"error": text}, status)


def _host(header: bytes) -> str:
    """Return the name of a Host header, without its port."""
    text = header.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
