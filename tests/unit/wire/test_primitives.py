"""Primitives against kio's own writers, and at the edges of what a length may say."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.serial import writers

from kproxy.errors import Malformed, ProtocolError, Short
from kproxy.wire import primitives as p

Reader = Callable[[bytes, int], Any]


def written(writer: Any, value: object) -> bytes:
    """Write a value with one of kio's writers."""
    buffer = io.BytesIO()
    writer(buffer, value)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("reader", "writer", "bits"),
    [
        (p.int8, writers.write_int8, 8),
        (p.int16, writers.write_int16, 16),
        (p.int32, writers.write_int32, 32),
        (p.int64, writers.write_int64, 64),
    ],
)
@given(data=st.data())
def test_integers(data: st.DataObject, reader: Reader, writer: Any, bits: int) -> None:
    """An integer reads as kio wrote it, from anywhere in the data, and no byte of it can be missing."""
    value = data.draw(st.integers(-(1 << bits - 1), (1 << bits - 1) - 1))
    raw = b"##" + written(writer, value)
    assert reader(raw + b"#", 2) == (value, len(raw))
    with pytest.raises(Short):
        reader(raw[:-1], 2)


@given(st.integers(0, (1 << 32) - 1))
def test_uvarint(value: int) -> None:
    """An unsigned varint is written as kio does, reads back, and no byte of it can be missing."""
    raw = p.put_uvarint(value)
    assert raw == written(writers.write_unsigned_varint, value)
    assert p.uvarint(b"#" + raw + b"#", 1) == (value, 1 + len(raw))
    with pytest.raises(Short):
        p.uvarint(raw[:-1], 0)


@pytest.mark.parametrize("raw", ["ffffffff10", "ffffffffff01", "8080808080"])
def test_uvarint_too_large(raw: str) -> None:
    """A varint above 32 bits, or longer than five bytes, is no length."""
    with pytest.raises(Malformed) as error:
        p.uvarint(bytes.fromhex(raw), 0)
    assert error.type is Malformed


@dataclass(frozen=True)
class Text:
    """All that deals with one encoding of strings."""

    read: Reader
    read_nullable: Reader
    skip: Reader
    put: Callable[[str | None], bytes]
    oracle: Any


PLAIN = Text(p.string, p.nullable_string, p.skip_string, p.put_string, writers.write_nullable_legacy_string)
COMPACT = Text(
    p.compact_string,
    p.compact_nullable_string,
    p.skip_compact,
    p.put_compact_string,
    writers.write_nullable_compact_string,
)


@pytest.mark.parametrize("kind", [PLAIN, COMPACT], ids=["plain", "compact"])
@given(value=st.none() | st.text(max_size=300))
def test_strings(kind: Text, value: str | None) -> None:
    """A string is written as kio does, reads back, is stepped over, and null is none where none may be."""
    raw = kind.put(value)
    assert raw == written(kind.oracle, value)
    assert kind.read_nullable(raw + b"#", 0) == (value, len(raw))
    assert kind.skip(raw + b"#", 0) == len(raw)
    if value is None:
        with pytest.raises(Malformed):
            kind.read(raw, 0)
    else:
        assert kind.read(raw, 0) == (value, len(raw))
    for read in (kind.read, kind.read_nullable, kind.skip):
        with pytest.raises(Short):
            read(raw[:-1], 0)


@pytest.mark.parametrize(
    ("reader", "raw"),
    [
        (p.string, "0002c328"),
        (p.compact_string, "03c328"),
        (p.nullable_string, "fffe"),
        (p.skip_string, "fffe"),
        (p.array, "fffffffe"),
        (p.count, "ffffffff"),
        (p.compact_count, "00"),
        (p.tags, "0205000500"),
        (p.tags, "0205000400"),
    ],
)
def test_malformed(reader: Reader, raw: str) -> None:
    """What cannot be is Malformed, and not a matter of more bytes: bad UTF-8, lengths below -1, tags out of order."""
    with pytest.raises(Malformed) as error:
        reader(bytes.fromhex(raw), 0)
    assert error.type is Malformed


@pytest.mark.parametrize(
    ("reader", "raw", "value"),
    [
        (p.array, "ffffffff", -1),
        (p.array, "00000003", 3),
        (p.count, "00000003", 3),
        (p.compact_array, "00", -1),
        (p.compact_array, "04", 3),
        (p.compact_count, "04", 3),
    ],
)
def test_array_counts(reader: Reader, raw: str, value: int) -> None:
    """An array's count reads as what it is, null as -1 where null may be."""
    data = bytes.fromhex(raw)
    assert reader(data, 0) == (value, len(data))


@given(st.dictionaries(st.integers(0, (1 << 31) - 1), st.binary(max_size=200), max_size=5))
def test_tags(fields: dict[int, bytes]) -> None:
    """Tagged fields read back as written, and a buffer of them is stepped over whole or not at all."""
    ascending = sorted(fields.items())
    raw = p.put_tags(ascending)
    assert p.tags(raw + b"#", 0) == (ascending, len(raw))
    assert p.skip_tags(raw + b"#", 0) == len(raw)
    for reader in (p.tags, p.skip_tags):
        with pytest.raises(Short):
            reader(raw[:-1], 0)


@given(st.binary(max_size=40), st.integers(0, 40))
def test_garbage(data: bytes, pos: int) -> None:
    """Whatever the bytes, a reader returns a position within them or raises ProtocolError, nothing else."""
    for reader in (
        p.int8,
        p.uvarint,
        p.nullable_string,
        p.compact_nullable_string,
        p.array,
        p.compact_array,
        p.skip_string,
        p.skip_compact,
        p.skip_tags,
        p.tags,
    ):
        try:
            result = reader(data, pos)
        except ProtocolError:
            continue
        end = result[1] if isinstance(result, tuple) else result
        assert pos < end <= len(data)
