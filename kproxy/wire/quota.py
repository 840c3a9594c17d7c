r"""Refuse a request because a quota is used up: whole answers that say THROTTLING_QUOTA_EXCEEDED, made from requests.

A client that gets error 89 waits for the answer's throttle time and asks again (KIP-599). Brokers say so to
CreateTopics from v6 on, DeleteTopics from v5 and CreatePartitions from v3; to older versions, whose clients do not
know the error, never. These answers have no error of their own, so each topic of the request comes back with it.
Produce is never refused so by a broker, and not every client retries it: it has a function of its own, for those who
ask for it. CreatePartitions v3, four partitions for topic "t", within a second, and what its client is told::

    >>> request_body = bytes.fromhex("02 0274 00000004 00 00 000003e8 00 00")
    >>> refuse(ApiKey.CREATE_PARTITIONS, 3, request_body, 500)
    b'\x00\x00\x01\xf4\x02\x02t\x00Y%the rate limit of kproxy is exceeded\x00\x00'

Never here: whether to refuse, or for how long. Names are copied as they are, records stepped over, never decoded.
Layouts: Kafka's message schemas.
"""

from typing import Final

from kproxy.errors import Malformed, Unsupported
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.primitives import (
    INT16,
    INT32,
    UUID_BYTES,
    array,
    compact_array,
    compact_count,
    compact_nullable_string,
    compact_string,
    count,
    put_compact_string,
    put_uvarint,
    skip,
    skip_compact,
    skip_string,
    skip_tags,
    string,
)

THROTTLING_QUOTA_EXCEEDED: Final = 89
#: What a client's log shows beside the error's name, which speaks of the broker's quota.
MESSAGE: Final = "the rate limit of kproxy is exceeded"

#: Every (key, version) that ``refuse`` answers, for a look-up in a hot loop; those that a broker refuses so.
REFUSABLE: frozenset[tuple[int, int]] = frozenset(
    (key, version)
    for key, since in ((ApiKey.CREATE_TOPICS, 6), (ApiKey.DELETE_TOPICS, 5), (ApiKey.CREATE_PARTITIONS, 3))
    for version in range(since, APIS[key].max_version + 1)
)

_ERROR = INT16.pack(THROTTLING_QUOTA_EXCEEDED)
_ERROR_AND_MESSAGE = _ERROR + put_compact_string(MESSAGE)
_NO_TAGS = b"\x00"
_NO_TOPIC_ID = bytes(UUID_BYTES)
# A topic that was not created: num_partitions -1, replication_factor -1, no configs, as the schema's defaults have it.
_NO_TOPIC = INT32.pack(-1) + INT16.pack(-1) + b"\x01"
_NO_OFFSET = b"\xff" * 8  # -1, as base offset, log append time or log start offset


def refusable(key: int, version: int) -> bool:
    """Whether a client of this version understands ``refuse``; Produce is not meant here."""
    return (key, version) in REFUSABLE


def refuse(key: int, version: int, request_body: bytes, throttle_time_ms: int) -> bytes:
    """Make the body that answers CreateTopics v6-7, DeleteTopics v5-6 or CreatePartitions v3 with error 89.

    Every topic of the request comes back, in order, with MESSAGE, as often as it was named. The client asks again
    when ``throttle_time_ms`` is over.

    Raises Malformed for a body that is not exactly one such request, Unsupported for any other API and version.
    """
    if (key, version) not in REFUSABLE:
        raise Unsupported(f"API key {key} v{version} is not refused for a quota")
    if key == ApiKey.CREATE_TOPICS:
        results, pos = _create_topics(version, request_body)
    elif key == ApiKey.DELETE_TOPICS:
        results, pos = _delete_topics(version, request_body)
    else:
        results, pos = _create_partitions(request_body)
    pos = skip(request_body, pos, 4 if key == ApiKey.DELETE_TOPICS else 5)  # timeout_ms, validate_only
    _at_end(request_body, skip_tags(request_body, pos))
    return INT32.pack(throttle_time_ms) + put_uvarint(len(results) + 1) + b"".join(results) + _NO_TAGS


