"""Mistakes and doubts between fields: ports, names and loops."""

import pytest

from kproxy.config.load import load
from kproxy.errors import ConfigError

CLUSTER = "clusters: {main: {bootstrap: [kafka1:9092]}}\n"


def refused(listeners: str, clusters: str = CLUSTER) -> list[str]:
    """Return the mistakes, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        load(f"{clusters}listeners:\n{listeners}")
    return [line.removeprefix("config:") for line in str(caught.value).splitlines()]


def warned(listeners: str, clusters: str = CLUSTER) -> list[str]:
    """Return the warnings, without the file's name."""
    return [line.removeprefix("config:") for line in load(f"{clusters}listeners:\n{listeners}").warnings]


@pytest.mark.parametrize(
    ("listeners", "told"),
    [
        ("  a: {bind: h:65535}", "3:13: listeners.a.bind: port 65535 leaves no port above it"),
        ("  a: {bind: h:9092, broker_port_start: 9092}", "3:40: listeners.a.broker_port_start: port 9092 is the bind"),
        (
            "  a: {bind: h:9092, broker_ports: {1: 9092}}",
            "3:39: listeners.a.broker_ports.1: port 9092 is the bind port",
        ),
        (
            "  a: {bind: h:1, broker_ports: {1: 5, 2: 5}}",
            "3:42: listeners.a.broker_ports.2: port 5 is node 1's already",
        ),
        ("  a: {bind: h:1, advertise: k:65535}", "3:13: listeners.a.bind: node 0 would be advertised at port 65536"),
        (
            "  a: {bind: h:9092, advertise: k:1, broker_ports: {1: 9090}}",
            "broker_ports.1: node 1 would be advertised at",
        ),
        ("  a: {bind: h:1, advertise: 'k{node}:1'}", "3:29: listeners.a.advertise: {node} needs addressing: single"),
        (
            "  a: {bind: h:1, addressing: single, broker_port_start: 5}",
            "broker_port_start: belongs to addressing ports",
        ),
        ("  a: {bind: h:1, addressing: single, broker_ports: {1: 5}}", "broker_ports: belongs to addressing ports"),
        ("  a: {bind: h:1}\n  b: {bind: h:1, broker_port_start: 500}", "4:13: listeners.b.bind: h:1 is in use by"),
        ("  a: {bind: 0.0.0.0:9}\n  b: {bind: h:9, broker_port_start: 500}", "4:13: listeners.b.bind: h:9 is in use"),
        ("  a: {bind: h:1}\n  b: {bind: h:900, broker_port_start: 2}", "4:39: listeners.b.broker_port_start: brokers'"),
        ("  a: {bind: h:1}\n  b: {bind: h:9, broker_ports: {4: 1}}", "4:36: listeners.b.broker_ports.4: h:1 is in use"),
        ("  a: {bind: h:1, broker_ports: {4: 9}}\n  b: {bind: h:9}", "4:13: listeners.b.bind: h:9 is in use by"),
    ],
)
def test_ports_and_names_that_cannot_work_are_refused(listeners: str, told: str) -> None:
    """Each collision, overflow and misplaced option is one line at the field that has to change."""
    (line,) = refused(listeners)
    assert told in line


def test_a_cluster_that_is_kproxy_itself_is_refused() -> None:
    """A bootstrap address that ends at our own listener would be a loop."""
    clusters = "clusters: {main: {bootstrap: [kafka1:9092, localhost:9092]}}\n"
    (line,) = refused("  a: {bind: 0.0.0.0:9092}", clusters)
    assert line.startswith("1:44: clusters.main.bootstrap[1]: localhost:9092 is listener 'a' itself")


def test_a_longer_patience_must_not_be_the_shorter() -> None:
    """dial_patience_max below dial_patience is refused at the former."""
    clusters = "clusters: {main: {bootstrap: [k:1], dial_patience: 5s, dial_patience_max: 2s}}\n"
    (line,) = refused("  a: {bind: h:9}", clusters)
    assert line.startswith("1:75: clusters.main.dial_patience_max: 2s is below dial_patience (5s)")


@pytest.mark.parametrize(
    ("listeners", "told"),
    [
        ("  a: {bind: 0.0.0.0:9092}", "3:13: listeners.a.bind: 0.0.0.0:9092 is no address for clients"),
        (
            "  a: {bind: h:1, addressing: single}",
            "3:30: listeners.a.addressing: one fixed name for all brokers makes kafkajs",
        ),
        ("  a: {bind: h:1, addressing: single, advertise: k:1}", "makes kafkajs lose data silently"),
        ("  a: {bind: h:65500}", "3:13: listeners.a.bind: nodes with an id above 34 have no port left"),
        ("  a: {bind: h:1, advertise: k:65500}", "nodes with an id above 34 have no port left"),
        ("  a: {bind: h:99, broker_port_start: 90}", "3:38: listeners.a.broker_port_start: node 9 would get port 99"),
        (
            "  a: {bind: h:1, broker_port_start: 5, broker_ports: {0: 7}}",
            "3:58: listeners.a.broker_ports.0: node 2 would",
        ),
        (
            "  a: {bind: h:9092}\n  b: {bind: h:9093}",
            "4:13: listeners.b.bind: port 9093 is what listener 'a' gives to node 0",
        ),
        (
            "  a: {bind: h:500}\n  b: {bind: h:450}",
            "3:13: listeners.a.bind: port 500 is what listener 'b' gives to node 49",
        ),
        ("  a: {bind: h:1}\n  b: {bind: h:900, broker_ports: {9: 12}}", "broker_ports.9: port 12 is what listener 'a'"),
        (
            "  a: {bind: h:1}\n  b: {bind: h:900, broker_port_start: 5}",
            "4:39: listeners.b.broker_port_start: port 5 is",
        ),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(listeners: str, told: str) -> None:
    """A configuration that works for some, or until a node id is in the way, runs with a line that says so."""
    (line,) = warned(listeners)
    assert told in line


def test_a_password_in_the_file_is_a_warning_that_does_not_show_it() -> None:
    """A literal works, and the operator hears what to write instead."""
    clusters = "clusters: {main: {bootstrap: [k:1], sasl: {username: u, password: hunter2}}}\n"
    (line,) = warned("  a: {bind: h:9}", clusters)
    assert line.startswith("1:67: clusters.main.sasl.password: the password stands in the file")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    "listeners",
    [
        "  a: {bind: h:9092}\n  b: {bind: h:9192}",
        "  a: {bind: h:9092}\n  b: {bind: i:9092}",
        "  a: {bind: h:65535, broker_ports: {1: 9092}}",
        "  a: {bind: h:9092, broker_port_start: 5, broker_ports: {7: 12}}",
        "  a: {bind: h:9092, addressing: single, advertise: 'k{node}:1'}\n  b: {bind: h:9093, broker_port_start: 9200}",
    ],
)
def test_sound_layouts_raise_no_doubt(listeners: str) -> None:
    """Listeners a hundred ports or an interface apart, listed ports, and a name per broker are all fine."""
    assert warned(listeners) == []
