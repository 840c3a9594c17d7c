"""One HTTP request, small and bounded: for keys that sign tokens, and for tokens.

Blocking, so it runs in a thread, and without redirects: one could lead the client's secret, or the choice of keys, to
somebody else. Certificates are always verified. The environment's proxies are used (HTTPS_PROXY, NO_PROXY), as every
HTTP client does::

    Endpoint("https://id.example.com/jwks").get()                            -> Answer(200, b'{"keys": [...]}')
    Endpoint("https://id.example.com/token").post({"grant_type": "..."})     -> Answer(401, b'{"error": "..."}')

Nothing that is sent shows in an error, and of an address no query.
"""

import http.client
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from kproxy.errors import ConfigError, UpstreamError

TIMEOUT_SECONDS = 5.0
"""Half of the time that a login may take (10 s), so that one that needs new keys is answered within it."""

BODY_BYTES_MAX = 1024 * 1024
"""An issuer's keys have a few KiB; a token endpoint's answer less."""

_CHUNK_BYTES = 64 * 1024


class Answer(NamedTuple):
    """What an endpoint said."""

    status: int
    body: bytes

    def __repr__(self) -> str:
        """Leave the body out: it may be a token."""
        return f"Answer({self.status}, {len(self.body)} bytes)"


class Endpoint:
    """An http or https address. Its methods block for ``timeout_seconds`` or so, and may be called by any thread."""

    def __init__(self, url: str, ca_file: Path | None = None, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Prepare; ``ca_file`` holds the authorities to trust instead of the system's.

        Raises:
            ConfigError: the address or the file cannot be used.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError("an address that does not begin with https:// or http:// and a host")
        if "@" in parts.netloc:
            raise ConfigError("an address with a user in it, which is not supported")  # urllib would look it up
        self.shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
        """The address, as it may be logged."""
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._opener = OpenerDirector()
        # Not ``build_opener``, which follows redirects and opens files.
        for handler in (ProxyHandler(), HTTPHandler(), HTTPDefaultErrorHandler(), HTTPErrorProcessor()):
            self._opener.add_handler(handler)
        if parts.scheme == "https":
            self._opener.add_handler(HTTPSHandler(context=_context(ca_file)))

    def __repr__(self) -> str:
        return f"Endpoint({self.shown})"

    def get(self) -> Answer:
        """Ask. Raises UpstreamError when no answer came, or one that is too long."""
        return self._exchange(Request(self._url, headers={"Accept": "application/json"}))  # noqa: S310 - checked above

    def post(self, form: Mapping[str, str], authorization: str | None = None) -> Answer:
        """Send a form. Raises as ``get``."""
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        if authorization is not None:
            headers["Authorization"] = authorization
        body = urlencode(form).encode()
        return self._exchange(Request(self._url, data=body, headers=headers))  # noqa: S310 - checked above

    def _exchange(self, request: Request) -> Answer:
        deadline = time.monotonic() + self._timeout_seconds
        try:
            try:
                response = self._opener.open(request, timeout=self._timeout_seconds)
            except HTTPError as refusal:
                response = refusal  # an answer like any other, but for its status
            with response:
                return Answer(response.status, self._body(response, deadline))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UpstreamError(f"{self.shown}: {_reason(error)}") from None

    def _body(self, response: http.client.HTTPResponse | HTTPError, deadline: float) -> bytes:
        body = b""
        while chunk := response.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                raise UpstreamError(f"{self.shown}: an answer above {BODY_BYTES_MAX} bytes")
            if time.monotonic() > deadline:
                raise UpstreamError(f"{self.shown}: no whole answer within {self._timeout_seconds:g} s")
        return body


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"the CA file {ca_file} holds no certificates in PEM form", ca_file) from None
    except OSError as error:
        raise ConfigError(f"the CA file {ca_file} cannot be read: {error.strerror or error}", ca_file) from None


def _reason(error: Exception) -> str:
    """Say in a few words what failed; a ValueError's own could quote what was sent."""
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        return _reason(error.reason)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__).lower()
    return f"no HTTP answer ({type(error).__name__})"
