"""Handshakes between a side of ours and one made for the test, over real sockets, on uvloop's loop and asyncio's."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import uvloop

from kproxy.net import tls

T = TypeVar("T")
Raw = Callable[[socket.socket], Any]

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
DEADLINE_SECONDS = 30.0


def run(loop: str, main: Coroutine[Any, Any, T]) -> T:
    """Run something on a loop of a kind, within a deadline."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(asyncio.wait_for(main, DEADLINE_SECONDS))


class Other(threading.Thread):
    """The other end, in a thread; ``result`` is what it returned or raised."""

    def __init__(self, act: Callable[[], Any]) -> None:
        """Begin at once."""
        super().__init__(daemon=True)
        self._act = act
        self.result: Any = None
        self.start()

    def run(self) -> None:
        """Act, and keep what comes of it."""
        try:
            self.result = self._act()
        except Exception as error:  # noqa: BLE001 - it is what the test looks at
            self.result = error

    async def outcome(self) -> Any:
        """Wait for its end."""
        await asyncio.to_thread(self.join, DEADLINE_SECONDS)
        assert not self.is_alive()
        return self.result


class Recorder(asyncio.Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        """Nothing has been told."""
        self.transport: asyncio.Transport
        self.ssl_object: ssl.SSLObject
        self.version: str | None = None
        self.certificate: dict[str, Any] | None = None
        self.received = b""
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the transport keep unread what it may."""
        tls.keep_unread(transport)
        self.transport = transport  # type: ignore[assignment]  # uvloop's is one in all but name
        self.ssl_object = transport.get_extra_info("ssl_object")
        self.version = self.ssl_object.version() if self.ssl_object else None
        self.certificate = tls.peer_certificate(self.ssl_object) if self.ssl_object else None

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the test."""
        self.lost.set_result(exc)


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A listening socket on the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def tls_client(context: ssl.SSLContext, name: str | None = "localhost", **session: Any) -> Raw:
    """Make an end that shakes hands, says hello, and tells what it reads until the end, and its session."""

    def act(sock: socket.socket) -> tuple[bytes, ssl.SSLSession | None]:
        with context.wrap_socket(sock, server_hostname=name, **session) as wrapped:
            wrapped.sendall(b"hello")
            read = b""
            while more := wrapped.recv(1000):
                read += more
            return read, wrapped.session

    return act


async def served(server: tls.ServerTls, act: Raw, *, timeout_seconds: float = 10.0) -> tuple[Recorder | Exception, Any]:
    """Let a raw client act on a server of ours, which greets it; return what came of it on both ends."""
    loop = asyncio.get_running_loop()
    protocol = Recorder()

    with listening() as listener:
        listener.setblocking(False)

        def client() -> Any:
            with socket.create_connection(listener.getsockname()) as sock:
                sock.settimeout(DEADLINE_SECONDS)
                return act(sock)

        other = Other(client)
        conn, _ = await loop.sock_accept(listener)
        try:
            with tls.alerting(conn):
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol, conn, ssl=server.context, ssl_handshake_timeout=timeout_seconds
                )
        except OSError as error:
            conn.close()
            return error, await other.outcome()
        transport.write(b"welcome")
        transport.close()
        outcome = await other.outcome()
        await protocol.lost
        return protocol, outcome


async def dialled(client: tls.ClientTls, act: Raw, *, timeout_seconds: float = 10.0) -> tuple[Exception | None, bytes]:
    """Dial a raw server that acts, as ``broker.test``; return the error of the handshake or of what follows."""
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    with listening() as listener:

        def server() -> Any:
            conn, _ = listener.accept()
            conn.settimeout(DEADLINE_SECONDS)
            with conn:
                return act(conn)

        other = Other(server)
        host, port = listener.getsockname()
        try:
            await loop.create_connection(
                lambda: protocol,
                host,
                port,
                ssl=client.context,
                server_hostname=client.server_name("broker.test"),
                ssl_handshake_timeout=timeout_seconds,
            )
        except OSError as error:
            await other.outcome()
            return error, b""
        ended = await protocol.lost
        await other.outcome()
        return ended, protocol.received


def tls_server(context: ssl.SSLContext) -> Raw:
    """Make an end that shakes hands, says welcome and goes."""

    def act(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as wrapped:
            wrapped.sendall(b"welcome")
            with suppress(OSError):
                wrapped.unwrap()

    return act