def refuse_produce(version: int, request_body: bytes, throttle_time_ms: int) -> bytes:
    """Make the body that answers a Produce v0-13 request with error 89 for each of its partitions.

    v0 cannot say for how long. With acks=0 a client expects no answer: then it must get none (frames.produce_acks).
    Java sends the records again, until its delivery.timeout.ms; librdkafka and aiokafka drop them.

    Raises Malformed for a body that is not exactly one such request, Unsupported for any other version.
    """
    if not 0 <= version <= APIS[ApiKey.PRODUCE].max_version:
        raise Unsupported(f"Produce v{version}")
    if version >= 9:
        return _refuse_flexible_produce(version, request_body, throttle_time_ms)
    refusal = _ERROR + _NO_OFFSET * (3 if version >= 5 else 2 if version >= 2 else 1)
    if version >= 8:
        refusal += INT32.pack(0) + INT16.pack(-1)  # no record_errors, error_message null
    pos = skip_string(request_body, 0) if version >= 3 else 0  # transactional_id
    topics, pos = count(request_body, skip(request_body, pos, 6))  # acks, timeout_ms
    answer = [INT32.pack(topics)]
    for _ in range(topics):
        start, (_, pos) = pos, string(request_body, pos)
        partitions, pos = count(request_body, pos)
        answer.append(request_body[start:pos])
        for _ in range(partitions):
            start, pos = pos, skip(request_body, pos, 4)
            answer += (request_body[start:pos], refusal)
            record_bytes, pos = array(request_body, pos)  # as of BYTES, which -1 makes null, too
            pos = skip(request_body, pos, max(record_bytes, 0))
    _at_end(request_body, pos)
    if version >= 1:
        answer.append(INT32.pack(throttle_time_ms))
    return b"".join(answer)


def _refuse_flexible_produce(version: int, request_body: bytes, throttle_time_ms: int) -> bytes:
    refusal = _ERROR + _NO_OFFSET * 3 + b"\x01\x00" + _NO_TAGS  # no record_errors, error_message null
    pos = skip_compact(request_body, 0)  # transactional_id
    topics, pos = compact_count(request_body, skip(request_body, pos, 6))  # acks, timeout_ms
    answer = [put_uvarint(topics + 1)]
    for _ in range(topics):
        start = pos
        pos = skip(request_body, pos, UUID_BYTES) if version >= 13 else compact_string(request_body, pos)[1]
        partitions, pos = compact_count(request_body, pos)
        answer.append(request_body[start:pos])
        for _ in range(partitions):
            start, pos = pos, skip(request_body, pos, 4)
            answer += (request_body[start:pos], refusal)
            pos = skip_tags(request_body, skip_compact(request_body, pos))  # records
        pos = skip_tags(request_body, pos)
        answer.append(_NO_TAGS)
    _at_end(request_body, skip_tags(request_body, pos))
    answer += (INT32.pack(throttle_time_ms), _NO_TAGS)
    return b"".join(answer)


def _create_topics(version: int, body: bytes) -> tuple[list[bytes], int]:
    refusal = (_NO_TOPIC_ID if version >= 7 else b"") + _ERROR_AND_MESSAGE + _NO_TOPIC + _NO_TAGS
    results = []
    topics, pos = compact_count(body, 0)
    for _ in range(topics):
        start, (_, pos) = pos, compact_string(body, pos)
        results.append(body[start:pos] + refusal)
        assignments, pos = compact_count(body, skip(body, pos, 6))  # num_partitions, replication_factor
        for _ in range(assignments):
            broker_ids, pos = compact_count(body, skip(body, pos, 4))  # partition_index
            pos = skip_tags(body, skip(body, pos, 4 * broker_ids))
        configs, pos = compact_count(body, pos)
        for _ in range(configs):
            pos = skip_tags(body, skip_compact(body, skip_compact(body, pos)))  # name, value
        pos = skip_tags(body, pos)
    return results, pos


def _delete_topics(version: int, body: bytes) -> tuple[list[bytes], int]:
    """Echo what a topic was called by: its name, or from v6 on perhaps its id, the name then null."""
    refusal = _ERROR_AND_MESSAGE + _NO_TAGS
    results = []
    topics, pos = compact_count(body, 0)
    for _ in range(topics):
        start = pos
        if version >= 6:
            pos = skip(body, compact_nullable_string(body, pos)[1], UUID_BYTES)
        else:
            pos = compact_string(body, pos)[1]
        results.append(body[start:pos] + refusal)
        pos = skip_tags(body, pos) if version >= 6 else pos
    return results, pos


def _create_partitions(body: bytes) -> tuple[list[bytes], int]:
    refusal = _ERROR_AND_MESSAGE + _NO_TAGS
    results = []
    topics, pos = compact_count(body, 0)
    for _ in range(topics):
        start, (_, pos) = pos, compact_string(body, pos)
        results.append(body[start:pos] + refusal)
        assignments, pos = compact_array(body, skip(body, pos, 4))  # count; null: brokers are chosen for it
        for _ in range(assignments):
            broker_ids, pos = compact_count(body, pos)
            pos = skip_tags(body, skip(body, pos, 4 * broker_ids))
        pos = skip_tags(body, pos)
    return results, pos


def _at_end(body: bytes, pos: int) -> None:
    if pos != len(body):
        raise Malformed(f"{len(body) - pos} bytes behind the request")
