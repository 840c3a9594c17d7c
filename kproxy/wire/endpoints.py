"""Find the brokers' addresses in answers and splice others over them; every other byte stays as it was.

A client connects to whatever Metadata, FindCoordinator, DescribeCluster and NodeEndpoints (KIP-951) name.
DescribeQuorum names the controllers' own listeners, which are of no use to a client: they are left out. Here broker 1,
said to be ``b1:9092``, becomes ``kp:19``, in a Metadata v0 answer without topics::

    >>> body = bytes.fromhex("00000001 00000001 0002 6231 00002384 00000000")
    >>> splice(ApiKey.METADATA, 0, body, lambda node_id, host, port: ("kp", 19)).hex(" ", -4)
    '00000001 00000001 00026b70 00000013 00000000'

Never here: which address a broker gets, or a Fetch answer (kept below v16, where endpoints begin). ShareFetch, whose
records are streamed, has a file of its own. Layouts: Kafka's message schemas; tagged fields that nobody knows are kept.
"""

from collections.abc import Callable

from kproxy.errors import Malformed, Unsupported
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.primitives import (
    INT32,
    UUID_BYTES,
    compact_count,
    compact_string,
    count,
    int32,
    put_compact_string,
    put_string,
    put_tags,
    put_uvarint,
    skip,
    skip_compact,
    skip_string,
    skip_tags,
    string,
    tags,
)

#: (node id, host, port) as the broker said -> (host, port) for clients. None leaves the node out, which only
#: NodeEndpoints allow: a client then finds the node in its metadata. Elsewhere None makes the answer Malformed, so
#: that the connection closes before an address leaks.
Advertise = Callable[[int, str, int], tuple[str, int] | None]

#: Answers that name endpoints: API key -> first version that does.
_REWRITTEN_FROM: dict[int, int] = {
    ApiKey.METADATA: 0,
    ApiKey.FIND_COORDINATOR: 0,
    ApiKey.DESCRIBE_CLUSTER: 0,
    ApiKey.PRODUCE: 10,
    ApiKey.SHARE_FETCH: 0,
    ApiKey.SHARE_ACKNOWLEDGE: 0,
    ApiKey.DESCRIBE_QUORUM: 2,
}

#: Every (key, version) whose answer must be seen, for a look-up in a hot loop.
REWRITTEN: frozenset[tuple[int, int]] = frozenset(
    (key, version) for key, first in _REWRITTEN_FROM.items() for version in range(first, APIS[key].max_version + 1)
)

_EMPTY_ARRAY = b"\x01"
_NODE_ENDPOINTS_TAG = 0
# A Produce partition: index INT32, error INT16, three INT64; then mostly no record errors, no message, no tags.
_PRODUCE_PARTITION_BYTES = 4 + 2 + 3 * 8
_PRODUCE_PARTITION_REST = b"\x01\x00\x00"
# Such a partition and what is around it when it is alone: its count; the topic's tags, throttle_time_ms, no tags.
# Of a DescribeQuorum replica: id INT32, directory UUID, three INT64.
_QUORUM_REPLICA_BYTES = 4 + UUID_BYTES + 3 * 8


def is_rewritten(key: int, version: int) -> bool:
    """Whether the answer to this request names endpoints, so that it must be spliced (ShareFetch: walked)."""
    return (key, version) in REWRITTEN


def splice_metadata(
    version: int,
    data: bytes,
    pos: int,
    advertise: Advertise,
    *,
    blank_racks: bool = False,
) -> tuple[bytes, int]:
    """Splice the brokers of a Metadata v0-13 answer whose body begins at ``pos``; the rest need not be there yet.

    Returns what replaces everything from ``pos`` on up to the returned position, where the brokers end. What follows
    names no address and is passed on as it comes; the frame's size changes by the difference of the two lengths.
    With ``blank_racks`` each rack becomes null, so that nobody fetches from followers.

    Raises Short while the brokers are not all there (come again with more), Malformed if they cannot be brokers.
    """
    _known(ApiKey.METADATA, version)
    begin = pos
    if version >= 3:
        pos = skip(data, pos, 4)  # throttle_time_ms
    nodes, end = _nodes(
        data,
        pos,
        advertise,
        flexible=version >= 9,
        rack=version >= 1,
        blank_racks=blank_racks,
    )
    return data[begin:pos] + nodes, end


