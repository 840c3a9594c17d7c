"""The proxy's own answers where one address serves all brokers: joined lists, and refusals.

ListGroups and ListTransactions tell what one broker coordinates, so every broker is asked and the answers become
one. DescribeLogDirs and AlterReplicaLogDirs mean one broker without naming it, so they are refused. All are bodies;
the elements of a list are copied as they are, never decoded.

Two ListGroups v0 answers, one group each, and what a client is given::

    >>> a = bytes.fromhex("0000 00000001 0001 61 0000")
    >>> b = bytes.fromhex("0000 00000001 0001 62 0000")
    >>> join_list_groups(0, [a, b]).hex(" ", 2)
    '0000 0000 0002 0001 6100 0000 0162 0000'
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from kproxy.errors import Malformed, Unsupported
from kproxy.wire import primitives
from kproxy.wire.primitives import INT16, INT32

COORDINATOR_NOT_AVAILABLE: Final = 15
ALTER_REPLICA_LOG_DIRS, DESCRIBE_LOG_DIRS = 34, 35


class _Listing(NamedTuple):
    """One broker's answer, cut: ``before`` the array, its ``total`` elements as they are, what comes ``after``."""

    throttle_time_ms: int
    error_code: int
    before: bytes
    total: int
    elements: bytes
    after: bytes


def join_list_groups(version: int, bodies: Sequence[bytes]) -> bytes:
    """Make one ListGroups answer, v0 to v5, of those of all brokers.

    A broker's answer with an error is left out, so that one broker that is starting does not hide the groups of the
    others; only if there is no other is the first error passed on (COORDINATOR_NOT_AVAILABLE, 15, if there is no
    answer at all). The throttle time is the longest, tags are the first's. A group told twice stays twice.
    """
    if not 0 <= version <= 5:
        raise Unsupported(f"ListGroups version {version}")
    flexible = version >= 3
    strings = 2 if version < 4 else version - 1  # group id, protocol type, state (v4+), type (v5+)

    def element(body: bytes, pos: int) -> int:
        for _ in range(strings):
            pos = primitives.skip_compact(body, pos) if flexible else primitives.skip_string(body, pos)
        return primitives.skip_tags(body, pos) if flexible else pos

    listings = [_cut(body, flexible, version >= 1, None, element) for body in bodies]
    return _join(listings, flexible, version >= 1, b"")


def join_list_transactions(version: int, bodies: Sequence[bytes]) -> bytes:
    """Make one ListTransactions answer, v0 to v2, of those of all brokers; errors, throttle time and tags as above.

    The state filters that a broker does not know are those of the first answer that counts.
    """
    if not 0 <= version <= 2:
        raise Unsupported(f"ListTransactions version {version}")

    def unknown_state_filters(body: bytes, pos: int) -> int:
        count, pos = primitives.compact_array(body, pos)
        for _ in range(count):
            pos = primitives.skip_compact(body, pos)
        return pos

    def element(body: bytes, pos: int) -> int:
        pos = primitives.skip_compact(body, pos)  # transactional id
        pos = primitives.skip(body, pos, 8)  # producer id
        pos = primitives.skip_compact(body, pos)  # state
        return primitives.skip_tags(body, pos)

    listings = [_cut(body, True, True, unknown_state_filters, element) for body in bodies]
    return _join(listings, True, True, b"\x01")


def _cut(
    body: bytes,
    flexible: bool,
    throttled: bool,
    skip_before: Callable[[bytes, int], int] | None,
    skip_element: Callable[[bytes, int], int],
) -> _Listing:
    throttle_time_ms, pos = primitives.int32(body, 0) if throttled else (0, 0)
    error_code, pos = primitives.int16(body, pos)
    start = pos
    if skip_before is not None:
        pos = skip_before(body, pos)
    before = body[start:pos]
    count, pos = primitives.compact_array(body, pos) if flexible else primitives.array(body, pos)
    start = pos
    for _ in range(count):
        pos = skip_element(body, pos)
    end = primitives.skip_tags(body, pos) if flexible else pos
    if end != len(body):
        raise Malformed("bytes behind the end of a listing")
    return _Listing(throttle_time_ms, error_code, before, max(count, 0), body[start:pos], body[pos:])


