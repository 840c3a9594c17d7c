"""Logins at the door: refused without a word too much, renewed in time, and passed on to the brokers as whose they are.

Nothing is dialled for whoever is not in.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from clients import each_addressing
from clients.gateway import Gateway, on_uvloop
from clients.raw import HEARTBEAT_OK, RawClient, heartbeat, produce
from clients.strangers import (
    ALICE,
    Stranger,
    only_warning,
    server_tls,
    serving,
    until_turned_away,
    write_users,
)

from kproxy.core.causes import Cause
from kproxy.core.sasl import Mechanism, Plain
from kproxy.core.scram import Scram
from kproxy.errors import AuthError
from kproxy.service import freshness
from kproxy.testing.certificates import Authority
from kproxy.testing.fakebroker import FakeBroker, FakeCluster, Request
from kproxy.wire import handshake
from kproxy.wire import primitives as p
from kproxy.wire.apis import ApiKey
from kproxy.wire.cluster import metadata_request
from kproxy.wire.handshake import ILLEGAL_SASL_STATE, SASL_AUTHENTICATION_FAILED, UNSUPPORTED_SASL_MECHANISM

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
each_mechanism = pytest.mark.parametrize("mechanism", MECHANISMS)


def credentials(mechanism: str, user: str, password: str) -> Mechanism:
    """Return what a client logs in by."""
    return Plain(user, password) if mechanism == "PLAIN" else Scram(user, password, mechanism)


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Whoever signs the certificates of this file."""
    return Authority()


@pytest.fixture
def sasl(tmp_path: Path) -> dict[str, Any]:
    """A listener's logins: alice's and bob's."""
    return {
        "mechanisms": list(reversed(MECHANISMS)),
        "users_file": write_users(tmp_path / "users.yaml", alice="wonder", bob="builder"),
        "allow_plaintext_passwords": True,
    }


def accepted(cluster: FakeCluster) -> int:
    """Return how many connections the brokers have had."""
    return sum(broker.connections_accepted for broker in cluster.brokers.values())


# Refusals.


@each_mechanism
@pytest.mark.parametrize(("user", "password"), [("alice", "wrong-one"), ("nobody", "wonder")])
@on_uvloop
async def test_a_login_that_is_refused(sasl: dict[str, Any], mechanism: str, user: str, password: str) -> None:
    """It is told after a while, counted, logged with its cause, and nothing has been dialled for it."""
    async with serving(sasl=sasl) as (gateway, cluster):
        before = accepted(cluster)
        async with Stranger(gateway.address) as client:
            began = time.monotonic()
            with pytest.raises(AuthError, match=r"Authentication failed$"):
                await client.login(credentials(mechanism, user, password))
            assert time.monotonic() - began > 0.09
            await client.assert_closed()
        await until_turned_away(gateway, Cause.LOGIN_REFUSED)
        assert gateway.tally.logins == {(mechanism, False): 1}
        assert (gateway.tally.dials, accepted(cluster)) == (0, before)
        line = only_warning(gateway)
        assert (line["cause"], line["client"]) == (Cause.LOGIN_REFUSED, "127.0.0.1")
        assert user in line["error"]
        assert password not in str(gateway.events)


@on_uvloop
async def test_guessing_becomes_slow(sasl: dict[str, Any]) -> None:
    """Each failure of an address makes its next one wait longer, over all of its connections; others do not wait."""
    async with serving(sasl=sasl) as (gateway, _):
        waits = []
        for _ in range(3):
            async with Stranger(gateway.address) as client:
                began = time.monotonic()
                with pytest.raises(AuthError):
                    await client.login(Plain("alice", "wrong"))
                waits.append(time.monotonic() - began)
        assert [wait > least for wait, least in zip(waits, (0.09, 0.19, 0.39), strict=True)] == [True] * 3
        async with Stranger(gateway.address, local_host="127.0.0.2") as other:
            began = time.monotonic()
            with pytest.raises(AuthError):
                await other.login(Plain("alice", "wrong"))
            assert time.monotonic() - began < waits[2]


