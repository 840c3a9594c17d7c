"""One address walked as a client walks it: resolved, connected to, logged in at, asked for all that names brokers.

A step that fails ends the visit, as it would end a client's; what was found until then is in Facts::

    facts = await visit(client, HostPort("kafka.example.com", 9092), report)
    facts.told        # {1: ("kafka.example.com", 9094), ...}: where clients are sent
    facts.findings    # ok resolve, ok connect, ...
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from kproxy.config.values import HostPort
from kproxy.core.sasl import CLIENT_ID, Mechanism
from kproxy.errors import AuthError, KproxyError, ProtocolError, UpstreamError
from kproxy.net.conversation import Conversation, connect
from kproxy.service.doctor import judge
from kproxy.service.doctor.door import Speaks, explain, who_is_there
from kproxy.service.doctor.findings import Finding, Report, fail, ok, skip, warn
from kproxy.wire import apiversions, cluster
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.cluster import ClusterAnswer
from kproxy.wire.handshake import parse_sasl_handshake_response, sasl_handshake_request

VISIT_STEPS_MAX: Final = 10
"""A visit may take so many times the bound of one step, as all its steps together could."""

GROUPS_TOPIC: Final = "__consumer_offsets"
_GROUP = "kproxy-doctor"
_NO_MECHANISM = "kproxy-doctor-asks"
_DESCRIBE_BROKERS = {0: b"\x00\x00", 1: b"\x00\x01\x00", 2: b"\x00\x01\x00\x00"}  # of DescribeCluster, by version


@dataclass(frozen=True)
class Client:
    """How a client speaks to the proxy."""

    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    mechanism: Mechanism | None = None
    client_id: str = CLIENT_ID
    timeout_seconds: float = 5.0
    """For each step; as a cluster's dial_timeout."""

    @property
    def protocol(self) -> str:
        """Kafka's name for it, a client's security.protocol."""
        return ("SASL_" if self.mechanism else "") + ("SSL" if self.tls else "PLAINTEXT")

    async def dial(self, address: HostPort) -> Conversation:
        """Connect. Raises UpstreamError."""
        host, port = address
        return await connect(
            host,
            port,
            self.timeout_seconds,
            tls=self.tls,
            server_hostname=self.server_name,
            client_id=self.client_id,
        )

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


@dataclass
class Facts:
    """What a visit has found."""

    address: HostPort
    findings: list[Finding] = field(default_factory=list)
    ips: frozenset[str] = frozenset()
    table: ApiVersionsAnswer | None = None
    cluster: ClusterAnswer | None = None
    told: dict[int, judge.Address] = field(default_factory=dict)
    """Where Metadata sends clients, by node id."""
    named: dict[str, list[tuple[int, judge.Address]]] = field(default_factory=dict)
    """What other answers name, by API."""
    bodies: dict[str, bytes] = field(default_factory=dict)
    """The answers as they are, by API."""


