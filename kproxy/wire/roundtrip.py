r"""One record there and back: what ``kproxy doctor`` sends to a scratch topic and fetches again, as bodies.

The only records that kproxy ever writes, or looks into, are its own; what clients send is never decoded. Produce is
written in v3 to v12 (v10 is the first whose answer may name brokers, KIP-951), Fetch in v4: Kafka 0.11 to 4.3 have
them. A batch (magic 2) of one record without key and headers, 1 ms after 1970, ends so::

    >>> one_record(b"hi", 1)[-11:].hex(" ")     # one record: 8 bytes, no key, 2 bytes of value, no headers
    '00 00 01 10 00 00 00 01 04 68 69 00'
"""

from typing import Final, NamedTuple

from kproxy.errors import Short
from kproxy.wire.primitives import (
    INT16,
    INT32,
    INT64,
    array,
    compact_count,
    count,
    int16,
    int32,
    int64,
    put_compact_string,
    put_string,
    put_uvarint,
    skip,
    skip_compact,
    skip_string,
)

PRODUCE_VERSION: Final = 3
PRODUCE_VERSION_ENDPOINTS: Final = 10
PRODUCE_VERSION_MAX: Final = 12
"""From v13 on a topic is named by its id."""
FETCH_VERSION: Final = 4

_HEAD_BYTES = 12  # base offset, length: what a batch's length does not count
_ATTRIBUTES_AT = 21
_CODEC_BITS = 0x07
LOG_APPEND_TIME: Final = 0x08
"""Of a batch's attributes: its time is the broker's."""
_NO_PRODUCER = INT64.pack(-1) + INT16.pack(-1) + INT32.pack(-1)  # id, epoch, sequence


class Produced(NamedTuple):
    """What became of the record; ``log_append_time_ms``: the broker's clock, -1 where the topic keeps the client's."""

    error_code: int
    base_offset: int
    log_append_time_ms: int


def _crc32c_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ 0x82F63B78 * (byte & 1)  # noqa: PLW2901 - the byte is what is worked on
        table.append(byte)
    return table


_TABLE = _crc32c_table()


def crc32c(data: bytes) -> int:
    """Compute a batch's checksum (CRC-32C, RFC 3720); some 100 bytes of our own, so Python is quick enough."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def one_record(value: bytes, timestamp_ms: int) -> bytes:
    """Write a batch of one record, created at a time since 1970."""
    # Lengths within a record are zigzag-encoded: twice as much for what is not negative, 1 for the -1 of "no key".
    record = b"\x00\x00\x00\x01" + put_uvarint(2 * len(value)) + value + b"\x00"
    records = INT32.pack(1) + put_uvarint(2 * len(record)) + record
    body = bytes(6) + INT64.pack(timestamp_ms) * 2 + _NO_PRODUCER + records  # attributes, last offset delta: 0
    head = INT32.pack(-1) + b"\x02" + crc32c(body).to_bytes(4, "big")  # no leader epoch; magic
    return bytes(8) + INT32.pack(len(head) + len(body)) + head + body


def attributes_of(records: bytes, offset: int, value: bytes) -> int | None:
    """Find our record in batches as a Fetch gave them; return its batch's attributes, None where it is not there.

    Where the broker has compressed it the offset alone tells that it is ours.
    """
    pos = 0
    try:
        while True:
            base, _ = int64(records, pos)
            size, _ = int32(records, pos + 8)
            attributes, at = int16(records, pos + _ATTRIBUTES_AT)
            last_delta, _ = int32(records, at)
            end = skip(records, pos, _HEAD_BYTES + max(size, 0))
            if base <= offset <= base + last_delta:
                return attributes if attributes & _CODEC_BITS or value in records[pos:end] else None
            pos = end
    except Short:  # the last batch may be cut off by design
        return None


def produce_request(version: int, topic: str, partition: int, records: bytes, timeout_ms: int) -> bytes:
    """Write a Produce request, v3 to v12, for one batch, with acks=all."""
    wait = INT16.pack(-1) + INT32.pack(timeout_ms)
    if version < 9:
        data = INT32.pack(partition) + INT32.pack(len(records)) + records
        one = INT32.pack(1)
        return put_string(None) + wait + one + put_string(topic) + one + data
    data = INT32.pack(partition) + put_uvarint(len(records) + 1) + records + b"\x00"
    return put_compact_string(None) + wait + b"\x02" + put_compact_string(topic) + b"\x02" + data + b"\x00\x00"


def parse_produce_response(version: int, body: bytes) -> Produced:
    """Read the answer to it, v3 to v12, as far as the one partition's outcome; addresses in it: see endpoints."""
    if version < 9:
        _, pos = count(body, skip_string(body, count(body, 0)[1]))
    else:
        _, pos = compact_count(body, skip_compact(body, compact_count(body, 0)[1]))
    error_code, pos = int16(body, skip(body, pos, 4))  # index
    base_offset, pos = int64(body, pos)
    return Produced(error_code, base_offset, int64(body, pos)[0])


def fetch_request(topic: str, partition: int, offset: int, max_wait_ms: int, bytes_max: int) -> bytes:
    """Write a Fetch v4 request for what is at an offset of one partition."""
    head = INT32.pack(-1) + INT32.pack(max_wait_ms) + INT32.pack(1) + INT32.pack(bytes_max) + b"\x00"
    one = INT32.pack(1)
    return head + one + put_string(topic) + one + INT32.pack(partition) + INT64.pack(offset) + INT32.pack(bytes_max)


def parse_fetch_response(body: bytes) -> tuple[int, bytes]:
    """Read the answer to it: the partition's error code, and the records as they are."""
    _, pos = count(body, 4)  # behind throttle_time_ms
    _, pos = count(body, skip_string(body, pos))
    error_code, pos = int16(body, skip(body, pos, 4))  # index
    aborted, pos = array(body, skip(body, pos, 16))  # high watermark, last stable offset
    size, pos = array(body, skip(body, pos, 16 * max(aborted, 0)))
    return error_code, body[pos : skip(body, pos, max(size, 0))]
