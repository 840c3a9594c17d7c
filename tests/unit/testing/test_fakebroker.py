"""A FakeBroker answers as Kafka does, as two independent codecs and a real client read it, and fails as it is told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from kafka.protocol.admin import DescribeClusterResponse
from kafka.protocol.metadata import FindCoordinatorResponse, MetadataResponse

from kproxy.testing import fakeanswers
from kproxy.testing.fakebroker import CLOSE, DEFAULT, DROP, Cut, Delay, FakeBroker, FakeCluster, Hold, Raw, Request
from kproxy.wire import frames, handshake
from kproxy.wire.apis import ApiKey
from kproxy.wire.apiversions import ClientSoftware, parse_response
from kproxy.wire.apiversions import request as api_versions_request

HEARTBEAT_OK = bytes(6)
USERS = {"gateway": "secret"}


class Client:
    """A connection that sends requests by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.correlation_id = 0

    async def send(self, key: int, version: int, body: bytes) -> None:
        """Send one request."""
        self.correlation_id += 1
        self.writer.write(frames.request(key, version, self.correlation_id, "test", body))
        await self.writer.drain()

    async def receive(self) -> bytes:
        """Read one answer: everything behind the correlation id, which must be the last request's."""
        size = int.from_bytes(await self.reader.readexactly(4), "big")
        frame = await self.reader.readexactly(size)
        assert int.from_bytes(frame[:4], "big") == self.correlation_id
        return frame[4:]

    async def ask(self, key: int, version: int, body: bytes) -> bytes:
        """Send one request and read its answer."""
        await self.send(key, version, body)
        async with asyncio.timeout(5):
            return await self.receive()

    async def assert_closed(self) -> None:
        """The broker closes the connection, without another byte."""
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await self.reader.read() == b""

    async def login(self, password: str = USERS["gateway"], version: int = 2) -> handshake.SaslAuthenticateAnswer:
        """Log in as gateway."""
        answer = await self.ask(ApiKey.SASL_HANDSHAKE, 1, handshake.sasl_handshake_request("PLAIN"))
        assert handshake.parse_sasl_handshake_response(answer).error_code == 0
        token = b"\0gateway\0" + password.encode()
        body = handshake.sasl_authenticate_request(version, token)
        answer = await self.ask(ApiKey.SASL_AUTHENTICATE, version, body)
        start = 1 if version >= 2 else 0  # the header's tags
        return handshake.parse_sasl_authenticate_response(version, answer[start:])


async def connect(broker: FakeBroker) -> Client:
    """Connect to a broker."""
    return Client(*await asyncio.open_connection(broker.host, broker.port))


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    """A broker without SASL."""
    async with FakeBroker() as running:
        yield running


@pytest.fixture
async def guarded() -> AsyncIterator[FakeBroker]:
    """A broker that demands a login."""
    async with FakeBroker(users=USERS) as running:
        yield running


@pytest.fixture
async def client(broker: FakeBroker) -> AsyncIterator[Client]:
    """A connection to the broker without SASL."""
    connected = await connect(broker)
    yield connected
    connected.writer.close()


STATE = fakeanswers.ClusterState(
    brokers={1: ("127.0.1.1", 1001), 2: ("127.0.1.2", 1002)},
    topics={"a": [1, 2, 1], "b": []},
    coordinators={"group": 2, "lost": 9},
    racks={2: "rack"},
)


def decode(message: Any, version: int, body: bytes) -> Any:
    """Read a body with kafka-python's codec, which must use all of it."""
    decoded = message.decode(body, version=version)
    decoded._header = None  # encode looks for it
    assert decoded.encode(version=version) == body
    return decoded


@pytest.mark.parametrize("version", range(14))
def test_metadata_is_what_kafka_python_reads(version: int) -> None:
    """Metadata at every version names the brokers, the topics and their leaders."""
    answer = decode(MetadataResponse, version, fakeanswers.metadata(version, STATE, None))
    assert [(b.node_id, b.host, b.port) for b in answer.brokers] == [(1, "127.0.1.1", 1001), (2, "127.0.1.2", 1002)]
    leaders = {topic.name: [p.leader_id for p in topic.partitions] for topic in answer.topics}
    assert leaders == STATE.topics
    unknown = decode(MetadataResponse, version, fakeanswers.metadata(version, STATE, ["x"]))
    assert [topic.error_code for topic in unknown.topics] == [3]


