"""``kproxy doctor`` before proxies and clusters with every trouble there is: each is named, with its remedy."""

import asyncio
import datetime as dt
import gc
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from clients.gateway import Gateway, on_uvloop
from clients.strangers import write_users
from clients.tlsfront import TlsFront, server_context

from kproxy.config.model import Config
from kproxy.config.values import parse_host_port
from kproxy.core.sasl import Plain, Session
from kproxy.core.scram import Scram
from kproxy.service.doctor.client import Client
from kproxy.service.doctor.door import Speaks, client_context, explain, who_is_there
from kproxy.service.doctor.findings import Finding, Level
from kproxy.service.doctor.walk import diagnose, diagnose_config
from kproxy.testing import fakeanswers
from kproxy.testing.fakebroker import CLOSE, DEFAULT, Delay, FakeBroker, FakeCluster, Request
from kproxy.testing.ports import free_port_block
from kproxy.wire import primitives as p
from kproxy.wire.apis import ApiKey

USERS = {"gateway": "hunter2"}
CLIENT = Client(timeout_seconds=2)
QUICK = Client(timeout_seconds=1)
"""Where a bound must be waited for: long enough for a busy machine to do what must be done within it."""
KPROXYS_FETCH = {int(ApiKey.FETCH): (4, 15)}
GROUPS = "__consumer_offsets"
LOG_APPEND_TIME = 8


def stand_in(**settings: Any) -> FakeBroker:
    """Make a broker that a doctor takes for a proxy: it is where it says, and offers what kproxy does."""
    return FakeBroker(1, ranges=KPROXYS_FETCH | settings.pop("ranges", {}), **settings)


async def walked(address: str, client: Client = CLIENT, **options: Any) -> list[Finding]:
    """Let the doctor walk, on a loop of its own; no finding may hold the password."""
    found: list[Finding] = []
    if "compare" in options:
        options["compare"] = parse_host_port(options["compare"])
    await asyncio.to_thread(diagnose, client, parse_host_port(address), found.append, **options)
    assert found
    assert "hunter2" not in repr(found)
    assert all(finding.remedy for finding in found if finding.level in {Level.WARN, Level.FAIL})
    return found


def bad(found: list[Finding]) -> list[tuple[str, str]]:
    """Return step and text of what failed or warned."""
    return [(finding.step, finding.text) for finding in found if finding.level in {Level.WARN, Level.FAIL}]


def steps(found: list[Finding]) -> list[str]:
    """Return the steps that were good."""
    return [finding.step for finding in found if finding.level is Level.OK]


def the_failure(found: list[Finding]) -> Finding:
    """Return the only failure, which ends the list."""
    assert [finding.level for finding in found].count(Level.FAIL) == 1
    assert found[-1].level is Level.FAIL
    return found[-1]