def names_no_broker(version: int, data: bytes, pos: int, size: int) -> bool:
    """Whether the Produce answer (v10 to v13) whose size prefix, ``size``, is at ``pos`` surely has no NodeEndpoints.

    Told by its size alone: one topic with n partitions cannot take fewer bytes than where every optional part is
    missing, so an answer that takes just these has none. That is what nearly every Produce gets; False where there is
    more to it, and then ``splice`` knows. The answer must be whole in ``data``. Takes 0.2 us, and ``splice`` 2.4.
    """
    # A correlation id (4), no tags (0), one topic (2), its name or id, n partitions (n + 1) of 33 bytes each, no tags,
    # throttle_time_ms (4), no tags.
    if size < 46 or data[pos + 8] or data[pos + 9] != 2:
        return False
    if version >= 13:
        partitions = data[pos + 26]
        return partitions < 0x80 and size == 29 + 33 * (partitions - 1)
    name_bytes = data[pos + 10]
    if name_bytes >= 0x80 or name_bytes > size - 14:
        return False
    partitions = data[pos + 10 + name_bytes]
    return partitions < 0x80 and size == 13 + name_bytes + 33 * (partitions - 1)


def splice(key: int, version: int, body: bytes, advertise: Advertise, *, blank_racks: bool = False) -> bytes:
    """Splice one whole answer's body; return ``body`` itself when it names no address, or none that changes.

    Raises Malformed for a body that is not exactly one answer to this API and version, Unsupported for a version
    above the table's. ShareFetch is not for this function but for ShareFetchWalk.
    """
    if (key, version) not in REWRITTEN:
        _known(key, version)
        return body
    if key == ApiKey.PRODUCE:
        return _produce(version, body, advertise, blank_racks=blank_racks)
    if key == ApiKey.METADATA:
        out, pos = splice_metadata(version, body, 0, advertise, blank_racks=blank_racks)
        end = _skip_metadata_rest(version, body, pos)
    elif key == ApiKey.FIND_COORDINATOR:
        walk = _find_coordinators if version >= 4 else _find_coordinator
        out, pos = walk(version, body, advertise)
        end = skip_tags(body, pos) if version >= 3 else pos
    elif key == ApiKey.DESCRIBE_CLUSTER:
        out, pos = _describe_cluster(version, body, advertise, blank_racks=blank_racks)
        end = skip_tags(body, skip(body, pos, 4))  # cluster_authorized_operations
    elif key == ApiKey.SHARE_ACKNOWLEDGE:
        out, pos = _share_acknowledge(version, body, advertise, blank_racks=blank_racks)
        end = skip_tags(body, pos)
    elif key == ApiKey.DESCRIBE_QUORUM:
        out, pos = _describe_quorum(body)
        end = skip_tags(body, pos)
    else:
        raise Unsupported("a ShareFetch answer is walked, not spliced")
    _at_end(body, end)
    out += body[pos:]
    return body if out == body else out


def _known(key: int, version: int) -> None:
    api = APIS.get(key)
    if api is None or not api.min_version <= version <= api.max_version:
        raise Unsupported(f"no answer to API key {key} v{version} was asked for")


def _at_end(body: bytes, pos: int) -> None:
    if pos != len(body):
        raise Malformed(f"{len(body) - pos} bytes behind the body")


def _address(advertise: Advertise, node_id: int, host: str, port: int) -> tuple[str, int]:
    """Ask for an address where the node cannot be left out."""
    address = advertise(node_id, host, port)
    if address is None:
        raise Malformed(f"node {node_id} has no address for clients")
    return address


