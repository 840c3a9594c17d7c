"""HTTP requests for keys and tokens: what is sent, what comes back, and what is said when it does not."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.errors import ConfigError, UpstreamError
from kproxy.net import fetch
from kproxy.net.fetch import Answer, Endpoint
from kproxy.testing.certificates import Authority
from kproxy.testing.oidc import TokenIssuer

CA = Authority("issuer's CA")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own proxies are for others."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def secure_issuer(tmp_path: Path) -> Iterator[TokenIssuer]:
    """An issuer with a certificate of CA."""
    files = CA.server("127.0.0.1").write(tmp_path, "issuer")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    with TokenIssuer(algorithm="ES256", tls=context) as issuer:
        yield issuer


def test_answers() -> None:
    """Every status is an answer, redirects too, which are not followed; a repr shows no body."""
    with TokenIssuer(algorithm="ES256") as issuer:
        answer = Endpoint(issuer.jwks_url).get()
        assert (answer.status, b'"keys"' in answer.body) == (200, True)
        assert repr(answer) == f"Answer(200, {len(answer.body)} bytes)"
        issuer.broken = (302, b"moved")
        assert Endpoint(issuer.token_url).post({"a": "b c&d"}, "Basic czNjcmV0") == Answer(302, b"moved")
        assert issuer.forms == [{"a": "b c&d"}]
        assert issuer.asked == {"/jwks": 1, "/token": 1}


def test_certificates(secure_issuer: TokenIssuer, tmp_path: Path) -> None:
    """An issuer's certificate must be of the authority that is trusted, and for the name that is asked."""
    trusted = CA.write(tmp_path)
    assert Endpoint(secure_issuer.jwks_url, trusted).get().status == 200
    other = Authority("another CA").write(tmp_path, "other")
    for ca_file in (None, other):
        with pytest.raises(UpstreamError, match=r"/jwks: its certificate is not accepted: "):
            Endpoint(secure_issuer.jwks_url, ca_file).get()
    with pytest.raises(UpstreamError, match=r"its certificate is not accepted: .*[Hh]ostname mismatch"):
        Endpoint(secure_issuer.jwks_url.replace("127.0.0.1", "localhost"), trusted).get()


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    """A CA file that cannot be used is told when the endpoint is made."""
    with pytest.raises(ConfigError, match=r"the CA file .*no\.pem cannot be read: No such file"):
        Endpoint("https://localhost/", tmp_path / "no.pem")
    (tmp_path / "odd.pem").write_text("odd")
    with pytest.raises(ConfigError, match=r"the CA file .*odd\.pem holds no certificates"):
        Endpoint("https://localhost/", tmp_path / "odd.pem")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://localhost/", "localhost:80", "https://", ""])
def test_other_addresses(url: str) -> None:
    """Nothing but http and https is ever opened."""
    with pytest.raises(ConfigError, match="does not begin with https:// or http://"):
        Endpoint(url)


def test_a_user_in_an_address() -> None:
    """A password in an address would become part of a name that is looked up, and is refused unseen."""
    with pytest.raises(ConfigError, match=r"^an address with a user in it, which is not supported$"):
        Endpoint("https://us:s3cret@localhost/")


def test_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is too long is given up."""
    monkeypatch.setattr(fetch, "BODY_BYTES_MAX", 10)
    with TokenIssuer(algorithm="ES256") as issuer, pytest.raises(UpstreamError, match="an answer above 10 bytes"):
        Endpoint(issuer.jwks_url).get()


@pytest.mark.parametrize(
    ("says", "text"),
    [
        (b"", "no HTTP answer|connection reset|remote end closed"),
        (b"SSH-2.0\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", ""),
        (None, "no answer in time"),
    ],
)
def test_odd_servers(says: bytes | None, text: str) -> None:
    """A server that speaks something else, or nothing, is told in a line that shows neither secret nor form."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                request = b""
                while not request.endswith(b"client_secret=s3cret" if text else b"\r\n\r\n"):
                    request += client.recv(65536)
                if says is None:
                    client.recv(1)  # until the other side gives up
                else:
                    client.sendall(says)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        endpoint = Endpoint(f"http://127.0.0.1:{port}/t?key=s3cret", timeout_seconds=0.5)
        assert "s3cret" not in repr(endpoint)
        if text:
            with pytest.raises(UpstreamError, match=text) as raised:
                endpoint.post({"client_secret": "s3cret"}, "Basic s3cret")
            assert "s3cret" not in str(raised.value)
        else:
            assert endpoint.get() == Answer(200, b"")
        thread.join(20)
        assert not thread.is_alive()


def test_a_server_that_drips() -> None:
    """An answer that never ends, however steadily it comes, is given up in time."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while not over.wait(0.01):
                    try:
                        client.sendall(b".")
                    except OSError:
                        return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            with pytest.raises(UpstreamError, match=r"no whole answer within 0\.2 s"):
                Endpoint(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout_seconds=0.2).get()
        finally:
            over.set()
            thread.join(20)


def test_nobody_there() -> None:
    """A port that nobody listens on is told as such."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UpstreamError, match=rf"^http://127\.0\.0\.1:{port}/x: connection refused$"):
        Endpoint(f"http://127.0.0.1:{port}/x").get()
