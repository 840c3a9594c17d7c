"""Clients that are not in yet: with TLS or without, from any address of this machine, behind a load balancer or not.

A Stranger is a RawClient that can do by hand what stands before the first request::

    async with Stranger(gateway.address, tls=authority.trusting(), preamble=proxy_v1("203.0.113.9")) as client:
        await client.login(Plain("alice", "wonder"))
        await client.heartbeat()
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clients.gateway import Gateway
from clients.raw import HEARTBEAT_OK, RawClient
from kproxy.config import users
from kproxy.core.causes import Cause
from kproxy.core.credentials import User, derive
from kproxy.core.sasl import Login, Mechanism, Plain
from kproxy.testing.certificates import Authority
from kproxy.testing.fakebroker import FakeCluster
from kproxy.wire import frames, handshake
from kproxy.wire import primitives as p
from kproxy.wire.apis import ApiKey

NAME = "localhost"

ALICE = Plain("alice", "wonder")

CLIENT_HELLO = bytes.fromhex("16 0301 0200 01 0001fc 0303") + bytes(range(200))
"""The beginning of one: it announces more than there is."""


class Stranger(RawClient):
    """One connection.

    Args:
        address: host:port.
        tls: Speak TLS with it.
        server_name: The name to ask for and to find in the certificate; an address is not asked for (RFC 6066).
        preamble: To be sent before all else; ``slowly``: a byte at a time.
        local_host: The address to come from.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str = NAME,
        preamble: bytes = b"",
        slowly: bool = False,
        local_host: str = "127.0.0.1",
    ) -> None:
        super().__init__(address)
        self._tls = tls
        self._server_name = server_name
        self._preamble = preamble
        self._slowly = slowly
        self._local_host = local_host

    async def __aenter__(self) -> Self:
        """Connect, and shake hands."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.bind((self._local_host, 0))
            await loop.sock_connect(sock, self._address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(len(self._preamble)) if self._slowly else ():
                await loop.sock_sendall(sock, self._preamble[at : at + 1])
                await asyncio.sleep(0)  # the other end, on this loop, reads it
            if not self._slowly:
                await loop.sock_sendall(sock, self._preamble)
            name = None if self._tls is None else self._server_name
            self.reader, self.writer = await asyncio.open_connection(sock=sock, ssl=self._tls, server_hostname=name)
        except BaseException:
            sock.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        with contextlib.suppress(ssl.SSLError):  # what came behind the other end's farewell
            await super().__aexit__(kind, error, trace)

    @property
    def serial_number(self) -> int:
        """Of the certificate that it was shown."""
        return int(self.writer.get_extra_info("peercert")["serialNumber"], 16)

    async def read_to_end(self) -> bytes:
        """Read until the proxy closes the connection, orderly or not."""
        try:
            return await super().read_to_end()
        except ssl.SSLError:
            return b""

    async def login(self, mechanism: Mechanism, version: int = 2) -> int:
        """Log in, as a client does; return the session's lifetime in milliseconds, 0: without end.

        Raises:
            AuthError: it was refused.
            EOFError: the proxy closed the connection.
        """
        login = Login(mechanism, version)
        ask: Any = login.begin()
        while ask is not None:
            await self.send_bytes(ask.frame)
            answer = await self.receive()
            assert p.INT32.unpack(answer[:4])[0] == ask.correlation_id
            ask = login.answer(answer[frames.response_body_at(answer, 0, ask.key, ask.version) :])
        return login.session_lifetime_ms

    async def shake(self, mechanism: str = "PLAIN") -> handshake.SaslHandshakeAnswer:
        """Ask for a mechanism."""
        body = await self.ask(ApiKey.SASL_HANDSHAKE, 1, handshake.sasl_handshake_request(mechanism))
        return handshake.parse_sasl_handshake_response(body)

    async def authenticate(self, token: bytes) -> handshake.SaslAuthenticateAnswer:
        """Send a token."""
        body = await self.ask(ApiKey.SASL_AUTHENTICATE, 2, handshake.sasl_authenticate_request(2, token))
        return handshake.parse_sasl_authenticate_response(2, body)

    def reset(self) -> None:
        """Break the connection, as a machine that is gone."""
        sock = self.writer.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def hang_up(self) -> None:
        """End the sending side, as a process that is gone, without TLS's farewell."""
        await self.writer.drain()
        self.writer.transport.get_extra_info("socket").shutdown(socket.SHUT_WR)


def proxy_v1(host: str, port: int = 4711) -> bytes:
    """Write a PROXY header of version 1 that names a client."""
    family, destination = ("TCP6", "2001:db8::1") if ":" in host else ("TCP4", "192.0.2.1")
    return f"PROXY {family} {host} {destination} {port} 9092\r\n".encode()


def proxy_v2(host: str | None, port: int = 4711, tlvs: bytes = b"") -> bytes:
    """Write one of version 2; ``host`` None: LOCAL, as of a load balancer's health check."""
    signature = b"\r\n\r\n\0\r\nQUIT\n"
    if host is None:
        return signature + b"\x20\x00" + len(tlvs).to_bytes(2, "big") + tlvs
    source = ipaddress.ip_address(host).packed
    body = source + bytes(len(source)) + port.to_bytes(2, "big") + (9092).to_bytes(2, "big") + tlvs
    return signature + b"\x21" + (b"\x11" if len(source) == 4 else b"\x21") + len(body).to_bytes(2, "big") + body


def client_hello(name: str) -> bytes:
    """Return a whole ClientHello that asks for a name."""
    outgoing = ssl.MemoryBIO()
    connection = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def write_users(path: Path, **passwords: str) -> str:
    """Write a users file with these users and no others; return its path."""
    with users.changing(path, create=True) as file:
        file.users = {
            name: User(name, {kind: derive(password, kind) for kind in ("SCRAM-SHA-512", "SCRAM-SHA-256")})
            for name, password in passwords.items()
        }
    return str(path)


def server_tls(folder: Path, authority: Authority, *names: str) -> dict[str, Any]:
    """Write a certificate for these names, or for this machine; return a listener's ``tls``."""
    files = authority.server(*(names or (NAME, "127.0.0.1"))).write(folder, "server")
    return {"cert_file": str(files.cert_file), "key_file": str(files.key_file), "reload_interval": "50ms"}


@asynccontextmanager
async def serving(
    *, brokers: int = 1, users: Mapping[str, str] | None = None, **settings: Any
) -> AsyncIterator[tuple[Gateway, FakeCluster]]:
    """Run a gateway before brokers that answer heartbeats; ``settings``: the listener's, or Gateway's own."""
    own = {key: settings.pop(key) for key in ("limits", "addressing", "cluster", "login") if key in settings}
    async with FakeCluster(brokers, users) as cluster, Gateway(cluster.bootstrap, listener=settings, **own) as gateway:
        cluster.on(ApiKey.HEARTBEAT, HEARTBEAT_OK)
        yield gateway, cluster


async def until_turned_away(gateway: Gateway, cause: Cause, count: int = 1) -> None:
    """Wait until so many have been turned away for a reason."""
    counts = gateway.tally.turned_away
    await gateway.until(lambda: counts[cause] >= count, f"{count} x {cause!r} in {dict(counts)}")


def only_warning(gateway: Gateway) -> Any:
    """Return the one warning that was logged."""
    (line,) = [event for event in gateway.events if event["log_level"] != "info"]
    return line