def _join(listings: list[_Listing], flexible: bool, throttled: bool, before: bytes) -> bytes:
    """Write one answer of many; ``before`` stands before the array if there is none to take it from."""
    nothing = _Listing(0, COORDINATOR_NOT_AVAILABLE, before, 0, b"", b"\x00" if flexible else b"")
    good = [listing for listing in listings if listing.error_code == 0] or listings[:1] or [nothing]
    count = sum(listing.total for listing in good)
    throttle_time_ms = max((listing.throttle_time_ms for listing in listings), default=0)
    return b"".join(
        (
            INT32.pack(throttle_time_ms) if throttled else b"",
            INT16.pack(good[0].error_code),
            good[0].before,
            _put_count(flexible, count),
            *(listing.elements for listing in good),
            good[0].after,
        )
    )


def refuse_log_dirs(key: int, version: int, request_body: bytes, error_code: int) -> bytes:
    """Answer DescribeLogDirs (35) v0 to v5 or AlterReplicaLogDirs (34) v0 to v2 with nothing but an error.

    Where an answer has no error of its own (DescribeLogDirs before v3, AlterReplicaLogDirs), it names what was asked
    for: one log dir without a name, or every partition of the request, each with the error.
    """
    if key == DESCRIBE_LOG_DIRS and 0 <= version <= 5:
        return _refuse_describe(version, error_code)
    if key == ALTER_REPLICA_LOG_DIRS and 0 <= version <= 2:
        return _refuse_alter(version >= 2, request_body, error_code)
    raise Unsupported(f"API key {key} version {version}")


def _refuse_describe(version: int, error_code: int) -> bytes:
    throttle, error = INT32.pack(0), INT16.pack(error_code)
    if version >= 3:
        return throttle + error + b"\x01\x00"
    flexible = version == 2
    log_dir = primitives.put_compact_string("") if flexible else primitives.put_string("")
    end = b"\x00" if flexible else b""
    return throttle + _put_count(flexible, 1) + error + log_dir + _put_count(flexible, 0) + end + end


def _refuse_alter(flexible: bool, request_body: bytes, error_code: int) -> bytes:
    """Echo every topic of every log dir; a topic named under two dirs gets two results."""
    error = INT16.pack(error_code) + (b"\x00" if flexible else b"")
    end = b"\x00" if flexible else b""
    results = []
    dirs, pos = _count(flexible, request_body, 0)
    for _ in range(dirs):
        pos = _skip_text(flexible, request_body, pos)  # path
        topics, pos = _count(flexible, request_body, pos)
        for _ in range(topics):
            start, pos = pos, _skip_text(flexible, request_body, pos)
            name = request_body[start:pos]
            count, pos = _count(flexible, request_body, pos)
            start, pos = pos, primitives.skip(request_body, pos, 4 * max(count, 0))
            partitions = (request_body[at : at + 4] + error for at in range(start, pos, 4))
            results.append(name + _put_count(flexible, max(count, 0)) + b"".join(partitions) + end)
            pos = primitives.skip_tags(request_body, pos) if flexible else pos
        pos = primitives.skip_tags(request_body, pos) if flexible else pos
    pos = primitives.skip_tags(request_body, pos) if flexible else pos
    if pos != len(request_body):
        raise Malformed("bytes behind the end of AlterReplicaLogDirs")
    return INT32.pack(0) + _put_count(flexible, len(results)) + b"".join(results) + end


def _count(flexible: bool, body: bytes, pos: int) -> tuple[int, int]:
    return primitives.compact_array(body, pos) if flexible else primitives.array(body, pos)


def _put_count(flexible: bool, count: int) -> bytes:
    return primitives.put_uvarint(count + 1) if flexible else INT32.pack(count)


def _skip_text(flexible: bool, body: bytes, pos: int) -> int:
    return primitives.skip_compact(body, pos) if flexible else primitives.skip_string(body, pos)