@pytest.mark.parametrize("version", [0, 1, 2])
@on_uvloop
async def test_an_unknown_user_looks_like_a_wrong_password(sasl: dict[str, Any], version: int) -> None:
    """By PLAIN both get the same bytes."""
    async with serving(sasl=sasl) as (gateway, _):
        told = []
        for user in ("alice", "zelda", "alice"):
            async with Stranger(gateway.address) as client:
                await client.send(ApiKey.SASL_HANDSHAKE, 1, handshake.sasl_handshake_request("PLAIN"))
                token = handshake.sasl_authenticate_request(version, b"\0%s\0wrong" % user.encode())
                await client.send(ApiKey.SASL_AUTHENTICATE, version, token)
                told.append(await client.read_to_end())
        assert told[0] == told[1] == told[2] != b""


@on_uvloop
async def test_an_unknown_user_of_the_oldest_form(sasl: dict[str, Any]) -> None:
    """After SaslHandshake v0 there are no answers to tokens: both just see the end, and a good one gets in."""
    async with serving(sasl=sasl) as (gateway, _):
        for user, password in (("alice", b"wrong"), ("zelda", b"wrong"), ("alice", b"wonder")):
            async with Stranger(gateway.address) as client:
                await client.ask(ApiKey.SASL_HANDSHAKE, 0, handshake.sasl_handshake_request("PLAIN"))
                token = b"\0%s\0%s" % (user.encode(), password)
                await client.send_bytes(p.INT32.pack(len(token)) + token)
                if password == b"wonder":
                    assert await client.receive() == b""
                    await client.heartbeat()
                else:
                    await client.assert_closed()


@pytest.mark.parametrize("mechanism", MECHANISMS[1:])
@on_uvloop
async def test_an_unknown_user_of_scram(sasl: dict[str, Any], mechanism: str) -> None:
    """An unknown user is given a salt, the same each time, and the iterations of everybody."""
    async with serving(sasl=sasl) as (gateway, _):
        challenges: dict[str, set[str]] = {}
        ends = []
        for user in ("alice", "zelda", "alice", "zelda", "ada"):
            async with Stranger(gateway.address) as client:
                await client.shake(mechanism)
                first = await client.authenticate(b"n,,n=%s,r=nonce" % user.encode())
                nonce, salt, iterations = first.token.decode().split(",")
                assert nonce.startswith("r=nonce")
                challenges.setdefault(user, set()).add(f"{salt},{iterations}")
                proof = b"c=biws,%s,p=%s" % (nonce.encode(), b"A" * (43 if mechanism.endswith("256") else 86) + b"=")
                ends.append((await client.authenticate(proof + b"=" * (not mechanism.endswith("256"))), len(nonce)))
        assert [len(told) for told in challenges.values()] == [1, 1, 1]
        (alice,), (zelda,), (ada,) = challenges.values()
        assert len({alice, zelda, ada}) == 3
        assert {(len(told), told.rpartition(",")[2]) for told in (alice, zelda, ada)} == {(len(alice), "i=8192")}
        assert len(set(ends)) == 1
        assert ends[0][0].error_code == SASL_AUTHENTICATION_FAILED


@each_addressing
@on_uvloop
async def test_a_request_before_the_login(sasl: dict[str, Any], addressing: str) -> None:
    """Whoever asks for something else than a login is closed, and the log says what to set."""
    async with serving(sasl=sasl, addressing=addressing) as (gateway, cluster):
        before = accepted(cluster)
        for begun in (False, True):
            async with RawClient(gateway.address) as client:
                if begun:
                    await client.api_versions()
                await client.send(ApiKey.METADATA, 1, metadata_request(1))
                await client.assert_closed()
        await until_turned_away(gateway, Cause.LOGIN_REQUIRED, 2)
        line = only_warning(gateway)
        assert "Metadata" in line["error"]
        assert "security.protocol" in line["error"]
        assert (gateway.tally.dials, accepted(cluster)) == (0, before)


