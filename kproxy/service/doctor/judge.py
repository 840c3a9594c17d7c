"""Judgements on what was answered: pure functions of parsed values, that yield findings where something is wrong.

``Address`` is (host, port) as an answer named it; ``told`` are those that Metadata gave, by node id. Here a proxy is
known as 10.0.0.5, and an answer sends clients to a broker::

    >>> own = Own(frozenset({"kafka.example.com"}), frozenset({"10.0.0.5"}), loopback=False)
    >>> address(2, ("kafka2", 9092), frozenset({"10.0.0.12"}), own).text
    'broker 2 is told to be at kafka2:9092, which is not the proxy: a leak'
"""

import ipaddress
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from kproxy.config.values import HostPort
from kproxy.errors import ProtocolError
from kproxy.service.doctor.findings import Finding, fail, ok, warn
from kproxy.wire.apis import APIS, BROKER_ONLY, ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.endpoints import splice, splice_metadata
from kproxy.wire.primitives import INT32, put_compact_string, put_string

Address = tuple[str, int]
Told = Mapping[int, Address]

LEAST: Final = {
    ApiKey.PRODUCE: 3,
    ApiKey.FETCH: 4,
    ApiKey.LIST_OFFSETS: 1,
    ApiKey.METADATA: 4,
    ApiKey.OFFSET_COMMIT: 2,
    ApiKey.OFFSET_FETCH: 1,
    ApiKey.FIND_COORDINATOR: 0,
    ApiKey.JOIN_GROUP: 2,
}
"""What every client needs: the lowest version that Kafka 4 still has (KIP-896), or that we need (Metadata)."""

CLOCK_SECONDS: Final = 30
"""How far clocks may be apart: Kafka's sasl.oauthbearer.clock.skew.seconds."""

CERTIFICATE_DAYS: Final = 14
"""How long a certificate should still hold: half of what certbot renews at, so that one missed renewal is no alarm."""

_SHOWN_MAX = 5
_ADVERTISE = "set the listener's `advertise` to a HOST:PORT that clients reach"
_LEAK = "whatever answers here lets brokers' addresses through; if it is the proxy's after all, give --own"


class Own(NamedTuple):
    """What is known to be the proxy: host names, and the addresses behind them."""

    hosts: frozenset[str]
    ips: frozenset[str]
    loopback: bool
    """It was reached over loopback, so that loopback addresses in answers are right, here."""

    def has(self, host: str, ips: frozenset[str]) -> bool:
        """Tell whether a host is the proxy."""
        return host.casefold() in self.hosts or bool(ips & self.ips)


def address(node: int, told: Address, ips: frozenset[str], own: Own) -> Finding | None:
    """Judge where clients are sent for a broker; ``ips``: what the host is here, none: it cannot be resolved."""
    host, port = told
    where = f"broker {node} is told to be at {HostPort(host, port)}"
    if not 0 < port <= 65535:
        return fail("address", f"{where}, which has no port", "set broker_ports or broker_port_start, see README")
    if not host or HostPort(host, port).any_interface:
        return fail("address", f"{where}, which means every interface of a machine and is no address", _ADVERTISE)
    if not ips:
        return fail("address", f"{where}, which cannot be resolved here", f"correct the DNS, or {_ADVERTISE}")
    if not own.loopback and all(ipaddress.ip_address(ip).is_loopback for ip in ips):
        return fail("address", f"{where}, which is each client's own machine", _ADVERTISE)
    if not own.has(host, ips):
        return fail("address", f"{where}, which is not the proxy: a leak", _LEAK)
    return None


def shared(told: Told) -> Finding | None:
    """Judge brokers that share one address: all of them by design (addressing single), a few by mistake."""
    by_address: dict[Address, list[int]] = {}
    for node, where in sorted(told.items()):
        by_address.setdefault(where, []).append(node)
    places = ", ".join(
        f"{HostPort(*where)} for {_some(nodes)}" for where, nodes in by_address.items() if len(nodes) > 1
    )
    if not places:
        return None
    if len(by_address) == 1:
        remedy = "use {node} in `advertise` where there may be kafkajs; every other client is fine"
        return warn("address", f"one address for all brokers, {places}: kafkajs loses records", remedy)
    remedy = "give each a free port: broker_ports or broker_port_start"
    return fail("address", f"some brokers share an address, {places}: requests end at the wrong one", remedy)


def endpoints(key: int, version: int, body: bytes) -> list[tuple[int, Address]]:
    """List what an answer names, as (node id, address); an answer that names none has none.

    Raises ProtocolError for a body that is no such answer.
    """
    found: list[tuple[int, Address]] = []

    def note(node: int, host: str, port: int) -> Address:
        found.append((node, (host, port)))
        return host, port

    if key == ApiKey.METADATA:  # its brokers only: librdkafka's mock has a byte too many behind the rest
        splice_metadata(version, body, 0, note)
    else:
        splice(key, version, body, note)
    return found


def leaks(api: str, named: Iterable[tuple[int, Address]], told: Told) -> Iterator[Finding]:
    """Judge what an answer other than Metadata names: it must be what Metadata said of that broker."""
    for node, where in named:
        if told.get(node) != where:
            known = f"Metadata says {HostPort(*told[node])}" if node in told else "Metadata does not know it"
            yield fail("leaks", f"{api} names broker {node} at {HostPort(*where)}; {known}", _LEAK)


def hidden(api: str, body: bytes, brokers: Iterable[Address]) -> Iterator[Finding]:
    """Look for brokers' real addresses anywhere in an answer, host and port side by side as every answer has them."""
    for host, port in brokers:
        if any(text(host) + INT32.pack(port) in body for text in (put_string, put_compact_string)):
            yield fail("leaks", f"{api} holds the address of a broker, {HostPort(host, port)}", _LEAK)


