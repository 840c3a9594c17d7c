"""throttle_time_ms in answers: found where two other codecs write it, raised in place, never lowered."""

import contextlib
import datetime as dt
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import KIO, KafkaPython, Kio, Tree, cases, random_tags

from kproxy.errors import Malformed, ProtocolError, Short, Unsupported
from kproxy.wire import frames, throttle
from kproxy.wire.apis import APIS, ApiKey, response_header_flexible
from kproxy.wire.primitives import INT32, put_compact_string, put_tags, put_uvarint

Oracle = Kio | KafkaPython

CARRYING = [case for case in cases() if throttle.carries(*case.values[1:])]
ELSEWHERE = [case for case in CARRYING if not throttle.is_first(*case.values[1:])]
TOKENS = (
    ApiKey.CREATE_DELEGATION_TOKEN,
    ApiKey.RENEW_DELEGATION_TOKEN,
    ApiKey.EXPIRE_DELEGATION_TOKEN,
    ApiKey.DESCRIBE_DELEGATION_TOKEN,
)
BROKERS_MS = 300
BEFORE, AFTER = b"####", b"\x00\x01\x00\x00\x02\xff\x00\x00"
# A usual Produce answer of v9 to v12: correlation id 7, one topic "t", two partitions.
PARTITION = bytes(6) + bytes(8) + b"\xff" * 8 + bytes(8) + b"\x01\x00\x00"
USUAL = bytes.fromhex("00000055 00000007 00 02 0274 03") + PARTITION + PARTITION + b"\x00" + bytes(4) + b"\x00"


def field(tree: Tree) -> str | None:
    """Name the throttle time as an oracle does; None where the answer has none."""
    return next((name for name in ("throttle_time", "throttle_time_ms") if name in tree), None)


def throttled(oracle: Oracle, tree: Tree, milliseconds: int) -> Tree:
    """Change an answer's throttle time."""
    name = field(tree)
    assert name is not None
    value: Any = dt.timedelta(milliseconds=milliseconds) if oracle is KIO else milliseconds
    return tree | {name: value}


def framed(rng: Random, key: int, version: int, body: bytes) -> bytes:
    """Make a frame of an answer's body, with header tags that nobody knows."""
    head = b"\x00\x00\x00\x07"
    if response_header_flexible(key, version):
        head += put_tags(random_tags(rng))
    return INT32.pack(len(head) + len(body)) + head + body


def find(key: int, version: int, frame: bytes) -> int:
    """Find the field in a frame that stands alone."""
    return throttle.throttle_at(key, version, frame, 0, len(frame))


def malformed(key: int, version: int, frame: bytes, pos: int, end: int) -> bool:
    """Whether this is an error that more bytes do not mend."""
    try:
        throttle.throttle_at(key, version, frame, pos, end)
    except Malformed as error:
        return type(error) is Malformed
    return False


@pytest.mark.parametrize(("oracle", "key", "version"), cases())
def test_where_the_schemas_have_it(oracle: Oracle, key: int, version: int) -> None:
    """The field is there, and first, just where the schemas of another codec say so; ApiVersions is left alone."""
    tree = oracle.message(Random(1), key, version, "response")
    name = field(tree)
    assert throttle.carries(key, version) == (name is not None and key != ApiKey.API_VERSIONS)
    assert throttle.is_first(key, version) == (next(iter(tree)) == name)


def test_where_no_oracle_says() -> None:
    """An answer that kproxy does not know has no throttle time; each that it knows with one can be walked."""
    for key, version in ((4, 0), (27, 0), (93, 0), (-1, 0), (ApiKey.FETCH, 16), (ApiKey.HEARTBEAT, -1)):
        assert not throttle.carries(key, version)
        assert not throttle.is_first(key, version)
    elsewhere = {key for key, version in throttle.CARRYING if not throttle.is_first(key, version)}
    assert elsewhere == {ApiKey.PRODUCE, ApiKey.OFFSET_DELETE, *TOKENS}
    assert {key for key in APIS if not throttle.carries(key, APIS[key].max_version)} == {17, 18, 36, 55}


@pytest.mark.parametrize(("oracle", "key", "version"), CARRYING)
def test_raised_in_place(oracle: Oracle, key: int, version: int) -> None:
    """The patched answer is, byte for byte, what a codec writes for the same one with the longer throttle time."""
    for seed in range(12):
        rng = Random(seed)
        tree = throttled(oracle, oracle.message(rng, key, version, "response"), BROKERS_MS)
        longer = throttled(oracle, tree, 70_000)
        frame = framed(Random(seed), key, version, oracle.encode(key, version, "response", tree))
        expected = framed(Random(seed), key, version, oracle.encode(key, version, "response", longer))
        data = BEFORE + frame + AFTER
        at = throttle.throttle_at(key, version, data, len(BEFORE), len(data) - len(AFTER))
        assert throttle.patch(data, at, 70_000) == BEFORE + expected + AFTER
        assert at == len(BEFORE) + find(key, version, frame)


