"""A FakeCluster behind a listener with one address for all brokers, in this process, and a client that sends bytes.

Every broker answers ListOffsets, Heartbeat and Produce with its own node id, so that an answer tells who gave it::

    async with Stage() as stage, stage.client() as client:
        assert await client.ask(LIST_OFFSETS, 1, list_offsets("t", 0)) == b"2"
"""

import asyncio
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from kproxy.core.addressbook import PortLayout
from kproxy.core.sasl import Plain
from kproxy.core.view import Change
from kproxy.net.link import ClusterLink, ClusterSettings
from kproxy.net.listeners import Listener, ListenerSettings
from kproxy.testing.fakebroker import FakeBroker, FakeCluster
from kproxy.testing.plays import Answer, Play, Request
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT16, INT32, INT64, put_string

DEADLINE_SECONDS = 10
PATIENCE_SECONDS = 2
"""How long a dead broker without a successor is waited for."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110  the conditions are of many kinds
            await asyncio.sleep(0.01)


def list_offsets(topic: str, partition: int) -> bytes:
    """Write a ListOffsets v1 request."""
    partitions = INT32.pack(1) + INT32.pack(partition) + INT64.pack(-1)
    return INT32.pack(-1) + INT32.pack(1) + put_string(topic) + partitions


def produce(topic: str, partition: int, acks: int, records: bytes) -> bytes:
    """Write a Produce v7 request."""
    partitions = INT32.pack(1) + INT32.pack(partition) + INT32.pack(len(records)) + records
    return put_string(None) + INT16.pack(acks) + INT32.pack(1000) + INT32.pack(1) + put_string(topic) + partitions


def heartbeat(group: str) -> bytes:
    """Write a Heartbeat v0 request."""
    return put_string(group) + INT32.pack(1) + put_string("m")


def named(broker: FakeBroker) -> Play:
    """Answer with the broker's node id; a Produce with acks=0 gets no answer."""

    def play(request: Request) -> Answer | None:
        if request.key == ApiKey.PRODUCE and request.body[2:4] == b"\0\0":
            return None
        return str(broker.node_id).encode()

    return play


class Client:
    """A client's connection; ``ask`` sends and reads one answer, ``send`` and ``answer`` are its halves."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._next = 0
        self._asked: dict[int, tuple[int, int]] = {}

    def frame(self, key: int, version: int, body: bytes) -> bytes:
        """Write a request under the next correlation id."""
        self._next += 1
        if key != ApiKey.PRODUCE or body[2:4] != b"\0\0":  # acks=0 gets no answer
            self._asked[self._next] = key, version
        return frames.request(key, version, self._next, "c", body)

    async def send(self, key: int, version: int, body: bytes) -> None:
        """Send a request."""
        self.writer.write(self.frame(key, version, body))
        await self.writer.drain()

    async def answer(self) -> bytes:
        """Read the next answer's body; it must be that of the oldest request that has none yet."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            size = INT32.unpack(await self.reader.readexactly(4))[0]
            frame = await self.reader.readexactly(size)
        correlation_id = INT32.unpack_from(frame)[0]
        key, version = self._asked.pop(correlation_id)
        assert all(asked > correlation_id for asked in self._asked)
        return frame[frames.response_body_at(frame, 0, key, version) :]

    async def ask(self, key: int, version: int, body: bytes) -> bytes:
        """Send a request and read its answer's body."""
        await self.send(key, version, body)
        return await self.answer()

    async def ended(self) -> bool:
        """Wait for the end of the connection; whether nothing came before it."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True

    async def __aenter__(self) -> Self:
        """Be there."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.writer.close()


class Stage:
    """The cluster, the link and the listener."""

    def __init__(self, session_lifetime_ms: int = 0, advertised_host: str | None = None) -> None:
        self._advertised_host = advertised_host
        self.cluster = FakeCluster(3, users={"u": "p"}, session_lifetime_ms=session_lifetime_ms)
        self.cluster.state.topics = {"t": [1, 2, 3, 1], "u": [2]}
        self.cluster.state.coordinators = {"g1": 1, "g2": 2, "g3": 3}
        for broker in self.cluster.brokers.values():
            for key in (ApiKey.LIST_OFFSETS, ApiKey.HEARTBEAT, ApiKey.PRODUCE):
                broker.on(key, named(broker))
        self.brokers = self.cluster.brokers

    async def __aenter__(self) -> Self:
        """Start all; every broker is up when it returns."""
        await self.cluster.__aenter__()
        bootstrap = tuple((broker.host, broker.port) for broker in self.brokers.values())
        settings = ClusterSettings("c", bootstrap, Plain("u", "p"), dial_patience_max_seconds=PATIENCE_SECONDS)
        self.link = ClusterLink(settings, self._changed)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        layout = PortLayout(self.port, self.port)
        listener = ListenerSettings("l", "127.0.0.1", self.port, "single", layout, self._advertised_host, self.port)
        self.listener = Listener(listener, self.link, self._bound)
        self.link.start()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.link.ready.wait()
        await self.link.settle(DEADLINE_SECONDS)
        await self.listener.open()
        self.tally = self.listener.tally
        return self

    async def _bound(self, _name: str, _node_id: int | None, _port: int) -> socket.socket:
        return self._socket

    def _changed(self, change: Change) -> None:
        self.listener.cluster_changed(change)

    def client(self) -> "Connecting":
        """Connect."""
        return Connecting(self.port)

    def asked(self, node_id: int, key: int) -> list[bytes]:
        """Return the bodies of what a broker's clients asked; kproxy's own connections never ask the APIs used here."""
        return [request.body for request in self.brokers[node_id].of(key)]

    def connections(self, node_id: int) -> int:
        """Count the connections that brought a broker something but kproxy's own questions."""
        own = {ApiKey.METADATA, ApiKey.API_VERSIONS, ApiKey.FIND_COORDINATOR, 17, 36}
        return len({request.connection for request in self.brokers[node_id].requests if request.key not in own})

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all; nothing may be left behind."""
        await self.listener.drain(DEADLINE_SECONDS)
        await self.listener.close()
        await self.link.close()
        assert error is not None or self.tally.connections == 0
        for broker in self.brokers.values() if error is None else ():
            await broker.until(lambda broker=broker: not broker.open_connections, what="all to be closed")  # type: ignore[misc]
        await self.cluster.__aexit__(kind, error, trace)
        assert not [broker.violations for broker in self.brokers.values() if broker.violations]


class Connecting:
    """A client that is about to connect: ``async with``."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Client:
        """Connect."""
        self._client = Client(*await asyncio.open_connection("127.0.0.1", self._port))
        return self._client

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        self._client.writer.close()
