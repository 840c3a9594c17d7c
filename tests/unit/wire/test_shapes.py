"""Shapes agree with two other codecs, for every version of every API, both ways."""

import contextlib
from random import Random

import pytest
from oracles import KIO, ORACLES, KafkaPython, Kind, Kio, cases

from kproxy.errors import ProtocolError, Short, Unsupported
from kproxy.wire import shapes
from kproxy.wire.apis import APIS
from kproxy.wire.schemas import SCHEMAS
from kproxy.wire.shapes import Rows, Shape, Values, edits, read, request, response, splice, write

_OWN = (17, 18, 36)
"""SaslHandshake, ApiVersions and SaslAuthenticate: kproxy answers these."""
KEYS = tuple(key for key in APIS if key not in _OWN)


def _shape(kind: Kind, key: int, version: int) -> Shape:
    return (request if kind == "request" else response)(key, version)


def _with_bytes(shape: Shape, values: Values, body: bytes) -> Values:
    """Put the bytes themselves in the place of where they stand, so that it can be written."""
    out = dict(values)
    for field in shape.fields:
        value = values[field.name]
        inner = Shape(field.fields, shape.flexible, field.kind == "bare")
        if field.kind == "b" and value is not None:
            out[field.name] = body[slice(*value)]
        elif field.kind in ("rows", "bare") and value is not None:
            out[field.name] = [_with_bytes(inner, row, body) for row in value]
        elif field.kind in ("struct", "nullable") and value is not None:
            out[field.name] = _with_bytes(inner, value, body)
    return out


def read_whole(shape: Shape, body: bytes) -> Values:
    """Read a body that ends where its last field does."""
    values, end = read(shape, body)
    assert end == len(body)
    return values


@pytest.mark.parametrize(("oracle", "key", "version"), cases(*KEYS))
@pytest.mark.parametrize("kind", ["request", "response"])
def test_reads_what_others_write(oracle: Kio | KafkaPython, key: int, version: int, kind: Kind) -> None:
    """Any message of another codec is read to its last byte, and what was read is written as it was, but for tags."""
    shape = _shape(kind, key, version)
    rng = Random(key << 8 | version)
    for _ in range(4):
        body = oracle.encode(key, version, kind, oracle.message(rng, key, version, kind))
        values = _with_bytes(shape, read_whole(shape, body), body)
        ours = write(shape, values)
        assert ours == body or len(ours) < len(body)  # tagged fields are not written
        again = read_whole(shape, ours)
        assert _with_bytes(shape, again, ours) == values


@pytest.mark.parametrize(("oracle", "key", "version"), cases(*KEYS))
def test_others_read_what_it_writes(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """An answer of defaults alone is one that other codecs read, with nothing left over."""
    oracle.decode(key, version, "response", write(response(key, version), {}))


@pytest.mark.parametrize("key", KEYS)
def test_every_version_has_a_shape(key: int) -> None:
    """There is a shape for each version of the table, also of those that no other codec knows."""
    api = APIS[key]
    for version in range(api.min_version, api.max_version + 1):
        assert request(key, version) is request(key, version)
        assert read_whole(response(key, version), write(response(key, version), {})) is not None
    for version in (api.min_version - 1, api.max_version + 1):
        with pytest.raises(Unsupported):
            request(key, version)


def test_what_kproxy_answers_has_none() -> None:
    """APIs that kproxy answers by itself, and those not for clients, are not in the table."""
    for key in (*_OWN, 27, 999):
        with pytest.raises(Unsupported):
            response(key, 0)
    assert len([line for line in SCHEMAS.splitlines() if line[:1].isdigit()]) == len(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_cut_short_is_short(key: int) -> None:
    """A body that ends too early is Short, wherever it is cut, and one that goes on is Malformed."""
    version = APIS[key].max_version
    shape = request(key, version)
    for oracle in ORACLES:
        if version not in oracle.versions(key):
            continue
        body = oracle.encode(key, version, "request", oracle.message(Random(7), key, version, "request"))
        for end in range(len(body)):
            with contextlib.suppress(Short):
                assert read(shape, body[:end])[1] < end  # what is behind it are tagged fields
        assert read(shape, body + b"\0")[1] == len(body)


def test_garbage_is_malformed() -> None:
    """Nothing but a ProtocolError comes of bytes that are no such message."""
    rng = Random(1)
    for key in KEYS:
        for version in range(APIS[key].min_version, APIS[key].max_version + 1):
            for _ in range(5):
                with contextlib.suppress(ProtocolError):
                    read(request(key, version), rng.randbytes(rng.randrange(60)))


def test_reads_up_to_a_field() -> None:
    """What stands before a field can be read while the rest is still to come."""
    shape = request(0, 9)
    body = write(shape, {"txn": "t", "acks": -1, "timeout_ms": 30, "topics": [{"name": "a", "partitions": []}]})
    values, pos = read(shape, body[:9], 0, until="topics")
    assert values == {"txn": "t", "acks": -1, "timeout_ms": 30}
    assert shapes.count(shape, body, pos) == (1, pos + 1)


@pytest.mark.parametrize("version", [1, 6])
def test_elements_are_cut_and_added(version: int) -> None:
    """Elements go, others come, and everything around them stays, tagged fields that nobody knows included."""
    shape = response(8, version + 2)  # OffsetCommit: v3, and v8 which is flexible
    topic = shape.of("topics")
    body = write(shape, {"throttle_time_ms": 7, "topics": [{"name": name, "partitions": []} for name in "abc"]})
    if shape.flexible:
        body = body[:-1] + b"\x01\x64\x02hi"
    rows = read_whole(shape, body)["topics"]
    added = [write(topic, {"name": "z", "partitions": [{"index": 1, "error": 29}]})]
    changed = splice(body, edits(topic, rows, {0, 2}, added))
    after = read_whole(shape, changed)
    assert [row["name"] for row in after["topics"]] == ["z", "b"]
    assert after["throttle_time_ms"] == 7
    assert changed.endswith(b"\x01\x64\x02hi") == shape.flexible
    assert edits(topic, rows) == []
    assert splice(body, []) == body


def test_null_is_told_from_empty() -> None:
    """A null array, string or struct is None, and is written as it was read."""
    shape = request(3, 1)
    assert read_whole(shape, b"\xff\xff\xff\xff") == {"topics": None}
    assert read_whole(shape, bytes(4)) == {"topics": Rows(0)}
    assert write(shape, {"topics": None}) == b"\xff\xff\xff\xff"
    heartbeat = response(68, 0)
    assert read_whole(heartbeat, write(heartbeat, {}))["assignment"] is None
    assert read_whole(request(11, 0), write(request(11, 0), {"protocols": [{"metadata": None}]}))["protocols"][0] == {
        "name": "",
        "metadata": None,
    }
    assert shape.has("topics")
    assert not shape.has("allow_auto_topic_creation")


def test_defaults_of_answers() -> None:
    """An answer's field that is not given says what Kafka says beside an error: no offset, no node."""
    produce = KIO.decode(0, 9, "response", write(response(0, 9), {"topics": [{"name": "a", "partitions": [{}]}]}))
    (partition,) = produce["responses"][0]["partition_responses"]
    assert partition["base_offset"] == -1
    assert partition["log_start_offset"] == -1
    assert partition["error_message"] is None
