"""Where a request must go when one address serves all brokers: what its first bytes say.

A broker answers for the partitions it leads and the groups and transactions it coordinates; which one is meant a
request tells by its first topic and partition, its group, its transactional id, a node id, or a Fetch session.
Nothing here knows a broker: a Route is what to look up. Only the beginning of a request is read, never a walk over
all its partitions (requests for several leaders are so rare that the client's own retry serves them).

A Heartbeat v0 of group g, correlation id 7, client id c (after the frame's size)::

    >>> frame = bytes.fromhex("000c 0000 00000007 0001 63 0001 67 00000001 0000")
    >>> route(12, 0, frame, 0, len(frame))
    Route(target=<Target.GROUP: 'group'>, end=14, name='g', topic_id=b'', partition=-1, number=-1)

Measured with CPython 3.11 (us per call): Produce and Fetch 1.1, Fetch in a session 0.7, Heartbeat 0.8, the walk by
shape 2.5 to 3.5, by key alone 0.4.
"""

import struct
from enum import Enum
from typing import Final, NamedTuple

from kproxy.errors import Malformed, Short, Unsupported
from kproxy.wire import primitives
from kproxy.wire.apis import APIS, ApiKey, is_flexible
from kproxy.wire.primitives import INT16, INT32, UUID_BYTES


class Target(Enum):
    """What a request is about, and so who must be asked."""

    LEADER_NAME = "leader-name"  # the leader of partition ``partition`` of topic ``name``
    LEADER_ID = "leader-id"  # the same, the topic told by ``topic_id``
    GROUP = "group"  # the coordinator of group ``name``
    TXN = "txn"  # the coordinator of transactional id ``name``
    NODE = "node"  # the broker with node id ``number``
    FETCH_SESSION = "fetch-session"  # the broker that gave out Fetch session ``number`` (KIP-227)
    SHARE_SESSION = "share-session"  # the upstream of this connection's last share request (KIP-932)
    STICKY = "sticky"  # the same broker for the whole connection: telemetry (KIP-714)
    ALL = "all"  # every broker, the answers joined
    REFUSE = "refuse"  # no broker: the request cannot say which one it means
    ANY = "any"  # any broker


class Route(NamedTuple):
    """What to look up. ``end``: the position just behind the last byte that was looked at.

    Two requests of one connection whose bytes up to ``end`` differ in nothing but the correlation id have the same
    route. Fields that the target does not use hold their default.
    """

    target: Target
    end: int
    name: str = ""
    topic_id: bytes = b""
    partition: int = -1
    number: int = -1


class _Shape(NamedTuple):
    """How a request begins, up to the field that decides, from version ``since`` on.

    In this order: ``strings`` strings, an array if ``array`` (its first element is what counts; none: any broker),
    ``size`` bytes, then what ``goal`` is told by.
    """

    since: int
    goal: Target
    strings: int = 0
    array: bool = False
    size: int = 0


_PRODUCE, _FETCH = ApiKey.PRODUCE.value, ApiKey.FETCH.value
_HEADER_BYTES = 8  # key, version, correlation id; then come the client id and, if flexible, tags
_HEAD_BYTES = 1024  # nearly always enough to tell, and cheap to copy
_PREFIX_BYTES_MAX = 128 * 1024  # more than any two strings of STRING's largest size, 32,767 bytes
_unpack_int16, _unpack_int32 = INT16.unpack_from, INT32.unpack_from

_NAME, _ID, _GROUP, _TXN, _NODE = Target.LEADER_NAME, Target.LEADER_ID, Target.GROUP, Target.TXN, Target.NODE
_SESSION, _SHARE, _ANY = Target.FETCH_SESSION, Target.SHARE_SESSION, Target.ANY

