"""Checking clients' tokens: good ones let in, and no other, whatever was done to them."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from kproxy.core.acceptor import Accepted, Identity, Refused, Work
from kproxy.core.oauthbearer import Initial, OauthServer, build_initial
from kproxy.net.fetch import Endpoint
from kproxy.net.jwks import ALGORITHMS, Jwks, KeysOfFile, KeysOfUrl
from kproxy.net.oauth import GROUPS_MAX, JwtValidator, unverified_expiry
from kproxy.testing.oidc import SigningKey, TokenIssuer, new_key

LEEWAY = 30.0
STRANGER = new_key("key-1", "RS256")


class Clock:
    """A clock that is set by hand; it begins at the present, as the issuer's tokens do."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture(autouse=True, scope="module")
def _no_proxies() -> Iterator[None]:
    """The machine's own proxies are for others."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(scope="module")
def issuer() -> Iterator[TokenIssuer]:
    """An issuer with one RSA key, for tests that leave it as it is."""
    with TokenIssuer() as running:
        yield running


@pytest.fixture(scope="module")
def jwks(issuer: TokenIssuer, tmp_path_factory: pytest.TempPathFactory) -> Jwks:
    """Its keys, in a file."""
    keys = Jwks(KeysOfFile(issuer.write_jwks(tmp_path_factory.mktemp("jwks") / "keys.json")), gap_seconds=1e9)
    keys.load()
    keys.renew()  # so that unknown keys are refused at once
    return keys


def made(issuer: TokenIssuer, jwks: Jwks, **options: Any) -> JwtValidator:
    """Make a validator of an issuer's tokens."""
    return JwtValidator(jwks, issuer.url, "kafka", leeway_seconds=LEEWAY, **options)


def worked(step: Accepted | Refused | Work) -> Accepted | Refused:
    """Do what there is to do."""
    done = step.run() if isinstance(step, Work) else step
    assert isinstance(done, Accepted | Refused)
    return done


def reason(step: Accepted | Refused | Work) -> str:
    """Return why a token is not good."""
    assert isinstance(step, Refused)
    return step.reason


def encoded(value: object) -> str:
    """Write a part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def changed(token: str, header: object = None, claims: object = None, signature: object = None) -> str:
    """Put other parts into a token."""
    parts = token.split(".")
    for index, part in enumerate((header, claims, signature)):
        if part is not None:
            parts[index] = encoded(part)
    return ".".join(parts)


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_good_tokens(algorithm: str, tmp_path: Path) -> None:
    """A token of each algorithm lets in whom it names, until it ends, with and without the key's name."""
    with TokenIssuer(algorithm=algorithm) as issuer:
        jwks = Jwks(KeysOfFile(issuer.write_jwks(tmp_path / "keys.json")))
        jwks.load()
        end = int(time.time()) + 60
        for header in ({}, {"kid": None}, {"typ": "at+jwt"}):
            token = issuer.mint("alice", header=header, exp=end)
            assert made(issuer, jwks).validate(token) == Accepted(Identity("User:alice", frozenset(), end))
        assert reason(made(issuer, jwks, algorithms=ALGORITHMS - {algorithm}).validate(token)).endswith(
            f"(alg {algorithm})"
        )


def test_from_an_address() -> None:
    """Keys may come from the issuer's address; the first token has them fetched, in Work, and others do not."""
    with TokenIssuer() as issuer:
        validator = made(issuer, Jwks(KeysOfUrl(Endpoint(issuer.jwks_url))))
        step = validator.validate(issuer.mint())
        assert isinstance(step, Work)
        assert isinstance(worked(step), Accepted)
        assert isinstance(validator.validate(issuer.mint("bob")), Accepted)
        assert issuer.asked["/jwks"] == 1


def test_rotation() -> None:
    """A new key's tokens are good at once, an old key's while it is in the set; an issuer's failure takes none away."""
    with TokenIssuer() as issuer:
        clock = Clock()
        jwks = Jwks(KeysOfUrl(Endpoint(issuer.jwks_url)), clock=clock, gap_seconds=5)
        validator = made(issuer, jwks)
        old = issuer.mint()
        assert isinstance(worked(validator.validate(old)), Accepted)
        issuer.rotate()
        assert reason(validator.validate(issuer.mint())) == "the token is signed with an unknown key"
        clock.now += 5
        assert isinstance(worked(validator.validate(issuer.mint())), Accepted)
        assert isinstance(validator.validate(old), Accepted)
        issuer.rotate(keep=False)
        clock.now += 5
        assert isinstance(worked(validator.validate(issuer.mint())), Accepted)
        assert reason(validator.validate(old)) == "the token is signed with an unknown key"
        issuer.broken = (500, b"")
        clock.now += 5
        token = issuer.mint()
        assert worked(validator.validate(old)) == Refused("the token is signed with an unknown key")
        assert isinstance(validator.validate(token), Accepted)