@asynccontextmanager
async def server(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve something that is not Kafka; yield its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_a_good_proxy_gives_nothing_to_say() -> None:
    """Every step is ok, each answer that may name brokers is looked at, nothing is asked that changes anything."""
    async with stand_in() as broker:
        broker.state.topics[GROUPS] = [1]
        found = await walked(broker.address)
        assert bad(found) == []
        assert steps(found) == ["resolve", "connect", "versions", "login", "metadata", "leaks", "broker 1"]
        assert (found[-1].level, found[-1].step) == (Level.SKIP, "scratch")
        asked = {request.key for request in broker.requests}
        assert asked == {18, ApiKey.METADATA, ApiKey.FIND_COORDINATOR, ApiKey.DESCRIBE_CLUSTER}
        assert all(request.client_id == "kproxy" for request in broker.requests)
        assert not broker.surprises
        assert not broker.violations


async def test_nothing_is_created_by_being_asked_for() -> None:
    """Where no group was ever used FindCoordinator would create a topic, so it is not asked; Metadata forbids it."""
    async with stand_in() as broker:
        found = await walked(broker.address)
        assert any(finding.level is Level.SKIP and "may create __consumer_offsets" in finding.text for finding in found)
        assert not broker.of(ApiKey.FIND_COORDINATOR)
        (request,) = broker.of(ApiKey.METADATA)
        assert request.body.endswith(b"\x00\x00\x00")  # no creation, no operations, no tags


async def test_limits_see_the_client_id() -> None:
    """What the doctor asks for comes under the client id that it was given."""
    async with stand_in() as broker:
        await walked(broker.address, Client(client_id="me", timeout_seconds=2))
        assert {request.client_id for request in broker.requests} == {"me"}


async def test_nobody_listens_and_no_such_name() -> None:
    """A refused connection and an unknown name are told apart."""
    failure = the_failure(await walked(f"127.0.0.1:{free_port_block(1)}"))
    assert (failure.step, failure.text) == ("connect", "connection refused")
    failure = the_failure(await walked("no-such-name.invalid:9092"))
    assert (failure.step, failure.text) == ("resolve", "no-such-name.invalid cannot be resolved within 2 s")


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve HTTP: wait for a line, whatever it holds."""
    await reader.readuntil(b"\n")
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001 - a callback's
    """Read, and say nothing."""
    while await reader.read(1000):
        pass


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close at once."""


async def ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Greet as an SSH server does."""
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    await silence(reader, writer)


@pytest.mark.parametrize(
    ("talk", "speaks"),
    [(http, Speaks.HTTP), (silence, Speaks.NOTHING), (closing, Speaks.CLOSES), (ssh, Speaks.OTHER)],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_the_wrong_port(talk: Any, speaks: Speaks) -> None:
    """What is no Kafka listener is named for what it is, in plain and with TLS asked for."""
    async with server(talk) as address:
        failure = the_failure(await walked(address, Client(timeout_seconds=0.5)))
        assert failure.step == "versions"
        assert failure.text.startswith(f"it {speaks.value} (")
        tls = Client(tls=client_context(None, None, None, insecure=False), timeout_seconds=0.5)
        failure = the_failure(await walked(address, tls))
        assert failure.step == "tls"
        host, port = parse_host_port(address)
        assert await who_is_there(host, port, 0.5) is speaks


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read, and reset the connection."""
    await reader.read(1000)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_connections_that_are_reset_leave_nothing_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """How a connection ended is looked at, for asyncio writes a traceback of each such error that nobody sees."""
    # Where the garbage collector comes to the protocol first, this looks at the error; it may come to the error first.
    monkeypatch.delattr(asyncio.StreamReaderProtocol, "__del__")
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with server(resetting) as address:
        assert await who_is_there(*parse_host_port(address), 2) is Speaks.CLOSES
    gc.collect()
    assert told == []


def test_a_refusal_in_tls_is_told_as_one() -> None:
    """An alert is the other side's word; any other failure of TLS says nothing about who is there."""
    error = ssl.SSLError(1, "[SSL: SSLV3_ALERT_BAD_CERTIFICATE] ssl/tls alert bad certificate (_ssl.c:1006)")
    error.reason = "SSLV3_ALERT_BAD_CERTIFICATE"
    told = explain(error)
    assert told is not None
    assert told[0] == "it refused us: sslv3 alert bad certificate"
    error.reason = "WRONG_VERSION_NUMBER"
    assert explain(error) is None


class Authority:
    """Two authorities, and the files that a client is given."""

    def __init__(self, folder: Path) -> None:
        self.servers, self.clients = trustme.CA(), trustme.CA()
        self.ca_file, self.cert_file = folder / "ca.pem", folder / "client.pem"
        self.servers.cert_pem.write_to_path(str(self.ca_file))
        self.clients.issue_cert("client@example.com").private_key_and_cert_chain_pem.write_to_path(str(self.cert_file))

    def server_files(self, folder: Path, host: str = "127.0.0.1") -> dict[str, str]:
        """Write what a listener shows its clients, as its configuration names it."""
        issued = self.servers.issue_cert(host)
        cert_file, key_file = folder / "server.pem", folder / "server.key"
        issued.cert_chain_pems[0].write_to_path(str(cert_file))
        issued.private_key_pem.write_to_path(str(key_file))
        return {"cert_file": str(cert_file), "key_file": str(key_file)}

    def client(self, *, trusting: bool = True, cert: bool = False, **settings: Any) -> Client:
        """Make a client that speaks TLS."""
        insecure = settings.pop("insecure", False)
        ca_file, cert_file = self.ca_file if trusting else None, self.cert_file if cert else None
        context = client_context(ca_file, cert_file, None, insecure=insecure)
        return Client(tls=context, timeout_seconds=2, **settings)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make keys once: they take time."""
    return Authority(tmp_path_factory.mktemp("tls"))


def behind(front: TlsFront, broker: FakeBroker) -> None:
    """Have the broker tell clients the address of the TLS before it."""
    host, port = parse_host_port(front.address)
    broker.state.brokers[1] = (host, port)


@on_uvloop
async def test_row_11_tls_and_plain_are_told_apart(tmp_path: Path) -> None:
    """The plain spoken to a TLS port, and TLS to a plain one: each is named, and both remedies are said."""
    authority = Authority(tmp_path)
    async with stand_in() as broker, TlsFront(broker.address, server_context(authority.servers, "127.0.0.1")) as front:
        failure = the_failure(await walked(front.address))
        assert (failure.step, failure.text) == ("tls", "it speaks TLS, and was spoken to without")
        assert failure.remedy == "give --tls; clients: security.protocol=SSL, SASL_SSL"
        failure = the_failure(await walked(broker.address, authority.client()))
        assert (failure.step, failure.text) == ("tls", "it speaks Kafka without TLS, and was spoken to with")
        assert failure.remedy == "leave out --tls; clients: security.protocol=PLAINTEXT, SASL_PLAINTEXT"


async def test_tls_that_works(authority: Authority) -> None:
    """With the right authority every step is good; --insecure works, with a warning."""
    async with stand_in() as broker, TlsFront(broker.address, server_context(authority.servers, "127.0.0.1")) as front:
        behind(front, broker)
        found = await walked(front.address, authority.client())
        assert bad(found) == []
        (told,) = [finding.text for finding in found if finding.step == "tls"]
        assert told.startswith("TLSv1.3 in ")
        assert "security.protocol=SSL" in next(finding.text for finding in found if finding.step == "login")
        found = await walked(front.address, authority.client(trusting=False, insecure=True))
        assert bad(found) == [("tls", "TLSv1.3; the certificate was not looked at")]


async def test_a_certificate_that_is_not_accepted(authority: Authority) -> None:
    """An unknown issuer, and another name than the one that was dialled; with that name given it is good."""
    async with stand_in() as broker, TlsFront(broker.address, server_context(authority.servers, "kafka.test")) as front:
        behind(front, broker)
        failure = the_failure(await walked(front.address, authority.client(trusting=False)))
        assert failure.step == "tls"
        assert failure.text.startswith("its certificate is not accepted: ")
        assert failure.remedy.startswith("give --ca-file")
        failure = the_failure(await walked(front.address, authority.client()))
        assert failure.text.startswith("its certificate is not accepted: IP address mismatch")
        assert "--server-name" in failure.remedy
        assert bad(await walked(front.address, authority.client(server_name="kafka.test"))) == []


async def test_a_certificate_that_ends(authority: Authority) -> None:
    """An expired one is refused, with a word about clocks; one that soon will be is a warning."""
    now = dt.datetime.now(dt.UTC)
    async with stand_in() as broker:
        past = server_context(authority.servers, "127.0.0.1", ends=now - dt.timedelta(days=1))
        async with TlsFront(broker.address, past) as front:
            failure = the_failure(await walked(front.address, authority.client()))
            assert failure.text == "its certificate is not accepted: certificate has expired"
            assert failure.remedy == "renew it; or is the clock of this machine wrong?"
        soon = server_context(authority.servers, "127.0.0.1", ends=now + dt.timedelta(days=3, hours=1))
        async with TlsFront(broker.address, soon) as front:
            behind(front, broker)
            assert bad(await walked(front.address, authority.client())) == [("tls", "the certificate ends in 3 days")]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_certificate_is_wanted(authority: Authority, version: ssl.TLSVersion) -> None:
    """TLS 1.2 refuses in the handshake, 1.3 after it; the remedy is the same, and with a certificate it is good."""
    context = server_context(authority.servers, "127.0.0.1", clients=authority.clients, version=version)
    async with stand_in() as broker, TlsFront(broker.address, context) as front:
        behind(front, broker)
        failure = the_failure(await walked(front.address, authority.client()))
        assert failure.step == "tls"
        assert failure.remedy.startswith("does it want a client certificate? give --cert-file")
        assert bad(await walked(front.address, authority.client(cert=True))) == []


class Other:
    """PLAIN under another name: a mechanism that is not offered."""

    name = "SCRAM-SHA-512"

    def session(self) -> Session:
        """Begin a login."""
        return Plain("gateway", "hunter2").session()


async def test_row_21_which_login_is_wanted() -> None:
    """Whether a login is asked for, which there are, and what a client must set, is said in each case."""
    plaintext = "the password is sent as it is, without TLS"
    async with stand_in(users=USERS) as sasl, stand_in(host="127.0.1.9") as none:
        failure = the_failure(await walked(sasl.address))
        assert (failure.step, failure.text) == ("login", "a login is asked for: PLAIN")
        assert failure.remedy == "give --username and --password-file; clients: security.protocol=SASL_PLAINTEXT"
        good = Client(mechanism=Plain("gateway", "hunter2"), timeout_seconds=2)
        found = await walked(sasl.address, good)
        assert bad(found) == [("login", plaintext)]
        assert any(f.text == "accepted; clients: security.protocol=SASL_PLAINTEXT, sasl.mechanism=PLAIN" for f in found)
        failure = the_failure(await walked(none.address, good))
        assert failure.text == "no login is asked for, and one was given"
        assert failure.remedy == "leave out --username; clients: security.protocol=PLAINTEXT"
        other = Client(mechanism=Other(), timeout_seconds=2)
        failure = the_failure(await walked(sasl.address, other))
        assert failure.text == "the broker does not offer SCRAM-SHA-512; it offers: PLAIN"
        assert failure.remedy == "give --mechanism, one of PLAIN"


async def test_a_login_that_works_is_all_that_is_asked() -> None:
    """No other mechanism is asked for, as that is a line in the proxy's log for each of its addresses."""
    async with stand_in(users=USERS) as broker:
        await walked(broker.address, Client(mechanism=Plain("gateway", "hunter2"), timeout_seconds=2))
        assert [request.body for request in broker.of(ApiKey.SASL_HANDSHAKE)] == [p.put_string("PLAIN")] * len(
            broker.of(ApiKey.SASL_AUTHENTICATE)
        )


async def test_a_listener_is_not_as_its_configuration_says(authority: Authority) -> None:
    """It asks for a login or not, speaks TLS or not: whatever it is, the proxy does not run this configuration."""
    tls = replace(authority.client(), offered=())
    login = Client(mechanism=Plain("gateway", "hunter2"), timeout_seconds=2, offered=("PLAIN",))
    context = server_context(authority.servers, "127.0.0.1")
    async with (
        stand_in(users=USERS) as sasl,
        stand_in(host="127.0.1.9") as none,
        TlsFront(none.address, context) as front,
    ):
        for address, client, text in (
            (sasl.address, replace(CLIENT, offered=()), "a login is asked for: PLAIN"),
            (none.address, login, "no login is asked for, and one was given"),
            (none.address, tls, "it speaks Kafka without TLS, and was spoken to with"),
            (front.address, replace(CLIENT, offered=()), "it speaks TLS, and was spoken to without"),
        ):
            failure = the_failure(await walked(address, client))
            assert (failure.text, failure.remedy) == (
                text,
                "it does not run this configuration: restart it with this one",
            )


async def test_a_login_that_the_doctor_does_not_know() -> None:
    """Tokens are for clients: nothing is tried, and that is no failure."""
    async with stand_in(users=USERS) as broker:
        found = await walked(broker.address, replace(CLIENT, offered=("OAUTHBEARER",)))
        assert bad(found) == []
        assert found[-1].text == "a login is asked for that the doctor does not know: OAUTHBEARER"
        assert {request.key for request in broker.requests} == {ApiKey.API_VERSIONS}


async def test_a_wrong_password_is_tried_once() -> None:
    """One refused login and one line, however many brokers there are: accounts get locked."""
    async with FakeCluster(3, users=USERS) as cluster:
        client = Client(mechanism=Plain("gateway", "not-hunter2"), timeout_seconds=2)
        found: list[Finding] = []
        address = parse_host_port(cluster.brokers[1].address)
        await asyncio.to_thread(diagnose, client, address, found.append)
        failure = the_failure(found)
        assert failure.text == "PLAIN login refused: Authentication failed: Invalid username or password"
        assert failure.remedy == "check the username and the password"
        assert "hunter2" not in repr(found)
        assert sum(request.key == ApiKey.SASL_AUTHENTICATE for request in cluster.requests) == 1


async def test_row_12_addresses_that_are_none() -> None:
    """0.0.0.0, a name that nobody knows, a port where nobody listens: each by itself, and the others are walked."""
    dead = free_port_block(1)
    async with stand_in() as broker:
        broker.state.brokers |= {
            2: ("0.0.0.0", 9092),
            3: ("no-such-name.invalid", 9092),
            4: ("127.0.1.1", dead),
        }
        found = await walked(broker.address)
        assert bad(found) == [
            (
                "address",
                "broker 2 is told to be at 0.0.0.0:9092, which means every interface of a machine and is no address",
            ),
            ("address", "broker 3 is told to be at no-such-name.invalid:9092, which cannot be resolved here"),
            ("broker 4", f"127.0.1.1:{dead}: connect: connection refused"),
        ]
        assert "broker 1" in steps(found)


async def test_row_2_a_broker_in_metadata() -> None:
    """An address that is not the proxy's is a leak; a host that is said to be the proxy's is none."""
    async with FakeCluster(2, ranges=KPROXYS_FETCH) as cluster:
        one, two = cluster.brokers.values()
        found = await walked(one.address)
        assert bad(found) == [("address", f"broker 2 is told to be at {two.address}, which is not the proxy: a leak")]
        assert two.connections_accepted == 0
        assert bad(await walked(one.address, own_hosts=["127.0.1.2"])) == []


@pytest.mark.parametrize("key", [ApiKey.FIND_COORDINATOR, ApiKey.DESCRIBE_CLUSTER])
async def test_row_2_a_broker_in_other_answers(key: ApiKey) -> None:
    """A coordinator, or DescribeCluster, with an address that Metadata did not give is a leak."""
    real = fakeanswers.ClusterState(brokers={1: ("kafka1", 9092)})
    body = (
        fakeanswers.find_coordinator(6, real, ["kproxy-doctor"])
        if key == ApiKey.FIND_COORDINATOR
        else fakeanswers.describe_cluster(2, real)
    )
    async with stand_in() as broker:
        broker.state.topics[GROUPS] = [1]
        broker.on(key, body)
        name = "FindCoordinator" if key == ApiKey.FIND_COORDINATOR else "DescribeCluster"
        told = f"{name} names broker 1 at kafka1:9092; Metadata says {broker.address}"
        assert bad(await walked(broker.address)) == [("leaks", told)]


class Log:
    """A topic of one partition, led by broker 1, in the answers of brokers; ``stamp_ms``: its LogAppendTime."""

    def __init__(self, stamp_ms: int = -1) -> None:
        self.stamp_ms = stamp_ms
        self.batch = b""

    def produce(self, request: Request) -> bytes:
        """Take a record in Produce v3, at offset 77."""
        at = 26 + len("scratch")
        self.batch = p.INT64.pack(77) + request.body[at + 8 :]
        if self.stamp_ms >= 0:
            self.batch = self.batch[:22] + bytes((LOG_APPEND_TIME,)) + self.batch[23:]
        outcome = p.INT32.pack(0) + p.INT16.pack(0) + p.INT64.pack(77) + p.INT64.pack(self.stamp_ms)
        one = p.INT32.pack(1)
        return one + p.put_string("scratch") + one + outcome + p.INT32.pack(0)

    def fetch(self, request: Request) -> bytes:  # noqa: ARG002 - it is known what is asked for
        """Give the record back in Fetch v4."""
        one = p.INT32.pack(1)
        head = p.INT32.pack(0) + one + p.put_string("scratch") + one + p.INT32.pack(0) + p.INT16.pack(0)
        return head + p.INT64.pack(78) * 2 + p.INT32.pack(-1) + p.INT32.pack(len(self.batch)) + self.batch


def not_leader(host: str, port: int) -> bytes:
    """Answer Produce v12 with NOT_LEADER_OR_FOLLOWER, and the leader's address (KIP-951)."""
    leader = p.put_tags([(0, p.INT32.pack(1) + p.INT32.pack(5) + b"\x00")])
    partition = p.INT32.pack(0) + p.INT16.pack(6) + p.INT64.pack(-1) * 3 + b"\x01\x00" + leader
    node = b"\x02" + p.INT32.pack(1) + p.put_compact_string(host) + p.INT32.pack(port) + b"\x00\x00"
    topic = b"\x02" + p.put_compact_string("scratch") + b"\x02" + partition + b"\x00"
    return topic + p.INT32.pack(0) + p.put_tags([(0, node)])


@asynccontextmanager
async def scratch(log: Log, hint: tuple[str, int] | None = None) -> AsyncIterator[FakeBroker]:
    """A stand-in with two addresses on one host, and a scratch topic led by the first; ``hint``: the second's."""
    async with stand_in() as one, FakeBroker(2, host="127.0.1.1", ranges=KPROXYS_FETCH, state=one.state) as two:
        one.state.topics["scratch"] = [1]
        one.on(ApiKey.PRODUCE, log.produce)
        one.on(ApiKey.FETCH, log.fetch)
        two.on(ApiKey.PRODUCE, not_leader(*(hint or (one.host, one.port))))
        yield one


async def test_a_record_goes_there_and_back() -> None:
    """On the scratch topic a record is produced and comes back; the hint at the leader names the proxy alone."""
    async with scratch(Log()) as proxy:
        found = await walked(proxy.address, scratch_topic="scratch")
        assert bad(found) == []
        assert steps(found)[-3:] == ["produce", "consume", "leaks"]
        assert found[-1].text == "a hint at the leader (Produce v12, error 6) names the proxy's addresses only"
        assert any(finding.level is Level.SKIP and "CreateTime" in finding.text for finding in found)


async def test_row_2_a_broker_in_a_hint_at_a_leader() -> None:
    """NodeEndpoints that were not rewritten are provoked, and told."""
    async with scratch(Log(), hint=("kafka1", 9092)) as proxy:
        found = await walked(proxy.address, scratch_topic="scratch")
        assert bad(found) == [("leaks", f"Produce names broker 1 at kafka1:9092; Metadata says {proxy.address}")]


@pytest.mark.parametrize(("off_seconds", "told"), [(0, None), (-7200, "s behind this"), (7200, "s ahead of this")])
async def test_clocks_are_told_where_the_topic_keeps_the_brokers(off_seconds: int, told: str | None) -> None:
    """With LogAppendTime the broker's clock is known, and one that is wrong is a warning."""
    async with scratch(Log(stamp_ms=round((time.time() + off_seconds) * 1000))) as proxy:
        found = await walked(proxy.address, scratch_topic="scratch")
        (clock,) = [finding for finding in found if finding.step == "clock"]
        assert clock.level is (Level.WARN if told else Level.OK)
        assert told is None or told in clock.text


def produced(error_code: int) -> bytes:
    """Answer Produce v3 with an error."""
    one = p.INT32.pack(1)
    outcome = p.INT32.pack(0) + p.INT16.pack(error_code) + p.INT64.pack(-1) * 2
    return one + p.put_string("scratch") + one + outcome + p.INT32.pack(0)


@pytest.mark.parametrize(
    ("error_code", "remedy"),
    [
        (29, "give the user that the brokers see an ACL"),
        (32, "the clocks are apart"),
        (6, "its leader is moving"),
        (7, ""),
    ],
)
async def test_a_record_that_is_refused(error_code: int, remedy: str) -> None:
    """The error is told, with what it means here; the hint at the leader is provoked all the same."""
    async with scratch(Log()) as proxy:
        proxy.on(ApiKey.PRODUCE, produced(error_code))
        found = await walked(proxy.address, scratch_topic="scratch")
        assert bad(found) == [("produce", f"scratch, partition 0 takes no record: Kafka's error {error_code}")]
        assert next(finding.remedy for finding in found if finding.level is Level.FAIL).startswith(remedy)
        assert found[-1].step == "leaks"


async def test_a_record_that_does_not_come_back() -> None:
    """It is awaited for one step's time, even where every Fetch is answered at once; an error is told as such."""
    log = Log()
    async with scratch(log) as proxy:
        proxy.on(ApiKey.FETCH, lambda request: Log().fetch(request))
        found = await walked(proxy.address, QUICK, scratch_topic="scratch")
        assert bad(found) == [("consume", "the record at offset 77 does not come back within 1 s")]
        assert len(proxy.of(ApiKey.FETCH)) < 50
        head = p.INT32.pack(0) + p.INT32.pack(1) + p.put_string("scratch") + p.INT32.pack(1) + p.INT32.pack(0)
        proxy.on(ApiKey.FETCH, head + p.INT16.pack(29) + p.INT64.pack(-1) * 2 + p.INT32.pack(-1) * 2)
        found = await walked(proxy.address, QUICK, scratch_topic="scratch")
        assert bad(found) == [("consume", "scratch gives no record: Kafka's error 29")]
        proxy.on(ApiKey.FETCH, CLOSE)
        found = await walked(proxy.address, QUICK, scratch_topic="scratch")
        assert bad(found) == [("consume", f"topic scratch by {proxy.address}: the broker closed the connection")]


async def test_a_scratch_topic_without_a_leader() -> None:
    """Nobody takes records of it: that is told."""
    async with stand_in() as broker:
        broker.state.topics["scratch"] = [-1]
        failure = the_failure(await walked(broker.address, scratch_topic="scratch"))
        assert failure.text == "no partition of scratch has a leader that can be reached"


async def test_a_login_goes_to_no_address_that_is_not_the_proxys() -> None:
    """Where the leader is told to be somewhere else, no record and no password goes there."""
    async with stand_in(users=USERS) as broker, FakeBroker(2, users=USERS, state=broker.state) as other:
        broker.state.topics["scratch"] = [2]
        client = Client(mechanism=Plain("gateway", "hunter2"), timeout_seconds=2)
        found = await walked(broker.address, client, scratch_topic="scratch")
        assert found[-1].text == "no partition of scratch has a leader that can be reached"
        assert other.connections_accepted == 0


async def test_a_scratch_topic_that_is_not_there_is_not_made() -> None:
    """The doctor says so, and asks for nothing that would create it."""
    async with stand_in() as broker:
        failure = the_failure(await walked(broker.address, scratch_topic="scratch"))
        assert failure.text == "topic scratch cannot be used: Kafka's error 3"
        assert failure.remedy.startswith("create it, as the doctor creates nothing")
        assert not broker.surprises


@pytest.mark.parametrize("key", [ApiKey.METADATA, ApiKey.DESCRIBE_CLUSTER])
async def test_row_3_a_version_that_is_offered_and_not_served(key: ApiKey) -> None:
    """A proxy that lets versions through that it cannot handle closes the connection, or garbles the answer."""
    name = "Metadata v13" if key == ApiKey.METADATA else "DescribeCluster v2"
    async with stand_in() as broker:
        broker.on(key, CLOSE)
        failure = next(f for f in await walked(broker.address) if f.level is Level.FAIL)
        assert (failure.step, failure.text) == (
            "versions",
            f"{name} is offered, and then: the broker closed the connection",
        )
        broker.on(key, b"\x00" * 9)
        failure = next(f for f in await walked(broker.address) if f.level is Level.FAIL)
        assert failure.step in {"versions", "metadata"}
        assert failure.text.startswith(name)
        assert "cannot be read: " in failure.text


async def test_row_3_versions_that_no_kproxy_offers() -> None:
    """A version that kproxy does not know is warned of: whatever offers it may not understand it either."""
    async with stand_in(ranges={int(ApiKey.METADATA): (0, 14)}) as broker:
        assert bad(await walked(broker.address)) == [("versions", "newer than this kproxy understands: Metadata v14")]


async def test_row_22_unknown_api_keys() -> None:
    """Keys that Apache Kafka does not have are named and do no harm: every other step goes on."""
    async with stand_in(ranges={10_000: (0, 2)}) as broker:
        found = await walked(broker.address)
        assert bad(found) == [("versions", "API keys that Apache Kafka does not have: 10000")]
        assert "broker 1" in steps(found)


async def test_versions_that_clients_need_are_missing() -> None:
    """A proxy, or a broker, that no client of today can use."""
    async with stand_in(ranges={int(ApiKey.PRODUCE): (), int(ApiKey.FETCH): (0, 3)}) as broker:
        assert bad(await walked(broker.address)) == [("versions", "not offered, not even so old: Produce v3, Fetch v4")]


async def test_row_14_replicas_with_other_ports() -> None:
    """Another replica is walked too, and what it tells clients is held against what the first one does."""
    async with stand_in() as one, stand_in() as other:
        found = await walked(one.address, compare=one.address)
        assert (bad(found), found[-1].text) == ([], f"{one.address} tells clients the same")
        found = await walked(one.address, compare=other.address)
        (told,) = bad(found)
        assert told == (
            "replica",
            f"{other.address} gives other ports: broker 1: {one.port} here, {other.port} there",
        )
        dead = f"127.0.1.1:{free_port_block(1)}"
        (told,) = bad(await walked(one.address, compare=dead))
        assert told == ("replica", f"{dead}: connect: connection refused")


async def test_a_proxy_that_hangs_does_not_hang_the_doctor() -> None:
    """Every wait is bounded: a proxy that answers nothing, or no Metadata, is told within seconds."""
    async with stand_in() as broker:
        broker.mute()
        assert the_failure(await walked(broker.address, QUICK)).text.startswith("it takes connections and says nothing")
        broker.unmute()
        broker.on(ApiKey.METADATA, lambda _: None)
        failure = the_failure(await walked(broker.address, QUICK))
        assert failure.text == "Metadata v13 is offered, and then: no answer within 1 s"


@pytest.mark.parametrize(
    ("bound", "told"),
    [
        ("walk.TOTAL_STEPS_MAX", "not all was looked at within 1 s"),
        ("visit.VISIT_STEPS_MAX", "not done within 1 s"),
    ],
)
async def test_all_steps_together_are_bounded(monkeypatch: pytest.MonkeyPatch, bound: str, told: str) -> None:
    """Also where each step stays within its own bound, a walk and a visit end; what was found until then is told."""
    monkeypatch.setattr(f"kproxy.service.doctor.{bound}", 1)
    async with stand_in() as broker:
        broker.on(ApiKey.API_VERSIONS, Delay(0.7, DEFAULT))
        broker.on(ApiKey.METADATA, Delay(0.7, DEFAULT))
        found = await walked(broker.address, QUICK)
        assert the_failure(found).text == told
        assert "versions" in steps(found)


async def test_one_address_among_many_that_closes() -> None:
    """What fails at one broker's address alone is told there, and only there."""
    async with stand_in() as one, FakeBroker(2, host="127.0.1.1", ranges=KPROXYS_FETCH, state=one.state) as two:
        two.on(ApiKey.API_VERSIONS, CLOSE, DEFAULT)
        (told,) = bad(await walked(one.address))
        assert told[0] == "broker 2"
        assert told[1].startswith(f"{two.address}: versions: ")


async def walked_config(config: Config, client: Client = CLIENT, **options: Any) -> list[Finding]:
    """Let the doctor walk a configuration."""
    found: list[Finding] = []
    await asyncio.to_thread(diagnose_config, config, client, found.append, **options)
    assert "hunter2" not in repr(found)
    return found


@on_uvloop
async def test_a_configuration_is_walked_from_end_to_end() -> None:
    """Each cluster's brokers, then each listener of the running proxy with all the addresses that it tells."""
    async with (
        FakeCluster(3, users=USERS) as cluster,
        Gateway(cluster.bootstrap, login=("gateway", "hunter2")) as gateway,
    ):
        for broker in cluster.brokers.values():
            broker.ranges[10_000] = (0, 1)
        cluster.state.topics[GROUPS] = [2]
        found = await walked_config(gateway._config)
        assert bad(found) == []
        assert found[0].place == "cluster main"
        assert found[0].text == "3 known; kproxy leaves out API keys that Kafka does not have: [10000]"
        assert {finding.place for finding in found[1:]} == {f"listener public, {gateway.address}"}
        good = [finding.step for finding in found if finding.level is Level.OK]
        assert good[-4:] == ["leaks", "broker 1", "broker 2", "broker 3"]
        assert found[-5].text == "FindCoordinator, DescribeCluster: nothing but what Metadata tells"


def configured(cluster: FakeCluster, listeners: dict[str, Any]) -> Config:
    """Make a configuration of several listeners before one cluster."""
    return Config.model_validate(
        {"clusters": {"main": {"bootstrap": cluster.bootstrap.split(",")}}, "listeners": listeners}
    )


def complaints(gateway: Gateway) -> list[Any]:
    """Return the lines in the proxy's log that would alarm somebody."""
    return [event for event in gateway.events if event["log_level"] in {"warning", "error"}]


@on_uvloop
async def test_each_listener_is_asked_for_what_it_has(tmp_path: Path) -> None:
    """One walk, an open listener and two that want a login: it is used where it is asked for, and nobody complains."""
    users = write_users(tmp_path / "users.yaml", gateway="hunter2")
    plain = {"mechanisms": ["PLAIN"], "users_file": users, "allow_plaintext_passwords": True}
    scram = {"mechanisms": ["SCRAM-SHA-512"], "users_file": users}
    logins = [Plain("gateway", "hunter2"), Scram("gateway", "hunter2", "SCRAM-SHA-512")]
    async with (
        FakeCluster(1) as cluster,
        Gateway(cluster.bootstrap) as one,
        Gateway(cluster.bootstrap, listener={"sasl": plain}) as two,
        Gateway(cluster.bootstrap, listener={"sasl": scram}) as three,
    ):
        listeners = {
            "open": {"bind": one.address},
            "passwords": {"bind": two.address, "sasl": plain},
            "proofs": {"bind": three.address, "sasl": scram},
        }
        config = configured(cluster, listeners)
        found = await walked_config(config, logins=logins)
        assert bad(found) == [("login", "the password is sent as it is, without TLS")]
        assert [finding.text.partition(";")[0] for finding in found if finding.step == "login"] == [
            "none is asked for",
            "accepted",
            "the password is sent as it is, without TLS",
            "accepted",
        ]
        assert [event for gateway in (one, two, three) for event in complaints(gateway)] == []
        found = await walked_config(config)
        assert bad(found) == [
            ("login", "a login is asked for: PLAIN"),
            ("login", "a login is asked for: SCRAM-SHA-512"),
        ]
        found = await walked_config(config, listeners=["open"])
        assert {finding.place for finding in found} == {"cluster main", f"listener open, {one.address}"}
        assert bad(found) == []
        found = await walked_config(config, listeners=["proofs"], logins=logins[:1])
        assert bad(found) == [("login", "the broker does not offer PLAIN; it offers: SCRAM-SHA-512")]


@on_uvloop
async def test_a_listener_with_tls_has_nothing_to_complain_of(tmp_path: Path) -> None:
    """No connection is opened only to see whether it can be; the certificate need not name what is dialled."""
    authority = Authority(tmp_path)
    tls = authority.server_files(tmp_path, "localhost")
    told = {"tls": tls, "advertise": f"localhost:{free_port_block(1)}"}
    async with FakeCluster(1) as cluster, Gateway(cluster.bootstrap, listener=told) as gateway:
        config = configured(cluster, {"public": {"bind": gateway.address, **told}})
        found = await walked_config(config, authority.client())
        assert next(finding for finding in found if finding.step == "tls").level is Level.OK
        assert complaints(gateway) == []


@on_uvloop
async def test_a_listener_behind_a_load_balancer(tmp_path: Path) -> None:
    """Where it would believe the doctor's PROXY header it gets one, also before TLS; else it is left out, and why."""
    authority = Authority(tmp_path)
    files = authority.server_files(tmp_path)
    proxied = {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1"]}
    for more, client in (
        ({}, CLIENT),
        ({"tls": files}, authority.client()),
    ):
        async with FakeCluster(1) as cluster, Gateway(cluster.bootstrap, listener=proxied | more) as gateway:
            config = configured(cluster, {"balanced": {"bind": gateway.address, **proxied, **more}})
            found = await walked_config(config, client)
            assert bad(found) == []
            assert "broker 1" in steps(found)
            assert complaints(gateway) == []
            failure = the_failure(await walked(gateway.address))
            assert failure.text.startswith("it expects a PROXY header, as a load balancer sends it (")
            elsewhere = proxied | {"trusted_proxies": ["10.0.0.0/8"]}
            config = configured(cluster, {"balanced": {"bind": gateway.address, **elsewhere, **more}})
            found = await walked_config(config, client)
            assert bad(found) == []
            assert found[-1].level is Level.SKIP
            assert found[-1].text == "it expects a PROXY header, and 127.0.0.1 is none of its trusted_proxies"
            assert found[-1].remedy.startswith("walk the load balancer's address")


@on_uvloop
async def test_brokers_that_the_proxy_cannot_use() -> None:
    """What keeps kproxy from a broker is told of the cluster, with the remedy apart; the proxy is walked, too."""
    dead = f"127.0.0.1:{free_port_block(1)}"
    async with FakeCluster(1) as cluster, Gateway(cluster.bootstrap) as gateway:
        data = {
            "clusters": {"main": {"bootstrap": [dead, *cluster.bootstrap.split(",")]}},
            "listeners": {"public": {"bind": gateway.address}},
        }
        found = await walked_config(Config.model_validate(data))
        (finding,) = [finding for finding in found if finding.level is Level.FAIL]
        assert finding == Finding(
            Level.FAIL, "brokers", f"{dead}: connection refused", "is a broker listening there?", "cluster main"
        )
        assert any(finding.step == "broker 1" for finding in found)


@on_uvloop
async def test_a_running_proxy_that_does_not_run_this_configuration() -> None:
    """Where brokers' ports are not those that the file means, the proxy runs another one."""
    async with FakeCluster(2) as cluster, Gateway(cluster.bootstrap) as gateway:
        listener = {"bind": gateway.address, "broker_port_start": gateway.port + 3}
        data = {"clusters": {"main": {"bootstrap": cluster.bootstrap.split(",")}}, "listeners": {"public": listener}}
        (told,) = bad(await walked_config(Config.model_validate(data)))
        assert told[1].startswith(f"the running proxy says broker 1 is at 127.0.0.1:{gateway.port + 2}, others say ")


async def test_a_configuration_whose_brokers_leak_and_whose_proxy_is_down() -> None:
    """A listener that lets the brokers' answers through as they are is found by the brokers' known addresses."""
    async with FakeCluster(2, ranges=KPROXYS_FETCH) as cluster, TlsFront(cluster.brokers[1].address) as relay:
        listeners = {
            "open": {"bind": relay.address, "addressing": "single"},
            "down": {"bind": f"127.0.0.1:{free_port_block(1)}", "addressing": "single"},
        }
        data = {"clusters": {"main": {"bootstrap": [cluster.brokers[1].address]}}, "listeners": listeners}
        found = bad(await walked_config(Config.model_validate(data)))
        assert ("connect", "connection refused") in found
        for broker in cluster.brokers.values():
            assert ("leaks", f"Metadata holds the address of a broker, {broker.address}") in found