# Requests whose key alone decides, whatever their version: nothing else of them is read.
_BY_KEY: Final[dict[int, Target]] = {
    # Metadata, FindCoordinator, SASL, ApiVersions, topics, ACLs, tokens, quotas: any broker knows, or forwards.
    **dict.fromkeys((3, 10, 17, 18, 19, 20, 29, 30, 31, 36, 37, 38, 39, 40, 41, 43, 45, 46, 48, 49, 50, 51), _ANY),
    **dict.fromkeys((55, 57, 60, 64, 74, 75, 80, 81), _ANY),
    ApiKey.LIST_GROUPS: Target.ALL,
    ApiKey.LIST_TRANSACTIONS: Target.ALL,
    ApiKey.ALTER_REPLICA_LOG_DIRS: Target.REFUSE,
    ApiKey.DESCRIBE_LOG_DIRS: Target.REFUSE,
    ApiKey.GET_TELEMETRY_SUBSCRIPTIONS: Target.STICKY,
    ApiKey.PUSH_TELEMETRY: Target.STICKY,
}

_GROUP_FIRST = _Shape(0, _GROUP)
_GROUP_ID = (_GROUP_FIRST,)
_GROUP_IDS = (_Shape(0, _GROUP, array=True),)
_RESOURCES = (_Shape(0, _NODE, array=True),)

# Kafka: clients/src/main/resources/common/message/*Request.json.
_SHAPES: Final[dict[int, tuple[_Shape, ...]]] = {
    _PRODUCE: (_Shape(0, _NAME, size=6), _Shape(3, _NAME, 1, size=6), _Shape(13, _ID, 1, size=6)),
    _FETCH: (  # up to the session id where there is one (v7+), else up to the topics
        _Shape(0, _NAME, size=12),
        _Shape(3, _NAME, size=16),
        _Shape(4, _NAME, size=17),
        _Shape(7, _SESSION, size=17),
        _Shape(15, _SESSION, size=13),
    ),
    ApiKey.LIST_OFFSETS: (_Shape(0, _NAME, size=4), _Shape(2, _NAME, size=5)),
    ApiKey.OFFSET_COMMIT: _GROUP_ID,
    ApiKey.OFFSET_FETCH: (_GROUP_FIRST, _Shape(8, _GROUP, array=True)),
    ApiKey.JOIN_GROUP: _GROUP_ID,
    ApiKey.HEARTBEAT: _GROUP_ID,
    ApiKey.LEAVE_GROUP: _GROUP_ID,
    ApiKey.SYNC_GROUP: _GROUP_ID,
    ApiKey.DESCRIBE_GROUPS: _GROUP_IDS,
    ApiKey.DELETE_RECORDS: (_Shape(0, _NAME),),
    ApiKey.INIT_PRODUCER_ID: (_Shape(0, _TXN),),
    ApiKey.OFFSET_FOR_LEADER_EPOCH: (_Shape(0, _NAME), _Shape(3, _NAME, size=4)),
    ApiKey.ADD_PARTITIONS_TO_TXN: (_Shape(0, _TXN), _Shape(4, _TXN, array=True)),
    ApiKey.ADD_OFFSETS_TO_TXN: (_Shape(0, _TXN),),
    ApiKey.END_TXN: (_Shape(0, _TXN),),
    ApiKey.TXN_OFFSET_COMMIT: (_Shape(0, _GROUP, 1),),
    ApiKey.DESCRIBE_CONFIGS: _RESOURCES,
    ApiKey.ALTER_CONFIGS: _RESOURCES,
    ApiKey.INCREMENTAL_ALTER_CONFIGS: _RESOURCES,
    ApiKey.DELETE_GROUPS: _GROUP_IDS,
    ApiKey.OFFSET_DELETE: _GROUP_ID,
    ApiKey.DESCRIBE_PRODUCERS: (_Shape(0, _NAME),),
    ApiKey.DESCRIBE_TRANSACTIONS: (_Shape(0, _TXN, array=True),),
    ApiKey.CONSUMER_GROUP_HEARTBEAT: _GROUP_ID,
    ApiKey.CONSUMER_GROUP_DESCRIBE: _GROUP_IDS,
    ApiKey.SHARE_GROUP_HEARTBEAT: _GROUP_ID,
    ApiKey.SHARE_GROUP_DESCRIBE: _GROUP_IDS,
    ApiKey.SHARE_FETCH: (_Shape(0, _SHARE, 2, size=16), _Shape(1, _SHARE, 2, size=24), _Shape(2, _SHARE, 2, size=26)),
    ApiKey.SHARE_ACKNOWLEDGE: (_Shape(0, _SHARE, 2, size=4), _Shape(2, _SHARE, 2, size=5)),
    ApiKey.STREAMS_GROUP_HEARTBEAT: _GROUP_ID,
    ApiKey.STREAMS_GROUP_DESCRIBE: _GROUP_IDS,
    ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS: _GROUP_IDS,
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: _GROUP_ID,
    ApiKey.DELETE_SHARE_GROUP_OFFSETS: _GROUP_ID,
}

