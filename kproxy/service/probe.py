"""``kproxy check --connect``: whether the brokers can be used as the configuration says, told before anything serves.

Every bootstrap address is dialled, asked for ApiVersions, logged in at, and asked for Metadata; then every broker that
the cluster names, at the address it advertises, as kproxy will have to. With the brokers' ids known, ``ports``
addressing can be checked for good too. Each trouble is a line: where, what, and what to do about it::

    cluster main: kafka1:9092: connection refused; is a broker listening there?
    cluster main: broker 3, advertised at kafka3:9092: the name cannot be resolved; correct it, or the DNS

Never here: a second try at a refused login, which could lock the account.
"""

import asyncio
import socket
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import NamedTuple

from kproxy.config.model import Cluster, Config
from kproxy.config.values import HostPort
from kproxy.errors import AuthError, KproxyError, ProtocolError, TlsError, UpstreamError
from kproxy.net.conversation import Conversation, dial
from kproxy.service import loop
from kproxy.service.doors import Doors
from kproxy.service.layouts import port_layout
from kproxy.wire import apiversions
from kproxy.wire.apis import ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.cluster import Broker, ClusterAnswer, metadata_request, parse_metadata_response

METADATA_VERSION_MAX = 8
"""Enough to learn of brokers, and every broker since 2.4 has it."""

AUTHENTICATE_VERSION_MAX = 2

DIALS_MAX = 50
"""How many brokers are asked at once."""


class Examined(NamedTuple):
    """What was found out about the clusters of a configuration."""

    problems: list[str]
    """A line for each."""
    brokers: dict[str, dict[int, tuple[str, int]]]
    """Where they are, by node id, of each cluster by its name."""
    tables: dict[str, list[ApiVersionsAnswer]]
    """What those offer that were asked, by cluster."""


def check_connect(config: Config) -> list[str]:
    """Try every cluster of a configuration; return one line for each problem, none where all is well."""
    return loop.run(examine(config)).problems


async def examine(config: Config) -> Examined:
    """Try every cluster of a configuration."""
    doors = Doors(config)
    await doors.start()
    checks = [_ClusterCheck(name, cluster, config, doors) for name, cluster in config.clusters.items()]
    await asyncio.gather(*(check.run() for check in checks))
    await doors.close()
    problems = [line for check in checks for line in check.lines()]
    nodes = {check.name: sorted(check.brokers) for check in checks}
    return Examined(
        problems + list(_port_problems(config, nodes)),
        {check.name: {node: (broker.host, broker.port) for node, broker in check.brokers.items()} for check in checks},
        {check.name: check.tables for check in checks},
    )


class _TroubleError(KproxyError):
    """What is wrong with one address, and what to do about it."""


