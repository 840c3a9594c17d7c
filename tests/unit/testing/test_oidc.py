"""The issuer of tokens for tests: what it serves is what others read."""

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path

import jwt
import pytest

from kproxy.testing.oidc import TokenIssuer


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own proxies are for others."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_keys_and_tokens(algorithm: str) -> None:
    """PyJWT's own client finds each token's key at /jwks, of before and after a rotation."""
    with TokenIssuer(algorithm=algorithm) as issuer:
        tokens = [issuer.mint("alice", scope="read")]
        issuer.rotate()
        tokens.append(issuer.mint("bob"))
        client = jwt.PyJWKClient(issuer.jwks_url)
        claims = [
            jwt.decode(token, client.get_signing_key_from_jwt(token), [algorithm], audience="kafka", issuer=issuer.url)
            for token in tokens
        ]
    assert [claim["sub"] for claim in claims] == ["alice", "bob"]
    assert claims[0]["scope"] == "read"


def ask(issuer: TokenIssuer, form: bytes, pair: bytes | None = None) -> tuple[int, dict[str, object]]:
    """Ask for a token."""
    headers = {} if pair is None else {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    request = urllib.request.Request(issuer.token_url, data=form, headers=headers)  # noqa: S310 - http
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - http
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_client_credentials() -> None:
    """A token is given for a secret that is right, in the header or in the form, and for no other."""
    with TokenIssuer({"kproxy": "right"}, lifetime_seconds=60) as issuer:
        form = b"grant_type=client_credentials"
        for answer in (
            ask(issuer, form, b"kproxy:right"),
            ask(issuer, form + b"&client_id=kproxy&client_secret=right"),
        ):
            assert answer[0] == 200
            assert (answer[1]["token_type"], answer[1]["expires_in"]) == ("Bearer", 60)
        for pair in (b"kproxy:wrong", b"nobody:right", b"nobody:", None):
            assert ask(issuer, form, pair) == (401, {"error": "invalid_client"})
        assert ask(issuer, b"grant_type=password", b"kproxy:right") == (400, {"error": "unsupported_grant_type"})


def test_a_file_and_the_end(tmp_path: Path) -> None:
    """Keys can be written into a file, and a port is closed when an issuer stops, started or not."""
    issuer = TokenIssuer(algorithm="ES256")
    assert json.loads(issuer.write_jwks(tmp_path / "j.json").read_text()) == issuer.jwks()
    issuer.stop()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(issuer.jwks_url, timeout=20)  # noqa: S310 - http
