"""Mistakes and doubts that lie between the fields of a configuration.

``mistakes`` refuse a start; ``doubts`` are warnings. Both are pure functions over what is already well-formed, so
that they can run over the good entries of a file whose other entries are wrong, and tell everything at once. They
never look at the machine: whether a port is free is found when it is opened::

    listeners: {public: {bind: 127.0.0.1:9092, broker_ports: {1: 9092}}}
    -> Problem(("listeners", "public", "broker_ports", 1), "port 9092 is the bind port; ...")
"""

from collections.abc import Collection, Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

from kproxy.config.base import Model
from kproxy.config.problems import Loc, Problem, suggestion
from kproxy.config.values import NODE, HostPort, Secret

if TYPE_CHECKING:
    from kproxy.config.model import Cluster, Config, Listener

NODES_EXPECTED = 99
"""How many node ids from 0 on a port range is expected to serve; ranges closer than 100 ports raise a doubt.

Ids are unknown before a broker answers. Operators and Strimzi count from 0 or 1; the automatic ids of ZooKeeper
times began at 1001 (reserved.broker.max.id), which nobody leaves room for.
"""


def mistakes(
    cluster_names: Collection[str],
    references: Mapping[str, str],
    clusters: "Mapping[str, Cluster]",
    listeners: "Mapping[str, Listener]",
) -> list[Problem]:
    """Find what cannot work.

    Args:
        cluster_names: every cluster's name, of ill-formed ones too.
        references: listener name -> the cluster it names, of ill-formed listeners too.
        clusters: the well-formed clusters.
        listeners: the well-formed listeners.
    """
    found = [
        Problem(
            ("listeners", name, "cluster"),
            f"there is no cluster {reference!r}; {suggestion(reference, cluster_names)}",
        )
        for name, reference in references.items()
        if reference not in cluster_names
    ]
    for name, cluster in clusters.items():
        if cluster.dial_patience_max < cluster.dial_patience:
            text = f"{cluster.dial_patience_max:g}s is below dial_patience ({cluster.dial_patience:g}s); raise it"
            found.append(Problem(("clusters", name, "dial_patience_max"), text))
        found += _loops(name, cluster, listeners)
    for name, listener in listeners.items():
        here = ("listeners", name)
        if listener.addressing == "ports":
            found += _in_ports_mode(here, listener)
        else:
            found += _on_one_port(here, listener)
    for (name, listener), (other_name, other) in combinations(listeners.items(), 2):
        found += _between(name, listener, other_name, other)
    return found


def doubts(config: "Config") -> list[Problem]:
    """Find what works but is probably not meant, or has a price that the operator should know."""
    found: list[Problem] = []
    for name, listener in config.listeners.items():
        here = ("listeners", name)
        if listener.bind.any_interface and not listener.advertise:
            text = (
                f"{listener.bind} is no address for clients, so each is told the local address that it reached;"
                " give advertise, the address that clients can use"
            )
            found.append(Problem((*here, "bind"), text))
        if listener.addressing == "single" and not (listener.advertise and NODE in listener.advertise.host):
            text = (
                "one fixed name for all brokers makes kafkajs lose data silently (other clients are fine); advertise a"
                f" name with {NODE} in it, with wildcard DNS behind it, or use addressing ports"
            )
            found.append(Problem((*here, "addressing"), text))
        if listener.addressing == "ports":
            found += _tight_range(here, listener)
        found += _access(here, listener)
    for (name, listener), (other_name, other) in combinations(config.listeners.items(), 2):
        found += _near(name, listener, other_name, other)
    for loc, secret in _secrets((), config):
        if secret.exposed:
            found.append(Problem(loc, "everybody can read that file; run chmod 600 on it"))
    return found


def _secrets(here: Loc, part: object) -> Iterator[tuple[Loc, Secret]]:
    """Find every secret of a configuration, by its place."""
    if isinstance(part, Secret):
        yield here, part
    elif isinstance(part, Model):
        for name in type(part).model_fields:
            yield from _secrets((*here, name), getattr(part, name))
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from _secrets((*here, key), value)
    elif isinstance(part, tuple):
        for at, value in enumerate(part):
            yield from _secrets((*here, at), value)


def _access(here: Loc, listener: "Listener") -> Iterator[Problem]:
    """Find access rules that say less, or more, than they seem to."""
    access = listener.access
    if access is None:
        return
    if access.default == "allow" and any(rule.effect == "allow" for rule in access.rules):
        text = "what no rule denies is allowed, so that rules that allow say nothing; write deny, or leave them out"
        yield Problem((*here, "access", "default"), text)
    if access.default == "deny" and not access.rules:
        text = "nobody may do anything, as there is no rule that allows it; add one"
        yield Problem((*here, "access", "default"), text)
    for index, rule in enumerate(access.rules):
        pattern = rule.topic or rule.group or rule.transactional_id or ""
        if rule.effect == "allow" and "[" in pattern:
            text = "in patterns only * and ? stand for others, so that this is a name with a bracket; write a rule each"
            yield Problem((*here, "access", "rules", index), text)


def range_start(listener: "Listener") -> int | None:
    """Return the port of node 0; None where no node's port is known to follow from its id.

    Beside broker_ports the range is for nodes that are not listed, which need not exist unless it is given as well.
    """
    if listener.addressing != "ports" or (listener.broker_ports and listener.broker_port_start is None):
        return None
    return listener.bind.port + 1 if listener.broker_port_start is None else listener.broker_port_start


