"""What stands before a login: PROXY headers, TLS and its names, who waits too long, and too many who wait.

Whoever does not get through is closed with a cause, disturbs nobody, and is never dialled for.
"""

import asyncio
import gc
import ssl
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from clients.gateway import Gateway, on_uvloop
from clients.raw import RawClient, heartbeat
from clients.strangers import (
    ALICE,
    CLIENT_HELLO,
    Stranger,
    only_warning,
    proxy_v1,
    proxy_v2,
    server_tls,
    serving,
    until_turned_away,
    write_users,
)

from kproxy.core.causes import Cause
from kproxy.core.scram import Scram
from kproxy.net import heap, listeners, threshold
from kproxy.testing.certificates import Authority
from kproxy.wire import frames, handshake
from kproxy.wire import primitives as p
from kproxy.wire.apis import ApiKey
from kproxy.wire.cluster import metadata_request

TRUSTED: dict[str, Any] = {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1/32"]}
API_VERSIONS = frames.request(ApiKey.API_VERSIONS, 0, 1, "raw", b"")


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Whoever signs the certificates of this file."""
    return Authority()


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> dict[str, Any]:
    """A listener's TLS."""
    return server_tls(tmp_path, authority)


@pytest.fixture
def sasl(tmp_path: Path) -> dict[str, Any]:
    """A listener's logins: alice's."""
    return {
        "mechanisms": ["SCRAM-SHA-512", "PLAIN"],
        "users_file": write_users(tmp_path / "users.yaml", alice="wonder"),
        "allow_plaintext_passwords": True,
    }


# PROXY protocol.

HEADERS = {
    "v1": (proxy_v1("203.0.113.9"), "203.0.113.9"),
    "v1 of IPv6": (proxy_v1("2001:db8::9"), "2001:db8::9"),
    "v1 that names nobody": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "v2": (proxy_v2("203.0.113.9"), "203.0.113.9"),
    "v2 of IPv6": (proxy_v2("2001:db8::9"), "2001:db8::9"),
    "v2 with TLVs": (proxy_v2("203.0.113.9", tlvs=b"\x01\x00\x05kafka" + b"\x04\x01\x00" + bytes(256)), "203.0.113.9"),
    "v2 of the load balancer itself": (proxy_v2(None), "127.0.0.1"),
}
each_header = pytest.mark.parametrize(("header", "host"), HEADERS.values(), ids=HEADERS)


@each_header
@pytest.mark.parametrize("how", ["plain", "plain, byte by byte", "TLS", "TLS, byte by byte"])
@on_uvloop
async def test_a_client_has_the_address_of_its_proxy_header(
    authority: Authority, tls: dict[str, Any], header: bytes, host: str, how: str
) -> None:
    """The header's address is the client's, and not a byte of what follows the header is missed."""
    secure, slowly = how.startswith("TLS"), how.endswith("byte")
    more = TRUSTED | ({"tls": tls} if secure else {})
    async with serving(**more) as (gateway, _):
        context = authority.trusting() if secure else None
        async with Stranger(gateway.address, tls=context, preamble=header, slowly=slowly) as client:
            await client.heartbeat()
            await client.send_bytes(p.INT32.pack(9))
            await client.assert_closed()
        await gateway.until_closed(Cause.MALFORMED_REQUEST)
        line = only_warning(gateway)
        assert line["client"].rpartition(":")[0] == host
        if host != "127.0.0.1":
            assert line["client"].endswith(":4711")


@on_uvloop
async def test_limits_are_held_against_the_address_of_the_header(sasl: dict[str, Any]) -> None:
    """Two clients behind one load balancer do not use up each other's limit."""
    limit = {"name": "one", "connections": {"max": 1}, "key": ["client_ip"]}
    async with serving(limits=[limit], sasl=sasl, **TRUSTED) as (gateway, _):
        async with AsyncExitStack() as stack:
            for host in ("203.0.113.1", "203.0.113.2", "203.0.113.1"):
                client = await stack.enter_async_context(Stranger(gateway.address, preamble=proxy_v1(host)))
                await client.login(ALICE)
                await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
            await client.assert_closed()
        assert gateway.tally.closed[Cause.LIMITED] == 1


BAD_HEADERS = {
    "no header": (API_VERSIONS, "no PROXY header"),
    "TLS instead": (CLIENT_HELLO, "no PROXY header"),
    "a line that does not end": (b"PROXY TCP4 " + b"1" * 200, "longer than 107 bytes"),
    "no address": (b"PROXY TCP4 here there 1 2\r\n", "IPv4 address"),
    "a command that there is not": (b"\r\n\r\n\0\r\nQUIT\n\x2f\x11\0\0", "command 15"),
    "too much of it": (proxy_v2(None, tlvs=bytes(5000)), "longer than 4096 bytes"),
}


@pytest.mark.parametrize(("header", "words"), BAD_HEADERS.values(), ids=BAD_HEADERS)
@on_uvloop
async def test_a_bad_proxy_header(header: bytes, words: str) -> None:
    """Whoever sends something else than a header is closed with its cause, and the next one is served."""
    async with serving(**TRUSTED) as (gateway, _):
        async with Stranger(gateway.address, preamble=header) as client:
            await client.assert_closed()
        await until_turned_away(gateway, Cause.PROXY_HEADER)
        line = only_warning(gateway)
        assert (line["event"], line["cause"], line["client"]) == (
            "client turned away",
            Cause.PROXY_HEADER,
            "127.0.0.1",
        )
        assert words in line["error"]
        async with Stranger(gateway.address, preamble=proxy_v1("203.0.113.9")) as client:
            await client.heartbeat()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@on_uvloop
async def test_a_proxy_header_that_ends_halfway(reset: bool) -> None:
    """A load balancer that goes in the middle of its header is told apart from a failed TLS handshake."""
    async with serving(**TRUSTED) as (gateway, _):
        async with Stranger(gateway.address, preamble=b"PROXY TCP4 10.") as client:
            await gateway.until(lambda: gateway.tally.waiting == 1, "the beginning of the header")
            if reset:
                client.reset()
        await gateway.until(lambda: gateway.tally.waiting == 0, "its end")
        assert set(gateway.tally.turned_away) <= {Cause.PROXY_HEADER, Cause.CLIENT_CLOSED}


@on_uvloop
async def test_a_proxy_header_from_anybody() -> None:
    """A peer that is no trusted proxy is closed, whatever it says."""
    untrusted = TRUSTED | {"trusted_proxies": ["10.0.0.0/8"]}
    async with serving(**untrusted) as (gateway, _):
        async with Stranger(gateway.address, preamble=proxy_v1("10.0.0.1")) as client:
            await client.assert_closed()
        await until_turned_away(gateway, Cause.PROXY_HEADER)
        assert "trusted_proxies" in only_warning(gateway)["error"]


# Who may not even try.


@pytest.mark.parametrize("door", ["none", "TLS", "PROXY"])
@on_uvloop
async def test_addresses_that_are_not_let_in(tls: dict[str, Any], door: str) -> None:
    """Whose address is not among ``cidrs`` is closed before a byte of it is read, or after its PROXY header."""
    more: dict[str, Any] = {"none": {}, "TLS": {"tls": tls}, "PROXY": TRUSTED}[door]
    async with serving(access={"cidrs": ["127.0.0.2/32", "203.0.113.9/32"]}, **more) as (gateway, _):
        preamble = proxy_v1("203.0.113.10") if door == "PROXY" else b""
        async with Stranger(gateway.address, preamble=preamble) as client:
            await client.assert_closed()
        await until_turned_away(gateway, Cause.ADDRESS_DENIED)
        if door == "none":
            async with Stranger(gateway.address, local_host="127.0.0.2") as client:
                await client.heartbeat()
        elif door == "PROXY":
            async with Stranger(gateway.address, preamble=proxy_v1("203.0.113.9")) as client:
                await client.heartbeat()


@on_uvloop
async def test_a_storm_from_one_address(sasl: dict[str, Any]) -> None:
    """An address that connects too often is closed at the door, and another one gets in meanwhile."""
    async with serving(sasl=sasl, accept_rate=3) as (gateway, _), AsyncExitStack() as storm:
        for _ in range(9):
            await storm.enter_async_context(Stranger(gateway.address))
        await until_turned_away(gateway, Cause.TOO_MANY_ARRIVALS, 3)
        async with Stranger(gateway.address, local_host="127.0.0.2") as client:
            await client.send_bytes(API_VERSIONS)
            await client.receive()


# Who takes too long.

SILENCES: dict[str, tuple[set[str], bytes]] = {
    "nothing where there is a login": ({"sasl"}, b""),
    "nothing where there is TLS": ({"tls"}, b""),
    "nothing where there is a header": ({"proxy"}, b""),
    "half a header": ({"proxy"}, b"PROXY TCP4 10."),
    "half a ClientHello": ({"tls"}, CLIENT_HELLO),
    "half a ClientHello behind a header": ({"tls", "proxy"}, proxy_v1("203.0.113.9") + CLIENT_HELLO),
    "half a frame": ({"sasl"}, API_VERSIONS[:-3]),
    "half a frame of a login": (
        {"sasl"},
        frames.request(ApiKey.SASL_HANDSHAKE, 1, 1, "raw", handshake.sasl_handshake_request("PLAIN"))[:-3],
    ),
    "half a frame behind a good one": ({"sasl"}, API_VERSIONS + API_VERSIONS[:-3]),
    "half a frame behind a header": ({"sasl", "proxy"}, proxy_v1("203.0.113.9") + API_VERSIONS[:-3]),
}


@pytest.mark.parametrize(("parts", "said"), SILENCES.values(), ids=SILENCES)
@on_uvloop
async def test_a_login_that_takes_too_long(
    tls: dict[str, Any], sasl: dict[str, Any], parts: set[str], said: bytes
) -> None:
    """Whoever is not in within login_timeout is closed with its cause, however slowly it goes on."""
    settings: dict[str, Any] = {"login_timeout": "300ms"}
    settings |= {key: value for key, value in {"tls": tls, "sasl": sasl}.items() if key in parts}
    settings |= TRUSTED if "proxy" in parts else {}
    async with serving(**settings) as (gateway, _):
        began = time.monotonic()
        async with Stranger(gateway.address, preamble=said[:-10]) as client:
            for byte in said[-10:]:  # a time limit for each read would begin anew each time
                await client.send_bytes(bytes([byte]))
                await asyncio.sleep(0.02)
            await client.read_to_end()
        await until_turned_away(gateway, Cause.LOGIN_TIMEOUT)
        assert 0.29 < time.monotonic() - began < 5
        assert only_warning(gateway)["cause"] == Cause.LOGIN_TIMEOUT
        assert gateway.tally.waiting == 0


@on_uvloop
async def test_silence_behind_a_handshake(authority: Authority, tls: dict[str, Any], sasl: dict[str, Any]) -> None:
    """The time for TLS and for the login is one and the same; whoever is in has all the time."""
    async with serving(tls=tls, sasl=sasl, login_timeout="500ms") as (gateway, _):
        context = authority.trusting()
        async with Stranger(gateway.address, tls=context) as member, Stranger(gateway.address, tls=context) as silent:
            await member.login(ALICE)
            await silent.shake()
            await silent.assert_closed()
            await until_turned_away(gateway, Cause.LOGIN_TIMEOUT)
            await member.heartbeat()


# Too many who wait.


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@on_uvloop
async def test_there_is_always_room_for_a_newcomer(
    authority: Authority, tls: dict[str, Any], sasl: dict[str, Any], secure: bool
) -> None:
    """With unauthenticated_max the oldest of the busiest address has to go, and nobody else."""
    settings: dict[str, Any] = {"sasl": sasl, "unauthenticated_max": 4} | ({"tls": tls} if secure else {})
    async with serving(**settings) as (gateway, _), AsyncExitStack() as stack:

        async def come(host: str, *, fully: bool = False) -> Stranger:
            context = authority.trusting() if fully and secure else None
            before = gateway.tally.waiting + gateway.tally.turned_away[Cause.TOO_MANY_WAITING]
            client = await stack.enter_async_context(Stranger(gateway.address, tls=context, local_host=host))
            counts = gateway.tally.turned_away
            await gateway.until(lambda: gateway.tally.waiting + counts[Cause.TOO_MANY_WAITING] > before, "its arrival")
            return client

        first = await come("127.0.0.2", fully=True)
        flood = [await come("127.0.0.3") for _ in range(3)]
        newcomer = await come("127.0.0.4", fully=True)
        await flood[0].assert_closed()
        await newcomer.login(ALICE)
        await newcomer.heartbeat()
        assert gateway.tally.turned_away == {Cause.TOO_MANY_WAITING: 1}
        await first.login(ALICE)
        await first.heartbeat()
        assert gateway.tally.waiting == 2


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@on_uvloop
async def test_room_for_one(authority: Authority, tls: dict[str, Any], sasl: dict[str, Any], secure: bool) -> None:
    """A client counts once, from its connection to the end of its login."""
    settings: dict[str, Any] = {"sasl": sasl, "unauthenticated_max": 1} | ({"tls": tls} if secure else {})
    async with serving(**settings) as (gateway, _):
        for _ in range(3):
            async with Stranger(gateway.address, tls=authority.trusting() if secure else None) as client:
                await client.login(ALICE)
                await client.heartbeat()
        assert gateway.tally.turned_away == {}


@on_uvloop
async def test_what_is_kept_of_strangers_is_bounded(sasl: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that are not whole count together; whoever goes above the bound is closed, and all is given back."""
    monkeypatch.setattr(threshold, "HELD_BYTES_MAX", 1024 * 1024)
    async with serving(sasl=sasl) as (gateway, _):
        assert gateway._listener._shared is not None
        crowd = gateway._listener._shared.entry.crowd
        async with AsyncExitStack() as stack:
            waiting = [await stack.enter_async_context(Stranger(gateway.address)) for _ in range(3)]
            for client in waiting:
                await client.send_bytes(p.INT32.pack(512 * 1024) + bytes.fromhex("0024 0002 00000001") + bytes(500_000))
            await until_turned_away(gateway, Cause.TOO_MANY_WAITING)
            await gateway.until(lambda: crowd.held_bytes == 2 * 500_012, "what the others sent")
            async with Stranger(gateway.address) as newcomer:
                await newcomer.login(ALICE)
                await newcomer.heartbeat()
        await gateway.until(lambda: gateway.tally.waiting == 0, "the end of all")
        assert crowd.held_bytes == 0


@pytest.mark.parametrize("size", [512 * 1024 + 1, 100 * 1024 * 1024])
@on_uvloop
async def test_a_large_frame_before_a_login(sasl: dict[str, Any], size: int) -> None:
    """A frame above 512 KiB ends whoever is not in, once its size is read."""
    async with serving(sasl=sasl) as (gateway, _):
        async with Stranger(gateway.address) as client:
            await client.send_bytes(p.INT32.pack(size))
            await client.assert_closed()
        await until_turned_away(gateway, Cause.FRAME_TOO_LARGE)


# TLS, and what is none.


@on_uvloop
async def test_a_plain_client_at_a_tls_port(tls: dict[str, Any], sasl: dict[str, Any]) -> None:
    """It is closed, and the log says what it probably is."""
    async with serving(tls=tls, sasl=sasl) as (gateway, cluster):
        async with RawClient(gateway.address) as client:
            await client.send_bytes(API_VERSIONS)
            await client.read_to_end()  # an alert
        await until_turned_away(gateway, Cause.TLS_FAILED)
        line = only_warning(gateway)
        assert "does not speak TLS" in line["error"]
        assert "PLAINTEXT" in line["error"]
        assert gateway.tally.dials == 0
        assert cluster.brokers[1].counts[ApiKey.HEARTBEAT] == 0


@on_uvloop
async def test_a_tls_client_at_a_plain_port_with_logins(authority: Authority, sasl: dict[str, Any]) -> None:
    """It is closed, and the log says what it is."""
    async with serving(sasl=sasl) as (gateway, _):
        with pytest.raises((ssl.SSLError, OSError)):
            async with Stranger(gateway.address, tls=authority.trusting()):
                pass
        await until_turned_away(gateway, Cause.TLS_ON_PLAIN_PORT)
        assert "TLS" in only_warning(gateway)["error"]


@on_uvloop
async def test_http_at_a_port_with_logins(sasl: dict[str, Any]) -> None:
    """A browser is told apart, too."""
    async with serving(sasl=sasl) as (gateway, _):
        async with RawClient(gateway.address) as client:
            await client.send_bytes(b"GET / HTTP/1.1\r\nHost: kafka\r\n\r\n")
            await client.assert_closed()
        await until_turned_away(gateway, Cause.HTTP_ON_KAFKA_PORT)


CERTIFICATES: dict[str, tuple[str, str]] = {
    "none": ("required", "no certificate"),
    "expired": ("optional", "expired"),
    "of another authority": ("optional", "client_ca_file"),
    "of nobody that the rules know": ("required", "CN=mallory"),
}


@pytest.mark.parametrize("bad", CERTIFICATES)
@on_uvloop
async def test_a_certificate_that_is_no_good(
    authority: Authority, tls: dict[str, Any], tmp_path: Path, bad: str
) -> None:
    """Without a good certificate a client is closed with its cause, and nothing is dialled for it."""
    client_auth, words = CERTIFICATES[bad]
    more = {"client_auth": client_auth, "client_ca_file": str(authority.write(tmp_path))}
    rules = {"principal_rules": ["RULE:^CN=(alice|bob)$/$1/"]}
    async with serving(tls=tls | more | rules) as (gateway, _):
        context = authority.trusting()
        if bad != "none":
            signer = Authority("another CA") if bad == "of another authority" else authority
            files = signer.client("CN=mallory", expired=bad == "expired").write(tmp_path, "mallory")
            context.load_cert_chain(*files)
        try:
            async with Stranger(gateway.address, tls=context) as client:  # TLS 1.3 lets it know only when it reads
                await client.assert_closed()
        except (ssl.SSLError, ConnectionError):
            pass
        await gateway.until(lambda: gateway.tally.turned_away, "its end")
        line = only_warning(gateway)
        assert line["cause"] == (Cause.LOGIN_REFUSED if "rules" in bad else Cause.TLS_FAILED)
        assert words in line["error"]
        assert (gateway.tally.dials, gateway.tally.opened) == (0, 0)


# Names.

SNI = {"addressing": "sni", "advertise": "b{node}.k.test:9092", "bootstrap_name": "kafka.k.test"}


def named(tls: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a listener that tells brokers apart by their names."""
    return SNI | {"tls": tls}


@pytest.fixture
def wild_tls(authority: Authority, tmp_path: Path) -> dict[str, Any]:
    """A listener's TLS for every name there is here, and some that there are not."""
    return server_tls(tmp_path, authority, "*.k.test", "elsewhere.test", "127.0.0.1")


@pytest.mark.parametrize("name", ["b{}.k.test", "B{}.K.TEST", "b{}.k.test."])
@on_uvloop
async def test_a_name_leads_to_its_broker(authority: Authority, wild_tls: dict[str, Any], name: str) -> None:
    """Whatever its case, a broker's name leads to that broker and to no other."""
    async with serving(brokers=3, **named(wild_tls)) as (gateway, cluster):
        context = authority.trusting()
        context.check_hostname = False  # of a final dot
        for node, broker in cluster.brokers.items():
            async with Stranger(gateway.address, tls=context, server_name=name.format(node)) as client:
                await client.heartbeat()
            counts = {other: cluster.brokers[other].counts[ApiKey.HEARTBEAT] for other in cluster.brokers}
            assert counts == {other: int(other <= node) for other in cluster.brokers}
            assert broker.counts[ApiKey.HEARTBEAT] == 1


@on_uvloop
async def test_the_bootstrap_name_leads_to_the_names_of_all(authority: Authority, wild_tls: dict[str, Any]) -> None:
    """Any broker answers at the bootstrap name, and tells the names of all."""
    context = authority.trusting()
    async with (
        serving(brokers=3, **named(wild_tls)) as (gateway, _),
        Stranger(gateway.address, tls=context, server_name="kafka.k.test") as client,
    ):
        answer = await client.ask(ApiKey.METADATA, 1, metadata_request(1))
        for node in (1, 2, 3):
            assert p.put_string(f"b{node}.k.test") + p.INT32.pack(9092) in answer


@pytest.mark.parametrize(
    ("name", "words"), [("elsewhere.test", "'elsewhere.test'"), ("bx.k.test", "'bx.k.test'"), ("127.0.0.1", "SNI")]
)
@on_uvloop
async def test_a_name_that_leads_nowhere(authority: Authority, wild_tls: dict[str, Any], name: str, words: str) -> None:
    """A name that is not served, and none at all, is told so by TLS itself, and closed with its cause."""
    async with serving(brokers=3, **named(wild_tls)) as (gateway, _):
        with pytest.raises(ssl.SSLError) as raised:
            async with Stranger(gateway.address, tls=authority.trusting(), server_name=name):
                pass
        assert "UNRECOGNIZED_NAME" in str(raised.value)
        await until_turned_away(gateway, Cause.UNKNOWN_SERVER_NAME)
        assert words in only_warning(gateway)["error"]
        assert gateway.tally.dials == 0


@on_uvloop
async def test_the_name_of_a_broker_that_there_is_not(authority: Authority, wild_tls: dict[str, Any]) -> None:
    """A name of the pattern is served before its broker is known; without one its client is closed at its request."""
    brief = {"dial_patience": "100ms", "dial_patience_max": "100ms"}
    async with serving(brokers=2, cluster=brief, **named(wild_tls)) as (gateway, _):
        async with Stranger(gateway.address, tls=authority.trusting(), server_name="b77.k.test") as client:
            await client.send(ApiKey.HEARTBEAT, 3, heartbeat())
            await client.assert_closed()
        await gateway.until_closed(Cause.BROKER_UNREACHABLE)


# Certificates that are renewed.


@on_uvloop
async def test_a_renewed_certificate(authority: Authority, tls: dict[str, Any], tmp_path: Path) -> None:
    """New connections are shown it, old ones go on; a broken one changes nothing but the log."""
    async with serving(tls=tls) as (gateway, _):
        context = authority.trusting()
        async with Stranger(gateway.address, tls=context) as old:
            await old.heartbeat()
            renewed = authority.server("localhost")
            renewed.write(tmp_path, "server")
            await gateway.until(lambda: gateway.events_with(event="TLS files read again"), "the new certificate")
            await assert_shown(gateway, context, renewed.certificate.serial_number)
            assert old.serial_number != renewed.certificate.serial_number
            await old.heartbeat()
            for broken in (b"-----BEGIN CERTIFICATE-----\nnone", authority.server("localhost").cert_pem(), b""):
                told = len(complaints(gateway))
                (tmp_path / "server.pem").write_bytes(broken)
                await until_more_complaints(gateway, told)
                await assert_shown(gateway, context, renewed.certificate.serial_number)
            (tmp_path / "server.pem").unlink()
            await gateway.until(lambda: "cannot be read" in complaints(gateway)[-1]["error"], "the complaint")
            again = authority.server("localhost")
            again.write(tmp_path, "server")
            seen = len(gateway.events_with(event="TLS files read again"))
            await gateway.until(lambda: len(gateway.events_with(event="TLS files read again")) > seen, "the good one")
            await assert_shown(gateway, context, again.certificate.serial_number)
            await old.heartbeat()
        assert gateway.tally.turned_away == {}


def complaints(gateway: Gateway) -> list[Any]:
    """Return what was said about files that are no good."""
    return gateway.events_with(event="new TLS files are no good; the old ones stay in use")


async def until_more_complaints(gateway: Gateway, told: int) -> None:
    """Wait for one more than there have been."""
    await gateway.until(lambda: len(complaints(gateway)) > told, "the complaint")


async def assert_shown(gateway: Gateway, context: ssl.SSLContext, serial_number: int) -> None:
    """A new connection is shown this certificate, and is served."""
    async with Stranger(gateway.address, tls=context) as client:
        assert client.serial_number == serial_number
        await client.heartbeat()


# The end.


@on_uvloop
async def test_a_drain_while_clients_log_in(authority: Authority, tls: dict[str, Any], sasl: dict[str, Any]) -> None:
    """Whoever is on its way in is closed at once, wherever it is, and leaves nothing behind."""
    context = authority.trusting()
    async with AsyncExitStack() as stack:
        async with serving(tls=tls, sasl=sasl, **TRUSTED) as (gateway, _):

            async def come(said: bytes = b"", *, secure: bool = False) -> Stranger:
                greeting = proxy_v1("203.0.113.9") if secure else said
                return await stack.enter_async_context(
                    Stranger(gateway.address, tls=context if secure else None, preamble=greeting)
                )

            clients = [await come(), await come(b"PROXY"), await come(proxy_v2(None) + CLIENT_HELLO)]
            clients += [await come(secure=True) for _ in range(6)]
            await clients[4].shake()
            await clients[5].send_bytes(API_VERSIONS[:-1])
            for client, password in ((clients[6], "wrong"), (clients[7], "wonder")):
                await client.shake()
                token = handshake.sasl_authenticate_request(2, b"\0alice\0" + password.encode())
                await client.send(ApiKey.SASL_AUTHENTICATE, 2, token)
            await gateway.until(lambda: gateway.tally.waiting in {8, 9}, "all of them")
            member = clients[8]
            await member.login(Scram("alice", "wonder", "SCRAM-SHA-512"))
            began = time.monotonic()
        assert time.monotonic() - began < 3
        for client in clients:
            await client.read_to_end()
    assert gateway.tally.turned_away[Cause.DRAINED] >= 6
    assert gateway.tally.waiting == 0
    assert {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()} == set()
    gc.collect()  # a socket that nobody has closed fails the test


@on_uvloop
async def test_a_drain_while_a_passed_password_is_judged() -> None:
    """A login that waits for a broker's word ends with the drain as well."""
    users = {"gateway": "secret", "alice": "wonder"}
    passed: dict[str, Any] = {"login": ("gateway", "secret"), "cluster": {"passthrough": "plain"}}
    sasl = {"mechanisms": ["PLAIN"], "allow_plaintext_passwords": True}
    async with AsyncExitStack() as stack:
        async with serving(users=users, sasl=sasl, **passed) as (gateway, cluster):
            cluster.brokers[1].mute()
            client = await stack.enter_async_context(Stranger(gateway.address))
            await client.shake()
            token = handshake.sasl_authenticate_request(2, b"\0alice\0wonder")
            await client.send(ApiKey.SASL_AUTHENTICATE, 2, token)
            await gateway.until(lambda: gateway.tally.dials == 1, "the broker to be asked")
            began = time.monotonic()
        assert time.monotonic() - began < 3
        await client.assert_closed()
    gc.collect()


@on_uvloop
async def test_memory_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many connections with TLS what they have left behind is given back: then, and not before."""
    trims: list[int] = []
    monkeypatch.setattr(listeners, "TRIM_SECONDS", 0.01)
    monkeypatch.setattr(listeners, "TRIM_AFTER", 20)
    authority = Authority()
    async with serving(tls=server_tls(tmp_path, authority)) as (gateway, _):
        monkeypatch.setattr(heap, "trim", lambda: trims.append(gateway.tally.opened))
        for _ in range(25):
            async with Stranger(gateway.address, tls=authority.trusting()) as client:
                await client.heartbeat()
        await gateway.until(lambda: trims, "memory to be given back")
    assert len(trims) == 1
    assert 20 <= trims[0] <= 25