@on_uvloop
async def test_requests_out_of_order(sasl: dict[str, Any]) -> None:
    """A mechanism that there is not, a second handshake and a token too early get Kafka's errors, and the end."""
    async with serving(sasl=sasl) as (gateway, _):
        async with Stranger(gateway.address) as client:
            answer = await client.shake("GSSAPI")
            assert answer.error_code == UNSUPPORTED_SASL_MECHANISM
            assert set(answer.mechanisms) == set(MECHANISMS)
            await client.assert_closed()
        async with Stranger(gateway.address) as client:
            assert (await client.shake()).error_code == 0
            assert (await client.shake()).error_code == ILLEGAL_SASL_STATE
            await client.assert_closed()
        async with Stranger(gateway.address) as client:
            assert (await client.authenticate(b"\0alice\0wonder")).error_code == SASL_AUTHENTICATION_FAILED
            await client.assert_closed()
        assert gateway.tally.logins.total() == 3
        assert gateway.tally.dials == 0


@on_uvloop
async def test_many_requests_before_a_login(sasl: dict[str, Any]) -> None:
    """A stranger cannot go on asking what is offered."""
    async with serving(sasl=sasl) as (gateway, _):
        async with RawClient(gateway.address) as client:
            await client.send_bytes(b"".join(client.frame(ApiKey.API_VERSIONS, 0, b"") for _ in range(100)))
            await client.read_to_end()
        await until_turned_away(gateway, Cause.MALFORMED_REQUEST)


@each_addressing
@on_uvloop
async def test_a_client_that_does_not_wait(sasl: dict[str, Any], addressing: str) -> None:
    """Requests that are sent right behind the token, before its answer, are served in their order."""
    async with serving(sasl=sasl, addressing=addressing) as (gateway, _), Stranger(gateway.address) as client:
        asked = [
            client.frame(ApiKey.API_VERSIONS, 0, b""),
            client.frame(ApiKey.SASL_HANDSHAKE, 1, handshake.sasl_handshake_request("PLAIN")),
            client.frame(ApiKey.SASL_AUTHENTICATE, 2, handshake.sasl_authenticate_request(2, b"\0alice\0wonder")),
            *(client.frame(ApiKey.HEARTBEAT, 3, heartbeat()) for _ in range(20)),
        ]
        await client.send_bytes(b"".join(asked))
        answers = [await client.receive() for _ in asked]
        assert [p.INT32.unpack(answer[:4])[0] for answer in answers] == list(range(1, 24))
        assert {answer[4:] for answer in answers[3:]} == {HEARTBEAT_OK}


# Users that change.


