r"""Kafka's primitive types, read from and written to plain bytes.

A reader takes ``(data, pos)`` and returns ``(value, next_pos)``; it raises Short when the bytes end before the
value does and Malformed when they cannot be one. A writer returns bytes. All integers are big-endian; the names
are those of the protocol guide (https://kafka.apache.org/protocol#protocol_types)::

    >>> string(b"\x00\x02b1...", 0)
    ('b1', 4)
    >>> compact_string(b"\x03b1...", 0)
    ('b1', 3)
"""

import struct

from kproxy.errors import Malformed, Short

INT16 = struct.Struct(">h")
INT32 = struct.Struct(">i")
INT64 = struct.Struct(">q")

UUID_BYTES = 16


def int8(data: bytes, pos: int) -> tuple[int, int]:
    """Read one signed byte."""
    if pos >= len(data):
        raise Short("int8")
    value = data[pos]
    return (value - 256 if value > 127 else value), pos + 1


def int16(data: bytes, pos: int) -> tuple[int, int]:
    """Read an INT16."""
    if pos + 2 > len(data):
        raise Short("int16")
    return INT16.unpack_from(data, pos)[0], pos + 2


def int32(data: bytes, pos: int) -> tuple[int, int]:
    """Read an INT32."""
    if pos + 4 > len(data):
        raise Short("int32")
    return INT32.unpack_from(data, pos)[0], pos + 4


def int64(data: bytes, pos: int) -> tuple[int, int]:
    """Read an INT64."""
    if pos + 8 > len(data):
        raise Short("int64")
    return INT64.unpack_from(data, pos)[0], pos + 8


def skip(data: bytes, pos: int, count: int) -> int:
    """Step over ``count`` bytes that must be there; return the position behind them."""
    end = pos + count
    if end > len(data):
        raise Short("bytes")
    return end


def uvarint(data: bytes, pos: int) -> tuple[int, int]:
    """Read an UNSIGNED_VARINT of at most 32 bits (KIP-482); five bytes at most."""
    value = shift = 0
    while True:
        if pos >= len(data):
            raise Short("uvarint")
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > 0xFFFFFFFF:
                raise Malformed("uvarint above 32 bits")
            return value, pos
        shift += 7
        if shift > 28:
            raise Malformed("uvarint longer than 5 bytes")


def put_uvarint(value: int) -> bytes:
    """Write an UNSIGNED_VARINT in its shortest form."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(data: bytes, pos: int, length: int) -> tuple[str, int]:
    end = skip(data, pos, length)
    try:
        return data[pos:end].decode(), end
    except UnicodeDecodeError:
        raise Malformed("string is not UTF-8") from None


def nullable_string(data: bytes, pos: int) -> tuple[str | None, int]:
    """Read a NULLABLE_STRING: an INT16 length (-1: null), then UTF-8."""
    length, pos = int16(data, pos)
    if length < -1:
        raise Malformed(f"string length {length}")
    return (None, pos) if length == -1 else _text(data, pos, length)


def string(data: bytes, pos: int) -> tuple[str, int]:
    """Read a STRING; null is Malformed."""
    value, pos = nullable_string(data, pos)
    if value is None:
        raise Malformed("string is null")
    return value, pos


def compact_nullable_string(data: bytes, pos: int) -> tuple[str | None, int]:
    """Read a COMPACT_NULLABLE_STRING: an UNSIGNED_VARINT of length + 1 (0: null), then UTF-8."""
    length, pos = uvarint(data, pos)
    return (None, pos) if length == 0 else _text(data, pos, length - 1)


def compact_string(data: bytes, pos: int) -> tuple[str, int]:
    """Read a COMPACT_STRING; null is Malformed."""
    value, pos = compact_nullable_string(data, pos)
    if value is None:
        raise Malformed("string is null")
    return value, pos


def put_string(value: str | None) -> bytes:
    """Write a STRING or NULLABLE_STRING; at most 32,767 bytes."""
    if value is None:
        return b"\xff\xff"
    raw = value.encode()
    return INT16.pack(len(raw)) + raw


def put_compact_string(value: str | None) -> bytes:
    """Write a COMPACT_STRING or COMPACT_NULLABLE_STRING."""
    if value is None:
        return b"\x00"
    raw = value.encode()
    return put_uvarint(len(raw) + 1) + raw


def array(data: bytes, pos: int) -> tuple[int, int]:
    """Read an ARRAY's count (-1: null). A count that the remaining bytes cannot hold is left to the caller's walk."""
    count, pos = int32(data, pos)
    if count < -1:
        raise Malformed(f"array count {count}")
    return count, pos


def compact_array(data: bytes, pos: int) -> tuple[int, int]:
    """Read a COMPACT_ARRAY's count (-1: null)."""
    count, pos = uvarint(data, pos)
    return count - 1, pos


def count(data: bytes, pos: int) -> tuple[int, int]:
    """Read the count of an ARRAY that cannot be null."""
    value, pos = array(data, pos)
    if value < 0:
        raise Malformed("array is null")
    return value, pos


def compact_count(data: bytes, pos: int) -> tuple[int, int]:
    """Read the count of a COMPACT_ARRAY that cannot be null."""
    value, pos = compact_array(data, pos)
    if value < 0:
        raise Malformed("array is null")
    return value, pos


def skip_string(data: bytes, pos: int) -> int:
    """Step over a STRING or NULLABLE_STRING."""
    length, pos = int16(data, pos)
    if length < -1:
        raise Malformed(f"string length {length}")
    return pos if length == -1 else skip(data, pos, length)


def skip_compact(data: bytes, pos: int) -> int:
    """Step over a COMPACT_(NULLABLE_)STRING, COMPACT_(NULLABLE_)BYTES or COMPACT_RECORDS."""
    length, pos = uvarint(data, pos)
    return pos if length == 0 else skip(data, pos, length - 1)


def skip_tags(data: bytes, pos: int) -> int:
    """Step over a TAG_BUFFER (KIP-482)."""
    count, pos = uvarint(data, pos)
    for _ in range(count):
        _, pos = uvarint(data, pos)
        size, pos = uvarint(data, pos)
        pos = skip(data, pos, size)
    return pos


def tags(data: bytes, pos: int) -> tuple[list[tuple[int, bytes]], int]:
    """Read a TAG_BUFFER's fields as (tag, value); tags that do not ascend, as KIP-482 wants them, are Malformed."""
    count, pos = uvarint(data, pos)
    fields = []
    above = -1
    for _ in range(count):
        tag, pos = uvarint(data, pos)
        if tag <= above:
            raise Malformed(f"tag {tag} after tag {above}")
        above = tag
        size, pos = uvarint(data, pos)
        end = skip(data, pos, size)
        fields.append((tag, data[pos:end]))
        pos = end
    return fields, pos


def put_tags(fields: list[tuple[int, bytes]]) -> bytes:
    """Write a TAG_BUFFER of (tag, value), tags ascending."""
    out = [put_uvarint(len(fields))]
    for tag, value in fields:
        out += (put_uvarint(tag), put_uvarint(len(value)), value)
    return b"".join(out)