def _nodes(
    data: bytes,
    pos: int,
    advertise: Advertise,
    *,
    flexible: bool = True,
    rack: bool = True,
    fenced: bool = False,
    droppable: bool = False,
    blank_racks: bool,
) -> tuple[bytes, int]:
    """Rewrite an array of {node_id INT32, host, port INT32, rack?, is_fenced?, tags?}; return it and where it ended."""
    read_string, put, skip_text = (
        (compact_string, put_compact_string, skip_compact) if flexible else (string, put_string, skip_string)
    )
    ahead, pos = compact_count(data, pos) if flexible else count(data, pos)
    nodes = []
    for _ in range(ahead):
        begin = pos
        node_id, pos = int32(data, pos)
        host_at = pos
        host, pos = read_string(data, pos)
        port, pos = int32(data, pos)
        rack_at = pos
        if rack:
            pos = skip_text(data, pos)
        rest_at = pos
        if fenced:
            pos = skip(data, pos, 1)
        if flexible:
            pos = skip_tags(data, pos)
        if droppable:
            address = advertise(node_id, host, port)
            if address is None:
                continue
        else:
            address = _address(advertise, node_id, host, port)
        kept_rack = put(None) if rack and blank_racks else data[rack_at:rest_at]
        nodes.append(data[begin:host_at] + put(address[0]) + INT32.pack(address[1]) + kept_rack + data[rest_at:pos])
    head = put_uvarint(len(nodes) + 1) if flexible else INT32.pack(len(nodes))
    return head + b"".join(nodes), pos


def _skip_metadata_rest(version: int, body: bytes, pos: int) -> int:
    """Walk a Metadata answer from behind its brokers to its end."""
    flexible = version >= 9
    skip_text, read_count = (skip_compact, compact_count) if flexible else (skip_string, count)
    if version >= 2:
        pos = skip_text(body, pos)  # cluster_id
    if version >= 1:
        pos = skip(body, pos, 4)  # controller_id
    topics, pos = read_count(body, pos)
    for _ in range(topics):
        pos = skip_text(body, skip(body, pos, 2))  # error_code, name
        pos = skip(body, pos, (UUID_BYTES if version >= 10 else 0) + (version >= 1))  # topic_id, is_internal
        partitions, pos = read_count(body, pos)
        for _ in range(partitions):
            # error_code, partition_index, leader_id, leader_epoch; replica_nodes, isr_nodes, offline_replicas
            pos = skip(body, pos, 14 if version >= 7 else 10)
            for _ in range(3 if version >= 5 else 2):
                ids, pos = read_count(body, pos)
                pos = skip(body, pos, 4 * ids)
            if flexible:
                pos = skip_tags(body, pos)
        if version >= 8:
            pos = skip(body, pos, 4)  # topic_authorized_operations
        if flexible:
            pos = skip_tags(body, pos)
    if 8 <= version <= 10:
        pos = skip(body, pos, 4)  # cluster_authorized_operations
    if version >= 13:
        pos = skip(body, pos, 2)  # error_code
    return skip_tags(body, pos) if flexible else pos


def _find_coordinator(version: int, body: bytes, advertise: Advertise) -> tuple[bytes, int]:
    """Rewrite v0-3, which answer for one key."""
    flexible = version >= 3
    pos = skip(body, 0, 6 if version >= 1 else 2)  # throttle_time_ms, error_code
    if version >= 1:
        pos = skip_compact(body, pos) if flexible else skip_string(body, pos)  # error_message
    node, end = _coordinator(body, pos, advertise, flexible=flexible)
    return body[:pos] + node, end


def _find_coordinators(_version: int, body: bytes, advertise: Advertise) -> tuple[bytes, int]:
    """Rewrite v4-6, which answer for several keys."""
    keys, pos = compact_count(body, 4)  # behind throttle_time_ms
    parts = [body[:pos]]
    for _ in range(keys):
        begin = pos
        pos = skip_compact(body, pos)  # key
        node, end = _coordinator(body, pos, advertise, flexible=True)
        parts += (body[begin:pos], node)
        pos = skip_tags(body, skip_compact(body, skip(body, end, 2)))  # error_code, error_message
        parts.append(body[end:pos])
    return b"".join(parts), pos


def _coordinator(body: bytes, pos: int, advertise: Advertise, *, flexible: bool) -> tuple[bytes, int]:
    """Rewrite {node_id INT32, host, port INT32}, but for the -1, "", -1 that come with an error."""
    begin = pos
    node_id, pos = int32(body, pos)
    host_at = pos
    host, pos = compact_string(body, pos) if flexible else string(body, pos)
    port, pos = int32(body, pos)
    if node_id < 0 or not host:
        return body[begin:pos], pos
    host, port = _address(advertise, node_id, host, port)
    return body[begin:host_at] + (put_compact_string if flexible else put_string)(host) + INT32.pack(port), pos