def offer(table: ApiVersionsAnswer) -> Iterator[Finding]:
    """Judge an ApiVersions answer that a client gets."""
    ranges = table.ranges
    poor = [f"{APIS[key].name} v{least}" for key, least in LEAST.items() if ranges.get(key, (0, -1))[1] < least]
    if poor:
        remedy = "Kafka before 2.1, or a proxy that cuts too much: upgrade it; today's clients will not speak to it"
        yield fail("versions", f"not offered, not even so old: {_some(poor)}", remedy)
    strange = sorted(key for key in ranges if key not in APIS and key not in BROKER_ONLY)
    if strange:
        remedy = "no harm to clients, which never ask for them; kproxy leaves them out: is this kproxy?"
        yield warn("versions", f"API keys that Apache Kafka does not have: {_some(strange)}", remedy)
    newer = [
        f"{api.name} v{ranges[key][1]}"
        for key, api in APIS.items()
        if key in ranges and ranges[key][1] > api.max_version
    ]
    if newer:
        remedy = "a proxy must not offer what it cannot read; kproxy never does: is this a broker, or a newer kproxy?"
        yield warn("versions", f"newer than this kproxy understands: {_some(newer)}", remedy)


def metadata(told: Told, controller_id: int) -> Iterator[Finding]:
    """Judge the brokers that a Metadata answer has."""
    if not told:
        yield fail("metadata", "no brokers are known", "are they still starting? see the proxy's log")
    elif controller_id not in told:
        remedy = "admin clients send topic changes to it; see the brokers' logs if it stays so"
        yield warn("metadata", "the cluster has no controller among its brokers", remedy)


def agree(place: str, here: Told, told: Told) -> Finding | None:
    """Judge whether an address of the proxy tells clients the same as the one that they came from."""
    differing = sorted(node for node in here.keys() & told.keys() if here[node] != told[node])
    if not differing:
        return None
    node = differing[0]
    text = f"{place} says broker {node} is at {HostPort(*here[node])}, others say {HostPort(*told[node])}"
    remedy = "a broker's own address leaks there, or two configurations answer: give all listeners and replicas one"
    return fail("address", text, remedy)


def replicas(place: str, one: Told, other: Told, cluster_ids: tuple[str | None, str | None]) -> Iterator[Finding]:
    """Judge another replica of the proxy: a client must be told the same at either."""
    if cluster_ids[0] != cluster_ids[1]:
        text = f"{place} leads to cluster {cluster_ids[1]}, this one to {cluster_ids[0]}"
        yield fail("replica", text, "give both the same bootstrap")
        return
    apart = [node for node in sorted(one.keys() & other.keys()) if one[node][1] != other[node][1]]
    if apart:
        ports = ", ".join(f"broker {node}: {one[node][1]} here, {other[node][1]} there" for node in apart[:_SHOWN_MAX])
        remedy = "give both the same bind port, advertise, broker_port_start and broker_ports: ports follow from these"
        yield fail("replica", f"{place} gives other ports: {ports}", remedy)
    hosts = [node for node in sorted(one.keys() & other.keys()) if one[node][0] != other[node][0]]
    if hosts:
        text = f"{place} gives another host: {other[hosts[0]][0]}, not {one[hosts[0]][0]}"
        remedy = (
            "behind a load balancer both must `advertise` its address; as two bootstrap addresses this may be meant"
        )
        yield warn("replica", text, remedy)
    if missing := sorted(one.keys() ^ other.keys()):
        yield warn("replica", f"{place} does not know the same brokers: {_some(missing)}", "see both proxies' logs")
    if one == other:
        yield ok("replica", f"{place} tells clients the same")


def certificate(cert: Mapping[str, Any], now_seconds: float) -> Finding | None:
    """Judge how long a verified certificate (as ``getpeercert`` gives it) still holds."""
    until = str(cert.get("notAfter", ""))
    if not until:
        return None
    days = (ssl.cert_time_to_seconds(until) - now_seconds) / 86_400
    return warn("tls", f"the certificate ends in {days:.0f} days", "renew it") if days < CERTIFICATE_DAYS else None


def clock(sent_seconds: float, back_seconds: float, broker_ms: int) -> Finding:
    """Judge a broker's clock by the time that it gave a record between two moments of ours."""
    broker = broker_ms / 1000
    off = min(0.0, broker - sent_seconds) or max(0.0, broker - back_seconds)
    if abs(off) <= CLOCK_SECONDS:
        return ok("clock", f"the broker's is within {CLOCK_SECONDS} s of this machine's")
    text = f"the broker's is {abs(off):,.0f} s {'ahead of' if off > 0 else 'behind'} this machine's"
    return warn("clock", text, "set both by NTP: record times, retention, tokens and certificates go by it")


def readable(api: str, version: int, key: int, body: bytes) -> tuple[list[tuple[int, Address]], Finding | None]:
    """Return what an answer names, or why it cannot be read."""
    try:
        return endpoints(key, version, body), None
    except ProtocolError as error:
        remedy = "something in between lets versions through that it cannot handle: upgrade it, see its log"
        return [], fail("versions", f"{api} v{version} is offered, but its answer cannot be read: {error}", remedy)


def _some(things: Iterable[object]) -> str:
    """Write a list of anything, not too long."""
    all_of_them = [str(thing) for thing in things]
    more = len(all_of_them) - _SHOWN_MAX
    return ", ".join(all_of_them[:_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
