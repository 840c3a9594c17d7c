"""An issuer of tokens for tests and examples: keys, tokens with any claims, and the two addresses that matter.

It gives tokens to clients that know their secret (client credentials grant), and to whoever runs it::

    with TokenIssuer(clients={"kproxy": "secret"}) as issuer:
        issuer.jwks_url, issuer.token_url          # http://127.0.0.1:PORT/jwks and /token
        issuer.mint("alice")                       # a JWT: sub alice, aud kafka, an hour long
        issuer.mint("alice", aud="other", exp=None)
        issuer.rotate()                            # tokens are signed with a new key from now on

Good for nothing else: whoever reaches it is told what it was told.
"""

import json
import ssl
import threading
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, unquote_plus

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

LIFETIME_SECONDS = 3600
STOP_SECONDS = 5.0
_FORM_BYTES_MAX = 64 * 1024
_CURVES: dict[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


class SigningKey(NamedTuple):
    """A key that an issuer signs with."""

    kid: str
    algorithm: str
    private: Any

    def jwk(self) -> dict[str, Any]:
        """Return its public half as a JWK."""
        public = self.private.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            members = RSAAlgorithm.to_jwk(public, as_dict=True)
        elif isinstance(public, ec.EllipticCurvePublicKey):
            members = ECAlgorithm.to_jwk(public, as_dict=True)
        else:
            members = OKPAlgorithm.to_jwk(public, as_dict=True)
        members.pop("key_ops", None)
        return members | {"kid": self.kid, "alg": self.algorithm, "use": "sig"}


def new_key(kid: str, algorithm: str = "RS256") -> SigningKey:
    """Make a key for RS*, PS*, ES256, ES384, ES512 or EdDSA."""
    if algorithm == "EdDSA":
        return SigningKey(kid, algorithm, ed25519.Ed25519PrivateKey.generate())
    if algorithm in _CURVES:
        return SigningKey(kid, algorithm, ec.generate_private_key(_CURVES[algorithm]))
    return SigningKey(kid, algorithm, rsa.generate_private_key(public_exponent=65537, key_size=2048))


class TokenIssuer:
    """An issuer on 127.0.0.1; ``start`` and ``stop`` it, or use it as a context."""

    def __init__(
        self,
        clients: Mapping[str, str] | None = None,
        *,
        audience: str = "kafka",
        algorithm: str = "RS256",
        lifetime_seconds: float = LIFETIME_SECONDS,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Make a key and open the port; ``clients`` are names with their secrets."""
        self.clients = dict(clients or {})
        self.audience = audience
        self.lifetime_seconds = lifetime_seconds
        self.keys = [new_key("key-1", algorithm)]
        """What /jwks tells; the last one signs."""
        self.broken: tuple[int, bytes] | None = None
        """A status and a body to answer everything with instead."""
        self.told: dict[str, Any] = {}
        """Members to put into the token endpoint's answers; None takes one out."""
        self.asked: Counter[str] = Counter()
        """How often each path was asked for."""
        self.forms: list[dict[str, str]] = []
        """What the token endpoint was sent."""
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._server.server_port}"
        """What ``iss`` says, too."""
        self.jwks_url, self.token_url = f"{self.url}/jwks", f"{self.url}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="issuer", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more, and close the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(STOP_SECONDS)
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def jwks(self) -> dict[str, Any]:
        """Return the set of public keys."""
        return {"keys": [key.jwk() for key in self.keys]}

    def write_jwks(self, path: Path) -> Path:
        """Write the set of public keys into a file, whole at once."""
        whole = path.with_name(f"{path.name}.new")
        whole.write_text(json.dumps(self.jwks()))
        return whole.replace(path)

    def rotate(self, *, keep: bool = True) -> SigningKey:
        """Sign with a new key from now on; the old ones stay in the set unless they are not to be kept."""
        key = new_key(f"key-{int(self.keys[-1].kid.rpartition('-')[2]) + 1}", self.keys[-1].algorithm)
        self.keys = [*self.keys, key] if keep else [key]
        return key

    def mint(
        self,
        subject: str = "alice",
        *,
        key: SigningKey | None = None,
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """Sign a token; a claim, or a member of the header, that is None is left out."""
        signer = key or self.keys[-1]
        now = int(time.time())
        usual = {
            "iss": self.url,
            "aud": self.audience,
            "sub": subject,
            "iat": now,
            "exp": now + int(self.lifetime_seconds),
        }
        payload = {name: value for name, value in (usual | claims).items() if value is not None}
        members = {
            name: value for name, value in ({"kid": signer.kid} | dict(header or {})).items() if value is not None
        }
        return jwt.encode(payload, signer.private, signer.algorithm, members)

    def _grant(self, authorization: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Answer a request for a token as RFC 6749, 4.4 and 5 say."""
        client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
        if authorization.startswith("Basic "):
            pair = b64decode(authorization[6:]).decode().partition(":")
            client_id, secret = unquote_plus(pair[0]), unquote_plus(pair[2])
        if form.get("grant_type") != "client_credentials":
            return 400, {"error": "unsupported_grant_type"}
        if not secret or self.clients.get(client_id) != secret:
            return 401, {"error": "invalid_client"}
        token = self.mint(client_id, scope=form.get("scope"))
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": int(self.lifetime_seconds)} | self.told
        return 200, {name: value for name, value in answer.items() if value is not None}

    def _handler(issuer) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - self is the handler within
        class Handler(BaseHTTPRequestHandler):
            timeout = STOP_SECONDS

            def do_GET(self) -> None:
                self._answer(*((200, issuer.jwks()) if self.path == "/jwks" else (404, {})))

            def do_POST(self) -> None:
                size = min(int(self.headers.get("Content-Length", "0")), _FORM_BYTES_MAX)
                form = dict(parse_qsl(self.rfile.read(size).decode()))
                issuer.forms.append(form)
                grant = issuer._grant(self.headers.get("Authorization", ""), form)
                self._answer(*(grant if self.path == "/token" else (404, {})))

            def _answer(self, status: int, told: Mapping[str, Any]) -> None:
                issuer.asked[self.path] += 1
                body = json.dumps(told).encode()
                if issuer.broken is not None:
                    status, body = issuer.broken
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                if 300 <= status < 400:
                    self.send_header("Location", f"{issuer.url}/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

        return Handler