# (API key, version) -> whether it is flexible, its shape.
_BY_VERSION: Final[dict[tuple[int, int], tuple[bool, _Shape]]] = {
    (key, version): (is_flexible(key, version), max(shape for shape in shapes if shape.since <= version))
    for key, shapes in _SHAPES.items()
    for version in range(APIS[key].max_version + 1)
}


def route(key: int, version: int, data: bytes, pos: int, end: int) -> Route:
    """Tell where the request whose header begins at ``pos`` (its api_key) must go.

    ``end``: where the bytes at hand end, or the request's frame if that comes first. Raises Short where more of the
    frame is needed to tell (with the whole frame at hand: it is malformed), Malformed where the bytes cannot be such
    a request or do not tell within 128 KiB, Unsupported for an API that is not for clients or an unknown version.
    A null or an empty array where there should be a name goes to any broker, which knows what to answer.
    """
    target = _BY_KEY.get(key)
    if target is not None:
        if pos + 4 > end:
            raise Short("request header")
        return Route(target, pos + 4)
    found = _BY_VERSION.get((key, version))
    if found is None:
        raise Unsupported(f"API key {key} version {version}")
    flexible, shape = found
    quick = None
    try:
        if shape is _GROUP_FIRST:
            quick = _quick_group(flexible, data, _quick_body(flexible, data, pos, end), end)
        elif key <= _FETCH:
            quick = _quick_partition(key, version, data, _quick_body(flexible, data, pos, end), end)
    except (IndexError, struct.error, UnicodeDecodeError):
        quick = None
    if quick is not None:
        return quick
    head = data[pos : min(end, pos + _HEAD_BYTES)]
    try:
        return _walk(version, flexible, shape, head, pos)
    except Short:
        if end - pos <= _HEAD_BYTES:
            raise
    try:
        return _walk(version, flexible, shape, data[pos : min(end, pos + _PREFIX_BYTES_MAX)], pos)
    except Short:
        if end - pos < _PREFIX_BYTES_MAX:
            raise
        raise Malformed("a request does not tell where it must go") from None


def _walk(version: int, flexible: bool, shape: _Shape, head: bytes, base: int) -> Route:
    """Read any request by its shape; ``head`` begins with the header, at ``base`` of the caller's bytes."""
    nullable = primitives.compact_nullable_string if flexible else primitives.nullable_string
    pos = primitives.skip(head, 0, _HEADER_BYTES)
    pos = primitives.skip_string(head, pos)
    if flexible:
        pos = primitives.skip_tags(head, pos)
    for _ in range(shape.strings):
        pos = primitives.skip_compact(head, pos) if flexible else primitives.skip_string(head, pos)
    if shape.array:
        count, pos = _count(flexible, head, pos)
        if count < 1:
            return Route(_ANY, base + pos)
    pos = primitives.skip(head, pos, shape.size)

    if shape.goal is _GROUP or shape.goal is _TXN:
        name, pos = nullable(head, pos)
        return Route(_ANY, base + pos) if name is None else Route(shape.goal, base + pos, name)
    if shape.goal is _NODE:
        resource_type, pos = primitives.int8(head, pos)
        name, pos = nullable(head, pos)
        node_id = _node_id(resource_type, name)
        return Route(_ANY, base + pos) if node_id is None else Route(_NODE, base + pos, number=node_id)
    by_id = shape.goal in (_SHARE, _ID)
    if shape.goal is _SESSION:
        session_id, pos = primitives.int32(head, pos)
        if session_id != 0:
            return Route(_SESSION, base + pos, number=session_id)
        pos = primitives.skip(head, pos, 4)  # session epoch
        by_id = version >= 13
    name, topic_id, partition, pos = _first_partition(by_id, flexible, head, pos)
    if partition is None:
        return Route(_SHARE if shape.goal is _SHARE else _ANY, base + pos)
    return Route(_ID if by_id else _NAME, base + pos, name, topic_id, partition)


