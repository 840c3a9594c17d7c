"""Frames and headers: where a body begins, and whole frames made from one.

Every frame is an INT32 size, a header and a body::

    request   size | api_key INT16 | api_version INT16 | correlation_id INT32 | client_id NULLABLE_STRING | tags?
    response  size | correlation_id INT32 | tags?

``tags`` are there from an API's first flexible version on (header v2 of requests, v1 of responses); an ApiVersions
answer never has them, and the client id is an INT16-length string even in header v2. A Metadata v9 request with
correlation id 5 of client "c", asking for all topics::

    >>> request(ApiKey.METADATA, 9, 5, "c", bytes.fromhex("00 01 00 00 00")).hex(" ")
    '00 00 00 11 00 03 00 09 00 00 00 05 00 01 63 00 00 01 00 00 00'
    >>> request_body_at(bytes.fromhex("0003 0009 00000005 0001 63 00 00 01 00 00 00"), 0, 17)
    12

Never here: how large a frame may be, or what becomes of it. Sources: KIP-482, RequestHeader.json, ResponseHeader.json.
"""

import struct

from kproxy.errors import Malformed, Short
from kproxy.wire.apis import is_flexible, response_header_flexible
from kproxy.wire.primitives import INT32, int16, nullable_string, put_string, skip_compact, skip_string, skip_tags

#: Bytes of the size prefix, which its own value does not count.
SIZE_BYTES = 4
#: Bytes of a request up to its client id's length, included: api_key, api_version, correlation_id, client_id length.
REQUEST_HEAD_BYTES = 10
#: Bytes of the shortest response header: the correlation id.
RESPONSE_HEAD_BYTES = 4

#: A request's head: api_key, api_version, correlation_id, client_id length (-1: null).
REQUEST_HEAD = struct.Struct(">hhih")
_REQUEST_START = struct.Struct(">hhi")
_FETCH_WAIT = struct.Struct(">ii")  # max_wait_ms, min_bytes

_TLS = (
    "the client speaks TLS, this listener speaks plain Kafka: set the client's security.protocol to PLAINTEXT or "
    "SASL_PLAINTEXT, or give the listener a certificate"
)
_HTTP = (
    "the client speaks HTTP, this is a Kafka listener and no web server: point Kafka clients at it, and browsers or "
    "health checks elsewhere"
)
_HTTP_STARTS = frozenset(
    (b"GET ", b"POST", b"HEAD", b"PUT ", b"HTTP", b"OPTI", b"DELE", b"PRI ", b"CONN", b"PATC"),
)


def request_body_at(data: bytes, pos: int, end: int) -> int:
    """Find the body of the request whose api_key is at ``pos``; its bytes end at ``end``.

    ``end`` is the frame's end or, while that is not there yet, the end of ``data``; never beyond it.
    Raises Short when the header does not end by ``end``, Malformed when it cannot be one, and Unsupported for an API
    that is not for clients.
    """
    if pos + REQUEST_HEAD_BYTES > end:
        raise Short("request header")
    key, version, _, client_id_bytes = REQUEST_HEAD.unpack_from(data, pos)
    body = pos + REQUEST_HEAD_BYTES
    if client_id_bytes > 0:
        body += client_id_bytes
    elif client_id_bytes < -1:
        raise Malformed(f"client id length {client_id_bytes}")
    if is_flexible(key, version):
        # Nobody sends tags here, but the protocol lets them.
        body = body + 1 if body < end and data[body] == 0 else skip_tags(data, body)
    if body > end:
        raise Short("request header")
    return body


def client_id(data: bytes, pos: int) -> str | None:
    """Read the client id of the request whose api_key is at ``pos``.

    Raises Short when it is not all there, Malformed when it is not a string.
    """
    return nullable_string(data, pos + REQUEST_HEAD_BYTES - 2)[0]


