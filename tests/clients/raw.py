"""A client that speaks Kafka by hand, one request at a time or many, and looks for leaked addresses in every byte."""

import asyncio
import contextlib
import socket
from types import TracebackType
from typing import Self

from kproxy.wire import apiversions, frames
from kproxy.wire import primitives as p
from kproxy.wire.apis import ApiKey

FORBIDDEN = b"127.0.1."
"""Where FakeBrokers and a test's real ones are; no client may ever read it."""

ANSWER_SECONDS = 15

SOFTWARE = apiversions.ClientSoftware("raw", "1")

HEARTBEAT_OK = bytes(6)
"""The body of a Heartbeat answer v1 to v3: no throttle time, no error."""


def heartbeat(group: str = "group") -> bytes:
    """Write a Heartbeat request v3."""
    return p.put_string(group) + p.INT32.pack(1) + p.put_string("member") + p.put_string(None)


def produce(acks: int, records: bytes = b"", topic: str = "topic") -> bytes:
    """Write a Produce request v7 for partition 0 of one topic."""
    partition = p.INT32.pack(0) + p.INT32.pack(len(records)) + records
    topics = p.INT32.pack(1) + p.put_string(topic) + p.INT32.pack(1) + partition
    return p.put_string(None) + p.INT16.pack(acks) + p.INT32.pack(1000) + topics


def fetch() -> bytes:
    """Write a Fetch request v4 for partition 0 of one topic."""
    partition = p.INT32.pack(0) + p.INT64.pack(0) + p.INT32.pack(1 << 30)
    topics = p.INT32.pack(1) + p.put_string("topic") + p.INT32.pack(1) + partition
    return p.INT32.pack(-1) + p.INT32.pack(100) + p.INT32.pack(1) + p.INT32.pack(1 << 30) + b"\0" + topics


def produced(topic: str = "topic") -> bytes:
    """Write a Produce answer v7 that says that all is well."""
    partition = p.INT32.pack(0) + p.INT16.pack(0) + p.INT64.pack(0) + p.INT64.pack(-1) + p.INT64.pack(0)
    return p.INT32.pack(1) + p.put_string(topic) + p.INT32.pack(1) + partition + p.INT32.pack(0)


class RawClient:
    """One connection to the proxy.

    Args:
        address: host:port.
        receive_buffer_bytes: Of the socket, for a slow reader; 0: the system's.
        client_id: What it calls itself.
    """

    def __init__(self, address: str, receive_buffer_bytes: int = 0, client_id: str = "raw") -> None:
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._receive_buffer_bytes = receive_buffer_bytes
        self._client_id = client_id
        self._tail = b""
        self.correlation_id = 0
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        """Connect."""
        sock = socket.socket()
        sock.setblocking(False)
        if self._receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self._address)
        except OSError:
            sock.close()
            raise
        self.reader, self.writer = await asyncio.open_connection(sock=sock)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def frame(self, key: int, version: int, body: bytes) -> bytes:
        """Write one request under the next correlation id."""
        self.correlation_id += 1
        return frames.request(key, version, self.correlation_id, self._client_id, body)

    async def send(self, key: int, version: int, body: bytes) -> int:
        """Send one request and return its correlation id."""
        await self.send_bytes(self.frame(key, version, body))
        return self.correlation_id

    async def send_bytes(self, data: bytes) -> None:
        """Send something."""
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):  # that it is closed is seen when it is read
            await self.writer.drain()

    async def read(self, size: int) -> bytes:
        """Read so many bytes; fail on a leaked address.

        Raises:
            EOFError: the proxy closed the connection before (asyncio.IncompleteReadError).
        """
        async with asyncio.timeout(ANSWER_SECONDS):
            data = await self.reader.readexactly(size)
        self._look_for_leaks(data)
        return data

    def _look_for_leaks(self, data: bytes) -> None:
        text = self._tail + data
        assert FORBIDDEN not in text, f"a broker's address went to a client: {text[:200]!r}"
        self._tail = text[-len(FORBIDDEN) + 1 :]

    async def receive(self) -> bytes:
        """Read one answer, from its correlation id on."""
        (size,) = p.INT32.unpack(await self.read(4))
        return await self.read(size)

    async def ask(self, key: int, version: int, body: bytes) -> bytes:
        """Send one request and return its answer's body."""
        wanted = await self.send(key, version, body)
        answer = await self.receive()
        assert p.INT32.unpack(answer[:4])[0] == wanted
        return answer[frames.response_body_at(answer, 0, key, version) :]

    async def api_versions(self, version: int = 3) -> apiversions.ApiVersionsAnswer:
        """Ask what is offered."""
        body = apiversions.request(version, SOFTWARE) if version >= 3 else b""
        return apiversions.parse_response(version, await self.ask(ApiKey.API_VERSIONS, version, body))

    async def heartbeat(self, group: str = "group") -> None:
        """Ask something that goes to the broker and comes back: is this connection well?"""
        assert await self.ask(ApiKey.HEARTBEAT, 3, heartbeat(group)) == HEARTBEAT_OK

    async def read_to_end(self) -> bytes:
        """Read until the proxy closes the connection, orderly or not."""
        data = bytearray()
        async with asyncio.timeout(ANSWER_SECONDS):
            with contextlib.suppress(ConnectionError):
                while part := await self.reader.read(65536):
                    self._look_for_leaks(part)
                    data += part
        self.writer.close()  # as clients do, and the proxy waits for
        return bytes(data)

    async def assert_closed(self) -> None:
        """The proxy closes the connection without another byte."""
        assert await self.read_to_end() == b""