def test_no_keys_at_all() -> None:
    """While the issuer was never reached, that is the reason, and unknown keys make it be asked once in a while."""
    with TokenIssuer() as issuer:
        issuer.broken = (500, b"")
        validator = made(issuer, Jwks(KeysOfUrl(Endpoint(issuer.jwks_url)), clock=Clock()))
        token = issuer.mint()
        assert worked(validator.validate(token)) == Refused("the issuer's keys are not known yet")
        assert validator.validate(token) == Refused("the issuer's keys are not known yet")
        assert issuer.asked["/jwks"] == 1


def test_a_token_without_a_key_name(issuer: TokenIssuer, tmp_path: Path) -> None:
    """A token that names no key is good only where a single key can have signed it."""
    keys = [*issuer.keys, new_key("other", "ES256")]
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [key.jwk() for key in keys]}))
    jwks = Jwks(KeysOfFile(path))
    jwks.load()
    token = issuer.mint(header={"kid": None})
    assert isinstance(made(issuer, jwks).validate(token), Accepted)
    path.write_text(json.dumps({"keys": [key.jwk() for key in (*keys, STRANGER._replace(kid="third"))]}))
    jwks.load()
    assert "does not say which key signed it" in reason(made(issuer, jwks).validate(token))


def test_times(issuer: TokenIssuer, jwks: Jwks) -> None:
    """A token is good from its beginning to its end, the leeway on either side, and its session never ends before."""
    clock = Clock()
    validator = made(issuer, jwks, now=clock)
    begin = int(clock.now)
    token = issuer.mint(nbf=begin + 100, exp=begin + 200)
    cases: list[tuple[float, float | str]] = [
        (60, "the token is not valid yet, for 40 s (nbf)"),
        (71, begin + 200),
        (199, begin + 200),
        (200, begin + 200 + LEEWAY),
        (229, begin + 200 + LEEWAY),
        (230, "the token expired 30 s ago"),
        (10_000, "the token expired 9800 s ago"),
    ]
    for after, expected in cases:
        clock.now = begin + after
        step = validator.validate(token)
        if isinstance(expected, str):
            assert reason(step) == expected
        else:
            assert step == Accepted(Identity("User:alice", frozenset(), expected))


@pytest.mark.parametrize(
    ("claims", "text"),
    [
        ({"exp": None}, "the token never ends (exp is missing)"),
        ({"exp": "2100-01-01"}, "the token's claim exp is no time"),
        ({"exp": True}, "the token's claim exp is no time"),
        ({"exp": 10**400}, "the token's claim exp is no time"),
        ({"exp": float("inf")}, "the token's claim exp is no time"),
        ({"exp": float("nan")}, "the token's claim exp is no time"),
        ({"nbf": [1]}, "the token's claim nbf is no time"),
        ({"nbf": float("nan")}, "the token's claim nbf is no time"),
        ({"aud": None}, "the token is for another audience (aud)"),
        ({"aud": "Kafka"}, "the token is for another audience (aud)"),
        ({"aud": ["kafka2", "kaf"]}, "the token is for another audience (aud)"),
        ({"aud": {"kafka": 1}}, "the token is for another audience (aud)"),
        ({"aud": []}, "the token is for another audience (aud)"),
        ({"iss": None}, "the token is of another issuer (iss)"),
        ({"iss": "https://evil.example.com/"}, "the token is of another issuer (iss)"),
        ({"sub": None}, "the token names no principal: its claim sub is no text, or no name"),
        ({"sub": ""}, "the token names no principal: its claim sub is no text, or no name"),
        ({"sub": 7}, "the token names no principal: its claim sub is no text, or no name"),
        ({"sub": "a\nb"}, "the token names no principal: its claim sub is no text, or no name"),
        ({"sub": "\ud800"}, "the token names no principal: its claim sub is no text, or no name"),
        ({"sub": "a" * 1025}, "the token names no principal: its claim sub is no text, or no name"),
    ],
)
def test_claims(issuer: TokenIssuer, jwks: Jwks, claims: dict[str, Any], text: str) -> None:
    """A token with a claim that is not as it must be is refused, with a reason that quotes nothing of it."""
    assert made(issuer, jwks).validate(issuer.mint(**claims)) == Refused(text)


