"""The bodies a FakeBroker answers with when a test says nothing else.

Written by hand from Kafka's message definitions (MetadataResponse.json and its like), apart from kproxy.wire's
readers, so that the one can show up mistakes of the other. A Metadata v1 answer of a cluster with one broker::

    >>> state = ClusterState(brokers={1: ("b", 9092)})
    >>> metadata(1, state, []).hex(" ")
    '00 00 00 01 00 00 00 01 00 01 62 00 00 23 84 ff ff 00 00 00 01 00 00 00 00'
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from kproxy.wire import primitives as p
from kproxy.wire.apis import APIS, ApiKey

UNKNOWN_TOPIC_OR_PARTITION = 3
COORDINATOR_NOT_AVAILABLE = 15
UNKNOWN_TOPIC_ID = 100

NO_OPERATIONS = p.INT32.pack(-(1 << 31))
"""authorized_operations that nobody asked for."""


@dataclass
class ClusterState:
    """What all brokers of a cluster say alike; a test changes it as it likes.

    ``brokers``: node id -> (host, port). ``topics``: name -> the leader of each partition, in order. ``coordinators``:
    group or transactional id -> node id; anything else is coordinated by the lowest node id.
    """

    brokers: dict[int, tuple[str, int]] = field(default_factory=dict)
    topics: dict[str, list[int]] = field(default_factory=dict)
    coordinators: dict[str, int] = field(default_factory=dict)
    cluster_id: str = "fake-cluster"
    racks: dict[int, str] = field(default_factory=dict)

    @property
    def controller_id(self) -> int:
        """The lowest node id; -1 where there is no broker."""
        return min(self.brokers, default=-1)

    def topic_id(self, name: str) -> bytes:
        """Return a topic's id, the same in every run."""
        return uuid.uuid5(uuid.NAMESPACE_OID, name).bytes


class _Writer:
    """Writes fields in the plain or the flexible form, as the version wants."""

    def __init__(self, *, flexible: bool) -> None:
        self.flexible = flexible
        self.end = b"\x00" if flexible else b""

    def text(self, value: str | None) -> bytes:
        return p.put_compact_string(value) if self.flexible else p.put_string(value)

    def array(self, items: Iterable[bytes]) -> bytes:
        parts = list(items)
        count = p.put_uvarint(len(parts) + 1) if self.flexible else p.INT32.pack(len(parts))
        return count + b"".join(parts)

    def ids(self, values: Iterable[int]) -> bytes:
        return self.array(map(p.INT32.pack, values))

    def data(self, value: bytes) -> bytes:
        size = p.put_uvarint(len(value) + 1) if self.flexible else p.INT32.pack(len(value))
        return size + value


def default_ranges() -> dict[int, tuple[int, int]]:
    """Return what a 4.3 broker offers of the APIs in kproxy's table: API key -> (lowest, highest version)."""
    ranges = {int(key): (api.min_version, api.max_version) for key, api in APIS.items()}
    return ranges | {ApiKey.FETCH: (4, 18)}


def asked_topics(version: int, body: bytes) -> list[str | bytes] | None:
    """Read from a Metadata request, v0 to v13, which topics it asks for: names, or 16-byte ids; None: all."""
    flexible = version >= 9
    count, pos = p.compact_array(body, 0) if flexible else p.array(body, 0)
    if count < 0 or (count == 0 and version == 0):
        return None
    topics: list[str | bytes] = []
    for _ in range(count):
        topic_id = b""
        if version >= 10:
            topic_id, pos = body[pos : pos + p.UUID_BYTES], pos + p.UUID_BYTES
        name, pos = p.compact_nullable_string(body, pos) if flexible else p.nullable_string(body, pos)
        topics.append(topic_id if name is None else name)
        if flexible:
            pos = p.skip_tags(body, pos)
    return topics


def metadata(version: int, state: ClusterState, asked: list[str | bytes] | None) -> bytes:
    """Write a Metadata answer, v0 to v13, about the topics asked for (None: all)."""
    w = _Writer(flexible=version >= 9)
    wanted: list[str | bytes] = list(state.topics) if asked is None else asked
    body = p.INT32.pack(0) if version >= 3 else b""
    body += w.array(_broker(w, state, node, rack=version >= 1) for node in sorted(state.brokers))
    if version >= 2:
        body += w.text(state.cluster_id)
    if version >= 1:
        body += p.INT32.pack(state.controller_id)
    body += w.array(_topic(w, version, state, topic) for topic in wanted)
    if 8 <= version <= 10:
        body += NO_OPERATIONS
    if version >= 13:
        body += p.INT16.pack(0)
    return body + w.end