@pytest.mark.parametrize("version", range(7))
def test_find_coordinator_is_what_kafka_python_reads(version: int) -> None:
    """FindCoordinator at every version names the coordinator that the test chose, and one that is not there."""
    found = decode(FindCoordinatorResponse, version, fakeanswers.find_coordinator(version, STATE, ["group"]))
    lost = decode(FindCoordinatorResponse, version, fakeanswers.find_coordinator(version, STATE, ["lost"]))
    if version >= 4:
        found, lost = found.coordinators[0], lost.coordinators[0]
    assert (found.node_id, found.host, found.port, found.error_code) == (2, "127.0.1.2", 1002, 0)
    assert (lost.node_id, lost.error_code) == (-1, 15)


@pytest.mark.parametrize("version", range(3))
def test_describe_cluster_is_what_kafka_python_reads(version: int) -> None:
    """DescribeCluster at every version names the brokers."""
    answer = decode(DescribeClusterResponse, version, fakeanswers.describe_cluster(version, STATE))
    assert [(b.broker_id, b.rack) for b in answer.brokers] == [(1, None), (2, "rack")]


async def test_a_real_client_logs_in_and_reads_metadata() -> None:
    """confluent-kafka logs in to a cluster of FakeBrokers and learns its brokers and topics."""
    from confluent_kafka.admin import AdminClient

    settings = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "log_level": "0"}
    login = {"sasl.username": "gateway", "sasl.password": "secret"}
    async with FakeCluster(3, users=USERS) as cluster:
        cluster.state.topics["a"] = [1, 2, 3]
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap} | settings | login)
        metadata = await asyncio.to_thread(admin.list_topics, timeout=10)
        assert sorted(metadata.brokers) == [1, 2, 3]
        assert [p.leader for _, p in sorted(metadata.topics["a"].partitions.items())] == [1, 2, 3]
        del admin
        assert all(not broker.violations for broker in cluster.brokers.values())


async def test_plays_come_one_after_the_other(broker: FakeBroker, client: Client) -> None:
    """Plays are used in order, the last for good, and every request is remembered."""
    event = asyncio.Event()

    def play(request: Request) -> bytes:
        event.set()
        return request.body

    broker.on(ApiKey.HEARTBEAT, play, Hold(event, b"held"), Delay(0.01, b"late"), Raw(b"\0\0\0\x04\0\0\0\x04"), b"last")
    expected = [b"body", b"held", b"late", b"", b"last", b"last"]
    assert [await client.ask(ApiKey.HEARTBEAT, 0, b"body") for _ in expected] == expected
    asked = broker.of(ApiKey.HEARTBEAT)
    assert [request.correlation_id for request in asked] == [1, 2, 3, 4, 5, 6]
    assert (asked[0].version, asked[0].client_id, asked[0].body, asked[0].connection) == (0, "test", b"body", 1)


async def test_dropped_cut_and_closed(broker: FakeBroker, client: Client) -> None:
    """A dropped request leaves the connection open, a cut answer ends it after so many bytes, CLOSE at once."""
    broker.on(ApiKey.HEARTBEAT, DROP, lambda _: None, Cut(7, HEARTBEAT_OK), CLOSE)
    for _ in range(3):
        await client.send(ApiKey.HEARTBEAT, 0, b"")
    assert await client.reader.read() == b"\0\0\0\x0a\0\0\0"
    second = await connect(broker)
    await second.send(ApiKey.HEARTBEAT, 0, b"")
    await second.assert_closed()
    second.writer.close()
    await broker.until(lambda: broker.open_connections == 0)
    assert broker.connections_accepted == 2


async def test_mute_refuse_and_start_again(broker: FakeBroker, client: Client) -> None:
    """A muted broker takes a request and answers it when unmuted; a refusing one keeps what is open."""
    broker.mute()
    await client.send(ApiKey.METADATA, 1, bytes(4))
    await broker.until_asked(ApiKey.METADATA)
    broker.unmute()
    assert await client.receive() == fakeanswers.metadata(1, broker.state, [])
    broker.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connect(broker)
    assert await client.ask(ApiKey.METADATA, 1, bytes(4))
    await broker.start()
    (await connect(broker)).writer.close()


async def test_stop_breaks_off_what_waits(broker: FakeBroker, client: Client) -> None:
    """Stopping does not wait for a play that would take forever."""
    broker.on(ApiKey.HEARTBEAT, Hold(asyncio.Event(), HEARTBEAT_OK))
    await client.send(ApiKey.HEARTBEAT, 0, b"")
    await broker.until_asked(ApiKey.HEARTBEAT)
    await broker.stop()
    await client.assert_closed()


