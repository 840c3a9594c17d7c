"""kproxy's own tokens: where they come from, when they are replaced, what is said when there is none."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kproxy.core.oauthbearer import Oauthbearer, parse_initial
from kproxy.errors import AuthError, KproxyError, UpstreamError
from kproxy.net.fetch import Endpoint
from kproxy.net.tasks import Tasks
from kproxy.net.tokens import LIFETIME_SECONDS, ClientCredentials, Token, TokenFile, TokenSource
from kproxy.testing.oidc import TokenIssuer

SECRET = "s3cret +&=é:%"
NOW = 1_800_000_000.0
WAIT_SECONDS = 20


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own proxies are for others."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def module_issuer() -> Iterator[TokenIssuer]:
    """An issuer that knows kproxy."""
    with TokenIssuer({"kproxy:é": SECRET}, algorithm="ES256", lifetime_seconds=1000) as running:
        yield running


@pytest.fixture
def issuer(module_issuer: TokenIssuer) -> TokenIssuer:
    """The same, as if it was new."""
    module_issuer.told, module_issuer.broken = {}, None
    module_issuer.forms.clear()
    return module_issuer


def credentials(issuer: TokenIssuer, secret: str = SECRET, **options: Any) -> ClientCredentials:
    """Ask an issuer as the client that it knows."""
    return ClientCredentials(Endpoint(issuer.token_url), "kproxy:é", secret, **options)


@pytest.mark.parametrize("client_auth", ["basic", "post"])
def test_client_credentials(issuer: TokenIssuer, client_auth: str) -> None:
    """A token is had for name and secret, whatever characters they have, and is replaced after 80 % of its time."""
    token = credentials(issuer, scope="kafka read", client_auth=client_auth).read(NOW)
    assert (token.expires_at, token.renew_after_seconds) == (NOW + 1000, 800)
    assert token.value.count(".") == 2
    (form,) = issuer.forms
    expected = {"grant_type": "client_credentials", "scope": "kafka read"}
    assert form == expected | ({} if client_auth == "basic" else {"client_id": "kproxy:é", "client_secret": SECRET})


@pytest.mark.parametrize(
    ("expires_in", "token", "expires_at", "renew_after"),
    [
        (60, "opaque", NOW + 60, 48),
        ("60", "opaque", NOW + 60, 48),
        (0.5, "opaque", NOW + 0.5, 0.4),
        (0, "opaque", NOW, 0),
        (None, "opaque", None, LIFETIME_SECONDS * 0.8),
        (True, "opaque", None, LIFETIME_SECONDS * 0.8),
        (-1, "opaque", None, LIFETIME_SECONDS * 0.8),
        (float("nan"), "opaque", None, LIFETIME_SECONDS * 0.8),
        ("soon", "opaque", None, LIFETIME_SECONDS * 0.8),
        (None, {"exp": int(NOW) + 100}, NOW + 100, 80),
        (None, {"exp": int(NOW) - 100}, NOW - 100, 0),
        (60, {"exp": int(NOW) + 100}, NOW + 60, 48),
    ],
)
def test_how_long(
    issuer: TokenIssuer, expires_in: object, token: Any, expires_at: float | None, renew_after: float
) -> None:
    """How long a token lasts is what its endpoint says, or else the token itself; or nobody knows."""
    value = token if isinstance(token, str) else issuer.mint(**token)
    issuer.told = {"expires_in": expires_in, "access_token": value}
    assert credentials(issuer).read(NOW) == Token(value, expires_at, renew_after)


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (
            (400, b'{"error":"invalid_scope","error_description":"s3cret"}'),
            r"gives no token: HTTP status 400 \(invalid_scope\)$",
        ),
        ((400, b'{"error":"s3cret value"}'), "gives no token: HTTP status 400$"),
        ((400, b'{"error":["s3cret"]}'), "gives no token: HTTP status 400$"),
        ((302, b""), "gives no token: HTTP status 302$"),
        ((503, b"<html>s3cret"), "gives no token: HTTP status 503$"),
        ((200, b"s3cret"), "an answer without an access_token"),
        ((200, b'["s3cret"]'), "an answer without an access_token"),
        ((200, b"[" * 100_000), "an answer without an access_token"),
        ((200, b'{"access_token":"s3cret\\n"}'), "an answer without an access_token"),
        ((200, b'{"access_token":7}'), "an answer without an access_token"),
        ((200, b'{"access_token":"s3cret","token_type":1}'), "an answer without an access_token"),
        ((200, b'{"access_token":"s3cret","token_type":"mac"}'), "a token of another type than Bearer"),
    ],
)
def test_refusals(issuer: TokenIssuer, broken: tuple[int, bytes], text: str) -> None:
    """Why there is no token is told with the address, and with nothing that was sent or answered but a known word."""
    issuer.broken = broken
    with pytest.raises((AuthError, UpstreamError), match=rf"http://127\.0\.0\.1:\d+/token:? {text}") as raised:
        credentials(issuer).read(NOW)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("client_auth", ["basic", "post"])
def test_a_wrong_secret(issuer: TokenIssuer, client_auth: str) -> None:
    """A wrong secret is told as what it is."""
    with pytest.raises(AuthError, match=r"/token gives no token: HTTP status 401 \(invalid_client\)$"):
        credentials(issuer, "wrong", client_auth=client_auth).read(NOW)


def test_a_token_file(issuer: TokenIssuer, tmp_path: Path) -> None:
    """A file's token is taken without the newline behind it, with its end where it is a JWT."""
    path = tmp_path / "token"
    origin = TokenFile(path, look_seconds=3)
    value = issuer.mint(exp=12345)
    path.write_text(f"{value}\n")
    assert origin.read(NOW) == Token(value, 12345, 3)
    path.write_text(" opaque+/==\r\n")
    assert origin.read(NOW) == Token("opaque+/==", None, 3)
    for odd in ("", "\n", "s3cret s3cret", "s3crét", "s" * 70_000):
        path.write_text(odd)
        with pytest.raises(AuthError, match=r"the token file .*token holds no token; write the token alone") as raised:
            origin.read(NOW)
        assert "s3cr" not in str(raised.value)
    path.unlink()
    with pytest.raises(AuthError, match=r"the token file .*token cannot be read: No such file or directory"):
        origin.read(NOW)


