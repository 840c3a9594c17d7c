"""Keys that sign tokens: which are taken, and how they are kept fresh."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from kproxy.errors import ConfigError, UpstreamError
from kproxy.net import jwks as rooms
from kproxy.net.fetch import Endpoint
from kproxy.net.jwks import KEYS_MAX, Jwks, KeysOfFile, KeysOfUrl, parse_jwks
from kproxy.net.tasks import Tasks
from kproxy.testing.oidc import TokenIssuer, new_key

EC = new_key("ec", "ES256")
RSA = new_key("rsa", "RS256")
WAIT_SECONDS = 20


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own proxies are for others."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def issuer() -> Iterator[TokenIssuer]:
    """An issuer with one key."""
    with TokenIssuer(algorithm="ES256") as running:
        yield running


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110  what threads do is seen by looking
            await asyncio.sleep(0.01)


def kids(jwks: Jwks) -> list[str | None]:
    """Return the names of the keys that are known."""
    return [key.kid for key in jwks.keys]


def jwk(**changes: Any) -> dict[str, Any]:
    """Return a good key with changes; None takes a member out."""
    return {name: value for name, value in (EC.jwk() | changes).items() if value is not None}


def whole(*entries: object) -> bytes:
    """Write a set."""
    return json.dumps({"keys": entries}).encode()


@pytest.mark.parametrize(
    ("algorithm", "fitting"),
    [
        ("ES256", {"ES256"}),
        ("ES384", {"ES384"}),
        ("ES512", {"ES512"}),
        ("EdDSA", {"EdDSA"}),
        ("RS256", {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ],
)
def test_which_algorithms(algorithm: str, fitting: set[str]) -> None:
    """A key is for the algorithms of its kind, and where it says so for one of them alone."""
    entry = new_key("k", algorithm).jwk()
    (key,) = parse_jwks(whole(entry))
    assert (key.kid, set(key.algorithms)) == ("k", {algorithm})
    del entry["alg"], entry["kid"]
    (key,) = parse_jwks(whole(entry))
    assert (key.kid, set(key.algorithms)) == (None, fitting)


def weak() -> dict[str, Any]:
    """Return an RSA key whose modulus is cut down to 1024 bits."""
    return RSA.jwk() | {"n": RSA.jwk()["n"][:171]}


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x"},
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        jwk(alg="HS256"),
        jwk(alg="none"),
        jwk(alg="RS256"),
        jwk(alg=["ES256"]),
        jwk(use="enc"),
        jwk(key_ops=["sign"]),
        jwk(key_ops="verify"),
        jwk(kid=7),
        jwk(kty=["EC"]),
        jwk(crv="secp256k1", alg=None),
        jwk(crv=["P-256"]),
        jwk(crv=None),
        jwk(x=None),
        jwk(x="AAAA"),
        jwk(y=jwk()["x"]),
        RSA.jwk() | {"n": None},
        RSA.jwk() | {"n": 5},
        RSA.jwk() | {"e": ""},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
        {"kty": "OKP", "crv": "X25519", "x": jwk()["x"]},
        weak(),
        {},
        [],
        "key",
        None,
    ],
)
def test_keys_that_are_passed_over(entry: object) -> None:
    """A key of another kind or use, a weak or a broken one is left out, and spoils nothing else."""
    assert [key.kid for key in parse_jwks(whole(entry, EC.jwk(), entry))] == ["ec"]
    with pytest.raises(ValueError, match="no key that can verify signatures"):
        parse_jwks(whole(entry))


def test_a_private_key_in_the_set() -> None:
    """Of a key that was published with its private half only the public one is taken."""
    from jwt.algorithms import ECAlgorithm

    entry = ECAlgorithm.to_jwk(EC.private, as_dict=True) | {"key_ops": ["sign", "verify"]}
    assert "d" in entry
    (key,) = parse_jwks(whole(entry))
    assert not hasattr(key.public, "sign")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JWK set"),
        (b'{"keys": {}}', "not a JWK set"),
        (whole(), "no key that can verify"),
        (whole(*[EC.jwk()] * (KEYS_MAX + 1)), "above 100 keys"),
    ],
)
def test_what_is_no_set(raw: bytes, text: str) -> None:
    """What is no set of keys is refused with the reason."""
    with pytest.raises(ValueError, match=text):
        parse_jwks(raw)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=10)
    | st.sampled_from(["EC", "RSA", "OKP", "P-256", "AQAB"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kty", "crv", "kid", "alg", "use", "key_ops", "n", "e", "x", "y"]), inner)
    ),
    max_leaves=20,
)


@given(st.one_of(JSON, st.builds(lambda keys: {"keys": keys}, st.lists(JSON, max_size=5))))
def test_garbage(data: object) -> None:
    """Whatever stands in a set, it is refused or gives keys, and nothing else is raised."""
    try:
        assert parse_jwks(json.dumps(data).encode())
    except ValueError:
        return


def test_a_file(issuer: TokenIssuer, tmp_path: Path) -> None:
    """A file is read again when it has changed, and what is wrong with a new one leaves the old keys in use."""
    path = issuer.write_jwks(tmp_path / "keys.json")
    jwks = Jwks(KeysOfFile(path))
    jwks.load()
    keys = jwks.keys
    jwks.load()
    assert jwks.keys is keys
    issuer.rotate()
    issuer.write_jwks(path)
    jwks.load()
    assert kids(jwks) == ["key-1", "key-2"]
    path.write_text("{}")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"keys\.json: not a JWK set"):
            jwks.load()
    path.unlink()
    with pytest.raises(ConfigError, match=r"the key file .*keys\.json cannot be read: No such file"):
        jwks.load()
    assert kids(jwks) == ["key-1", "key-2"]
    path.write_bytes(b" " * (rooms.FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="is above 1048576 bytes"):
        jwks.load()


def test_an_address(issuer: TokenIssuer) -> None:
    """Keys are fetched anew each time; what is wrong with an answer leaves the old ones in use."""
    jwks = Jwks(KeysOfUrl(Endpoint(issuer.jwks_url)))
    jwks.load()
    issuer.rotate(keep=False)
    jwks.load()
    assert kids(jwks) == ["key-2"]
    for broken, text in [
        ((500, b""), "HTTP status 500 instead of keys$"),
        ((302, b""), "HTTP status 302 instead of keys; give the address that it leads to"),
        ((200, b"<html>"), "not JSON"),
    ]:
        issuer.broken = broken
        with pytest.raises((UpstreamError, ConfigError), match=rf"^http://127\.0\.0\.1:\d+/jwks: {text}"):
            jwks.load()
    assert kids(jwks) == ["key-2"]
    assert issuer.asked["/elsewhere"] == 0


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def test_renewing_is_rare(issuer: TokenIssuer) -> None:
    """Tokens with unknown keys cause one look per gap, however it goes."""
    clock = Clock()
    jwks = Jwks(KeysOfUrl(Endpoint(issuer.jwks_url)), clock=clock, gap_seconds=5)
    for looks in (1, 2):
        told = [jwks.may_renew]
        jwks.renew()
        told.append(jwks.may_renew)
        assert told == [True, False]
        jwks.renew()
        assert issuer.asked["/jwks"] == looks
        issuer.broken = (500, b"")
        clock.now += 5
    assert jwks.may_renew


def test_renewing_together() -> None:
    """Whoever comes while somebody looks waits for that look, instead of being turned away or looking again."""
    started, go_on = threading.Event(), threading.Event()

    class Slow:
        interval_seconds, shown, reads = 1.0, "slow", 0

        def read(self) -> bytes:
            self.reads += 1
            started.set()
            assert go_on.wait(WAIT_SECONDS)
            return whole(EC.jwk())

    source = Slow()
    jwks = Jwks(source, clock=Clock())
    threads = [threading.Thread(target=jwks.renew) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert started.wait(WAIT_SECONDS)
    assert kids(jwks) == []
    assert jwks.may_renew
    go_on.set()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert source.reads == 1
    assert (kids(jwks), jwks.may_renew) == (["ec"], False)


async def test_kept_fresh(issuer: TokenIssuer, tmp_path: Path) -> None:
    """In the background a set is had as soon as it is there, and a new one follows, with one warning meanwhile."""
    path = tmp_path / "keys.json"
    jwks = Jwks(KeysOfFile(path, interval_seconds=0.01))
    tasks = Tasks()
    with capture_logs() as logs:
        jwks.start(tasks)
        await until(lambda: logs)
        issuer.write_jwks(path)
        await until(lambda: kids(jwks) == ["key-1"])
        issuer.rotate()
        issuer.write_jwks(path)
        await until(lambda: kids(jwks) == ["key-1", "key-2"])
        await jwks.close()
    assert len(tasks) == 0
    assert [entry["log_level"] for entry in logs] == ["warning", "info"]
    assert "No such file" in logs[0]["reason"]


async def test_a_set_that_is_there() -> None:
    """A set that was loaded at the start is not asked for again before its time; one that never started just ends."""

    class Counted:
        interval_seconds, shown, reads = 3600.0, "counted", 0

        def read(self) -> bytes:
            self.reads += 1
            return whole(EC.jwk())

    source = Counted()
    jwks, tasks = Jwks(source), Tasks()
    await jwks.close()
    jwks.load()
    jwks.start(tasks)
    await asyncio.sleep(0)
    await jwks.close()
    assert source.reads == 1
