"""The configuration as plain, frozen values, checked when made.

What is here works today; an option comes with the feature it sets, never before. Nothing here opens a file, a
socket or a loop, but for a password that is read from where the configuration says. Each default has the precedent
that chose it beside it, and each field's text below is what ``kproxy schema`` tells an editor::

    >>> config = Config.model_validate({
    ...     "clusters": {"main": {"bootstrap": ["kafka1:9092"]}},
    ...     "listeners": {"public": {"bind": "127.0.0.1:9092"}},
    ... })
    >>> config.listeners["public"].cluster, config.listeners["public"].idle_timeout
    ('main', 600.0)

All durations are seconds once read, all sizes bytes. ``load`` is what reads a file and tells every mistake with
its line; validating a model directly reports the same mistakes as one pydantic error, whose text shows no input.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from kproxy.config import admin as admin_checks
from kproxy.config import checks, doorchecks, requestlog
from kproxy.config.access import Access
from kproxy.config.admin import Admin
from kproxy.config.base import Model, Name, Switch, written
from kproxy.config.limitchecks import mistakes as mistakes_of_limits
from kproxy.config.limitchecks import references
from kproxy.config.limits import Limit
from kproxy.config.limitvalues import Network
from kproxy.config.metrics import Metrics
from kproxy.config.problems import where
from kproxy.config.requestlog import RequestLog
from kproxy.config.sasl import ClientSasl, Sasl
from kproxy.config.tls import ClusterTls, ListenerTls
from kproxy.config.values import (
    Address,
    Addressing,
    Advertise,
    Bind,
    Count,
    Duration,
    HostName,
    NodeId,
    Port,
    Size,
)

PrincipalPattern = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00]*$")]

CROSS_FIELD = "cross_field"
"""The pydantic error type of mistakes that lie between fields; ``load`` reports those by itself, with positions."""


class Cluster(Model):
    """A Kafka cluster behind kproxy."""

    bootstrap: Annotated[tuple[Address, ...], Field(min_length=1, max_length=1000)]
    """Brokers to ask first; the others are learnt from them."""
    sasl: Sasl | None = None
    """kproxy's login towards the brokers, and its clients'; none: they ask for none."""
    credentials: Annotated[dict[PrincipalPattern, Sasl], Field(max_length=10_000)] = Field(default_factory=dict)
    """Logins for clients by their user names, or patterns as team-*; the first that fits; default: for the others."""
    passthrough: Literal["plain"] | None = None
    """plain: a client's own PLAIN user and password are used at the brokers, which judge them."""
    tls: ClusterTls | None = None
    """Speak TLS with the brokers; none: plain."""
    # Clients refresh theirs every 5 min (metadata.max.age.ms); one proxy asks for all of its clients, so it can
    # afford ten times as often.
    refresh_interval: Duration = written("30s")
    """How often kproxy's own view of the cluster is refreshed when nothing else asks for it."""
    # Envoy's cluster.connect_timeout. Kafka's clients give up after 10 s (socket.connection.setup.timeout.ms).
    dial_timeout: Duration = written("5s")
    """How long one attempt to connect to a broker may take."""
    # One client back-off: reconnect.backoff.max.ms is 1 s.
    dial_patience: Duration = written("1s")
    """How long a client's connection is held while its unreachable broker is dialled again."""
    # socket.connection.setup.timeout.ms: what a client waits for a host that does not answer at all.
    dial_patience_max: Duration = written("10s")
    """The same for a client address that keeps coming back while the broker stays down."""
    # The same 10 s: a broker that accepts and then says nothing is as good as one that does not accept.
    login_timeout: Duration = written("10s")
    """How long the login at a broker may take, from the first byte to the broker's consent."""


def _cluster_may_be_left_out(schema: dict[str, Any]) -> None:
    """Config fills in the only cluster, so an editor must not ask for it."""
    schema["required"].remove("cluster")