def _loops(name: str, cluster: "Cluster", listeners: "Mapping[str, Listener]") -> Iterator[Problem]:
    for index, address in enumerate(cluster.bootstrap):
        for listener_name, listener in listeners.items():
            if listener.bind.reached_by(address):
                text = f"{address} is listener {listener_name!r} itself; give a broker's address"
                yield Problem(("clusters", name, "bootstrap", index), text)


def _on_one_port(here: Loc, listener: "Listener") -> Iterator[Problem]:
    for key in ("broker_port_start", "broker_ports"):
        if getattr(listener, key) is not None:
            yield Problem((*here, key), "belongs to addressing ports; leave it out, or set addressing: ports")


def _in_ports_mode(here: Loc, listener: "Listener") -> Iterator[Problem]:
    bind = listener.bind
    if listener.advertise and NODE in listener.advertise.host:
        text = f"{NODE} needs addressing: single or sni; with ports each broker has a port, and all share one name"
        yield Problem((*here, "advertise"), text)
    yield from _listed_ports((*here, "broker_ports"), listener, listener.broker_ports or {})
    start = range_start(listener)
    if start is None:
        return
    at = (*here, "bind" if listener.broker_port_start is None else "broker_port_start")
    if start > 65535:
        yield Problem(at, f"port {bind.port} leaves no port above it for brokers; choose a lower one")
    elif start == bind.port:
        text = f"port {start} is the bind port, and would be node 0's as well; begin at {start + 1} or elsewhere"
        yield Problem(at, text)
    else:
        yield from _advertised(at, listener, start, "node 0")


def _listed_ports(at: Loc, listener: "Listener", ports: Mapping[int, int]) -> Iterator[Problem]:
    owners: dict[int, int] = {}
    for node, port in ports.items():
        if port == listener.bind.port:
            yield Problem((*at, node), f"port {port} is the bind port; give node {node} another")
        elif port in owners:
            yield Problem((*at, node), f"port {port} is node {owners[port]}'s already; give node {node} another")
        owners.setdefault(port, node)
        yield from _advertised((*at, node), listener, port, f"node {node}")


def _advertised(at: Loc, listener: "Listener", port: int, owner: str) -> Iterator[Problem]:
    """Clients are told the advertised port plus the same distance as between the two local ports."""
    if listener.advertise:
        told = listener.advertise.port + port - listener.bind.port
        if not 1 <= told <= 65535:
            text = (
                f"{owner} would be advertised at port {told}, as far from {listener.advertise.port} as {port} is from"
                f" {listener.bind.port}; choose ports within 1 to 65535"
            )
            yield Problem(at, text)


def _claims(name: str, listener: "Listener") -> Iterator[tuple[Loc, int]]:
    """Yield each port that the listener surely opens, with the field that says so."""
    yield ("listeners", name, "bind"), listener.bind.port
    if listener.addressing == "ports":
        for node, port in (listener.broker_ports or {}).items():
            yield ("listeners", name, "broker_ports", node), port


def _between(name: str, listener: "Listener", other_name: str, other: "Listener") -> Iterator[Problem]:
    """Find ports that both open for sure; the later listener is the one that is told."""
    if not listener.bind.shares_interface(other.bind):
        return
    taken = {port for _, port in _claims(name, listener)}
    for loc, port in _claims(other_name, other):
        if port in taken:
            address = HostPort(other.bind.host, port)
            yield Problem(loc, f"{address} is in use by listener {name!r}; choose another port or host")
    start = range_start(listener)
    if start is not None and start == range_start(other):
        text = f"brokers' ports begin at {start}, as those of listener {name!r} do; give another broker_port_start"
        at = "bind" if other.broker_port_start is None else "broker_port_start"
        yield Problem(("listeners", other_name, at), text)


def _tight_range(here: Loc, listener: "Listener") -> Iterator[Problem]:
    """Find a range that meets its own bind port, or the end of all ports, at a likely node id."""
    start = range_start(listener)
    if start is None:
        return
    at = (*here, "bind" if listener.broker_port_start is None else "broker_port_start")
    node = listener.bind.port - start
    if 0 < node < NODES_EXPECTED:
        text = f"node {node} would get port {listener.bind.port}, the bind port; begin above it if there is such a node"
        yield Problem(at, text)
    listed = listener.broker_ports or {}
    for other, port in listed.items():
        if 0 <= port - start < NODES_EXPECTED and port - start not in listed:
            text = f"node {port - start} would get port {port} too, by broker_port_start; list it as well if it exists"
            yield Problem((*here, "broker_ports", other), text)
    last = 65535 - start
    if listener.advertise:
        last = min(last, 65535 - (listener.advertise.port + start - listener.bind.port))
    if last < NODES_EXPECTED - 1:
        yield Problem(at, f"nodes with an id above {last} have no port left; begin lower if there are any")


def _near(name: str, listener: "Listener", other_name: str, other: "Listener") -> Iterator[Problem]:
    """Find two listeners whose ports may meet, depending on node ids."""
    if not listener.bind.shares_interface(other.bind):
        return
    for owner, one, guest, two in ((name, listener, other_name, other), (other_name, other, name, listener)):
        start = range_start(one)
        if start is None:
            continue
        reached = [(port, loc) for loc, port in _claims(guest, two) if start <= port < start + NODES_EXPECTED]
        two_start = range_start(two)
        if two_start is not None and start < two_start < start + NODES_EXPECTED:
            at = ("listeners", guest, "bind" if two.broker_port_start is None else "broker_port_start")
            reached.append((two_start, at))
        if reached:
            port, loc = min(reached, key=lambda claim: claim[0])
            text = (
                f"port {port} is what listener {owner!r} gives to node {port - start}; keep the ports of two listeners"
                f" {NODES_EXPECTED + 1} apart, by bind or broker_port_start"
            )
            yield Problem(loc, text)
