"""Where an answer says how long its client must pause: throttle_time_ms, found so that it can be raised in place.

A client that reads it sends nothing more on that connection until the time is over (KIP-219). It is an INT32 in every
version that has it, so raising it changes no size. In nearly all answers it is the body's first field, and the
answer's beginning is enough; in Produce, OffsetDelete and the delegation tokens' it stands behind others. A Heartbeat
v4 answer, correlation id 7, without an error, is told to wait for half a second::

    >>> frame = bytes.fromhex("0000000b 00000007 00 00000000 0000 00")
    >>> at = throttle_at(ApiKey.HEARTBEAT, 4, frame, 0, len(frame))
    >>> at, patch(frame, at, 500)[at:].hex(" ")
    (9, '00 00 01 f4 00 00 00')

Never here: how long anybody must wait, or a time made shorter than the broker said. Nor ApiVersions, whose field
stands behind the whole table: a client that is only getting to know us has nothing to slow down yet. Positions:
Kafka's message schemas, which KIP-219 left as they were.
"""

from collections.abc import Callable
from typing import Final

from kproxy.errors import Malformed, Short, Unsupported
from kproxy.wire import frames
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.frames import SIZE_BYTES
from kproxy.wire.primitives import (
    INT32,
    UUID_BYTES,
    compact_count,
    count,
    int32,
    skip,
    skip_compact,
    skip_string,
    skip_tags,
)

#: At most this much of an answer is asked for to find a field that comes first: a correlation id, and tags, of which
#: Kafka has none so far.
HEADER_BYTES_MAX: Final = 4096

# The first version with the field, where that is not v0.
_SINCE: dict[int, int] = {
    ApiKey.PRODUCE: 1,
    ApiKey.FETCH: 1,
    ApiKey.LIST_OFFSETS: 2,
    ApiKey.METADATA: 3,
    ApiKey.OFFSET_COMMIT: 3,
    ApiKey.OFFSET_FETCH: 3,
    ApiKey.FIND_COORDINATOR: 1,
    ApiKey.JOIN_GROUP: 2,
    ApiKey.HEARTBEAT: 1,
    ApiKey.LEAVE_GROUP: 1,
    ApiKey.SYNC_GROUP: 1,
    ApiKey.DESCRIBE_GROUPS: 1,
    ApiKey.LIST_GROUPS: 1,
    ApiKey.CREATE_TOPICS: 2,
    ApiKey.DELETE_TOPICS: 1,
    ApiKey.OFFSET_FOR_LEADER_EPOCH: 2,
}
_WITHOUT = (ApiKey.SASL_HANDSHAKE, ApiKey.API_VERSIONS, ApiKey.SASL_AUTHENTICATE, ApiKey.DESCRIBE_QUORUM)

#: Every (key, version) whose answer has the field, for a look-up in a hot loop.
CARRYING: frozenset[tuple[int, int]] = frozenset(
    (api.key, version)
    for api in APIS.values()
    if api.key not in _WITHOUT
    for version in range(_SINCE.get(api.key, 0), api.max_version + 1)
)

# A Produce partition of v9 on: index INT32, error INT16, three INT64; mostly no record errors, no message, no tags.
_PARTITION_BYTES = 4 + 2 + 3 * 8
_PARTITION_REST = b"\x01\x00\x00"
_USUAL_PARTITION_BYTES = _PARTITION_BYTES + len(_PARTITION_REST)


def carries(key: int, version: int) -> bool:
    """Whether the answer to this request has throttle_time_ms; never for a request that kproxy does not know."""
    return (key, version) in CARRYING


def is_first(key: int, version: int) -> bool:
    """Whether throttle_time_ms is there and the body's first field, so that the answer's beginning tells where."""
    return (key, version) in FIRST