class _ClusterCheck:
    """One cluster: what is found out about it, and what is wrong."""

    def __init__(self, name: str, cluster: Cluster, config: Config, doors: Doors) -> None:
        self.name = name
        self.brokers: dict[int, Broker] = {}
        self.tables: list[ApiVersionsAnswer] = []
        self._cluster = cluster
        self._listeners = config.listeners
        self._mechanism = doors.own_mechanism(name)
        self._tls = doors.client_tls(name)
        self._places: dict[str, list[str]] = {}  # where, by what
        self._cluster_ids: dict[str, str] = {}  # the first address that gave it
        self._dials = asyncio.Semaphore(DIALS_MAX)
        self._logins = asyncio.Lock()
        self._refused = False

    @property
    def _not_kafka(self) -> str:
        """What to do about an address where nobody speaks Kafka as we do."""
        if self._tls is None:
            return "give the address of a Kafka listener without TLS, or set the cluster's tls"
        return "give the address of a Kafka listener with TLS"

    def lines(self) -> Iterator[str]:
        """Yield each problem once, with all the places that have it."""
        for text, places in self._places.items():
            yield f"cluster {self.name}: {', '.join(places)}: {text}"

    async def run(self) -> None:
        """Ask every bootstrap address, then every broker that was named at another one."""
        bootstrap = self._cluster.bootstrap
        for address, answer in zip(bootstrap, await self._ask_all((a, str(a)) for a in bootstrap), strict=True):
            if answer is not None:
                self.brokers |= {broker.node_id: broker for broker in answer.brokers}
                if answer.cluster_id:
                    self._cluster_ids.setdefault(answer.cluster_id, str(address))
        if len(self._cluster_ids) > 1:
            text = "these are brokers of different clusters; give the bootstrap addresses of one"
            self._places[text] = list(self._cluster_ids.values())
        places = {HostPort(broker.host, broker.port): node for node, broker in sorted(self.brokers.items())}
        await self._ask_all(
            (address, f"broker {node}, advertised at {address}")
            for address, node in places.items()
            if address not in bootstrap and not self._is_ours(address, f"broker {node}")
        )

    def _is_ours(self, address: HostPort, broker: str) -> bool:
        for name, listener in self._listeners.items():
            if listener.bind.reached_by(address) or listener.advertise == address:
                text = f"advertises {address}, which is listener {name!r} itself; set its advertised.listeners back"
                self._places.setdefault(text, []).append(broker)
                return True
        return False

    async def _ask_all(self, where: Iterable[tuple[HostPort, str]]) -> list[ClusterAnswer | None]:
        return await asyncio.gather(*(self._ask(address, place) for address, place in where))

    async def _ask(self, address: HostPort, place: str) -> ClusterAnswer | None:
        """Ask for Metadata at one address; None where there is trouble, which is noted."""
        try:
            async with self._dials:
                conversation = await self._dial(address)
                try:
                    return await self._converse(conversation)
                finally:
                    conversation.close()
        except _TroubleError as trouble:
            self._places.setdefault(str(trouble), []).append(place)
            return None

    async def _dial(self, address: HostPort) -> Conversation:
        """Connect. Raises _TroubleError."""
        timeout = self._cluster.dial_timeout
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            return await dial(address.host, address.port, timeout, self._tls)
        except socket.gaierror:
            raise _TroubleError("the name cannot be resolved; correct it, or the DNS") from None
        except TimeoutError:
            raise _TroubleError(f"the name is not resolved within {timeout:g} s; look at the DNS") from None
        except TlsError as error:
            raise _TroubleError(str(error).removeprefix(f"{address.host}:{address.port}: ")) from None
        except UpstreamError as error:
            reason = str(error).removeprefix(f"{address.host}:{address.port}: ")
            refused = reason == "connection refused"
            advice = (
                "is a broker listening there?" if refused else "does a firewall or a wrong address keep us from it?"
            )
            raise _TroubleError(f"{reason}; {advice}") from None

    async def _converse(self, conversation: Conversation) -> ClusterAnswer | None:
        """Ask ApiVersions, log in, ask Metadata; None where a login elsewhere was refused. Raises _TroubleError."""
        timeout = self._cluster.login_timeout
        try:
            # Before its login a broker takes one ApiVersions request only (SaslServerAuthenticator).
            body = await conversation.request(ApiKey.API_VERSIONS, 0, b"", timeout)
            table = apiversions.parse_response(0, body)
            self.tables.append(table)
        except UpstreamError as error:
            raise _TroubleError(f"{error} when asked for ApiVersions; {self._not_kafka}") from None
        except ProtocolError:
            raise _TroubleError(f"answers, but not as a Kafka broker does; {self._not_kafka}") from None
        if self._mechanism is not None and not await self._log_in(conversation, table):
            return None
        version = min(table.ranges.get(ApiKey.METADATA, (0, 1))[1], METADATA_VERSION_MAX)
        try:
            body = await conversation.request(ApiKey.METADATA, version, metadata_request(version, ()), timeout)
            answer = parse_metadata_response(version, body)
        except (UpstreamError, ProtocolError) as error:
            advice = "see the broker's log" if self._mechanism else "if it asks for a login, set sasl"
            raise _TroubleError(f"{error} when asked for Metadata; {advice}") from None
        if not answer.brokers:
            raise _TroubleError("knows no brokers yet; is it still starting?")
        return answer

    async def _log_in(self, conversation: Conversation, table: ApiVersionsAnswer) -> bool:
        """Log in, one address after the other; False where another one has refused us. Raises _TroubleError."""
        assert self._mechanism is not None  # noqa: S101  the caller has looked
        async with self._logins:
            if self._refused:
                return False
            version = min(table.ranges.get(ApiKey.SASL_AUTHENTICATE, (0, 1))[1], AUTHENTICATE_VERSION_MAX)
            try:
                await conversation.login(self._mechanism, version, self._cluster.login_timeout)
            except AuthError as error:
                self._refused = True
                advice = "; check username and password" if "login refused" in str(error) else ""
                raise _TroubleError(f"{error}{advice}") from None
            except (UpstreamError, ProtocolError) as error:
                raise _TroubleError(f"{error} during the login; see the broker's log") from None
        return True


class _Claim(NamedTuple):
    """A port that will be opened, and what for."""

    address: HostPort
    listener: str
    owner: str


def _port_problems(config: Config, nodes: dict[str, list[int]]) -> Iterator[str]:
    """Check ports for brokers whose ids are known now; ``nodes``: cluster -> node ids."""
    claims: list[_Claim] = []
    for name, listener in config.listeners.items():
        claims.append(_Claim(listener.bind, name, f"listener {name} itself"))
        if listener.addressing != "ports":
            continue
        layout = port_layout(listener)
        for node in nodes[listener.cluster]:
            port = layout.bind_port_of(node)
            if port is None or layout.advertised_port_of(node) is None:
                text = f"there is no port for broker {node}: broker_port_start + {node} is too high or taken"
                yield f"listener {name}: {text}; give it one, broker_ports: {{{node}: PORT}}"
            else:
                claims.append(_Claim(HostPort(listener.bind.host, port), name, f"broker {node} of listener {name}"))
    for one, other in combinations(claims, 2):
        if one.address.port == other.address.port and one.address.shares_interface(other.address):
            text = f"port {other.address.port} would be opened for {one.owner} and for {other.owner}"
            yield f"listener {other.listener}: {text}; give another broker_port_start or broker_ports"
