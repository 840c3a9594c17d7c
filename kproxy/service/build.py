"""From the configuration to the parts of net: links and listeners. Nothing is opened here."""

from kproxy.config.model import Cluster, Config, Listener
from kproxy.core.addressbook import PortLayout
from kproxy.core.sasl import Plain
from kproxy.net.link import ClusterSettings
from kproxy.net.listeners import ListenerSettings


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


def listener_settings(name: str, listener: Listener) -> ListenerSettings:
    """Return what a Listener must know."""
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
        connections_max=listener.connections_max,
        buffered_bytes_max=listener.buffered_bytes_max,
        backlog=listener.backlog,
    )


def bind_hosts(config: Config) -> dict[str, str]:
    """Return the host that each listener binds to, by its name."""
    return {name: listener.bind.host for name, listener in config.listeners.items()}
