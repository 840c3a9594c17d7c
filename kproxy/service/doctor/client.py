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
        """Connect, by TLS if that is spoken. Raises as ``reach`` and ``begin_tls``."""
        conversation = await self.reach(address)
        await self.begin_tls(conversation, address)
        return conversation

    async def reach(self, address: HostPort) -> Conversation:
        """Connect, and no more; ``begin_tls`` is next.

        Raises:
            UntrustedError: the listener would believe no PROXY header from here.
            UpstreamError: it cannot be reached.
        """
        conversation = await connect(*address, self.timeout_seconds, client_id=self.client_id)
        try:
            if greeting := self._greeting(conversation):
                conversation.transport.write(greeting)
        except UntrustedError:
            conversation.close()
            raise
        return conversation

    async def begin_tls(self, conversation: Conversation, address: HostPort) -> None:
        """Begin to speak TLS on a connection that was reached, if TLS is spoken at all.

        Raises:
            TlsError: that failed, and the connection is closed; the cause is the error of TLS, or of the system.
        """
        if self.tls is None:
            return
        try:
            async with asyncio.timeout(self.timeout_seconds):
                transport = await asyncio.get_running_loop().start_tls(
                    conversation.transport,
                    conversation,
                    self.tls,
                    server_hostname=self.server_name or address.host,
                    # The timeout around it ends the handshake; this one must only not end it before.
                    ssl_handshake_timeout=self.timeout_seconds + 1,
                )
        except BaseException as error:
            conversation.close()
            if isinstance(error, TimeoutError):
                raise TlsError(f"{address}: no TLS handshake within {self.timeout_seconds:g} s") from None
            if isinstance(error, OSError):
                raise TlsError(f"{address}: {explain(error, 'broker')}") from error
            raise
        # uvloop returns one that has never begun TLS where the other end was quick enough.
        if transport is None or transport.get_extra_info("ssl_object") is None:
            raise TlsError(f"{address}: the connection was closed in the TLS handshake")
        conversation.transport = transport

    async def preface(self, address: HostPort) -> bytes:
        """Connect, and return what the doctor itself must send there before anything else. Raises as ``reach``."""
        conversation = await connect(*address, self.timeout_seconds)
        try:
            return self._greeting(conversation)
        finally:
            conversation.close()

    def _greeting(self, conversation: Conversation) -> bytes:
        """Return what is to be sent first. Raises UntrustedError."""
        if self.header is None:
            return b""
        ours, theirs = (conversation.transport.get_extra_info(name) for name in ("sockname", "peername"))
        sender = self.header.sender(ours[0], theirs[:2])
        if sender is Sender.NOBODY:
            raise UntrustedError(f"it expects a PROXY header, and {ours[0]} is none of its trusted_proxies")
        return LOCAL if sender is Sender.DOCTOR else b""

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
