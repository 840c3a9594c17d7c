"""What the proxy itself asks a cluster: Metadata (3) and FindCoordinator (10), as bodies.

Asked to learn the brokers and, where one address serves them all, who leads a partition and who coordinates a
group. Answers of 10,000 partitions must not hold up the loop: replica lists are stepped over by their length, 0.6 us
per partition (0.8 before v9). Nothing here remembers or rewrites an answer.

A Metadata v1 answer: one broker, 1 = b1:9092 without a rack, controller 1, no topics::

    >>> body = bytes.fromhex("00000001 00000001 0002 6231 00002384 ffff 00000001 00000000")
    >>> parse_metadata_response(1, body).brokers
    [Broker(node_id=1, host='b1', port=9092, rack=None)]
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from kproxy.errors import Malformed, Short, Unsupported
from kproxy.wire import primitives
from kproxy.wire.primitives import INT16, INT32, UUID_BYTES

METADATA_VERSION_MAX: Final = 13
FIND_COORDINATOR_VERSION_MAX: Final = 6
KEY_TYPE_GROUP, KEY_TYPE_TRANSACTION, KEY_TYPE_SHARE = range(3)
NO_TOPIC_ID: Final = bytes(UUID_BYTES)

_PARTITION = struct.Struct(">hii")  # error code, index, leader
_PARTITION_EPOCH = struct.Struct(">hiii")  # the same and the leader's epoch


class Broker(NamedTuple):
    """A node and the address it advertises on the listener that was asked."""

    node_id: int
    host: str
    port: int
    rack: str | None


class Partition(NamedTuple):
    """A partition's leader; -1 where there is none, and epoch -1 before Metadata v7."""

    error_code: int
    partition_index: int
    leader_id: int
    leader_epoch: int


class Topic(NamedTuple):
    """A topic; the name is None if it was asked by an id that is unknown, the id 16 zero bytes before v10."""

    error_code: int
    name: str | None
    topic_id: bytes
    partitions: list[Partition]


class ClusterAnswer(NamedTuple):
    """A Metadata answer; cluster_id from v2, controller_id from v1 (else -1), error_code from v13 (KIP-1102)."""

    brokers: list[Broker]
    cluster_id: str | None
    controller_id: int
    topics: list[Topic]
    error_code: int


class Coordinator(NamedTuple):
    """Where a coordinator is: ``key`` None before v4, where one is asked at a time; on an error, node_id is -1."""

    key: str | None
    node_id: int
    host: str
    port: int
    error_code: int


def metadata_request(version: int, topics: Sequence[str | bytes] | None = ()) -> bytes:
    """Write a Metadata request, v0 to v13, that does not create topics where the version lets one say so (v4+).

    ``topics``: names; or 16-byte topic ids (v12+ only); empty: brokers only; None: all topics. In v0 an empty list
    means all topics, so there the answer to "brokers only" is longer than it need be.
    """
    _check_version("Metadata", version, METADATA_VERSION_MAX)
    flexible = version >= 9
    parts = [b""]
    for topic in topics or ():
        if isinstance(topic, bytes):
            if version < 12 or len(topic) != UUID_BYTES:
                raise Unsupported("a topic id of 16 bytes needs Metadata v12")
            parts.append(topic + primitives.put_compact_string(None) + b"\x00")
        elif flexible:
            topic_id = NO_TOPIC_ID if version >= 10 else b""
            parts.append(topic_id + primitives.put_compact_string(topic) + b"\x00")
        else:
            parts.append(primitives.put_string(topic))
    count = len(parts) - 1
    if topics is None and version >= 1:
        count = -1
    parts[0] = primitives.put_uvarint(count + 1) if flexible else INT32.pack(count)
    if version >= 4:
        parts.append(b"\x00")  # allow_auto_topic_creation
    if 8 <= version <= 10:
        parts.append(b"\x00")  # include_cluster_authorized_operations
    if version >= 8:
        parts.append(b"\x00")  # include_topic_authorized_operations
    if flexible:
        parts.append(b"\x00")
    return b"".join(parts)


REBOOTSTRAP_VERSION_MIN: Final = 13
"""The first Metadata version with a place for REBOOTSTRAP_REQUIRED (KIP-1102)."""

_REBOOTSTRAP_REQUIRED: Final = 129


def rebootstrap_response() -> bytes:
    """Write a Metadata answer, v13, that sends the client back to its bootstrap servers (KIP-1102): no brokers."""
    nothing = b"\x01"  # an empty compact array
    cluster_id, controller_id, tags = b"\x00", INT32.pack(-1), b"\x00"
    return b"".join(
        (INT32.pack(0), nothing, cluster_id, controller_id, nothing, INT16.pack(_REBOOTSTRAP_REQUIRED), tags)
    )


