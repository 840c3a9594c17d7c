"""Which address clients are given for each broker, and which broker an address of ours means.

The three layouts are pure functions of the configuration and the node id, so that a rewrite never waits, two proxies
with the same configuration advertise the same, and a firewall rule written today holds tomorrow.

``ports``: one port per broker beside the bootstrap port::

    >>> layout = PortLayout(bind_port=9092, advertised_port=19092)
    >>> layout.bind_port_of(3), layout.advertised_port_of(3)      # 9092 + 1 + 3, and the same distance outside
    (9096, 19096)

``single``: one port for all, with one name or, with ``{node}`` in it, a name per broker. ``sni``: one TLS port for all,
with a name per broker, which is what tells it.

An address that a broker said never leaves an AddressBook: for a node that no port can be given, clients get the
bootstrap address, where any broker answers, and ``unmappable`` says so to whoever logs it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from kproxy.core.rewrite import Advertise

PORT_MAX = 65_535

NODE = "{node}"
NODE_DIGITS_MAX = 10
"""A node id is an INT32."""


class Layout(Protocol):
    """How node ids become addresses for clients."""

    def address(self, node_id: int, host: str) -> tuple[str, int] | None:
        """Return what clients are given for a node, or None where the layout has no address for it.

        ``host`` is what the listener advertises, or where it advertises nothing the local address that the client
        reached.
        """


@dataclass(frozen=True, slots=True)
class PortLayout:
    """``addressing: ports``: node N has the port ``broker_port_start`` + N, or the one that ``broker_ports`` names."""

    bind_port: int
    advertised_port: int
    broker_port_start: int | None = None
    """The first broker's port when node ids begin at 0; default: the bind port + 1."""
    broker_ports: dict[int, int] = field(default_factory=dict)

    def bind_port_of(self, node_id: int) -> int | None:
        """Return the port to listen on for a node, or None where it would not be a port or is the bootstrap port."""
        port = self.broker_ports.get(node_id)
        if port is None:
            start = self.bind_port + 1 if self.broker_port_start is None else self.broker_port_start
            port = start + node_id
            if port in self.broker_ports.values():
                return None
        return port if 0 < port <= PORT_MAX and port != self.bind_port else None

    def advertised_port_of(self, node_id: int) -> int | None:
        """Return the port that clients are given: as far from the advertised bootstrap port as the bound ones are."""
        port = self.bind_port_of(node_id)
        if port is None:
            return None
        port += self.advertised_port - self.bind_port
        return port if 0 < port <= PORT_MAX else None

    def address(self, node_id: int, host: str) -> tuple[str, int] | None:
        """Return (host, port) for a node: see Layout."""
        port = self.advertised_port_of(node_id)
        return None if port is None else (host, port)


@dataclass(frozen=True, slots=True)
class SingleLayout:
    """``addressing: single``: one port for every broker; ``{node}`` in the host gives each a name of its own."""

    advertised_port: int

    def address(self, node_id: int, host: str) -> tuple[str, int] | None:
        """Return (host, port) for a node: see Layout."""
        return host.replace(NODE, str(node_id)), self.advertised_port


@dataclass(frozen=True, slots=True)
class NameLayout:
    """``addressing: sni``: one TLS port, and a host name per broker, which its clients ask for (RFC 6066).

    >>> layout = NameLayout("b{node}.kafka.example.com", "kafka.example.com", 9092)
    >>> layout.node_of("B2.kafka.example.com"), layout.node_of("kafka.example.com"), layout.knows("example.com")
    (2, None, False)
    """

    pattern: str
    bootstrap_name: str
    """Leads to any broker."""
    advertised_port: int

    def address(self, node_id: int, host: str) -> tuple[str, int] | None:  # noqa: ARG002  names are configured
        """Return (host, port) for a node: see Layout."""
        return self.pattern.replace(NODE, str(node_id)), self.advertised_port

    def knows(self, name: str | None) -> bool:
        """Tell whether a name leads anywhere."""
        return name is not None and (_plain(name) == _plain(self.bootstrap_name) or self.node_of(name) is not None)

    def node_of(self, name: str) -> int | None:
        """Return the node that a name means; None: the bootstrap name, or one that is not known."""
        before, _, behind = _plain(self.pattern).partition(NODE)
        name = _plain(name)
        if not (name.startswith(before) and name.endswith(behind)):
            return None
        digits = name[len(before) : len(name) - len(behind)]
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= NODE_DIGITS_MAX else None


def _plain(name: str) -> str:
    """DNS does not tell cases apart, and a name may end with a dot."""
    return name.lower().removesuffix(".")


class AddressBook:
    """One listener's addresses. ``advertise_for(host)`` gives the function that endpoint rewriting calls."""

    def __init__(self, layout: Layout, advertised_port: int, on_endpoint: Callable[[int, str, int], None]) -> None:
        """Make a book; ``on_endpoint(node id, host, port)`` hears every broker address that an answer named."""
        self._layout = layout
        self._advertised_port = advertised_port
        self._on_endpoint = on_endpoint
        self._by_host: dict[str, Advertise] = {}
        self.unmappable: set[int] = set()
        """Node ids that clients were given the bootstrap address for."""

    def address(self, node_id: int, host: str) -> tuple[str, int]:
        """Return the address that a client is given for a node; ``host``: see Layout."""
        found = self._layout.address(node_id, host)
        if found is None:
            self.unmappable.add(node_id)
            return host.replace(NODE, "bootstrap"), self._advertised_port
        return found

    def advertise_for(self, host: str) -> Advertise:
        """Return the rewriting function for connections whose clients know us as ``host``."""
        advertise = self._by_host.get(host)
        if advertise is None:

            def advertise(node_id: int, broker_host: str, broker_port: int) -> tuple[str, int]:
                self._on_endpoint(node_id, broker_host, broker_port)
                return self.address(node_id, host)

            if len(self._by_host) < HOSTS_MAX:
                self._by_host[host] = advertise
        return advertise


HOSTS_MAX = 256
"""How many local addresses one listener remembers the function of; a machine with more makes a new one each time."""
