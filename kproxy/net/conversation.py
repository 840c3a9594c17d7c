"""A connection to a broker on which kproxy itself speaks: logging in, and asking about the cluster.

Requests may be pipelined; answers come in order (Kafka), and one that does not fit ends the connection. After a login
the transport can be handed to a relay: ``conversation.transport.set_protocol(relay)``.
"""

import asyncio
import os
import ssl
from collections import deque
from itertools import count
from typing import Any, cast

from kproxy.core.sasl import CLIENT_ID, Login, Mechanism
from kproxy.errors import Hangup, Malformed, ProtocolError, TlsError, UpstreamError
from kproxy.net.sockets import keep_alive
from kproxy.net.tls import SHUTDOWN_SECONDS, ClientTls, explain, keep_unread
from kproxy.wire import apiversions, frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.primitives import INT32

ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""The longest answer that kproxy takes for itself: Metadata of a cluster with half a million partitions."""

_SOFTWARE = apiversions.ClientSoftware("kproxy", "0.1.0")


class Conversation(asyncio.Protocol):
    """Asks a broker and returns the bodies of its answers. Make one with ``connect``."""

    def __init__(self, client_id: str = CLIENT_ID) -> None:
        self.transport: asyncio.Transport
        self._client_id = client_id
        self.closed = asyncio.get_running_loop().create_future()
        """Done once the connection is gone."""
        self._waiting: deque[tuple[int, int, int, asyncio.Future[bytes]]] = deque()
        self._buffer = bytearray()
        self._ids = count(1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        # uvloop's is one in all but name.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4:
            (size,) = INT32.unpack_from(buffer)
            if size < 4 or size > ANSWER_BYTES_MAX:
                self._fail(Malformed(f"an answer of {size} bytes; is this a Kafka listener without TLS?"))
                return
            if len(buffer) < 4 + size:
                return
            frame = bytes(buffer[: 4 + size])
            del buffer[: 4 + size]
            if not self._waiting:
                self._fail(Malformed("an answer that was not asked for"))
                return
            correlation_id, key, version, future = self._waiting.popleft()
            try:
                if INT32.unpack_from(frame, 4)[0] != correlation_id:
                    raise Malformed("an answer with another correlation id")
                body = frame[frames.response_body_at(frame, 4, key, version) :]
            except ProtocolError as error:
                self._waiting.appendleft((correlation_id, key, version, future))
                self._fail(error)
                return
            if not future.done():
                future.set_result(body)

    def _fail(self, error: ProtocolError) -> None:
        while self._waiting:
            future = self._waiting.popleft()[3]
            if not future.done():
                future.set_exception(error)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        while self._waiting:
            future = self._waiting.popleft()[3]
            if not future.done():
                future.set_exception(Hangup(f"the broker closed the connection{f': {exc}' if exc else ''}"))
        if not self.closed.done():
            self.closed.set_result(None)

    @property
    def quiet(self) -> bool:
        """Nothing is asked and no byte of an answer is here: the transport can be handed on."""
        return not self._waiting and not self._buffer

    async def send(self, frame: bytes, correlation_id: int, key: int, version: int, timeout_seconds: float) -> bytes:
        """Send a whole request and return the body of its answer.

        Raises:
            UpstreamError: the connection ended, or no answer came in time (the connection is closed then).
            ProtocolError: the answer cannot be one.
        """
        if self.closed.done() or self.transport.is_closing():
            raise Hangup("the broker closed the connection")
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((correlation_id, key, version, future))
        self.transport.write(frame)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await future
        except TimeoutError:
            self.transport.abort()
            raise UpstreamError(f"no answer within {timeout_seconds:g} s") from None

    async def request(self, key: int, version: int, body: bytes, timeout_seconds: float) -> bytes:
        """Ask with a body; return the answer's body. Raises as ``send``."""
        correlation_id = next(self._ids) & 0x3FFFFFFF
        frame = frames.request(key, version, correlation_id, self._client_id, body)
        return await self.send(frame, correlation_id, key, version, timeout_seconds)

    async def api_versions(self, timeout_seconds: float) -> ApiVersionsAnswer:
        """Ask what the broker can do: v0 first, which every broker knows, then the highest that both know."""
        key = int(ApiKey.API_VERSIONS)
        answer = apiversions.parse_response(0, await self.request(key, 0, b"", timeout_seconds))
        version = min(answer.ranges.get(key, (0, 0))[1], apiversions.VERSION_MAX)
        if version < 3:
            return answer
        body = await self.request(key, version, apiversions.request(version, _SOFTWARE), timeout_seconds)
        return apiversions.parse_response(version, body)

    async def login(self, mechanism: Mechanism, authenticate_version: int, timeout_seconds: float) -> int:
        """Log in; return the session's lifetime in ms (0: no limit).

        Raises:
            AuthError: the broker refused.
            UpstreamError, ProtocolError: as ``send``.
        """
        login = Login(mechanism, authenticate_version)
        ask = login.begin()
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while True:
            left = deadline - asyncio.get_running_loop().time()
            body = await self.send(ask.frame, ask.correlation_id, ask.key, ask.version, max(left, 0.001))
            following = login.answer(body)
            if following is None:
                return login.session_lifetime_ms
            ask = following

    def close(self) -> None:
        """Close the connection; what was asked and not answered is over."""
        self.transport.abort()


async def dial(host: str, port: int, timeout_seconds: float, tls: ClientTls | None) -> Conversation:
    """Connect to a broker of a cluster, by the cluster's TLS if it has any. Raises as ``connect``."""
    if tls is None:
        return await connect(host, port, timeout_seconds)
    return await connect(host, port, timeout_seconds, tls=tls.context, server_hostname=tls.server_name(host))


async def connect(
    host: str,
    port: int,
    timeout_seconds: float,
    *,
    tls: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    client_id: str = CLIENT_ID,
) -> Conversation:
    """Connect to a broker, with ``tls`` by TLS; ``server_hostname``: what the certificate must name, if not ``host``.

    Raises:
        TlsError: it does not speak TLS, or one does not trust the other; the cause is the error of TLS.
        UpstreamError: it cannot be reached; the text says why. Its cause is the error of the system.
    """
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {}
    if tls is not None:
        # The timeout around it ends the handshake; this one must only not end it before.
        options = {
            "ssl": tls,
            "server_hostname": server_hostname or host,
            "ssl_handshake_timeout": timeout_seconds + 1,
            "ssl_shutdown_timeout": SHUTDOWN_SECONDS,
        }
    try:
        async with asyncio.timeout(timeout_seconds):
            transport, conversation = await loop.create_connection(
                lambda: Conversation(client_id), host, port, **options
            )
    except TimeoutError:
        raise UpstreamError(f"{host}:{port}: no connection within {timeout_seconds:g} s") from None
    except ssl.SSLError as error:
        raise TlsError(f"{host}:{port}: {explain(error, 'broker')}") from error
    except OSError as error:
        if tls is not None and isinstance(error, ConnectionResetError | ConnectionAbortedError):
            raise TlsError(f"{host}:{port}: {explain(error, 'broker')}") from error
        raise UpstreamError(f"{host}:{port}: {reason(error)}") from error
    if tls is not None:
        keep_unread(transport)
    keep_alive(transport)
    return conversation


def reason(error: OSError) -> str:
    """Return an operating system error in the few words that matter."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, ssl.SSLError):  # its errno is OpenSSL's, not the system's
        return f"TLS: {error.reason or error}"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