def parse_metadata_response(version: int, body: bytes) -> ClusterAnswer:
    """Read a Metadata answer, v0 to v13.

    Bytes behind its end are let be, as clients do: librdkafka's mock broker has one too many from v9 on.
    """
    _check_version("Metadata", version, METADATA_VERSION_MAX)
    flexible = version >= 9
    nullable = primitives.compact_nullable_string if flexible else primitives.nullable_string
    pos = primitives.skip(body, 0, 4) if version >= 3 else 0
    brokers, pos = _parse_brokers(version, body, pos)
    cluster_id, controller_id, error_code = None, -1, 0
    if version >= 2:
        cluster_id, pos = nullable(body, pos)
    if version >= 1:
        controller_id, pos = primitives.int32(body, pos)
    topics, pos = _parse_topics(version, body, pos)
    if 8 <= version <= 10:
        pos = primitives.skip(body, pos, 4)  # cluster_authorized_operations
    if version >= 13:
        error_code, pos = primitives.int16(body, pos)
    if flexible:
        pos = primitives.skip_tags(body, pos)
    _expect_end(body[:pos], pos)
    return ClusterAnswer(brokers, cluster_id, controller_id, topics, error_code)


def _parse_brokers(version: int, body: bytes, pos: int) -> tuple[list[Broker], int]:
    flexible = version >= 9
    text = primitives.compact_string if flexible else primitives.string
    nullable = primitives.compact_nullable_string if flexible else primitives.nullable_string
    count, pos = primitives.compact_array(body, pos) if flexible else primitives.array(body, pos)
    brokers = []
    for _ in range(count):
        node_id, pos = primitives.int32(body, pos)
        host, pos = text(body, pos)
        port, pos = primitives.int32(body, pos)
        rack = None
        if version >= 1:
            rack, pos = nullable(body, pos)
        if flexible:
            pos = primitives.skip_tags(body, pos)
        brokers.append(Broker(node_id, host, port, rack))
    return brokers, pos


def _parse_topics(version: int, body: bytes, pos: int) -> tuple[list[Topic], int]:
    flexible = version >= 9
    nullable = primitives.compact_nullable_string if flexible else primitives.nullable_string
    count, pos = primitives.compact_array(body, pos) if flexible else primitives.array(body, pos)
    topics = []
    for _ in range(count):
        error_code, pos = primitives.int16(body, pos)
        name, pos = nullable(body, pos)
        if name is None and version < 12:
            raise Malformed("topic name is null")
        topic_id = NO_TOPIC_ID
        if version >= 10:
            start, pos = pos, primitives.skip(body, pos, UUID_BYTES)
            topic_id = bytes(body[start:pos])
        if version >= 1:
            pos = primitives.skip(body, pos, 1)  # is_internal
        try:
            partitions, pos = (_parse_partitions_flexible if flexible else _parse_partitions)(version, body, pos)
        except (IndexError, struct.error):
            raise Short("partitions") from None
        if version >= 8:
            pos = primitives.skip(body, pos, 4)  # topic_authorized_operations
        if flexible:
            pos = primitives.skip_tags(body, pos)
        topics.append(Topic(error_code, name, topic_id, partitions))
    return topics, pos


def _parse_partitions(version: int, body: bytes, pos: int) -> tuple[list[Partition], int]:
    """Read the partitions of a topic, v0 to v8; lets IndexError and struct.error out where the bytes end."""
    lists = 3 if version >= 5 else 2  # replicas, in-sync replicas, offline replicas
    epoch = version >= 7
    int32 = INT32.unpack_from
    count, pos = primitives.array(body, pos)
    partitions = []
    for _ in range(count):
        if epoch:
            partitions.append(Partition(*_PARTITION_EPOCH.unpack_from(body, pos)))
            pos += 14
        else:
            error_code, index, leader_id = _PARTITION.unpack_from(body, pos)
            partitions.append(Partition(error_code, index, leader_id, -1))
            pos += 10
        for _ in range(lists):
            (length,) = int32(body, pos)
            if length < -1:
                raise Malformed(f"array count {length}")
            pos += 4 + 4 * length if length > 0 else 4
    return partitions, pos


