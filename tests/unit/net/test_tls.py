"""TLS over real sockets: who gets in, what each end is told when it fails, and that nothing is lost at the end."""

import asyncio
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from handshakes import LOOPS, Other, Raw, Recorder, dialled, listening, run, served, tls_client, tls_server

from kproxy.net import tls
from kproxy.testing.certificates import Authority, Files

CA = Authority()
OTHER_CA = Authority("another CA")
BETWEEN = CA.intermediate()
TLS12 = ssl.TLSVersion.TLSv1_2

pytestmark = pytest.mark.parametrize("loop", LOOPS)


class Pki:
    """Files of certificates that are good, and of some that are not."""

    def __init__(self, folder: Path) -> None:
        """Write them all."""
        self.ca = CA.write(folder)
        self.other_ca = OTHER_CA.write(folder, "other")
        self.server = CA.server("localhost", "127.0.0.1").write(folder, "server")
        self.chained = BETWEEN.server("localhost").write(folder, "chained")
        self.alice = CA.client("CN=alice,O=org", dns=("alice.test",)).write(folder, "alice")
        self.mallory = OTHER_CA.client("CN=alice,O=org").write(folder, "mallory")
        self.expired = CA.client("CN=old", expired=True).write(folder, "expired")
        self.early = CA.client("CN=new", not_yet_valid=True).write(folder, "early")
        self.broker = CA.server("broker.test").write(folder, "broker")
        self.broker_expired = CA.server("broker.test", expired=True).write(folder, "broker-expired")
        self.broker_foreign = OTHER_CA.server("broker.test").write(folder, "broker-foreign")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Certificates for all tests here."""
    return Pki(tmp_path_factory.mktemp("pki"))


def server_of(pki: Pki, names: Callable[[str | None], bool] | None = None, **settings: Any) -> tls.ServerTls:
    """Make a listener's TLS; with client_auth, its authority is known."""
    if "client_auth" in settings:
        settings["client_ca_file"] = pki.ca
    return tls.ServerTls(tls.ServerSettings(*pki.server, **settings), names)


def trusting(
    certificate: Files | None = None, *, newest: ssl.TLSVersion | None = None, authority: Authority = CA
) -> ssl.SSLContext:
    """Make a client's context."""
    context = authority.trusting()
    if certificate is not None:
        context.load_cert_chain(*certificate)
    if newest is not None:
        context.maximum_version = newest
    return context


def old_version() -> ssl.SSLContext:
    """Make a client that knows nothing above TLS 1.1."""
    context = trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.options &= ~(ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1)
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def old_cipher() -> ssl.SSLContext:
    """Make a client that knows no cipher with forward secrecy."""
    context = trusting(newest=TLS12)
    context.set_ciphers("AES128-SHA:@SECLEVEL=0")
    return context


def sending(data: bytes) -> Raw:
    """Make an end that sends something and reads to the end."""

    def act(sock: socket.socket) -> bytes:
        sock.sendall(data)
        read = b""
        while more := sock.recv(1000):
            read += more
        return read

    return act


def resetting(sock: socket.socket) -> None:
    """Reset the connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def hello(name: str) -> bytes:
    """Make a ClientHello that asks for a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def half_a_hello(sock: socket.socket) -> None:
    """Begin and go."""
    sock.sendall(hello("localhost")[:100])


def test_a_client_comes_in(loop: str, pki: Pki) -> None:
    """A client gets in by TLS 1.3 or 1.2, with or without a name; what it asked for can be told."""
    for context, version in ((trusting(), "TLSv1.3"), (trusting(newest=TLS12), "TLSv1.2")):
        for asked, told in (("LOCALHOST", "localhost"), ("127.0.0.1", None)):
            server = server_of(pki)
            protocol, outcome = run(loop, served(server, tls_client(context, asked)))
            assert isinstance(protocol, Recorder), tls.explain(protocol)
            assert outcome[0] == b"welcome"
            assert (protocol.version, server.server_name(protocol.ssl_object)) == (version, told)
            assert protocol.certificate is None


def test_a_chain(loop: str, pki: Pki) -> None:
    """A client that knows the root alone is shown what lies between."""
    server = tls.ServerTls(tls.ServerSettings(*pki.chained))
    _, outcome = run(loop, served(server, tls_client(trusting())))
    assert outcome[0] == b"welcome"