async def test_an_error_in_a_play_is_raised_by_stop() -> None:
    """A mistake in a test's own play fails that test."""
    broker = await FakeBroker().start()
    broker.on(ApiKey.HEARTBEAT, lambda _: b"" + str(1 // 0).encode())
    client = await connect(broker)
    await client.send(ApiKey.HEARTBEAT, 0, b"")
    await client.assert_closed()
    client.writer.close()
    with pytest.raises(ZeroDivisionError):
        await broker.stop()


async def test_what_was_not_told_or_offered_is_a_surprise(broker: FakeBroker) -> None:
    """An API without a play, or a version not offered, closes the connection and is kept."""
    for key, version in ((ApiKey.PRODUCE, 9), (ApiKey.METADATA, 99)):
        client = await connect(broker)
        await client.send(key, version, b"")
        await client.assert_closed()
        client.writer.close()
    assert [(request.key, request.version) for request in broker.surprises] == [(0, 9), (3, 99)]


async def test_garbage_is_a_violation(broker: FakeBroker) -> None:
    """A size that cannot be, or an API that does not exist, closes the connection and is kept."""
    for data in (b"\xff\xff\xff\xff", frames.request(0, 0, 1, "c", b"").replace(b"\0\0\0\0", b"\x7f\0\0\0", 1)):
        client = await connect(broker)
        client.writer.write(data)
        await client.assert_closed()
        client.writer.close()
    assert [violation.split(":")[0] for violation in broker.violations] == ["FrameTooLarge", "Unsupported"]


async def test_api_versions_above_ours_is_answered_in_v0(broker: FakeBroker, client: Client) -> None:
    """A version that is too high gets error 35 with the range; the offered table is what the test chose."""
    answer = parse_response(0, await client.ask(ApiKey.API_VERSIONS, 9, b"\0"))
    assert (answer.error_code, answer.ranges) == (35, {18: (0, 4)})
    broker.ranges = {18: (0, 4), 3: (0, 8)}
    body = api_versions_request(4, ClientSoftware("test", "1"))
    assert parse_response(4, await client.ask(ApiKey.API_VERSIONS, 4, body)).ranges == broker.ranges


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_login_and_a_second_one(guarded: FakeBroker, version: int) -> None:
    """After a login requests are answered, and a connection may log in again."""
    client = await connect(guarded)
    for _ in range(2):
        assert (await client.login(version=version)).error_code == 0
        assert await client.ask(ApiKey.METADATA, 1, bytes(4))
    client.writer.close()
    assert (guarded.logins, guarded.violations) == (2, [])


async def test_a_login_with_bare_tokens(guarded: FakeBroker) -> None:
    """After SaslHandshake v0 the token is a frame of its own, answered by an empty one."""
    client = await connect(guarded)
    await client.ask(ApiKey.SASL_HANDSHAKE, 0, handshake.sasl_handshake_request("PLAIN"))
    client.writer.write(b"\0\0\0\x0f\0gateway\0secret")
    assert await client.reader.readexactly(4) == bytes(4)
    assert await client.ask(ApiKey.METADATA, 1, bytes(4))
    client.writer.close()


async def test_a_wrong_password_ends_the_connection(guarded: FakeBroker) -> None:
    """A wrong password is answered with error 58, then the connection ends."""
    client = await connect(guarded)
    assert (await client.login("wrong")).error_code == 58
    await client.assert_closed()
    client.writer.close()
    assert guarded.logins == 0


async def test_what_is_out_of_order_ends_the_connection(guarded: FakeBroker) -> None:
    """A request before the login, or in the middle of a second one, is a violation that names it."""
    client = await connect(guarded)
    await client.send(ApiKey.METADATA, 1, bytes(4))
    await client.assert_closed()
    client.writer.close()
    client = await connect(guarded)
    await client.login()
    await client.ask(ApiKey.SASL_HANDSHAKE, 1, handshake.sasl_handshake_request("PLAIN"))
    await client.send(ApiKey.METADATA, 1, bytes(4))
    await client.assert_closed()
    client.writer.close()
    assert guarded.violations == [
        "Metadata before a SaslHandshake",
        "Metadata between SaslHandshake and SaslAuthenticate",
    ]


async def test_a_session_ends() -> None:
    """When a session's lifetime is over nothing but a new login is taken."""
    async with FakeBroker(users=USERS, session_lifetime_ms=1) as broker:
        client = await connect(broker)
        assert (await client.login()).session_lifetime_ms == 1
        await asyncio.sleep(0.002)  # the lifetime itself
        assert (await client.login()).error_code == 0
        await asyncio.sleep(0.002)
        await client.send(ApiKey.METADATA, 1, bytes(4))
        await client.assert_closed()
        client.writer.close()
        assert broker.violations == ["Metadata after the session's lifetime"]


async def test_defaults_can_be_played(broker: FakeBroker, client: Client) -> None:
    """A fault may wrap the broker's own answer."""
    broker.on(ApiKey.METADATA, Delay(0, DEFAULT))
    assert await client.ask(ApiKey.METADATA, 1, bytes(4)) == fakeanswers.metadata(1, broker.state, [])