def _broker(w: _Writer, state: ClusterState, node_id: int, *, rack: bool) -> bytes:
    host, port = state.brokers[node_id]
    written = p.INT32.pack(node_id) + w.text(host) + p.INT32.pack(port)
    return written + (w.text(state.racks.get(node_id)) if rack else b"") + w.end


def _topic(w: _Writer, version: int, state: ClusterState, asked: str | bytes) -> bytes:
    name: str | None
    if isinstance(asked, bytes):
        name = next((known for known in state.topics if state.topic_id(known) == asked), None)
        error, topic_id = (0 if name else UNKNOWN_TOPIC_ID), asked
    else:
        name, topic_id = asked, state.topic_id(asked)
        error = 0 if asked in state.topics else UNKNOWN_TOPIC_OR_PARTITION
    body = p.INT16.pack(error) + w.text(name)
    if version >= 10:
        body += topic_id
    if version >= 1:
        body += b"\x00"  # is_internal
    leaders = enumerate(state.topics.get(name or "", ()))
    body += w.array(_partition(w, version, index, leader) for index, leader in leaders)
    if version >= 8:
        body += NO_OPERATIONS
    return body + w.end


def _partition(w: _Writer, version: int, index: int, leader: int) -> bytes:
    body = p.INT16.pack(0) + p.INT32.pack(index) + p.INT32.pack(leader)
    if version >= 7:
        body += p.INT32.pack(0)  # leader_epoch
    body += w.ids((leader,)) * 2  # replicas, in-sync replicas
    if version >= 5:
        body += w.ids(())  # offline replicas
    return body + w.end


def find_coordinator(version: int, state: ClusterState, keys: list[str]) -> bytes:
    """Write a FindCoordinator answer, v0 to v6, for one key (before v4) or several."""
    w = _Writer(flexible=version >= 3)
    if version >= 4:
        return p.INT32.pack(0) + w.array(_coordinator(w, state, key) for key in keys) + w.end
    node_id, host, port, error = _coordinator_of(state, keys[0])
    head = p.INT32.pack(0) if version >= 1 else b""
    message = w.text(None) if version >= 1 else b""
    return head + p.INT16.pack(error) + message + p.INT32.pack(node_id) + w.text(host) + p.INT32.pack(port) + w.end


def _coordinator(w: _Writer, state: ClusterState, key: str) -> bytes:
    node_id, host, port, error = _coordinator_of(state, key)
    where = p.INT32.pack(node_id) + w.text(host) + p.INT32.pack(port)
    return w.text(key) + where + p.INT16.pack(error) + w.text(None) + w.end


def _coordinator_of(state: ClusterState, key: str) -> tuple[int, str, int, int]:
    node_id = state.coordinators.get(key, state.controller_id)
    if node_id not in state.brokers:
        return -1, "", -1, COORDINATOR_NOT_AVAILABLE
    return node_id, *state.brokers[node_id], 0


def describe_cluster(version: int, state: ClusterState) -> bytes:
    """Write a DescribeCluster answer, v0 to v2."""
    w = _Writer(flexible=True)
    fenced = b"\x00" if version >= 2 else b""
    brokers = (_broker(w, state, node, rack=True)[:-1] + fenced + w.end for node in sorted(state.brokers))
    body = p.INT32.pack(0) + p.INT16.pack(0) + w.text(None)
    if version >= 1:
        body += b"\x01"  # endpoint_type: brokers
    body += w.text(state.cluster_id) + p.INT32.pack(state.controller_id)
    return body + w.array(brokers) + NO_OPERATIONS + w.end


def sasl_authenticate(version: int, error: int, message: str | None, lifetime_ms: int) -> bytes:
    """Write a SaslAuthenticate answer, v0 to v2, with an empty token."""
    w = _Writer(flexible=version >= 2)
    body = p.INT16.pack(error) + w.text(message) + w.data(b"")
    return body + (p.INT64.pack(lifetime_ms) if version >= 1 else b"") + w.end