@pytest.mark.parametrize("client_auth", ["optional", "required"])
def test_a_client_with_a_certificate(loop: str, pki: Pki, client_auth: str) -> None:
    """A client's good certificate can be told."""
    protocol, _ = run(loop, served(server_of(pki, client_auth=client_auth), tls_client(trusting(pki.alice))))
    assert isinstance(protocol, Recorder), tls.explain(protocol)
    certificate = protocol.certificate
    assert certificate is not None
    assert certificate["subject"] == ((("organizationName", "org"),), (("commonName", "alice"),))
    assert certificate["subjectAltName"] == (("DNS", "alice.test"),)


def test_an_optional_certificate(loop: str, pki: Pki) -> None:
    """Where a certificate is optional, a client without one gets in, and one with a bad one does not."""
    server = server_of(pki, client_auth="optional")
    protocol, outcome = run(loop, served(server, tls_client(trusting())))
    assert isinstance(protocol, Recorder), tls.explain(protocol)
    assert protocol.certificate is None
    assert outcome[0] == b"welcome"
    refused, _ = run(loop, served(server, tls_client(trusting(pki.mallory))))
    assert isinstance(refused, ssl.SSLError)


KAFKA = bytes.fromhex("00000017001200030000000100077264") + bytes(13)
CLIENTS: dict[str, tuple[dict[str, Any], Callable[[Pki], Raw], str, str]] = {
    # name: (the server's settings, what the client does, what the operator reads, what the client's TLS says)
    "plain kafka": (
        {},
        lambda _: sending(KAFKA),
        "does not speak TLS here; a Kafka client with security.protocol PL",
        "",
    ),
    "http": ({}, lambda _: sending(b"GET / HTTP/1.1\r\n\r\n"), "sent an HTTP request", ""),
    "http proxy": ({}, lambda _: sending(b"CONNECT k:1 HTTP/1.1\r\n\r\n"), "sent an HTTP request", ""),
    "old version": (
        {},
        lambda _: tls_client(old_version()),
        "no TLS version that is allowed",
        "ALERT_PROTOCOL_VERSION",
    ),
    "1.2 where 1.3 is needed": (
        {"min_version": "1.3"},
        lambda _: tls_client(trusting(newest=TLS12)),
        "no TLS version that is allowed",
        "ALERT_PROTOCOL_VERSION",
    ),
    "old cipher": ({}, lambda _: tls_client(old_cipher()), "no cipher that is allowed", "ALERT_HANDSHAKE_FAILURE"),
    "another authority": (
        {},
        lambda _: tls_client(trusting(authority=OTHER_CA)),
        "it does not know the authority that signed our certificate",
        "unable to get local issuer",
    ),
    "another authority, 1.2": (
        {},
        lambda _: tls_client(trusting(authority=OTHER_CA, newest=TLS12)),
        "it does not know the authority that signed our certificate",
        "unable to get local issuer",
    ),
    "another name": ({}, lambda _: tls_client(trusting(), "kafka"), "its name does not match", "Hostname mismatch"),
    "no certificate": (
        {"client_auth": "required"},
        lambda _: tls_client(trusting()),
        "sent no certificate, and one is required",
        "CERTIFICATE_REQUIRED",
    ),
    "no certificate, 1.2": (
        {"client_auth": "required"},
        lambda _: tls_client(trusting(newest=TLS12)),
        "sent no certificate, and one is required",
        "HANDSHAKE_FAILURE",
    ),
    "a certificate of another authority": (
        {"client_auth": "required"},
        lambda pki: tls_client(trusting(pki.mallory)),
        "signed by an authority that is not in client_ca_file",
        "UNKNOWN_CA",
    ),
    "an expired certificate": (
        {"client_auth": "required"},
        lambda pki: tls_client(trusting(pki.expired)),
        "the client's certificate has expired",
        "CERTIFICATE_EXPIRED",
    ),
    "a certificate of tomorrow": (
        {"client_auth": "required"},
        lambda pki: tls_client(trusting(pki.early)),
        "the client's certificate is not valid yet",
        "BAD_CERTIFICATE",
    ),
    "a server's certificate": (
        {"client_auth": "required"},
        lambda pki: tls_client(trusting(pki.server)),
        "the client's certificate is not good: un",
        "UNSUPPORTED_CERTIFICATE",
    ),
    "closing": ({}, lambda _: socket.socket.close, "closed the connection during the TLS handshake", ""),
    "resetting": ({}, lambda _: resetting, "closed the connection during the TLS handshake", ""),
    "half a hello": (
        {},
        lambda _: half_a_hello,
        "closed the connection during the TLS handshake",
        "",
    ),
}