class _StopError(KproxyError):
    """A step failed; the finding tells it."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


async def visit(client: Client, address: HostPort, report: Report, topics: Sequence[str] = ()) -> Facts:
    """Walk one address; each finding is reported as it is found. ``topics``: to ask Metadata about."""
    facts = Facts(address)

    def note(finding: Finding) -> None:
        facts.findings.append(finding)
        report(finding)

    bound = VISIT_STEPS_MAX * client.timeout_seconds
    try:
        async with asyncio.timeout(bound):
            await _Visit(client, facts, note).run(topics)
    except _StopError as stop:
        note(stop.finding)
    except TimeoutError:
        note(fail("time", f"not done within {bound:g} s", "something answers too slowly; see the proxy's log"))
    return facts


class _Visit:
    def __init__(self, client: Client, facts: Facts, note: Report) -> None:
        self._client = client
        self._facts = facts
        self._note = note
        self._host, self._port = facts.address
        self._timeout = client.timeout_seconds
        self._mechanisms: tuple[str, ...] = ()

    async def run(self, topics: Sequence[str]) -> None:
        self._facts.ips = await self._resolve()
        conversation = await self._connect()
        try:
            table = self._facts.table = await self._versions(conversation)
            await self._ask_mechanisms()
            await self._log_in(conversation, table)
            await self._ask(conversation, table, topics)
        finally:
            conversation.close()

    async def _resolve(self) -> frozenset[str]:
        ips = await resolve(self._host, self._timeout)
        if not ips:
            remedy = "correct it, or the DNS of this machine"
            raise _StopError(fail("resolve", f"{self._host} cannot be resolved within {self._timeout:g} s", remedy))
        self._note(ok("resolve", f"{self._host} is {', '.join(sorted(ips)[:4])}"))
        return ips

    async def _connect(self) -> Conversation:
        began = time.monotonic()
        try:
            if self._client.tls is not None:  # told apart: that it can be reached, and TLS
                (await connect(self._host, self._port, self._timeout)).close()
                self._note(ok("connect", f"in {_ms(began)} ms"))
                began = time.monotonic()
            conversation = await self._client.dial(self._facts.address)
        except UpstreamError as error:
            if isinstance(error.__cause__, ssl.SSLError) and (told := explain(error.__cause__)):
                raise _StopError(fail("tls", *told)) from None
            reached = any(finding.step == "connect" for finding in self._facts.findings)
            if reached:
                raise _StopError(await self._stranger("tls", error)) from None
            text = str(error).removeprefix(f"{self._host}:{self._port}: ")
            raise _StopError(fail("connect", text, _CONNECT.get(text, _CONNECT_ELSE))) from None
        if self._client.tls is None:
            self._note(ok("connect", f"in {_ms(began)} ms"))
        else:
            self._judge_tls(conversation, began)
        return conversation

    def _judge_tls(self, conversation: Conversation, began: float) -> None:
        cert = conversation.transport.get_extra_info("peercert")
        version = conversation.transport.get_extra_info("ssl_object").version()
        if not cert:
            self._note(warn("tls", f"{version}; the certificate was not looked at", "leave out --insecure"))
        elif finding := judge.certificate(cert, time.time()):
            self._note(finding)
        else:
            self._note(ok("tls", f"{version} in {_ms(began)} ms, certificate until {cert['notAfter']}"))

    async def _stranger(self, step: str, error: KproxyError) -> Finding:
        """Say who is there instead of what was expected."""
        as_tls = self._client.tls is not None
        found = await who_is_there(self._host, self._port, self._timeout)
        if found is Speaks.TLS and as_tls:
            # Not every server sends the alert that says why, and TLS 1.3 refuses only after the handshake.
            remedy = "does it want a client certificate? give --cert-file; else: is it a Kafka listener?"
            return fail("tls", f"it speaks TLS, and then: {error}", remedy)
        if found is Speaks.TLS:
            remedy = f"give --tls; clients: {_PROTOCOL}=SSL, SASL_SSL"
            return fail("tls", "it speaks TLS, and was spoken to without", remedy)
        if found is Speaks.KAFKA and as_tls:
            remedy = f"leave out --tls; clients: {_PROTOCOL}=PLAINTEXT, SASL_PLAINTEXT"
            return fail("tls", "it speaks Kafka without TLS, and was spoken to with", remedy)
        if found is Speaks.KAFKA:
            return fail(step, f"{error}, though it answers others", "try again; see the proxy's log")
        remedy = _STRANGER.get(found, "give the address of a Kafka listener")
        return fail(step, f"it {found.value} ({error})", remedy)

    async def _versions(self, conversation: Conversation) -> ApiVersionsAnswer:
        try:
            table = await self._client.api_versions(conversation)
        except (UpstreamError, ProtocolError) as error:
            raise _StopError(await self._stranger("versions", error)) from None
        troubles = list(judge.offer(table))
        for finding in troubles:
            self._note(finding)
        if not troubles:
            self._note(ok("versions", f"{len(table.ranges)} APIs, none that kproxy does not understand"))
        return table

    async def _ask_mechanisms(self) -> None:
        """Find out which logins there are, by asking for one that nobody has: no account is touched."""
        try:
            conversation = await self._client.dial(self._facts.address)
            try:
                request = sasl_handshake_request(_NO_MECHANISM)
                body = await conversation.request(ApiKey.SASL_HANDSHAKE, 1, request, self._timeout)
                self._mechanisms = parse_sasl_handshake_response(body).mechanisms
            finally:
                conversation.close()
        except (UpstreamError, ProtocolError) as error:
            self._note(warn("login", f"it does not say which logins there are: {error}", "see the proxy's log"))

    async def _log_in(self, conversation: Conversation, table: ApiVersionsAnswer) -> None:
        offered, mechanism = ", ".join(self._mechanisms), self._client.mechanism
        tls = self._client.tls is not None
        if mechanism is None:
            if offered:
                protocol = f"{_PROTOCOL}=SASL_{'SSL' if tls else 'PLAINTEXT'}"
                remedy = f"give --username and --password-file; clients: {protocol}"
                raise _StopError(fail("login", f"a login is asked for: {offered}", remedy))
            self._note(ok("login", f"none is asked for; clients: {_PROTOCOL}={self._client.protocol}"))
            return
        try:
            await self._client.log_in(conversation, table)
        except AuthError as error:
            if not offered:
                remedy = f"leave out --username; clients: {_PROTOCOL}={'SSL' if tls else 'PLAINTEXT'}"
                raise _StopError(fail("login", "no login is asked for, and one was given", remedy)) from None
            known = mechanism.name in self._mechanisms
            remedy = "check the username and the password" if known else f"give --mechanism, one of {offered}"
            raise _StopError(fail("login", str(error), remedy)) from None
        except (UpstreamError, ProtocolError) as error:
            raise _StopError(fail("login", str(error), "see the proxy's log, and the broker's")) from None
        client = f"{_PROTOCOL}={self._client.protocol}, sasl.mechanism={mechanism.name}"
        self._note(ok("login", f"accepted; clients: {client}"))
        if mechanism.name == "PLAIN" and not tls:
            self._note(warn("login", "the password is sent as it is, without TLS", "use TLS, or a SCRAM mechanism"))

    async def _ask(self, conversation: Conversation, table: ApiVersionsAnswer, topics: Sequence[str]) -> None:
        """Ask for all that names brokers, in the highest versions, as the newest clients do."""
        facts = self._facts
        version = _common(table, ApiKey.METADATA)
        # Below v4 an unknown topic would be created by being asked for.
        asked = [*topics, GROUPS_TOPIC] if version >= 4 else []
        body = await self._request(conversation, ApiKey.METADATA, version, cluster.metadata_request(version, asked))
        try:
            answer = facts.cluster = cluster.parse_metadata_response(version, body)
        except ProtocolError as error:
            _, finding = judge.readable("Metadata", version, ApiKey.METADATA, body)
            text = f"Metadata v{version} cannot be read: {error}"
            raise _StopError(finding or fail("metadata", text, "see the proxy's log")) from None
        facts.told = {broker.node_id: (broker.host, broker.port) for broker in answer.brokers}
        troubles = list(judge.metadata(facts.told, answer.controller_id))
        for finding in troubles:
            self._note(finding)
        if facts.told:
            count = f"{len(facts.told)} broker{'s' if len(facts.told) > 1 else ''}"
            self._note(ok("metadata", f"{count} of cluster {answer.cluster_id or 'without an id'}"))
        if any(topic.name == GROUPS_TOPIC and topic.error_code == 0 for topic in answer.topics):
            version = _common(table, ApiKey.FIND_COORDINATOR)
            request = cluster.find_coordinator_request(version, _GROUP)
            await self._names(conversation, ApiKey.FIND_COORDINATOR, version, request)
        else:
            self._note(skip("leaks", f"FindCoordinator was not asked, as that may create {GROUPS_TOPIC}"))
        if ApiKey.DESCRIBE_CLUSTER in table.ranges:
            version = _common(table, ApiKey.DESCRIBE_CLUSTER)
            await self._names(conversation, ApiKey.DESCRIBE_CLUSTER, version, _DESCRIBE_BROKERS[version])

    async def _names(self, conversation: Conversation, key: ApiKey, version: int, request: bytes) -> None:
        """Ask, and keep what the answer names."""
        name = APIS[key].name
        body = await self._request(conversation, key, version, request)
        self._facts.named[name], trouble = judge.readable(name, version, key, body)
        if trouble:
            self._note(trouble)

    async def _request(self, conversation: Conversation, key: ApiKey, version: int, request: bytes) -> bytes:
        name = APIS[key].name
        try:
            body = await conversation.request(key, version, request, self._timeout)
        except (UpstreamError, ProtocolError) as error:
            remedy = "something in between lets versions through that it cannot handle, or wants a login; see its log"
            raise _StopError(fail("versions", f"{name} v{version} is offered, and then: {error}", remedy)) from None
        self._facts.bodies[name] = body
        return body


def _common(table: ApiVersionsAnswer, key: ApiKey) -> int:
    """Return the highest version that both sides know; 0 where it is not offered at all."""
    return min(table.ranges.get(key, (0, 0))[1], APIS[key].max_version)


def _ms(began: float) -> int:
    return round((time.monotonic() - began) * 1000)


async def resolve(host: str, timeout_seconds: float) -> frozenset[str]:
    """Return the addresses behind a host; none where it cannot be resolved in time."""
    try:
        async with asyncio.timeout(timeout_seconds):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return frozenset()
    return frozenset(str(entry[4][0]) for entry in found)


_PROTOCOL = "security.protocol"
_CONNECT = {"connection refused": "is kproxy running, and listening there? see its `bind`, and what maps the port"}
_CONNECT_ELSE = "does a firewall, a route or a wrong address keep us from it?"
_STRANGER = {
    Speaks.HTTP: "the port of an admin API or a web server? give that of the Kafka listener",
    Speaks.CLOSES: "see the proxy's log for the cause: is the broker behind it down, a limit on connections reached?",
    Speaks.NOTHING: "does it hang, or does something before it (a load balancer) hold connections?",
}