@on_uvloop
async def test_a_changed_users_file(sasl: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New connections need the new password, old ones go on; a broken file changes nothing but the log."""
    monkeypatch.setattr(freshness, "LOOK_SECONDS", 0.05)
    path = tmp_path / "users.yaml"
    async with serving(sasl=sasl) as (gateway, _), Stranger(gateway.address) as old:
        await old.login(ALICE)
        write_users(path, alice="wonderland", carol="sings")
        await gateway.until(lambda: gateway.events_with(event="users file read again"), "the new users")
        for mechanism in MECHANISMS:
            await assert_in(gateway, credentials(mechanism, "alice", "wonderland"))
            await assert_in(gateway, credentials(mechanism, "carol", "sings"))
            for user, password in (("alice", "wonder"), ("bob", "builder")):
                await assert_out(gateway, credentials(mechanism, user, password))
        path.write_text("users: {alice: {scram-sha-512: {salt: short-secret}}}", encoding="utf-8")
        bad = "users file is no good; those that were read before stay"
        await gateway.until(lambda: gateway.events_with(event=bad), "the complaint")
        assert "short-secret" not in str(gateway.events)
        await assert_in(gateway, Plain("alice", "wonderland"))
        await old.heartbeat()


async def assert_in(gateway: Gateway, mechanism: Mechanism) -> None:
    """One may log in, and is served."""
    async with Stranger(gateway.address) as client:
        await client.login(mechanism)
        await client.heartbeat()


async def assert_out(gateway: Gateway, mechanism: Mechanism) -> None:
    """One may not."""
    async with Stranger(gateway.address, local_host=f"127.0.0.{gateway.tally.logins.total() + 10}") as client:
        with pytest.raises(AuthError, match="Authentication failed"):
            await client.login(mechanism)


# Logins that end (KIP-368).


@each_addressing
@each_mechanism
@on_uvloop
async def test_a_client_that_does_not_log_in_anew(sasl: dict[str, Any], addressing: str, mechanism: str) -> None:
    """It is closed at its first request after the end of its login, not before, and the request goes nowhere."""
    lifetime = {"session_lifetime": "400ms"}
    async with serving(sasl=sasl | lifetime, addressing=addressing) as (gateway, cluster):
        async with Stranger(gateway.address) as client:
            began = time.monotonic()
            assert await client.login(credentials(mechanism, "alice", "wonder")) == 400
            (connection,) = gateway.connections
            while not connection.exchange.expired:
                await client.heartbeat()
                await asyncio.sleep(0.02)
            assert time.monotonic() - began > 0.39
            served = cluster.brokers[1].counts[ApiKey.HEARTBEAT]
            assert gateway.tally.closed == {}
            await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
            await client.assert_closed()
        await gateway.until_closed(Cause.SESSION_EXPIRED)
        assert cluster.brokers[1].counts[ApiKey.HEARTBEAT] == served
        assert "KIP-368" in only_warning(gateway)["error"]


@each_addressing
@each_mechanism
@on_uvloop
async def test_a_client_that_logs_in_anew(sasl: dict[str, Any], addressing: str, mechanism: str) -> None:
    """It goes on as long as it likes, be it early or late, and its broker hears nothing of it."""
    lifetime = {"session_lifetime": "400ms"}
    async with serving(sasl=sasl | lifetime, addressing=addressing) as (gateway, cluster):
        async with Stranger(gateway.address) as client:
            await client.login(credentials(mechanism, "alice", "wonder"))
            (connection,) = gateway.connections
            for late in (False, True, False, True):
                await client.heartbeat()
                if late:
                    await gateway.until(lambda: connection.exchange.expired, "the end of the login")
                assert await client.login(credentials(mechanism, "alice", "wonder")) == 400
                await client.heartbeat()
        assert gateway.tally.logins == {(mechanism, True): 5}
        assert (gateway.tally.opened, gateway.tally.dials) == (1, 1)
        assert cluster.brokers[1].counts[ApiKey.HEARTBEAT] == 8
        assert cluster.brokers[1].counts[ApiKey.SASL_HANDSHAKE] == 0
        assert cluster.brokers[1].violations == []


@each_addressing
@on_uvloop
async def test_a_new_login_amid_requests(sasl: dict[str, Any], addressing: str) -> None:
    """Answers leave in the order of the requests, whatever of them is a login."""
    lifetime = {"session_lifetime": "10s"}
    async with serving(sasl=sasl | lifetime, addressing=addressing) as (gateway, _):
        async with Stranger(gateway.address) as client:
            await client.login(ALICE)
            beat = client.frame
            asked = [
                *(beat(ApiKey.HEARTBEAT, 3, heartbeat()) for _ in range(5)),
                client.frame(ApiKey.SASL_HANDSHAKE, 1, handshake.sasl_handshake_request("PLAIN")),
                client.frame(ApiKey.SASL_AUTHENTICATE, 2, handshake.sasl_authenticate_request(2, b"\0alice\0wonder")),
                *(beat(ApiKey.HEARTBEAT, 3, heartbeat()) for _ in range(5)),
            ]
            await client.send_bytes(b"".join(asked))
            answers = [await client.receive() for _ in asked]
            assert [p.INT32.unpack(answer[:4])[0] for answer in answers] == list(range(1, 13))
        assert gateway.tally.logins["PLAIN", True] == 2


REFUSED_ANEW = {
    "another user": Plain("bob", "builder"),
    "a wrong password": Plain("alice", "wrong"),
    "another mechanism": Scram("alice", "wonder", "SCRAM-SHA-512"),
}


@each_addressing
@pytest.mark.parametrize("anew", REFUSED_ANEW.values(), ids=REFUSED_ANEW)
@on_uvloop
async def test_a_new_login_that_is_refused(sasl: dict[str, Any], addressing: str, anew: Mechanism) -> None:
    """Neither who a client is nor how it proves it may change: it is told so, closed, and counted."""
    async with serving(sasl=sasl | {"session_lifetime": "10s"}, addressing=addressing) as (gateway, _):
        async with Stranger(gateway.address) as client:
            await client.login(ALICE)
            await client.heartbeat()
            with pytest.raises(AuthError):
                await client.login(anew)
            await client.assert_closed()
        await gateway.until_closed(Cause.LOGIN_REFUSED)
        assert gateway.tally.logins.total() == 2
        assert "builder" not in str(gateway.events)


# Producers that want no answers.


@asynccontextmanager
async def behind_tls(broker: FakeBroker, authority: Authority, folder: Path) -> AsyncIterator[None]:
    """Put a broker behind TLS, at an address that it then advertises."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server(broker.host).write(folder, "broker"))
    port = broker.port
    pipes: set[asyncio.Task[Any] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pipes.add(asyncio.current_task())
        behind, before = await asyncio.open_connection(broker.host, port)
        try:
            await asyncio.gather(pump(reader, before), pump(behind, writer))
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
            before.transport.abort()

    server = await asyncio.start_server(serve, broker.host, 0, ssl=context)
    broker.state.brokers[broker.node_id] = server.sockets[0].getsockname()
    yield
    server.close()
    for pipe in pipes:
        if pipe is not None:
            pipe.cancel()
    await asyncio.gather(*(pipe for pipe in pipes if pipe is not None), return_exceptions=True)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass everything on."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


RECORDS = [b"%d " % number * 2000 for number in range(100)]
"""More than uvloop reads ahead for those who do not take it (256 KiB); sockets hold it."""

FEW = RECORDS[:25]
"""Less: then it sees the end of the connection while nobody takes what came before."""


@each_addressing
@pytest.mark.parametrize("upstream", ["plain", "plain and late", "TLS"])
@on_uvloop
async def test_acks_0_over_tls(
    authority: Authority, sasl: dict[str, Any], tmp_path: Path, addressing: str, upstream: str
) -> None:
    """A producer that wants no answers, sends and closes at once loses nothing, though its broker is dialled then.

    Be it with TLS's farewell or without, as when its process ends.
    """
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(FakeBroker())
        broker.on(ApiKey.PRODUCE, lambda _: None)
        broker.state.topics["topic"] = [1]
        of_cluster: dict[str, Any] = {"dial_patience": "5s"}
        if upstream == "TLS":
            await stack.enter_async_context(behind_tls(broker, authority, tmp_path))
            of_cluster["tls"] = {"ca_file": str(authority.write(tmp_path))}
        host, port = broker.state.brokers[1][:2]
        listener = {"sasl": sasl, "tls": server_tls(tmp_path, authority)}
        gateway = Gateway(f"{host}:{port}", addressing=addressing, cluster=of_cluster, listener=listener)
        await stack.enter_async_context(gateway)
        context = authority.trusting()
        for records, farewell in ((RECORDS, True), (RECORDS, False), (FEW, True), (FEW, False)):
            asked = [produce(0, record) for record in records]
            if upstream == "plain and late":
                broker.refuse()
                await asyncio.to_thread(send_and_go, gateway.port, context, asked, farewell=farewell)
                await broker.start()
            else:
                await asyncio.to_thread(send_and_go, gateway.port, context, asked, farewell=farewell)
            await broker.until_asked(ApiKey.PRODUCE, len(asked))
            assert [request.body for request in broker.of(ApiKey.PRODUCE)] == asked
            broker.requests.clear()
        await gateway.until(lambda: gateway.tally.connections == 0, "the end")
        assert gateway.tally.lost_bytes == 0


def send_and_go(port: int, context: ssl.SSLContext, asked: list[bytes], *, farewell: bool) -> None:
    """Log in, send requests to produce, and close at once: a client that blocks, on a socket of the system's."""
    client = RawClient("127.0.0.1:0")
    with socket.create_connection(("127.0.0.1", port), timeout=15) as plain:
        sock = context.wrap_socket(plain, server_hostname="localhost")
        token = handshake.sasl_authenticate_request(2, b"\0alice\0wonder")
        for key, version, body in (
            (ApiKey.SASL_HANDSHAKE, 1, handshake.sasl_handshake_request("PLAIN")),
            (ApiKey.SASL_AUTHENTICATE, 2, token),
        ):
            sock.sendall(client.frame(key, version, body))
            (size,) = p.INT32.unpack(sock.recv(4))
            while size:
                size -= len(sock.recv(size))
        sock.sendall(b"".join(client.frame(ApiKey.PRODUCE, 7, body) for body in asked))
        sock.settimeout(0)
        with sock, contextlib.suppress(ssl.SSLWantReadError):  # it does not wait for the other's farewell
            if farewell:
                sock.unwrap()


# As whom the brokers see a client.

USERS = {"gateway": "secret", "alice-at-kafka": "a-secret", "teams": "t-secret", "alice": "wonder", "team-7": "seven"}
CREDENTIALS = {
    "alice": {"username": "alice-at-kafka", "password": "a-secret"},
    "team-*": {"username": "teams", "password": "t-secret"},
}


def user_of(request: Request, broker: FakeBroker) -> str:
    """Return as whom a broker knew the connection that a request came on."""
    tokens = [one.body for one in broker.of(ApiKey.SASL_AUTHENTICATE) if one.connection == request.connection]
    return tokens[-1].split(b"\0")[1].decode()


@each_addressing
@on_uvloop
async def test_each_client_has_its_credentials(tmp_path: Path, addressing: str) -> None:
    """Brokers see each client as the user that is meant for it, and no two principals share a connection."""
    sasl = {
        "mechanisms": ["SCRAM-SHA-512"],
        "users_file": write_users(tmp_path / "users.yaml", alice="1", **{"team-7": "2", "team-8": "3", "bob": "4"}),
    }
    expected = {"alice": "alice-at-kafka", "team-7": "teams", "team-8": "teams", "bob": "gateway"}
    settings: dict[str, Any] = {
        "login": ("gateway", "secret"),
        "cluster": {"credentials": CREDENTIALS},
        "addressing": addressing,
    }
    async with serving(users=USERS, sasl=sasl, **settings) as (gateway, cluster), AsyncExitStack() as stack:
        broker = cluster.brokers[1]
        for number, user in enumerate(expected, 1):
            client = await stack.enter_async_context(Stranger(gateway.address))
            await client.login(Scram(user, str(number), "SCRAM-SHA-512"))
            await client.heartbeat()
        beats = broker.of(ApiKey.HEARTBEAT)
        assert [user_of(beat, broker) for beat in beats] == list(expected.values())
        assert len({beat.connection for beat in beats}) == 4
        assert broker.violations == []


@on_uvloop
async def test_credentials_that_the_brokers_refuse(tmp_path: Path) -> None:
    """A client whose credentials upstream are wrong is closed with that cause; others are served."""
    sasl = {"mechanisms": ["SCRAM-SHA-512"], "users_file": write_users(tmp_path / "users.yaml", alice="1", bob="2")}
    of_cluster = {
        "credentials": {"alice": {"username": "alice", "password": "stale-secret"}},
        "dial_patience": "100ms",
        "dial_patience_max": "100ms",
    }
    login = ("gateway", "secret")
    async with serving(users=USERS, sasl=sasl, cluster=of_cluster, login=login) as (gateway, _):
        async with Stranger(gateway.address) as alice, Stranger(gateway.address) as bob:
            await alice.login(Scram("alice", "1", "SCRAM-SHA-512"))
            await alice.send(ApiKey.HEARTBEAT, 3, heartbeat())
            await alice.assert_closed()
            await bob.login(Scram("bob", "2", "SCRAM-SHA-512"))
            await bob.heartbeat()
        assert gateway.tally.closed[Cause.BROKER_LOGIN_FAILED] == 1
        assert "stale-secret" not in str(gateway.events)


PASSED = {"mechanisms": ["PLAIN"], "allow_plaintext_passwords": True}
PASSTHROUGH: dict[str, Any] = {
    "login": ("gateway", "secret"),
    "cluster": {"passthrough": "plain", "dial_patience": "100ms", "dial_patience_max": "100ms"},
    "sasl": PASSED,
    "users": USERS,
}


@each_addressing
@on_uvloop
async def test_a_password_is_passed_through(addressing: str) -> None:
    """Brokers see each client as itself, and kproxy's own questions as kproxy."""
    async with serving(addressing=addressing, **PASSTHROUGH) as (gateway, cluster), AsyncExitStack() as stack:
        broker = cluster.brokers[1]
        for user in ("alice", "team-7"):
            client = await stack.enter_async_context(Stranger(gateway.address))
            await client.login(Plain(user, USERS[user]))
            await client.heartbeat()
        assert [user_of(beat, broker) for beat in broker.of(ApiKey.HEARTBEAT)] == ["alice", "team-7"]
        assert {user_of(one, broker) for one in broker.of(ApiKey.METADATA)} == {"gateway"}
        assert "wonder" not in str(gateway.events)


@on_uvloop
async def test_a_password_that_the_brokers_refuse() -> None:
    """The client is told so by error 58, as by a broker, delayed and counted."""
    async with serving(**PASSTHROUGH) as (gateway, _):
        async with Stranger(gateway.address) as client:
            await client.shake()
            answer = await client.authenticate(b"\0alice\0guessed-one")
            assert (answer.error_code, answer.error_message) == (58, "Authentication failed")
            await client.assert_closed()
        await until_turned_away(gateway, Cause.LOGIN_REFUSED)
        assert gateway.tally.logins == {("PLAIN", False): 1}
        assert "guessed-one" not in str(gateway.events)
        await assert_in(gateway, ALICE)


@on_uvloop
async def test_a_broker_that_cannot_judge() -> None:
    """While no broker is up a passed password cannot be judged: the client is closed, with the cause, not refused."""
    async with serving(**PASSTHROUGH) as (gateway, cluster):
        await cluster.brokers[1].stop()
        await gateway.until(lambda: not gateway.link.up_nodes(), "kproxy to know that the broker is down")
        async with Stranger(gateway.address) as client:
            await client.shake()
            token = handshake.sasl_authenticate_request(2, b"\0alice\0wonder")
            await client.send(ApiKey.SASL_AUTHENTICATE, 2, token)
            await client.assert_closed()
        await until_turned_away(gateway, Cause.BROKER_UNREACHABLE)
        assert gateway.tally.logins == {}
        await cluster.brokers[1].start()
        await gateway.until(gateway.link.up_nodes, "the broker to be up again", 20)
        await assert_in(gateway, ALICE)


@each_addressing
@on_uvloop
async def test_a_passed_password_is_judged_anew(addressing: str) -> None:
    """With session_lifetime a client whose password was changed at the brokers is out at its next login."""
    users = dict(USERS)
    sasl = {"sasl": PASSED | {"session_lifetime": "10s"}, "users": users, "addressing": addressing}
    async with serving(**PASSTHROUGH | sasl) as (gateway, _):
        async with Stranger(gateway.address) as client:
            await client.login(ALICE)
            await client.heartbeat()
            await client.login(ALICE)
            await client.heartbeat()
            users["alice"] = "another"
            with pytest.raises(AuthError):
                await client.login(ALICE)
            await client.assert_closed()
        await gateway.until_closed(Cause.LOGIN_REFUSED)