def _first_partition(by_id: bool, flexible: bool, head: bytes, pos: int) -> tuple[str, bytes, int | None, int]:
    """Read the first topic's name or id, its first partition (None: there is no such), and where they end."""
    name, topic_id = "", b""
    count, pos = _count(flexible, head, pos)
    if count < 1:
        return name, topic_id, None, pos
    if by_id:
        start, pos = pos, primitives.skip(head, pos, UUID_BYTES)
        topic_id = bytes(head[start:pos])
    else:
        name, pos = (primitives.compact_string if flexible else primitives.string)(head, pos)
    count, pos = _count(flexible, head, pos)
    if count < 1:
        return name, topic_id, None, pos
    partition, pos = primitives.int32(head, pos)
    return name, topic_id, partition, pos


def _count(flexible: bool, head: bytes, pos: int) -> tuple[int, int]:
    return primitives.compact_array(head, pos) if flexible else primitives.array(head, pos)


def _node_id(resource_type: int, name: str | None) -> int | None:
    """The node that a config resource names: BROKER (4; the empty name means all) or BROKER_LOGGER (8)."""
    if resource_type not in (4, 8) or not name or not (name.isascii() and name.isdigit() and len(name) <= 10):
        return None
    node_id = int(name)
    return node_id if node_id <= 0x7FFFFFFF else None


# The data path: the common case of the walk above without its calls. Whatever is not common (null, a length of two
# bytes, header tags, bytes that end) is left to the walk, by None or by an error that route() catches.


def _quick_body(flexible: bool, data: bytes, pos: int, end: int) -> int:
    """Tell where the body begins; ``end``, from where nothing more can be read, if the header is not a common one."""
    client_id_bytes = data[pos + 8] << 8 | data[pos + 9]
    pos += 10
    if client_id_bytes <= 0x7FFF:
        pos += client_id_bytes
    elif client_id_bytes != 0xFFFF:
        return end
    if not flexible:
        return pos
    return pos + 1 if data[pos] == 0 else end


def _quick_group(flexible: bool, data: bytes, pos: int, end: int) -> Route | None:
    """Route a request that begins with its group id: Heartbeat, OffsetCommit, JoinGroup, ..."""
    if flexible:
        size = data[pos] - 1
        start = pos + 1
    else:
        (size,) = _unpack_int16(data, pos)
        start = pos + 2
    if not 0 <= size < 0x7F or start + size > end:
        return None
    return Route(_GROUP, start + size, data[start : start + size].decode())


def _quick_partition(key: int, version: int, data: bytes, pos: int, end: int) -> Route | None:
    """Route a Produce from v3 or a Fetch from v7: 1.1 us where the walk takes 4."""
    if key == _FETCH:
        if version < 7:
            return None
        pos += 17 if version < 15 else 13
        (session_id,) = _unpack_int32(data, pos)
        if session_id != 0:
            return None if pos + 4 > end else Route(_SESSION, pos + 4, "", b"", -1, session_id)
        return _quick_compact(version >= 13, data, pos + 8, end) if version >= 12 else _quick_plain(data, pos + 8, end)
    if version >= 9:
        size = data[pos]  # transactional id; behind it acks and timeout
        return None if size > 0x7F else _quick_compact(version >= 13, data, pos + 6 + (size or 1), end)
    (size,) = _unpack_int16(data, pos)
    if version < 3 or size < -1:
        return None
    return _quick_plain(data, pos + 8 + max(size, 0), end)