def _parse_partitions_flexible(_version: int, body: bytes, pos: int) -> tuple[list[Partition], int]:
    """Read the partitions of a topic, v9 to v13; lets IndexError and struct.error out where the bytes end.

    The usual lengths fit one byte, which is read here without a call: half the time of this walk.
    """
    unpack = _PARTITION_EPOCH.unpack_from
    new = tuple.__new__  # what Partition(...) does, without its argument handling: a third of the time
    count, pos = primitives.compact_array(body, pos)
    partitions: list[Partition] = []
    append = partitions.append
    for _ in range(count):
        append(new(Partition, unpack(body, pos)))
        pos += 14
        for _ in (0, 1, 2):  # replicas, in-sync replicas, offline replicas
            length = body[pos]
            if length > 0x7F:
                length, pos = primitives.uvarint(body, pos)
                pos += 4 * length - 4
            elif length:
                pos += 4 * length - 3
            else:
                pos += 1
        pos = pos + 1 if body[pos] == 0 else primitives.skip_tags(body, pos)
    return partitions, pos


def find_coordinator_request(version: int, key: str, key_type: int = KEY_TYPE_GROUP) -> bytes:
    """Write a FindCoordinator request, v0 to v6, for one group (key type 0) or transactional id (1, from v1)."""
    _check_version("FindCoordinator", version, FIND_COORDINATOR_VERSION_MAX)
    kind = bytes((key_type,))
    if version == 0:
        if key_type != KEY_TYPE_GROUP:
            raise Unsupported("FindCoordinator v0 finds groups only")
        return primitives.put_string(key)
    if version < 3:
        return primitives.put_string(key) + kind
    if version == 3:
        return primitives.put_compact_string(key) + kind + b"\x00"
    return kind + b"\x02" + primitives.put_compact_string(key) + b"\x00"


def parse_find_coordinator_request(version: int, body: bytes) -> tuple[int, list[str]]:
    """Read a FindCoordinator request, v0 to v6: the key type, and the keys (exactly one before v4)."""
    _check_version("FindCoordinator", version, FIND_COORDINATOR_VERSION_MAX)
    key_type, pos, keys = KEY_TYPE_GROUP, 0, []
    if version >= 4:
        key_type, pos = primitives.int8(body, pos)
        count, pos = primitives.compact_array(body, pos)
        for _ in range(count):
            key, pos = primitives.compact_string(body, pos)
            keys.append(key)
    else:
        key, pos = (primitives.compact_string if version == 3 else primitives.string)(body, pos)
        keys.append(key)
        if version >= 1:
            key_type, pos = primitives.int8(body, pos)
    if version >= 3:
        pos = primitives.skip_tags(body, pos)
    _expect_end(body, pos)
    return key_type, keys


def parse_find_coordinator_response(version: int, body: bytes) -> list[Coordinator]:
    """Read a FindCoordinator answer, v0 to v6: one coordinator before v4, one per key from there on."""
    _check_version("FindCoordinator", version, FIND_COORDINATOR_VERSION_MAX)
    if version >= 4:
        return _parse_coordinators(body)
    text = primitives.compact_string if version == 3 else primitives.string
    pos = primitives.skip(body, 0, 4) if version >= 1 else 0
    error_code, pos = primitives.int16(body, pos)
    if version >= 1:
        pos = primitives.skip_compact(body, pos) if version == 3 else primitives.skip_string(body, pos)
    node_id, pos = primitives.int32(body, pos)
    host, pos = text(body, pos)
    port, pos = primitives.int32(body, pos)
    if version == 3:
        pos = primitives.skip_tags(body, pos)
    _expect_end(body, pos)
    return [Coordinator(None, node_id, host, port, error_code)]


def _parse_coordinators(body: bytes) -> list[Coordinator]:
    pos = primitives.skip(body, 0, 4)
    count, pos = primitives.compact_array(body, pos)
    coordinators = []
    for _ in range(count):
        key, pos = primitives.compact_string(body, pos)
        node_id, pos = primitives.int32(body, pos)
        host, pos = primitives.compact_string(body, pos)
        port, pos = primitives.int32(body, pos)
        error_code, pos = primitives.int16(body, pos)
        pos = primitives.skip_compact(body, pos)
        pos = primitives.skip_tags(body, pos)
        coordinators.append(Coordinator(key, node_id, host, port, error_code))
    pos = primitives.skip_tags(body, pos)
    _expect_end(body, pos)
    return coordinators


def _check_version(name: str, version: int, version_max: int) -> None:
    if not 0 <= version <= version_max:
        raise Unsupported(f"{name} version {version}")


def _expect_end(body: bytes, pos: int) -> None:
    if pos != len(body):
        raise Malformed("bytes behind the end of the message")
