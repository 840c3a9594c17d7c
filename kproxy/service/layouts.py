"""What clients are told of a listener's brokers, from its configuration: a port each, a name each, or one for all."""

from kproxy.config.model import Listener
from kproxy.core.addressbook import Layout, NameLayout, PortLayout, SingleLayout


def port_layout(listener: Listener) -> PortLayout:
    """Return which ports a listener has for its brokers, where each has one."""
    bind, told = listener.bind, listener.advertise or listener.bind
    return PortLayout(bind.port, told.port, listener.broker_port_start, dict(listener.broker_ports or {}))


def name_layout(listener: Listener) -> NameLayout | None:
    """Return which names a listener has for its brokers, with addressing sni."""
    if listener.addressing != "sni" or listener.advertise is None or listener.bootstrap_name is None:
        return None
    return NameLayout(listener.advertise.host, listener.bootstrap_name, listener.advertise.port)


def layout(listener: Listener) -> Layout:
    """Return what clients are told of a listener's brokers."""
    if listener.addressing == "single":
        return SingleLayout((listener.advertise or listener.bind).port)
    return name_layout(listener) or port_layout(listener)


def may_be_a_brokers(listener: Listener, port: int) -> bool:
    """Whether a listener may come to bind a port for a broker, whatever brokers there are."""
    if listener.addressing != "ports":
        return False
    ports = port_layout(listener)
    start = ports.bind_port + 1 if ports.broker_port_start is None else ports.broker_port_start
    return port != ports.bind_port and (port >= start or port in ports.broker_ports.values())