def test_audiences(issuer: TokenIssuer, jwks: Jwks) -> None:
    """One of several audiences is enough."""
    assert isinstance(made(issuer, jwks).validate(issuer.mint(aud=["other", "kafka"])), Accepted)


def test_principal_and_groups(issuer: TokenIssuer, jwks: Jwks) -> None:
    """The principal and the groups may come from any claim, groups as a list or as words."""
    validator = made(issuer, jwks, principal_claim="client_id", groups_claim="https://example.com/groups")
    cases: list[tuple[Any, set[str]]] = [
        (["a b", "c"], {"a b", "c"}),
        ("a b  c", {"a", "b", "c"}),
        ([], set()),
        (None, set()),
    ]
    for value, expected in cases:
        claims: dict[str, Any] = {"https://example.com/groups": value}
        token = issuer.mint(client_id="app", **claims)
        step = validator.validate(token)
        assert isinstance(step, Accepted)
        assert (step.identity.principal, set(step.identity.groups)) == ("User:app", expected)
    for odd in (7, {"a": 1}, ["a", 7], ["a", ""], ["a\n"], ["a"] * (GROUPS_MAX + 1)):
        claims = {"https://example.com/groups": odd}
        token = issuer.mint(client_id="app", **claims)
        assert "https://example.com/groups is no list of names" in reason(validator.validate(token))


def test_a_secret_that_is_public(issuer: TokenIssuer, jwks: Jwks) -> None:
    """A token whose password of HMAC is the issuer's public key, in whatever form, does not get in."""
    public = issuer.keys[0].private.public_key()
    claims = issuer.mint().split(".")[1]
    for secret in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        json.dumps(issuer.keys[0].jwk()).encode(),
        b"",
    ):
        for algorithm, digest in (("HS256", hashlib.sha256), ("HS512", hashlib.sha512)):
            signed = f"{encoded({'alg': algorithm, 'kid': 'key-1'})}.{claims}"
            token = f"{signed}.{encoded(hmac.digest(secret, signed.encode(), digest))}"
            assert reason(made(issuer, jwks).validate(token)).endswith(f"not allowed (alg {algorithm})")


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 5, ["RS256"], "RS256 ", "x" * 5000])
@pytest.mark.parametrize("signature", ["", "x"])
def test_no_signature(issuer: TokenIssuer, jwks: Jwks, algorithm: object, signature: str) -> None:
    """A token that says it needs no signature does not get in."""
    claims = issuer.mint().split(".")[1]
    token = f"{encoded({'alg': algorithm, 'kid': 'key-1'})}.{claims}.{signature}"
    told = reason(made(issuer, jwks).validate(token))
    assert "not allowed" in told or "no signed JWT" in told
    assert len(told) < 100


def test_signatures(issuer: TokenIssuer, jwks: Jwks) -> None:
    """A token that was changed, or is of another's key under the same name, does not get in."""
    validator, token = made(issuer, jwks), issuer.mint()
    text = "the token's signature is not of its issuer's key"
    claims = {"iss": issuer.url, "aud": "kafka", "sub": "admin", "exp": int(time.time()) + 60}
    assert reason(validator.validate(changed(token, claims=claims))) == text
    assert reason(validator.validate(changed(token, signature=b"x" * 256))) == text
    assert reason(validator.validate(changed(token, signature=b""))) == "the token is no signed JWT"
    assert reason(validator.validate(issuer.mint(key=STRANGER))) == text
    pss = SigningKey("key-1", "PS256", STRANGER.private)
    assert reason(validator.validate(issuer.mint(key=pss))) == "the token is signed with an unknown key"
    elliptic = new_key("key-1", "ES256")
    assert reason(validator.validate(issuer.mint(key=elliptic))) == "the token is signed with an unknown key"
    assert (
        reason(validator.validate(issuer.mint(key=STRANGER._replace(kid="other"))))
        == "the token is signed with an unknown key"
    )


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ({"crit": ["exp"], "exp": 1}, "(crit)"),
        ({"crit": []}, "(crit)"),
        ({"b64": False, "crit": ["b64"]}, "(crit)"),
        ({"kid": 7}, "(kid)"),
        ({"kid": ["key-1"]}, "(kid)"),
        ({"kid": "k" * 2000}, "(kid)"),
        ({"kid": "../../etc/passwd"}, "unknown key"),
        ({"jwk": STRANGER.jwk(), "kid": "mine"}, "unknown key"),
        ({"jku": "https://evil.example.com/jwks", "kid": "mine"}, "unknown key"),
    ],
)
def test_headers(issuer: TokenIssuer, jwks: Jwks, header: dict[str, Any], text: str) -> None:
    """A header cannot bring its own key, nor ask for what is not supported."""
    token = changed(issuer.mint(key=STRANGER), header={"alg": "RS256", "kid": "key-1"} | header)
    assert text in reason(made(issuer, jwks).validate(token))