def _describe_cluster(version: int, body: bytes, advertise: Advertise, *, blank_racks: bool) -> tuple[bytes, int]:
    pos = skip_compact(body, skip(body, 0, 6))  # throttle_time_ms, error_code, error_message
    if version >= 1:
        pos = skip(body, pos, 1)  # endpoint_type
    pos = skip(body, skip_compact(body, pos), 4)  # cluster_id, controller_id
    nodes, end = _nodes(body, pos, advertise, fenced=version >= 2, blank_racks=blank_racks)
    return body[:pos] + nodes, end


def _share_acknowledge(version: int, body: bytes, advertise: Advertise, *, blank_racks: bool) -> tuple[bytes, int]:
    pos = skip_compact(body, skip(body, 0, 6))  # throttle_time_ms, error_code, error_message
    if version >= 2:
        pos = skip(body, pos, 4)  # acquisition_lock_timeout_ms
    topics, pos = compact_count(body, pos)
    for _ in range(topics):
        partitions, pos = compact_count(body, skip(body, pos, UUID_BYTES))
        for _ in range(partitions):
            pos = skip_compact(body, skip(body, pos, 6))  # partition_index, error_code, error_message
            pos = skip_tags(body, skip(body, pos, 8))  # current_leader
            pos = skip_tags(body, pos)
        pos = skip_tags(body, pos)
    nodes, end = _nodes(body, pos, advertise, droppable=True, blank_racks=blank_racks)
    return body[:pos] + nodes, end


def _describe_quorum(body: bytes) -> tuple[bytes, int]:
    """Empty the listeners of each node of v2."""
    topics, pos = compact_count(body, skip_compact(body, skip(body, 0, 2)))  # error_code, error_message
    for _ in range(topics):
        partitions, pos = compact_count(body, skip_compact(body, pos))  # topic_name
        for _ in range(partitions):
            pos = skip_compact(body, skip(body, pos, 6))  # partition_index, error_code, error_message
            pos = skip(body, pos, 16)  # leader_id, leader_epoch, high_watermark
            for _ in range(2):  # current_voters, observers
                replicas, pos = compact_count(body, pos)
                for _ in range(replicas):
                    pos = skip_tags(body, skip(body, pos, _QUORUM_REPLICA_BYTES))
            pos = skip_tags(body, pos)
        pos = skip_tags(body, pos)
    nodes, pos = compact_count(body, pos)
    parts = [body[:pos]]
    for _ in range(nodes):
        begin, pos = pos, skip(body, pos, 4)  # node_id
        parts += (body[begin:pos], _EMPTY_ARRAY)
        listeners, pos = compact_count(body, pos)
        for _ in range(listeners):
            pos = skip_compact(body, skip_compact(body, pos))  # name, host
            pos = skip_tags(body, skip(body, pos, 2))  # port UINT16
        begin, pos = pos, skip_tags(body, pos)
        parts.append(body[begin:pos])
    return b"".join(parts), pos


def _produce(version: int, body: bytes, advertise: Advertise, *, blank_racks: bool) -> bytes:
    """Rewrite NodeEndpoints of v10-13, a tagged field behind everything else and seldom there."""
    topics, pos = compact_count(body, 0)
    for _ in range(topics):
        pos = skip(body, pos, UUID_BYTES) if version >= 13 else skip_compact(body, pos)  # topic_id or name
        partitions, pos = compact_count(body, pos)
        for _ in range(partitions):
            pos += _PRODUCE_PARTITION_BYTES
            if body.startswith(_PRODUCE_PARTITION_REST, pos):
                pos += len(_PRODUCE_PARTITION_REST)
                continue
            errors, pos = compact_count(body, pos)
            for _ in range(errors):
                pos = skip_tags(body, skip_compact(body, skip(body, pos, 4)))  # batch_index, message
            pos = skip_tags(body, skip_compact(body, pos))  # error_message
        pos = skip_tags(body, pos)
    pos = skip(body, pos, 4)  # throttle_time_ms
    fields, end = tags(body, pos)
    _at_end(body, end)
    kept = []
    for tag, value in fields:
        if tag != _NODE_ENDPOINTS_TAG:
            kept.append((tag, value))
            continue
        nodes, end = _nodes(value, 0, advertise, droppable=True, blank_racks=blank_racks)
        _at_end(value, end)
        if nodes != _EMPTY_ARRAY:  # a tagged field at its default is not written
            kept.append((tag, nodes))
    return body if kept == fields else body[:pos] + put_tags(kept)