class Scripted:
    """An origin that gives, or raises, what is in its script, and time that passes as the source sleeps."""

    shown = "script"

    def __init__(self, *script: Token | KproxyError) -> None:
        self.script = list(script)
        self.now = NOW
        self.reads: list[float] = []
        self.slept: list[float] = []
        self.over = asyncio.Event()

    def clock(self) -> float:
        """Tell the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let time pass; when the script is at its end, for ever."""
        if not self.script:
            self.over.set()
            await asyncio.Event().wait()
        self.slept.append(seconds)
        self.now += seconds

    def read(self, now: float) -> Token:
        """Give the next one."""
        self.reads.append(now - NOW)
        step = self.script.pop(0)
        if isinstance(step, KproxyError):
            raise step
        return step


def source_of(origin: Scripted) -> TokenSource:
    """Make a source over a script, with dice that always show the middle."""
    return TokenSource(origin, now=origin.clock, sleep=origin.sleep, dice=lambda: 0.5)


async def test_before_it_is_ready() -> None:
    """Before the first token a login fails with the reason; a source that never started just ends."""
    source = source_of(Scripted())
    with pytest.raises(AuthError, match=r"^no token for the brokers yet: it has not been asked yet$"):
        source.current()
    assert not source.ready.is_set()
    await source.close()


async def test_replaced_in_time() -> None:
    """A token is replaced in time, by a clock that is looked at each minute, and at most once a second."""
    origin = Scripted(Token("one", NOW + 200, 160), Token("two", NOW + 161, 0.1), Token("three", None, 240))
    source, tasks = source_of(origin), Tasks()
    source.start(tasks)
    async with asyncio.timeout(WAIT_SECONDS):
        await source.ready.wait()
        await origin.over.wait()
    assert source.current() == "three"
    assert origin.reads == [0, 160, 161]
    assert origin.slept == [60, 60, 40, 1]
    await source.close()
    assert len(tasks) == 0


async def test_failures() -> None:
    """While no new token comes the old one is used to its end; tries become rarer, and one warning says why."""
    failures = [UpstreamError("id.example.com: connection refused") for _ in range(8)]
    origin = Scripted(Token("one", NOW + 100, 80), *failures)
    source, tasks = source_of(origin), Tasks()
    with capture_logs() as logs:
        source.start(tasks)
        async with asyncio.timeout(WAIT_SECONDS):
            await origin.over.wait()
    assert origin.reads == [0, 80, 81, 83, 87, 95, 111, 141, 171]
    why = "the token of script for the brokers has expired: id.example.com: connection refused"
    with pytest.raises(AuthError, match=f"^{why}$"):
        source.current()
    origin.now = NOW + 99
    assert source.current() == "one"
    assert [entry["event"] for entry in logs] == ["no new token for the brokers"] * 2
    await source.close()


async def test_none_at_all() -> None:
    """A source that never had a token says why."""
    origin = Scripted(AuthError("wrong secret"))
    source, tasks = source_of(origin), Tasks()
    with capture_logs():
        source.start(tasks)
        async with asyncio.timeout(WAIT_SECONDS):
            await origin.over.wait()
    with pytest.raises(AuthError, match=r"^no token for the brokers yet: wrong secret$"):
        source.current()
    await source.close()


async def test_an_old_token_in_a_file(tmp_path: Path, issuer: TokenIssuer) -> None:
    """A token file that nobody keeps fresh is told as such, and a login goes on once it holds a new token."""
    path = tmp_path / "token"
    path.write_text(issuer.mint(exp=1))
    source, tasks = TokenSource(TokenFile(path, look_seconds=0.01)), Tasks()
    source.start(tasks)
    async with asyncio.timeout(WAIT_SECONDS):
        await source.ready.wait()
        with pytest.raises(AuthError, match="token for the brokers has expired: no newer one is there"):
            source.current()
        fresh = issuer.mint()
        path.write_text(fresh)
        session = Oauthbearer(source.current).session()
        while True:
            try:
                first = session.first()
                break
            except AuthError:
                await asyncio.sleep(0.02)
    assert parse_initial(first).token == fresh
    await source.close()


def test_nothing_shows(issuer: TokenIssuer, tmp_path: Path) -> None:
    """No repr shows a secret or a token."""
    origin = credentials(issuer)
    pair = base64.b64encode(b"kproxy%3A").decode()[:8]
    each = (
        origin,
        origin.read(NOW),
        TokenSource(origin),
        TokenFile(tmp_path),
        Oauthbearer(TokenSource(origin).current),
    )
    shown = " ".join(f"{part!r} {part}" for part in each)
    assert "s3cret" not in shown
    assert pair not in shown
    assert "eyJ" not in shown
