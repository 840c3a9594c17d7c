"""Addresses for clients: pure functions of the configuration, and never a broker's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.core.addressbook import HOSTS_MAX, PORT_MAX, AddressBook, NameLayout, PortLayout, SingleLayout

PORTS = st.integers(1, PORT_MAX)


@pytest.mark.parametrize(
    ("layout", "node_id", "bound", "advertised"),
    [
        (PortLayout(9092, 9092), 0, 9093, 9093),
        (PortLayout(9092, 19092), 3, 9096, 19096),
        (PortLayout(9092, 9092, broker_port_start=20_000), 7, 20_007, 20_007),
        (PortLayout(9092, 19092, broker_port_start=9000), 91, 9091, 19091),
        (PortLayout(9092, 9092, broker_port_start=9000), 92, None, None),  # the bootstrap port
        (PortLayout(9092, 9092), PORT_MAX - 9093, PORT_MAX, PORT_MAX),
        (PortLayout(9092, 9092), PORT_MAX - 9092, None, None),
        (PortLayout(9092, 9093), PORT_MAX - 9093, PORT_MAX, None),  # the advertised port would be no port
        (PortLayout(9092, 92, broker_port_start=9000), 0, 9000, None),
        (PortLayout(9092, 9092, broker_ports={5: 7000}), 5, 7000, 7000),
        (PortLayout(9092, 9092, broker_ports={5: 9095}), 2, None, None),  # taken by name
        (PortLayout(9092, 9092, broker_ports={5: 9092}), 5, None, None),
        (PortLayout(9092, 9092), 2**31 - 1, None, None),
        (PortLayout(9092, 9092), -1, None, None),
    ],
)
def test_ports(layout: PortLayout, node_id: int, bound: int | None, advertised: int | None) -> None:
    """A node's ports are those that the documentation says, or none where they would not be ports of its own."""
    assert layout.bind_port_of(node_id) == bound
    assert layout.advertised_port_of(node_id) == advertised
    assert layout.address(node_id, "kp") == (None if advertised is None else ("kp", advertised))


@given(PORTS, PORTS, PORTS, st.dictionaries(st.integers(0, 50), PORTS, max_size=5))
def test_no_port_twice(bind: int, advertised: int, start: int, named: dict[int, int]) -> None:
    """No two nodes share a port, none has the bootstrap port, and the distance is the same outside."""
    named = {node_id: port for port, node_id in {port: node_id for node_id, port in named.items()}.items()}
    layout = PortLayout(bind, advertised, start, named)
    ports = [port for node_id in range(60) if (port := layout.bind_port_of(node_id)) is not None]
    assert len(set(ports)) == len(ports)
    assert all(0 < port <= PORT_MAX and port != bind for port in ports)
    for node_id in range(60):
        outside = layout.advertised_port_of(node_id)
        if outside is not None:
            inside = layout.bind_port_of(node_id)
            assert inside is not None
            assert outside - advertised == inside - bind
            assert 0 < outside <= PORT_MAX
            assert outside != advertised


def test_single() -> None:
    """One port for all; a name per node where the listener has one."""
    layout = SingleLayout(19092)
    assert layout.address(7, "kp-{node}.example") == ("kp-7.example", 19092)
    assert layout.address(7, "kp.example") == ("kp.example", 19092)


NAMES = NameLayout("B{node}.kafka.example.com", "Kafka.example.com", 19092)


@pytest.mark.parametrize(
    ("name", "known", "node_id"),
    [
        ("b0.kafka.example.com", True, 0),
        ("B17.KAFKA.example.com.", True, 17),
        ("b2147483647.kafka.example.com", True, 2**31 - 1),
        ("kafka.example.com", True, None),
        ("KAFKA.example.com.", True, None),
        ("b.kafka.example.com", False, None),
        ("b-1.kafka.example.com", False, None),
        ("b\u0661.kafka.example.com", False, None),
        ("b\u00b2.kafka.example.com", False, None),
        ("b12345678901.kafka.example.com", False, None),
        ("b1.kafka.example.com.evil.com", False, None),
        ("xb1.kafka.example.com", False, None),
        ("b1.x.kafka.example.com", False, None),
        ("example.com", False, None),
        ("", False, None),
        (None, False, None),
    ],
)
def test_names(name: str | None, *, known: bool, node_id: int | None) -> None:
    """A server name leads to the broker in it, the bootstrap name to any, and all others nowhere."""
    assert NAMES.knows(name) is known
    assert NAMES.node_of(name or "") == node_id


@given(st.integers(0, 2**31 - 1))
def test_a_name_leads_back(node_id: int) -> None:
    """The name that clients are given for a node, whatever host they know us by, leads to that node."""
    address = NAMES.address(node_id, "10.0.0.1")
    assert address == (f"B{node_id}.kafka.example.com", 19092)
    assert NAMES.node_of(address[0]) == node_id


@pytest.mark.parametrize("name", ["a", "aa", "a1a", "a-1a"])
def test_a_name_shorter_than_its_pattern(name: str) -> None:
    """What stands before and behind the number does not overlap."""
    layout = NameLayout("a{node}a", "kafka", 9092)
    assert layout.node_of(name) == (1 if name == "a1a" else None)


def test_book() -> None:
    """A rewriting function gives ours and tells the broker's; a node without an address gets the bootstrap one."""
    heard: list[tuple[int, str, int]] = []
    book = AddressBook(PortLayout(9092, 19092), 19092, lambda *endpoint: heard.append(endpoint))
    advertise = book.advertise_for("kp")
    assert advertise(1, "b1", 9999) == ("kp", 19094)
    assert book.unmappable == set()
    assert advertise(70_000, "b2", 9998) == ("kp", 19092)
    assert book.unmappable == {70_000}
    assert heard == [(1, "b1", 9999), (70_000, "b2", 9998)]
    assert book.address(70_001, "kp-{node}.example") == ("kp-bootstrap.example", 19092)


def test_functions_are_kept() -> None:
    """Connections that reached the same local address share one function; how many are kept is bounded."""
    book = AddressBook(PortLayout(9092, 9092), 9092, lambda *_endpoint: None)
    hosts = [f"10.0.{i // 256}.{i % 256}" for i in range(HOSTS_MAX + 1)]
    first = [book.advertise_for(host) for host in hosts]
    again = [book.advertise_for(host) for host in hosts]
    assert [a is b for a, b in zip(first, again, strict=True)] == [True] * HOSTS_MAX + [False]
    assert again[-1](0, "b", 1) == (hosts[-1], 9093)