def client_id_bytes(data: bytes, pos: int, bytes_max: int) -> bytes:
    """Return the client id's beginning as it stands in the request whose api_key is at ``pos``, whatever that is."""
    *_, size = REQUEST_HEAD.unpack_from(data, pos)
    start = pos + REQUEST_HEAD_BYTES
    return data[start : start + min(max(size, 0), bytes_max)]


def produce_acks_at(data: bytes, pos: int, end: int | None = None) -> int:
    """Find ``acks`` of the Produce request whose api_key is at ``pos``; its bytes end at ``end`` (None: with ``data``).

    Raises Short when acks is not there by ``end``, Malformed when the header or the transactional id cannot be one.
    Takes 0.8 us: a caller on the data path remembers how a client's Produce requests begin (core.exchange).
    """
    if end is None:
        end = len(data)
    at = request_body_at(data, pos, end)
    version = REQUEST_HEAD.unpack_from(data, pos)[1]
    if version >= 9:
        at = skip_compact(data, at)
    elif version >= 3:
        at = skip_string(data, at)
    if at + 2 > end:
        raise Short("acks")
    return at


def produce_acks(data: bytes, pos: int, end: int | None = None) -> int:
    """Read ``acks`` of the Produce request whose api_key is at ``pos``; 0: the broker sends no answer.

    Arguments and errors as ``produce_acks_at``.
    """
    return int16(data, produce_acks_at(data, pos, end))[0]


def fetch_long_polls(data: bytes, pos: int, end: int) -> tuple[bool, int]:
    """Tell whether the Fetch request whose api_key is at ``pos`` may wait at the broker; its bytes end at ``end``.

    Returns that, and the position behind min_bytes, up to which it was read. A Fetch waits, for max_wait_ms at most,
    until there are min_bytes to send: with either at nought it is answered at once. Arguments and errors as
    ``request_body_at``: Short while min_bytes is not there by ``end``.
    """
    at = request_body_at(data, pos, end)
    if REQUEST_HEAD.unpack_from(data, pos)[1] < 15:
        at += INT32.size  # replica_id, which from v15 on is a tagged field (KIP-903)
    behind = at + _FETCH_WAIT.size
    if behind > end:
        raise Short("min_bytes")
    max_wait_ms, min_bytes = _FETCH_WAIT.unpack_from(data, at)
    return max_wait_ms > 0 and min_bytes > 0, behind


def response_body_at(data: bytes, pos: int, key: int, version: int) -> int:
    """Find the body of the response to ``key`` and ``version`` whose correlation id is at ``pos``.

    Raises Short when the header does not end within ``data``, Malformed when it cannot be one.
    """
    body = pos + RESPONSE_HEAD_BYTES
    if response_header_flexible(key, version):
        body = skip_tags(data, body)
    if body > len(data):
        raise Short("response header")
    return body


def request(key: int, version: int, correlation_id: int, client_id: str | None, body: bytes) -> bytes:
    """Make a whole request frame, size prefix included."""
    head = _REQUEST_START.pack(key, version, correlation_id) + put_string(client_id)
    if is_flexible(key, version):
        head += b"\x00"
    return INT32.pack(len(head) + len(body)) + head + body


def response(correlation_id: int, key: int, version: int, body: bytes) -> bytes:
    """Make a whole response frame to a request of ``key`` and ``version``, size prefix included."""
    head = INT32.pack(correlation_id)
    if response_header_flexible(key, version):
        head += b"\x00"
    return INT32.pack(len(head) + len(body)) + head + body


def describe_garbage(first_bytes: bytes) -> str | None:
    """Name the mistake when a connection's first bytes are no Kafka but TLS or HTTP; None: they are neither.

    Needs four bytes (two for TLS). Read as a size prefix they would be 369 MB and more, above any sane maximum.
    """
    if first_bytes[:2] == b"\x16\x03":  # a TLS record: handshake, version 3.x
        return _TLS
    if first_bytes[:4] in _HTTP_STARTS:
        return _HTTP
    return None