@pytest.mark.parametrize(("oracle", "key", "version"), [case for case in CARRYING if case.values[0] is KIO])
def test_unknown_tags_are_stepped_over(oracle: Kio, key: int, version: int) -> None:
    """Tagged fields that nobody knows, in any struct, hide the field from nobody."""
    for seed in range(6):
        tree = throttled(oracle, oracle.message(Random(seed), key, version, "response"), BROKERS_MS)
        longer = throttled(oracle, tree, 70_000)
        frame, expected = (
            framed(Random(seed), key, version, oracle.encode(key, version, "response", each, unknown_tags=Random(seed)))
            for each in (tree, longer)
        )
        assert throttle.patch(frame, find(key, version, frame), 70_000) == expected


@pytest.mark.parametrize("key", TOKENS)
def test_the_oldest_delegation_token_answers(key: int) -> None:
    """v0, which the oracles do not have, is written as v1 is."""
    for seed in range(5):
        tree = KIO.message(Random(seed), key, 1, "response")
        frame = framed(Random(seed), key, 0, KIO.encode(key, 1, "response", tree))
        assert find(key, 0, frame) == find(key, 1, frame) == len(frame) - 4


@pytest.mark.parametrize(("oracle", "key", "version"), CARRYING)
def test_byte_by_byte(oracle: Oracle, key: int, version: int) -> None:
    """While the answer comes, more is asked for until the field is there, or where it is not first, all of it."""
    rng = Random(key + version)
    frame = framed(
        rng, key, version, oracle.encode(key, version, "response", oracle.message(rng, key, version, "response"))
    )
    at = find(key, version, frame)
    enough = at + 4 if throttle.is_first(key, version) else len(frame)
    for cut in range(8, min(enough, 300)):
        with pytest.raises(Short):
            throttle.throttle_at(key, version, frame[:cut], 0, len(frame))
    for cut in range(enough, min(len(frame), enough + 300)):
        assert throttle.throttle_at(key, version, frame[:cut], 0, len(frame)) == at


@pytest.mark.parametrize(("oracle", "key", "version"), CARRYING)
def test_an_end_where_none_can_be(oracle: Oracle, key: int, version: int) -> None:
    """An answer that ends before the field does is Malformed; where it is walked, any other end than its own, too."""
    rng = Random(key + version)
    frame = framed(
        rng, key, version, oracle.encode(key, version, "response", oracle.message(rng, key, version, "response"))
    )
    data = frame + bytes(3)
    at = find(key, version, frame)
    wrong = (
        range(8, at + 4)
        if throttle.is_first(key, version)
        else [*range(8, len(frame)), *range(len(frame) + 1, len(data))]
    )
    for end in wrong:
        assert malformed(key, version, data, 0, end)
        assert malformed(key, version, data[:end], 0, end)


def test_usual_produce_answers() -> None:
    """However long the name and many the partitions, the short way and the walk find the same."""
    for version in range(9, 14):
        for name_bytes in (0, 1, 125, 126, 127, 200):
            for partitions in (0, 1, 2, 125, 126, 127, 130):
                name = bytes(16) if version >= 13 else put_compact_string("x" * name_bytes)
                body = (
                    b"\x02" + name + put_uvarint(partitions + 1) + PARTITION * partitions + b"\x00" + bytes(4) + b"\x00"
                )
                frame = frames.response(7, ApiKey.PRODUCE, version, body)
                assert find(ApiKey.PRODUCE, version, frame) == len(frame) - 5
                one_byte_each = partitions < 127 and (version >= 13 or name_bytes < 127)
                assert bool(throttle._usual_produce(version, frame, 0, len(frame))) == one_byte_each