@pytest.mark.parametrize("case", CLIENTS)
def test_a_client_that_fails(loop: str, pki: Pki, case: str) -> None:
    """A handshake that fails is told in words to the operator, and by TLS's own alert to the client."""
    settings, act, words, alert = CLIENTS[case]
    error, outcome = run(loop, served(server_of(pki, **settings), act(pki)))
    assert isinstance(error, OSError)
    said = tls.explain(error)
    assert words in said
    assert "\n" not in said
    assert not tls.ServerTls.refused_name(error)
    assert alert in str(outcome)
    assert "EOF" not in str(outcome)


def test_a_slow_client(loop: str, pki: Pki) -> None:
    """A client that says nothing, or half of it, is let go in time."""
    for said in (b"", hello("localhost")[:100]):
        error, outcome = run(loop, served(server_of(pki), sending(said), timeout_seconds=0.2))
        assert isinstance(error, OSError)
        assert tls.explain(error) == "the client did not finish the TLS handshake in time"
        assert outcome == b""


@pytest.mark.parametrize("newest", [None, TLS12])
def test_names(loop: str, pki: Pki, newest: ssl.TLSVersion | None) -> None:
    """A name that is not served, or none where one is needed, is refused with the alert for it, and visibly so."""
    server = server_of(pki, {"localhost"}.__contains__)
    context = trusting(newest=newest)
    context.check_hostname = False
    _, outcome = run(loop, served(server, tls_client(context, "LocalHost")))
    assert outcome[0] == b"welcome"
    for asked, words in (
        ("b7.kafka", "asked for the server name 'b7.kafka', which is not served here"),
        (None, "gave no server name (SNI)"),
        ("127.0.0.1", "gave no server name (SNI)"),
    ):
        error, outcome = run(loop, served(server, tls_client(context, asked)))
        assert isinstance(error, tls.UnrecognizedName)
        assert server.refused_name(error)
        assert words in tls.explain(error)
        assert "UNRECOGNIZED_NAME" in str(outcome)