def _quick_compact(by_id: bool, data: bytes, pos: int, end: int) -> Route | None:
    """Read the first topic and partition of a flexible version, ``pos`` being at the topics' count."""
    size = 17 if by_id else data[pos + 1]  # of the name and its length, or of the id and the count before it
    start = pos + 1 if by_id else pos + 2
    at = start + size - 1
    if not (1 < data[pos] < 0x80 and 0 < size < 0x80 and 1 < data[at] < 0x80):
        return None
    (partition,) = _unpack_int32(data, at + 1)
    if at + 5 > end:
        return None
    if by_id:
        return Route(_ID, at + 5, "", data[start:at], partition)
    return Route(_NAME, at + 5, data[start:at].decode(), b"", partition)


def _quick_plain(data: bytes, pos: int, end: int) -> Route | None:
    """Read the first topic and partition of a version that is not flexible."""
    (topics,) = _unpack_int32(data, pos)
    (size,) = _unpack_int16(data, pos + 4)
    if topics < 1 or size < 0:
        return None
    start = pos + 6
    at = start + size
    (partitions,) = _unpack_int32(data, at)
    (partition,) = _unpack_int32(data, at + 4)
    if partitions < 1 or at + 8 > end:
        return None
    return Route(_NAME, at + 8, data[start:at].decode(), b"", partition)


def blank_fetch_rack(version: int, frame: bytes) -> bytes:
    """Overwrite the RackId of a whole Fetch request (size prefix included) by as many NUL bytes, v11 to v15.

    So no broker sends the consumer to a follower (KIP-392), which it could not reach through one address. The frame
    itself is returned where there is no rack, which its last two bytes tell: a walk over all partitions is only for
    the few that have one. (Tags that no consumer sends can end in the same two bytes; then the rack stays.)
    """
    flexible = version >= 12
    if not 11 <= version <= APIS[_FETCH].max_version or frame.endswith(b"\x01\x00" if flexible else b"\x00\x00"):
        return frame
    pos = primitives.skip_string(frame, primitives.skip(frame, 0, 4 + _HEADER_BYTES))
    if flexible:
        pos = primitives.skip_tags(frame, pos)
    pos = primitives.skip(frame, pos, 25 if version < 15 else 21)  # up to the session's epoch
    count, pos = _count(flexible, frame, pos)
    for _ in range(count):
        pos = _skip_topic(version, frame, pos)
        partitions, pos = _count(flexible, frame, pos)
        pos = _skip_partitions(flexible, frame, pos, partitions)
    count, pos = _count(flexible, frame, pos)
    for _ in range(count):  # forgotten topics
        pos = _skip_topic(version, frame, pos)
        partitions, pos = _count(flexible, frame, pos)
        pos = primitives.skip(frame, pos, 4 * max(partitions, 0))
        pos = primitives.skip_tags(frame, pos) if flexible else pos
    size, pos = primitives.compact_array(frame, pos) if flexible else primitives.int16(frame, pos)
    if size < 1:
        return frame
    end = primitives.skip(frame, pos, size)
    return frame[:pos] + bytes(size) + frame[end:]


def _skip_topic(version: int, frame: bytes, pos: int) -> int:
    if version >= 13:
        return primitives.skip(frame, pos, UUID_BYTES)
    return primitives.skip_compact(frame, pos) if version == 12 else primitives.skip_string(frame, pos)


def _skip_partitions(flexible: bool, frame: bytes, pos: int, count: int) -> int:
    """Step over the partitions of a topic and the topic's own tags."""
    if not flexible:
        return primitives.skip(frame, pos, 28 * max(count, 0))
    for _ in range(count):
        pos = primitives.skip_tags(frame, primitives.skip(frame, pos, 32))
    return primitives.skip_tags(frame, pos)