@pytest.mark.parametrize("version", range(9, 13))
def test_no_other_produce_answer_passes_for_a_usual_one(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any byte changed to any other, the short way says what the walk says, or nothing."""
    assert find(ApiKey.PRODUCE, version, USUAL) == len(USUAL) - 5
    places: list[tuple[bytes, int | None]] = []
    for at in range(8, len(USUAL)):
        for value in (*range(16), 0x7F, 0x80, 0x81, 0xFF):
            frame = USUAL[:at] + bytes([value]) + USUAL[at + 1 :]
            place = None
            with contextlib.suppress(Malformed):
                place = find(ApiKey.PRODUCE, version, frame)
            places.append((frame, place))
    monkeypatch.setattr(throttle, "_usual_produce", lambda *_: 0)
    for frame, place in places:
        if place is None:
            with pytest.raises(Malformed):
                find(ApiKey.PRODUCE, version, frame)
        else:
            assert find(ApiKey.PRODUCE, version, frame) == place


def test_a_length_of_two_bytes_is_not_taken_for_one() -> None:
    """Where the first byte alone would make a usual answer of it, the walk still decides."""
    for name_and_count in (b"\x80" + bytes(127) + b"\x02", b"\x02t\x81"):
        body = b"\x02" + name_and_count + PARTITION * (name_and_count[-1] - 1) + bytes(6)
        frame = frames.response(7, ApiKey.PRODUCE, 9, body)
        assert malformed(ApiKey.PRODUCE, 9, frame, 0, len(frame))


def test_an_answer_to_something_else() -> None:
    """A Produce answer does not pass for one of another API or version, nor is a field found that is not there."""
    for key, version in (
        (ApiKey.PRODUCE, 1),
        (ApiKey.PRODUCE, 13),
        (ApiKey.OFFSET_DELETE, 0),
        *((key, 2) for key in TOKENS),
    ):
        assert malformed(key, version, USUAL, 0, len(USUAL))
    for key, version in (
        (ApiKey.API_VERSIONS, 3),
        (ApiKey.PRODUCE, 0),
        (ApiKey.METADATA, 2),
        (ApiKey.DESCRIBE_QUORUM, 2),
    ):
        with pytest.raises(Unsupported):
            find(key, version, USUAL)


def test_a_header_without_end() -> None:
    """Tags that promise gigabytes are not waited for."""
    frame = b"\x40\x00\x00\x00" + b"\x00\x00\x00\x07" + b"\x01\x05\xff\xff\xff\x7f" + bytes(throttle.HEADER_BYTES_MAX)
    enough = throttle.HEADER_BYTES_MAX
    with pytest.raises(Short):
        throttle.throttle_at(ApiKey.HEARTBEAT, 4, frame[:enough], 0, 1 << 30)
    assert malformed(ApiKey.HEARTBEAT, 4, frame[: enough + 1], 0, 1 << 30)


def test_never_lowered() -> None:
    """A broker's longer time stays, and so do the very bytes; a time that is not all there is not changed."""
    for broker_ms, own_ms, left_ms in (
        (0, 0, 0),
        (0, 1, 1),
        (500, 499, 500),
        (500, 500, 500),
        (-1, 0, 0),
        (0, 2**31 - 1, 2**31 - 1),
    ):
        data = b"##" + INT32.pack(broker_ms) + b"##"
        patched = throttle.patch(data, 2, own_ms)
        assert patched == b"##" + INT32.pack(left_ms) + b"##"
        assert (patched is data) == (broker_ms == left_ms)
    with pytest.raises(Short):
        throttle.patch(bytes(5), 2, 1)


@given(case=st.sampled_from(sorted(throttle.CARRYING)), body=st.binary(max_size=120), more=st.integers(0, 50))
def test_garbage(case: tuple[int, int], body: bytes, more: int) -> None:
    """Whatever the bytes, a place for an INT32 within the answer comes back or ProtocolError is raised."""
    frame = bytes(8) + body
    with contextlib.suppress(ProtocolError):
        assert 8 <= throttle.throttle_at(*case, frame, 0, len(frame)) <= len(frame) - 4
    with contextlib.suppress(ProtocolError):
        assert 8 <= throttle.throttle_at(*case, frame, 0, len(frame) + more) <= len(frame) - 4
    with contextlib.suppress(ProtocolError):
        assert 8 <= throttle.throttle_at(*case, frame, 0, max(len(frame) - more, 8)) <= max(len(frame) - more, 8) - 4


@given(version=st.integers(9, 13), data=st.data())
def test_garbage_like_produce(version: int, data: st.DataObject) -> None:
    """The same for what begins as a Produce answer, of one byte's values that mean something."""
    body = bytes(data.draw(st.lists(st.sampled_from((0, 1, 2, 3, 17, 34, 0x80)), max_size=90)))
    frame = USUAL[:9] + body
    with contextlib.suppress(ProtocolError):
        assert 8 <= find(ApiKey.PRODUCE, version, frame) <= len(frame) - 4
