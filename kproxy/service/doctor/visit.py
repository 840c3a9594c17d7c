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
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from kproxy.config.values import HostPort
from kproxy.errors import AuthError, KproxyError, ProtocolError, TlsError, UpstreamError
from kproxy.net.conversation import Conversation
from kproxy.service.doctor import judge
from kproxy.service.doctor.client import Client
from kproxy.service.doctor.door import Speaks, explain, who_is_there
from kproxy.service.doctor.findings import Finding, Report, fail, ok, skip, warn
from kproxy.service.doctor.header import UntrustedError
from kproxy.wire import cluster
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.cluster import ClusterAnswer
from kproxy.wire.handshake import parse_sasl_handshake_response, sasl_handshake_request

VISIT_STEPS_MAX: Final = 10
"""A visit may take so many times the bound of one step, as all its steps together could."""

PASSWORDS: Final = frozenset({"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"})
"""The logins that the doctor knows."""

GROUPS_TOPIC: Final = "__consumer_offsets"
_GROUP = "kproxy-doctor"
_NO_MECHANISM = "kproxy-doctor-asks"
_DESCRIBE_BROKERS = {0: b"\x00\x00", 1: b"\x00\x01\x00", 2: b"\x00\x01\x00\x00"}  # of DescribeCluster, by version


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

    async def run(self, topics: Sequence[str]) -> None:
        self._facts.ips = await self._resolve()
        conversation = await self._connect()
        try:
            table = self._facts.table = await self._versions(conversation)
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
        """Connect, then begin TLS: told apart, and no connection that is opened for nothing is in the proxy's log."""
        address = self._facts.address
        began = time.monotonic()
        try:
            conversation = await self._client.reach(address)
        except UntrustedError as error:
            self._note(ok("connect", f"in {_ms(began)} ms"))
            remedy = "walk the load balancer's address, as clients do: kproxy doctor HOST:PORT"
            raise _StopError(skip("proxy", str(error), remedy)) from None
        except UpstreamError as error:
            text = str(error).removeprefix(f"{self._host}:{self._port}: ")
            raise _StopError(fail("connect", text, _CONNECT.get(text, _CONNECT_ELSE))) from None
        self._note(ok("connect", f"in {_ms(began)} ms"))
        if self._client.tls is None:
            return conversation
        began = time.monotonic()
        try:
            await self._client.begin_tls(conversation, address)
        except TlsError as error:
            if isinstance(error.__cause__, ssl.SSLError) and (told := explain(error.__cause__)):
                raise _StopError(fail("tls", *told)) from None
            raise _StopError(await self._stranger("tls", error)) from None
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
        header = b""
        with suppress(UpstreamError):
            header = await self._client.preface(self._facts.address)
        found = await who_is_there(self._host, self._port, self._timeout, header)
        if found is Speaks.TLS and as_tls:
            # Not every server sends the alert that says why, and TLS 1.3 refuses only after the handshake.
            remedy = "does it want a client certificate? give --cert-file; else: is it a Kafka listener?"
            return fail("tls", f"it speaks TLS, and then: {error}", remedy)
        if found is Speaks.TLS:
            remedy = self._unless_configured(f"give --tls; clients: {_PROTOCOL}=SSL, SASL_SSL")
            return fail("tls", "it speaks TLS, and was spoken to without", remedy)
        if found is Speaks.KAFKA and as_tls:
            remedy = self._unless_configured(f"leave out --tls; clients: {_PROTOCOL}=PLAINTEXT, SASL_PLAINTEXT")
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

    async def _mechanisms(self) -> tuple[str, ...] | None:
        """Find out which logins there are, by asking for one that nobody has: no account is touched. None: no answer.

        It is a line in the proxy's log, so that only what has failed is a reason to ask.
        """
        try:
            conversation = await self._client.dial(self._facts.address)
            try:
                request = sasl_handshake_request(_NO_MECHANISM)
                body = await conversation.request(ApiKey.SASL_HANDSHAKE, 1, request, self._timeout)
                return parse_sasl_handshake_response(body).mechanisms
            finally:
                conversation.close()
        except (UpstreamError, ProtocolError):
            return None

    async def _log_in(self, conversation: Conversation, table: ApiVersionsAnswer) -> None:
        """Log in, where there is something to log in with; that none is asked for is seen at the first request."""
        offered = self._client.offered
        if offered and not PASSWORDS & {*offered}:
            text = f"a login is asked for that the doctor does not know: {', '.join(offered)}"
            raise _StopError(skip("login", text, "try it with a client"))
        mechanism = self._client.mechanism
        if mechanism is None:
            if offered:
                raise _StopError(self._asked_for(offered))
            return
        tls = self._client.tls is not None
        try:
            await self._client.log_in(conversation, table)
        except AuthError as error:
            mechanisms = await self._mechanisms()
            if mechanisms == ():
                remedy = f"leave out --username; clients: {_PROTOCOL}={'SSL' if tls else 'PLAINTEXT'}"
                text = "no login is asked for, and one was given"
                raise _StopError(fail("login", text, self._unless_configured(remedy))) from None
            remedy = "check the username and the password"
            if mechanisms and mechanism.name not in mechanisms:
                remedy = f"give --mechanism, one of {', '.join(mechanisms)}"
            raise _StopError(fail("login", str(error), remedy)) from None
        except (UpstreamError, ProtocolError) as error:
            raise _StopError(fail("login", str(error), "see the proxy's log, and the broker's")) from None
        client = f"{_PROTOCOL}={self._client.protocol}, sasl.mechanism={mechanism.name}"
        self._note(ok("login", f"accepted; clients: {client}"))
        if mechanism.name == "PLAIN" and not tls:
            self._note(warn("login", "the password is sent as it is, without TLS", "use TLS, or a SCRAM mechanism"))

    def _asked_for(self, mechanisms: Sequence[str]) -> Finding:
        remedy = f"give --username and --password-file; clients: {_PROTOCOL}=SASL_{self._client.protocol}"
        if self._client.offered == ():
            remedy = _OTHER_CONFIG
        return fail("login", f"a login is asked for: {', '.join(mechanisms)}", remedy)

    def _unless_configured(self, remedy: str) -> str:
        """Return what to do: a listener that is not as its configuration says does not run it."""
        return remedy if self._client.offered is None else _OTHER_CONFIG

    async def _first(self, conversation: Conversation, version: int, request: bytes) -> bytes:
        """Ask for Metadata, which tells whether a login is asked for: without one it is not answered."""
        try:
            body = await self._request(conversation, ApiKey.METADATA, version, request)
        except _StopError as stop:
            if self._client.mechanism is None and (mechanisms := await self._mechanisms()):
                stop.finding = self._asked_for(mechanisms)
            raise
        if self._client.mechanism is None:
            self._note(ok("login", f"none is asked for; clients: {_PROTOCOL}={self._client.protocol}"))
        return body

    async def _ask(self, conversation: Conversation, table: ApiVersionsAnswer, topics: Sequence[str]) -> None:
        """Ask for all that names brokers, in the highest versions, as the newest clients do."""
        facts = self._facts
        version = _common(table, ApiKey.METADATA)
        # Below v4 an unknown topic would be created by being asked for.
        asked = [*topics, GROUPS_TOPIC] if version >= 4 else []
        body = await self._first(conversation, version, cluster.metadata_request(version, asked))
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


_OTHER_CONFIG = "it does not run this configuration: restart it with this one"
_PROTOCOL = "security.protocol"
_CONNECT = {"connection refused": "is kproxy running, and listening there? see its `bind`, and what maps the port"}
_CONNECT_ELSE = "does a firewall, a route or a wrong address keep us from it?"
_STRANGER = {
    Speaks.HTTP: "the port of an admin API or a web server? give that of the Kafka listener",
    Speaks.PROXY: "walk the load balancer's address, as clients do; --config knows of proxy_protocol",
    Speaks.CLOSES: "see the proxy's log: is the broker behind it down, a limit reached, a PROXY header expected?",
    Speaks.NOTHING: "does it hang, or does something before it (a load balancer) hold connections?",
}
