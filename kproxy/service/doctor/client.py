"""How the doctor speaks to the proxy: connects, begins as a load balancer or TLS demands, logs in.

::

    conversation, table = await Client(mechanism=Plain("alice", "secret")).open(HostPort("kafka.example.com", 9092))
"""

import asyncio
import ssl
from dataclasses import dataclass

from kproxy.config.values import HostPort
from kproxy.core.sasl import CLIENT_ID, Mechanism
from kproxy.errors import TlsError
from kproxy.net.conversation import Conversation, connect
from kproxy.net.tlswords import explain
from kproxy.service.doctor.header import LOCAL, ProxyHeader, Sender, UntrustedError
from kproxy.wire import apiversions
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer


@dataclass(frozen=True)
class Client:
    """How a client speaks to the proxy."""

    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    mechanism: Mechanism | None = None
    client_id: str = CLIENT_ID
    timeout_seconds: float = 5.0
    """For each step; as a cluster's dial_timeout."""
    offered: tuple[str, ...] | None = None
    """The mechanisms of the listener, by its configuration; None: that is not known."""
    header: ProxyHeader | None = None
    """What is known of the PROXY header that the listener expects; None: it expects none."""

    @property
    def protocol(self) -> str:
        """Kafka's name for it, a client's security.protocol."""
        return ("SASL_" if self.mechanism else "") + ("SSL" if self.tls else "PLAINTEXT")

    async def dial(self, address: HostPort) -> Conversation:
        """Connect. Raises UpstreamError; UntrustedError where the listener would believe no PROXY header from here."""
        if self.header is None:
            return await connect(
                *address,
                self.timeout_seconds,
                tls=self.tls,
                server_hostname=self.server_name,
                client_id=self.client_id,
            )
        conversation = await connect(*address, self.timeout_seconds, client_id=self.client_id)
        try:
            conversation.transport.write(self._greeting(conversation, self.header))
            if self.tls is not None:
                await self._begin_tls(conversation, address)
        except BaseException:
            conversation.close()
            raise
        return conversation

    async def preface(self, address: HostPort) -> bytes:
        """Connect, and return what the doctor itself must send there before anything else. Raises as ``dial``."""
        if self.header is None:
            return b""
        conversation = await connect(*address, self.timeout_seconds)
        try:
            return self._greeting(conversation, self.header)
        finally:
            conversation.close()

    @staticmethod
    def _greeting(conversation: Conversation, header: ProxyHeader) -> bytes:
        """Return what is to be sent first. Raises UntrustedError."""
        ours, theirs = (conversation.transport.get_extra_info(name) for name in ("sockname", "peername"))
        sender = header.sender(ours[0], theirs[:2])
        if sender is Sender.NOBODY:
            raise UntrustedError(f"it expects a PROXY header, and {ours[0]} is none of its trusted_proxies")
        return LOCAL if sender is Sender.DOCTOR else b""

    async def _begin_tls(self, conversation: Conversation, address: HostPort) -> None:
        assert self.tls is not None  # noqa: S101  the caller has looked
        try:
            transport = await asyncio.get_running_loop().start_tls(
                conversation.transport,
                conversation,
                self.tls,
                server_hostname=self.server_name or address.host,
                ssl_handshake_timeout=self.timeout_seconds,
            )
        except OSError as error:
            raise TlsError(f"{address}: {explain(error, 'broker')}") from error
        if transport is None:
            raise TlsError(f"{address}: the connection was closed in the TLS handshake")
        conversation.transport = transport

    async def open(self, address: HostPort) -> tuple[Conversation, ApiVersionsAnswer]:
        """Connect, ask ApiVersions, log in. Raises UpstreamError, ProtocolError, AuthError."""
        conversation = await self.dial(address)
        try:
            table = await self.api_versions(conversation)
            await self.log_in(conversation, table)
        except BaseException:
            conversation.close()
            raise
        return conversation, table

    async def api_versions(self, conversation: Conversation) -> ApiVersionsAnswer:
        """Ask, in v0: before its login a broker takes one ApiVersions request only (SaslServerAuthenticator)."""
        body = await conversation.request(ApiKey.API_VERSIONS, 0, b"", self.timeout_seconds)
        return apiversions.parse_response(0, body)

    async def log_in(self, conversation: Conversation, table: ApiVersionsAnswer) -> None:
        """Log in, where there is something to log in with."""
        if self.mechanism is not None:
            version = min(table.ranges.get(ApiKey.SASL_AUTHENTICATE, (0, 1))[1], APIS[36].max_version)
            await conversation.login(self.mechanism, version, self.timeout_seconds)