def throttle_at(key: int, version: int, frame: bytes, pos: int, end: int) -> int:
    """Find throttle_time_ms in the answer whose size prefix is at ``pos`` of ``frame`` and which ends at ``end``.

    Returns the position in ``frame`` of the INT32, all of which is there. Where it is not first, the answer is walked
    to its end, whatever comes behind it in ``frame``. Takes 0.6 us where it is first and for a usual Produce answer,
    1.2 us for one below v9, and 3 us for one with tags.

    Raises Short where more is needed: HEADER_BYTES_MAX of it at most where it is first, else all of it. Raises
    Malformed where it cannot be an answer to ``key`` and ``version``, and Unsupported where that has no such field.
    """
    if (key, version) in FIRST:
        return _first(key, version, frame, pos, end)
    if (key, version) not in CARRYING:
        raise Unsupported(f"an answer to API key {key} v{version} has no throttle time")
    if end > len(frame):
        raise Short("answer")
    if key == ApiKey.PRODUCE and version >= 9:
        at = _usual_produce(version, frame, pos, end)
        if at:
            return at
    try:
        body = frames.response_body_at(frame, pos + SIZE_BYTES, key, version)
        at, behind = _WALKS[key](version, frame, body)
    except Short as short:
        raise Malformed(f"the answer ends before its {short}") from None
    if behind != end:
        raise Malformed(f"the answer ends after {behind - pos} bytes and not {end - pos}")
    return at


def patch(data: bytes, at: int, at_least_ms: int) -> bytes:
    """Raise the INT32 at ``at`` to ``at_least_ms``; return ``data`` itself if it is not below that.

    ``at_least_ms``: 0 to 2**31 - 1 milliseconds. Raises Short if the INT32 is not all there.
    """
    now_ms, behind = int32(data, at)
    return data if now_ms >= at_least_ms else data[:at] + INT32.pack(at_least_ms) + data[behind:]


def _first(key: int, version: int, frame: bytes, pos: int, end: int) -> int:
    try:
        at = frames.response_body_at(frame, pos + SIZE_BYTES, key, version)
        behind = skip(frame, at, INT32.size)
    except Short:
        if end > len(frame) and len(frame) - pos <= HEADER_BYTES_MAX:
            raise
        raise Malformed("the answer has no throttle time where it must begin") from None
    if behind > end:
        raise Malformed("the answer ends before its throttle time")
    return at


def _usual_produce(version: int, frame: bytes, pos: int, end: int) -> int:
    """Find the field where v9 to v13 answers for one topic, with no option used; 0: the answer must be walked.

    Its parts then have one place each, and all are looked at: no other answer passes for one.
    """
    if end - pos < 18 or frame[pos + 8] or frame[pos + 9] != 2:  # size, correlation id; no tags; one topic
        return 0
    name_bytes = UUID_BYTES if version >= 13 else frame[pos + 10]  # with its length + 1, where that takes one byte
    at = pos + 10 + name_bytes
    throttle = end - 5
    if name_bytes >= 0x80 or at >= throttle or frame[at] >= 0x80:
        return 0
    first = at + 1
    if first + _USUAL_PARTITION_BYTES * (frame[at] - 1) + 1 != throttle:
        return 0
    for rest in range(first + _PARTITION_BYTES, throttle - 1, _USUAL_PARTITION_BYTES):
        if not frame.startswith(_PARTITION_REST, rest):
            return 0
    return 0 if frame[throttle - 1] or frame[end - 1] else throttle  # no tags of the topic, nor of the answer


# Walks: from the body on, the place of the field and the answer's end.


def _produce(version: int, frame: bytes, pos: int) -> tuple[int, int]:
    if version >= 9:
        return _flexible_produce(version, frame, pos)
    partition_bytes = 30 if version >= 5 else 22 if version >= 2 else 14
    topics, pos = count(frame, pos)
    for _ in range(topics):
        partitions, pos = count(frame, skip_string(frame, pos))  # name
        if version < 8:
            pos = skip(frame, pos, partition_bytes * partitions)
            continue
        for _ in range(partitions):
            errors, pos = count(frame, skip(frame, pos, partition_bytes))
            for _ in range(errors):
                pos = skip_string(frame, skip(frame, pos, 4))  # batch_index, message
            pos = skip_string(frame, pos)  # error_message
    return pos, skip(frame, pos, 4)