class Listener(Model):
    """An address that clients connect to."""

    model_config = ConfigDict(json_schema_extra=_cluster_may_be_left_out)

    cluster: str
    """The cluster behind this listener; may be left out when there is only one."""
    bind: Bind
    """The local address to listen on."""
    advertise: Advertise | None = None
    """The address that clients are told; with single or sni, {node} in its host stands for the broker's id."""
    addressing: Addressing = "ports"
    """ports: a port per broker beside this one; single: this one for all; sni: this one, and a TLS name per broker."""
    bootstrap_name: HostName | None = None
    """The name that clients begin with, which leads to any broker. For addressing sni."""
    broker_port_start: Port | None = None
    """Broker N gets this port + N; left out: the bind port + 1. For addressing ports."""
    broker_ports: dict[NodeId, Port] | None = None
    """Ports of brokers by their ids; a broker that is not listed follows broker_port_start. For addressing ports."""
    tls: ListenerTls | None = None
    """Speak TLS with clients; none: plain."""
    sasl: ClientSasl | None = None
    """Have clients log in; none: whoever connects is in."""
    proxy_protocol: Switch = False
    """Connections begin with a PROXY header (v1 or v2), by which a load balancer tells the client's address."""
    trusted_proxies: Annotated[tuple[Network, ...], Field(min_length=1, max_length=1000)] | None = None
    """The load balancers that may send it; others are turned away. For proxy_protocol."""
    # nginx's client_header_timeout is 60 s, HAProxy's guides say 5 to 10 s; brokers have no limit of their own.
    login_timeout: Duration = written("10s")
    """How long a client may take from its connection to the end of its login: PROXY header, TLS and SASL."""
    # OpenSSH's MaxStartups is 100 for a few logins a minute; after a restart all clients of a proxy come back at once.
    unauthenticated_max: Count = 1000
    """How many may be on their way in at once; then the oldest of the busiest address is pushed out."""
    # Kafka's max.connection.creation.rate is unbounded unless set; a handshake of TLS costs a millisecond or two, so
    # these keep a core busy.
    accept_rate: Count = 1000
    """How many connections an address may make in a second, where there is TLS, a login or a PROXY header."""
    # Kafka's socket.request.max.bytes.
    request_bytes_max: Size = written("100MiB")
    """The largest request a client may send."""
    # Kafka's connections.max.idle.ms on brokers.
    idle_timeout: Duration = written("10m")
    """A connection without any traffic for so long is closed."""
    # Idle ones cost at most 16 KiB each, so these fit in 160 MiB. Kafka leaves max.connections unbounded; Envoy's
    # guide for edge proxies advises 50,000 with the file descriptors to go with it.
    connections_max: Count = 10_000
    """How many clients may be connected at once; more are closed as they arrive."""
    # Half of the heap a broker starts with (-Xmx1G in kafka-server-start.sh).
    buffered_bytes_max: Size = written("512MiB")
    """How many bytes may wait in memory over all connections of this listener."""
    # Linux's net.core.somaxconn since 5.4, which bounds it anyway: room for everybody to reconnect at once. Kafka's
    # socket.listen.backlog.size is 50, which drops connections in such a storm.
    backlog: Annotated[int, Field(strict=True, ge=1, le=65535)] = 4096
    """How many connections may wait in the kernel to be accepted."""
    access: Access | None = None
    """Who is let in, and what they may do; left out: everybody, everything."""

    @property
    def tells_principals(self) -> bool:
        """Whether it finds out who its clients are."""
        return self.sasl is not None or (self.tls is not None and self.tls.client_auth != "none")


Workers = Annotated[int, Field(strict=True, ge=1, le=64)]


class Config(Model):
    """All that kproxy is told: the clusters behind it, the listeners before it, what clients may do."""

    clusters: Annotated[dict[Name, Cluster], Field(min_length=1)]
    """Kafka clusters by name."""
    listeners: Annotated[dict[Name, Listener], Field(min_length=1)]
    """Listeners by name."""
    # Each request is held against every limit, so even a hundred are many.
    limits: Annotated[tuple[Limit, ...], Field(max_length=100)] = ()
    """How much clients may do; a request must pass all that match it."""
    admin: Admin | None = None
    """The admin API: health, metrics, clients, drain."""
    metrics: Metrics = Field(default_factory=Metrics)
    """What is measured beyond the plain counters; left out: nothing."""
    request_log: RequestLog | None = None
    """Tell of requests, one JSON object each, to a Kafka topic, a file or standard output; left out: not."""
    # As nginx's worker_processes. Each has a memory of its own, so more than there are cores only cost.
    workers: Workers = 1
    """How many processes serve clients; limits hold for all of them together."""
    # A load balancer takes two or three failed probes to notice; only the operator knows how long these are.
    drain_grace: Duration | None = None
    """How long a stop, at which GET /readyz fails at once, serves on before it drains; left out: not at all."""
    # What Kubernetes waits between SIGTERM and SIGKILL (terminationGracePeriodSeconds).
    drain_timeout: Duration = written("30s")
    """How long a stop waits for what is in flight."""
    drain_rebootstrap: Switch = True
    """Send clients that know KIP-1102 to their bootstrap servers as a drain ends their connections."""

    @model_validator(mode="before")
    @classmethod
    def _only_cluster(cls, data: object) -> object:
        return with_only_cluster(data)

    @model_validator(mode="after")
    def _between_fields(self) -> Self:
        named = {name: listener.cluster for name, listener in self.listeners.items()}
        found = checks.mistakes(set(self.clusters), named, self.clusters, self.listeners)
        found += doorchecks.mistakes(self.clusters, self.listeners)
        limits = dict(enumerate(self.limits))
        names = {index: limit.name for index, limit in limits.items()}
        found += mistakes_of_limits(names, references(limits), limits, self.listeners)
        found += requestlog.mistakes(self.request_log, self.clusters, self.listeners)
        matched = self.request_log.match.listeners if self.request_log else None
        found += requestlog.unknown_listeners(dict(enumerate(matched or ())), self.listeners)
        found += admin_checks.mistakes(self.admin, self.listeners)
        if found:
            text = "\n".join(f"{where(problem.loc)}: {problem.text}" for problem in found)
            raise PydanticCustomError(CROSS_FIELD, "{text}", {"text": text})
        return self


def with_only_cluster(data: object) -> object:
    """Return ``data`` with the only cluster's name in each listener that names none; anything odd stays as it is."""
    match data:
        case {"clusters": {**clusters}, "listeners": {**listeners}, **others} if len(clusters) == 1:
            (only,) = clusters
            filled = {
                name: {"cluster": only, **listener} if isinstance(listener, dict) else listener
                for name, listener in listeners.items()
            }
            return {**others, "clusters": clusters, "listeners": filled}
        case _:
            return data
