"""From the configuration to the parts of core and net: limits, links and listeners. Nothing is opened here."""

from kproxy.config import limits as configured
from kproxy.config.model import Cluster, Config, Listener
from kproxy.core import limits as core
from kproxy.core.addressbook import PortLayout
from kproxy.core.sasl import Plain
from kproxy.core.tenant import Tenant
from kproxy.net.link import ClusterSettings
from kproxy.net.listeners import ListenerSettings
from kproxy.wire.apis import APIS


def cluster_settings(name: str, cluster: Cluster) -> ClusterSettings:
    """Return what a ClusterLink must know."""
    sasl = cluster.sasl
    return ClusterSettings(
        name=name,
        bootstrap=tuple((address.host, address.port) for address in cluster.bootstrap),
        mechanism=Plain(sasl.username, sasl.password.reveal()) if sasl else None,
        refresh_interval_seconds=cluster.refresh_interval,
        dial_timeout_seconds=cluster.dial_timeout,
        login_timeout_seconds=cluster.login_timeout,
        dial_patience_seconds=cluster.dial_patience,
        dial_patience_max_seconds=cluster.dial_patience_max,
    )


def listener_settings(name: str, listener: Listener, workers: int = 1) -> ListenerSettings:
    """Return what a Listener must know, which is one of ``workers`` alike: each has an equal part of the whole."""
    bind, advertise = listener.bind, listener.advertise
    advertised_port = advertise.port if advertise else bind.port
    if advertise:
        advertised_host: str | None = advertise.host
    else:
        advertised_host = None if bind.any_interface else bind.host
    return ListenerSettings(
        name=name,
        bind_host=bind.host,
        bind_port=bind.port,
        addressing=listener.addressing,
        layout=PortLayout(bind.port, advertised_port, listener.broker_port_start, dict(listener.broker_ports or {})),
        advertised_host=advertised_host,
        advertised_port=advertised_port,
        request_bytes_max=listener.request_bytes_max,
        idle_timeout_seconds=listener.idle_timeout,
        connections_max=-(-listener.connections_max // workers),
        buffered_bytes_max=-(-listener.buffered_bytes_max // workers),
        backlog=listener.backlog,
    )


def bind_hosts(config: Config) -> dict[str, str]:
    """Return the host that each listener binds to, by its name."""
    return {name: listener.bind.host for name, listener in config.listeners.items()}


def limits(config: Config, tenant: Tenant | None = None) -> core.Limits | None:
    """Return the limits at work, with nothing charged yet; None where there are none, so that nobody pays for any.

    ``tenant``: this process's leases, where several hold them together.
    """
    return core.Limits(map(rule, config.limits), tenant) if config.limits else None


def rule(limit: configured.Limit) -> core.Rule:
    """Return one limit in core's terms."""
    match = limit.match
    return core.Rule(
        name=limit.name,
        kind=_kind(limit.kind),
        key=limit.key,
        listeners=None if match.listeners is None else frozenset(match.listeners),
        apis=None if match.apis is None else frozenset(_API_KEYS[name] for name in match.apis),
        principals=match.principals,
        client_ids=match.client_ids,
        client_ips=match.client_ips,
        action=core.Action(limit.on_exceed),
        max_wait_seconds=limit.max_wait,
        dry_run=limit.dry_run,
        reject_produce=limit.reject_produce,
        keys_max=limit.keys_max,
    )


_API_KEYS = {api.name: int(api.key) for api in APIS.values()}

_Configured = configured.LeakyBucket | configured.FixedWindow | configured.Concurrency | configured.Connections


def _kind(kind: _Configured) -> core.LeakyBucket | core.FixedWindow | core.Concurrency | core.Connections:
    match kind:
        case configured.LeakyBucket():
            return core.LeakyBucket(kind.rate, kind.burst, kind.nodelay, core.Unit(kind.unit))
        case configured.FixedWindow():
            return core.FixedWindow(kind.count, kind.window, core.Unit(kind.unit))
        case configured.Concurrency():
            return core.Concurrency(kind.max, kind.waiting, kind.count_long_polls)
        case configured.Connections():
            rate = kind.rate or 0.0
            return core.Connections(kind.max or 0, rate, rate if kind.burst is None else kind.burst)