def test_payloads(issuer: TokenIssuer, jwks: Jwks) -> None:
    """A token whose claims are no object is refused even where the issuer itself signed it."""
    from jwt import PyJWS

    key = issuer.keys[0]
    for payload in (b"[]", b"1", b"null", b"", b"\xff", b"{", b"[" * 20_000):
        token = PyJWS().encode(payload, key.private, "RS256", {"kid": "key-1"})
        assert reason(made(issuer, jwks).validate(token)) == "the token is no signed JWT"


PARTS = st.one_of(
    st.text(max_size=30),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["alg", "kid", "typ", "exp", "aud", "iss", "sub", "crit"]), inner, max_size=4
            )
        ),
        max_leaves=6,
    ).map(encoded),
    st.sampled_from([{"alg": "RS256"}, {"alg": "RS256", "kid": "key-1"}, {"alg": "ES256", "kid": None}]).map(encoded),
)


@given(st.one_of(st.text(), st.lists(PARTS, max_size=4).map(".".join)))
@example("..")
@example("." * 1000)
@example(f"{encoded(b'[' * 50_000)}.e30.e30")
@example(f"{encoded({'alg': 'RS256'})}.e30.{'A' * 60_000}")
def test_garbage(issuer: TokenIssuer, jwks: Jwks, token: str) -> None:
    """Whatever else comes as a token, it is refused in a short line, and nothing is raised."""
    told = reason(made(issuer, jwks).validate(token))
    assert len(told) < 120
    assert told.isprintable()


@given(st.data())
def test_good_tokens_with_one_character_changed(issuer: TokenIssuer, jwks: Jwks, data: st.DataObject) -> None:
    """A good token in which a single character differs is refused."""
    token = issuer.mint()
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters().filter(lambda character: character != token[at]))
    assert isinstance(made(issuer, jwks).validate(token[:at] + other + token[at + 1 :]), Refused)


def test_algorithms_that_may_be_chosen(jwks: Jwks) -> None:
    """No validator can be made that takes passwords or nothing for signatures."""
    for algorithms in (["HS256"], ["RS256", "none"], []):
        with pytest.raises(ValueError, match="algorithms must be some of ES256, "):
            JwtValidator(jwks, "i", "a", algorithms=algorithms)


def test_nothing_shows(issuer: TokenIssuer, jwks: Jwks) -> None:
    """Neither reasons nor reprs show a token or a claim's value."""
    validator = made(issuer, jwks, groups_claim="groups")
    for claims in (
        {"sub": "s3cret\n"},
        {"aud": "s3cret"},
        {"iss": "s3cret"},
        {"groups": ["s3cret\n"]},
        {"exp": "s3cret"},
    ):
        token = issuer.mint(**claims)
        told = f"{validator.validate(token)!r} {validator!r}"
        assert "s3cret" not in told
        assert token[:30] not in told


def test_within_sasl(issuer: TokenIssuer, jwks: Jwks) -> None:
    """As the validator of OAUTHBEARER it lets in the client that sends a good token as SASL asks."""
    server = OauthServer(made(issuer, jwks))
    step = server.session().respond(build_initial(Initial(issuer.mint("alice"), "alice")))
    assert isinstance(step, Accepted)
    assert step.identity.principal == "User:alice"
    assert isinstance(server.session().respond(build_initial(Initial(issuer.mint("alice"), "bob"))), Refused)


def test_the_end_of_a_token_for_others(issuer: TokenIssuer) -> None:
    """The end of a token that others will check is read where it has one."""
    assert unverified_expiry(issuer.mint(exp=12345)) == 12345
    for other in (
        issuer.mint(exp=None),
        "opaque",
        "a.b.c",
        f"a.{encoded([])}.c",
        f"a.{encoded({'exp': 'x'})}.c",
        "é.é.é",
    ):
        assert unverified_expiry(other) is None