def _flexible_produce(version: int, frame: bytes, pos: int) -> tuple[int, int]:
    topics, pos = compact_count(frame, pos)
    for _ in range(topics):
        pos = skip(frame, pos, UUID_BYTES) if version >= 13 else skip_compact(frame, pos)  # topic_id or name
        partitions, pos = compact_count(frame, pos)
        for _ in range(partitions):
            pos += _PARTITION_BYTES
            if frame.startswith(_PARTITION_REST, pos):
                pos += len(_PARTITION_REST)
                continue
            errors, pos = compact_count(frame, pos)
            for _ in range(errors):
                pos = skip_tags(frame, skip_compact(frame, skip(frame, pos, 4)))  # batch_index, message
            pos = skip_tags(frame, skip_compact(frame, pos))  # error_message
        pos = skip_tags(frame, pos)
    return pos, skip_tags(frame, skip(frame, pos, 4))


def _offset_delete(_version: int, frame: bytes, pos: int) -> tuple[int, int]:
    at = skip(frame, pos, 2)  # error_code
    topics, pos = count(frame, skip(frame, at, 4))
    for _ in range(topics):
        partitions, pos = count(frame, skip_string(frame, pos))  # name
        pos = skip(frame, pos, 6 * partitions)  # partition_index, error_code
    return at, pos


def _create_delegation_token(version: int, frame: bytes, pos: int) -> tuple[int, int]:
    at = _skip_token(version, frame, skip(frame, pos, 2))  # error_code
    return at, _skip_end(version, frame, skip(frame, at, 4))


def _changed_delegation_token(version: int, frame: bytes, pos: int) -> tuple[int, int]:
    at = skip(frame, pos, 10)  # error_code, expiry_timestamp_ms
    return at, _skip_end(version, frame, skip(frame, at, 4))


def _describe_delegation_token(version: int, frame: bytes, pos: int) -> tuple[int, int]:
    flexible = version >= 2
    read_count, skip_text = (compact_count, skip_compact) if flexible else (count, skip_string)
    tokens, at = read_count(frame, skip(frame, pos, 2))  # error_code
    for _ in range(tokens):
        renewers, at = read_count(frame, _skip_token(version, frame, at))
        for _ in range(renewers):
            at = _skip_end(version, frame, skip_text(frame, skip_text(frame, at)))  # principal_type, principal_name
        at = _skip_end(version, frame, at)
    return at, _skip_end(version, frame, skip(frame, at, 4))


def _skip_token(version: int, frame: bytes, pos: int) -> int:
    """Step over a token's owner, requester (v3), three timestamps, token_id and hmac."""
    skip_text = skip_compact if version >= 2 else skip_string
    for _ in range(4 if version >= 3 else 2):
        pos = skip_text(frame, pos)
    pos = skip_text(frame, skip(frame, pos, 24))
    if version >= 2:
        return skip_compact(frame, pos)
    hmac_bytes, pos = count(frame, pos)
    return skip(frame, pos, hmac_bytes)


def _skip_end(version: int, frame: bytes, pos: int) -> int:
    """Step over what ends a struct of the delegation tokens' answers: tags from v2 on."""
    return skip_tags(frame, pos) if version >= 2 else pos


_WALKS: dict[int, Callable[[int, bytes, int], tuple[int, int]]] = {
    ApiKey.PRODUCE: _produce,
    ApiKey.OFFSET_DELETE: _offset_delete,
    ApiKey.CREATE_DELEGATION_TOKEN: _create_delegation_token,
    ApiKey.RENEW_DELEGATION_TOKEN: _changed_delegation_token,
    ApiKey.EXPIRE_DELEGATION_TOKEN: _changed_delegation_token,
    ApiKey.DESCRIBE_DELEGATION_TOKEN: _describe_delegation_token,
}

#: Every (key, version) whose answer begins with the field, for a look-up in a hot loop.
FIRST: frozenset[tuple[int, int]] = frozenset(each for each in CARRYING if each[0] not in _WALKS)
