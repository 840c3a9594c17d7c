"""The topics of Produce and Fetch, found as other codecs find them, and nothing but a ProtocolError in any bytes."""

import contextlib
from random import Random
from uuid import UUID

import pytest
from oracles import KafkaPython, Kio, Tree, cases

from kproxy.errors import ProtocolError, Short, Unsupported
from kproxy.wire import shapes
from kproxy.wire.topicnames import topic_names

CASES = cases(0, 1)
each = pytest.mark.parametrize(("oracle", "key", "version"), CASES)


def made(oracle: Kio | KafkaPython, key: int, version: int, rng: Random) -> tuple[bytes, int, list[bytes]]:
    """Make a request; return its body, where its topics begin, and these."""
    tree = oracle.message(rng, key, version, "request")
    rows: list[Tree] = tree["topic_data" if key == 0 else "topics"]
    for row in rows * rng.choice((1, 1, 1, 0)):
        partitions = row["partition_data" if key == 0 else "partitions"]
        partitions *= rng.choice((1, 1, 50))
    body = oracle.encode(key, version, "request", tree)
    _, at = shapes.read(shapes.request(key, version), body, until="topics")
    names = [
        (row["topic_id"] or UUID(int=0)).bytes if version > 12 else str(row.get("name", row.get("topic"))).encode()
        for row in rows
    ]
    return body, at, names


@each
def test_names(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """Every topic is found, in its order, whatever its partitions hold."""
    rng = Random(version)
    for _ in range(60):
        body, at, names = made(oracle, key, version, rng)
        assert topic_names(key, version, body, at, len(body)) == names


@each
def test_cut(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """Topics that do not end are Short, wherever they are cut; what is behind them is not asked for."""
    rng = Random(version)
    shape = shapes.request(key, version)
    for _ in range(6):
        body, at, names = made(oracle, key, version, rng)
        behind = next((field.name for field in shape.fields[[f.name for f in shape.fields].index("topics") + 1 :]), "")
        _, end = shapes.read(shape, body, until=behind) if behind else (None, len(body) - shape.flexible)
        for size in {at, at + 1, *(rng.randrange(at, end) for _ in range(30))} - {end}:
            if size < end:
                with pytest.raises(Short):
                    topic_names(key, version, body[:size], at, size)
        assert topic_names(key, version, body, at, end) == names


def names_in(key: int, version: int, data: bytes) -> list[bytes]:
    """Take all bytes for topics."""
    return topic_names(key, version, data, 0, len(data))


def test_tags() -> None:
    """Tagged fields that nobody knows are stepped over."""
    body = bytes.fromhex("02 02 61 02 00000001 01 01 64 01 ff 01 64 00")
    assert names_in(0, 9, body) == [b"a"]
    fetch = bytes.fromhex("02 02 61 02") + bytes(32) + bytes.fromhex("01 64 00 01 64 00")
    assert names_in(1, 12, fetch) == [b"a"]


def test_null_and_long() -> None:
    """A null array has no partitions, null records no bytes, and a long length has two bytes."""
    assert names_in(0, 3, bytes.fromhex("00000001 0001 61 ffffffff")) == [b"a"]
    assert names_in(0, 3, bytes.fromhex("00000001 0001 61 00000001 00000000 ffffffff")) == [b"a"]
    assert names_in(0, 9, bytes.fromhex("02 00 00 00")) == [b""]
    assert names_in(0, 9, bytes.fromhex("02 8101") + b"x" * 128 + bytes.fromhex("01 00")) == [b"x" * 128]
    records = bytes.fromhex("02 02 61 02 00000000 c901") + bytes(200) + b"\0\0"
    assert names_in(0, 9, records) == [b"a"]
    assert names_in(0, 9, bytes.fromhex("02 02 61 02 00000000 00 00 00")) == [b"a"]


def test_garbage() -> None:
    """Nothing but a ProtocolError comes of any bytes, and soon; other APIs are Unsupported."""
    rng = Random(1)
    for key, versions in ((0, 14), (1, 16)):
        for version in range(versions):
            for _ in range(200):
                with contextlib.suppress(ProtocolError):
                    names_in(key, version, rng.randbytes(rng.randrange(40)))
            with pytest.raises(Short):
                names_in(key, version, b"\x7f\xff\xff\xff" + bytes(3))
    for key, version in ((2, 0), (0, 14), (1, -1)):
        with pytest.raises(Unsupported):
            names_in(key, version, b"")