def test_a_name_that_is_no_text(loop: str, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no ASCII is refused without a traceback on standard error; other oddities are still told."""
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    tls.ignore_unreadable_names()
    odd = hello("kafka-name").replace(b"kafka-name", b"\xff\xfe\x80ka-name")
    error, outcome = run(loop, served(server_of(pki), sending(odd)))
    assert isinstance(error, tls.UnrecognizedName)
    assert "no ASCII" in tls.explain(error)
    assert outcome[:1] == b"\x15"  # an alert
    assert told == []
    another: Any = SimpleNamespace(exc_value=UnicodeDecodeError("ascii", b"a", 0, 1, ""), object=b"b")
    sys.unraisablehook(another)
    assert told == [another]


def test_sessions_taken_up_again(loop: str, pki: Pki) -> None:
    """A client without a certificate may take a session up again; one with a certificate proves itself anew in 1.3."""
    for auth, context, again in (
        ("none", trusting(), True),
        ("none", trusting(newest=TLS12), True),
        ("required", trusting(pki.alice), False),
    ):
        server = server_of(pki, client_auth=auth) if auth != "none" else server_of(pki)
        _, (_, session) = run(loop, served(server, tls_client(context)))
        protocol, _ = run(loop, served(server, tls_client(context, session=session)))
        assert isinstance(protocol, Recorder), tls.explain(protocol)
        assert protocol.ssl_object.session_reused is again


def test_a_session_outlives_no_certificate(loop: str, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of TLS 1.2 shows its certificate again, and ends with it."""
    server, context = server_of(pki, client_auth="required"), trusting(pki.alice, newest=TLS12)
    _, (_, session) = run(loop, served(server, tls_client(context)))
    protocol, (_, session) = run(loop, served(server, tls_client(context, session=session)))
    assert isinstance(protocol, Recorder), tls.explain(protocol)
    assert protocol.ssl_object.session_reused
    certificate = protocol.certificate
    assert certificate is not None
    after = ssl.cert_time_to_seconds(certificate["notAfter"]) + 1
    monkeypatch.setattr(tls, "time", SimpleNamespace(time=lambda: after))
    error, _ = run(loop, served(server, tls_client(context, session=session)))
    assert isinstance(error, OSError)
    assert tls.explain(error) == "the client's certificate has expired"


def test_nothing_is_lost_at_the_end(loop: str, pki: Pki) -> None:
    """What a client sent before it closed, without TLS's farewell, is read by one who pauses and resumes later."""

    async def go() -> None:
        running = asyncio.get_running_loop()
        protocol = Recorder()
        with listening() as listener:
            listener.setblocking(False)

            def client() -> None:
                with socket.create_connection(listener.getsockname()) as sock:
                    wrapped = trusting().wrap_socket(sock, server_hostname="localhost")
                    assert wrapped.recv(2) == b"go"  # with anything unread, closing would reset the connection
                    wrapped.sendall(b"x" * 50_000)
                    wrapped.close()  # without unwrap() there is no farewell

            other = Other(client)
            conn, _ = await running.sock_accept(listener)
            await running.connect_accepted_socket(lambda: protocol, conn, ssl=server_of(pki).context)
            protocol.transport.pause_reading()
            protocol.transport.write(b"go")
            await other.outcome()
            # Whoever reads ahead has read to the end after so many turns of the loop.
            for _ in range(50):
                await asyncio.sleep(0.001)
            protocol.transport.resume_reading()
            await protocol.lost
            assert len(protocol.received) == 50_000

    run(loop, go())


# Towards brokers.


def broker_context(files: Files, **options: Any) -> ssl.SSLContext:
    """Make a broker's context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    for name, value in options.items():
        setattr(context, name, value)
    return context


def asking(pki: Pki, **options: Any) -> ssl.SSLContext:
    """Make the context of a broker that asks for a certificate."""
    context = broker_context(pki.broker, **options)
    context.load_verify_locations(pki.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def refusing_names(pki: Pki) -> ssl.SSLContext:
    """Make the context of a broker that knows no name."""
    context = broker_context(pki.broker)
    context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    return context


def hanging_up(sock: socket.socket) -> None:
    """Read what comes and close, as Kafka's plain listener does with a ClientHello."""
    sock.recv(10_000)


@pytest.mark.parametrize("newest", [None, TLS12])
def test_a_broker_is_reached(loop: str, pki: Pki, newest: ssl.TLSVersion | None) -> None:
    """A broker with a good certificate is reached, one that asks for a certificate of ours as well."""
    options = {"maximum_version": newest} if newest else {}
    for context in (broker_context(pki.broker, **options), asking(pki, **options)):
        client = tls.ClientTls(tls.ClientSettings(pki.ca, *pki.alice))
        assert run(loop, dialled(client, tls_server(context))) == (None, b"welcome")


def test_a_broker_by_another_name(loop: str, pki: Pki) -> None:
    """server_name is what is asked for and verified; without verification any certificate will do."""
    context = broker_context(pki.server)
    named = tls.ClientTls(tls.ClientSettings(pki.ca, server_name="localhost"))
    assert run(loop, dialled(named, tls_server(context))) == (None, b"welcome")
    trustful = tls.ClientTls(tls.ClientSettings(verify=False))
    assert run(loop, dialled(trustful, tls_server(broker_context(pki.broker_foreign)))) == (None, b"welcome")


BROKERS: dict[str, tuple[Callable[[Pki], Raw], dict[str, Any], str]] = {
    "plain kafka": (
        lambda _: hanging_up,
        {},
        "the broker closed the connection during the TLS handshake; its listener is",
    ),
    "no tls at all": (
        lambda _: sending(b"SSH-2.0-x\r\n" * 3),
        {},
        "the broker does not speak TLS here; its listener is",
    ),
    "another authority": (
        lambda pki: tls_server(broker_context(pki.broker_foreign)),
        {},
        "the broker's certificate is signed by an authority that is not in ca_file",
    ),
    "the system's authorities": (
        lambda pki: tls_server(broker_context(pki.broker)),
        {"ca_file": None},
        "the broker's certificate is signed by an authority that is not in ca_file",
    ),
    "another name": (
        lambda pki: tls_server(broker_context(pki.server)),
        {},
        "the broker's certificate is for another name: Hostname mismatch, certificate is not valid for 'broker.test'",
    ),
    "expired": (
        lambda pki: tls_server(broker_context(pki.broker_expired)),
        {},
        "the broker's certificate has expired",
    ),
    "it wants a certificate": (
        lambda pki: tls_server(asking(pki)),
        {},
        "the broker ended the TLS handshake: it requires a certificate of ours",
    ),
    "it wants a certificate, 1.2": (
        lambda pki: tls_server(asking(pki, maximum_version=TLS12)),
        {},
        "there is no cipher or version that both have, or it requires a certificate of ours",
    ),
    "it wants another's": (
        lambda pki: tls_server(asking(pki)),
        {"pair": "mallory"},
        "the broker ended the TLS handshake: it does not know the authority that signed our certificate",
    ),
    "ours has expired": (
        lambda pki: tls_server(asking(pki)),
        {"pair": "expired"},
        "the broker ended the TLS handshake: our certificate has expired",
    ),
    "it does not know the name": (
        lambda pki: tls_server(refusing_names(pki)),
        {},
        "the broker ended the TLS handshake: it does not know the server name that we asked for",
    ),
}


@pytest.mark.parametrize("case", BROKERS)
def test_a_broker_that_fails(loop: str, pki: Pki, case: str) -> None:
    """A handshake with a broker that fails, or that it ends afterwards as 1.3 does, is told in words."""
    act, options, words = BROKERS[case]
    pair = getattr(pki, options["pair"]) if "pair" in options else (None, None)
    client = tls.ClientTls(tls.ClientSettings(options.get("ca_file", pki.ca), *pair))
    error, _ = run(loop, dialled(client, act(pki)))
    assert error is not None
    assert words in tls.explain(error, "broker")


def test_a_slow_broker(loop: str, pki: Pki) -> None:
    """A broker that accepts and then says nothing is let go in time."""
    client = tls.ClientTls(tls.ClientSettings(pki.ca))
    error, _ = run(loop, dialled(client, sending(b""), timeout_seconds=0.2))
    assert error is not None
    assert tls.explain(error, "broker") == "the broker did not finish the TLS handshake in time"


def test_a_plain_connection(loop: str) -> None:
    """What TLS needs of a transport is no matter of a plain one."""

    async def go() -> None:
        one, other = socket.socketpair()
        protocol = Recorder()
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=one)
        tls.keep_unread(transport)
        other.sendall(b"hello")
        other.close()
        await protocol.lost
        assert protocol.received == b"hello"

    run(loop, go())


def test_large_answers(loop: str, pki: Pki) -> None:
    """What is larger than a record, and larger than a loop reads at once, comes through whole, in either direction."""
    blob = bytes(range(256)) * 4096

    def broker(sock: socket.socket) -> None:
        with broker_context(pki.broker).wrap_socket(sock, server_side=True) as wrapped:
            wrapped.sendall(blob)
            wrapped.unwrap()

    client = tls.ClientTls(tls.ClientSettings(pki.ca))
    assert run(loop, dialled(client, broker)) == (None, blob)

    async def received() -> bytes:
        protocol = Recorder()
        with listening() as listener:
            listener.setblocking(False)

            def sender() -> None:
                with socket.create_connection(listener.getsockname()) as sock:
                    wrapped = trusting().wrap_socket(sock, server_hostname="localhost")
                    wrapped.sendall(blob)
                    wrapped.unwrap().close()

            other = Other(sender)
            conn, _ = await asyncio.get_running_loop().sock_accept(listener)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, conn, ssl=server_of(pki).context)
            await protocol.lost
            await other.outcome()
        return protocol.received

    assert run(loop, received()) == blob
