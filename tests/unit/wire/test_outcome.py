"""What an answer's first bytes tell: error code and throttle time, where two other codecs write them."""

import datetime as dt
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode
from oracles import KIO, KafkaPython, Kio, cases, random_tags

from kproxy.wire.apis import APIS, ApiKey, response_header_flexible
from kproxy.wire.errorcodes import ERROR_NAMES
from kproxy.wire.outcome import UNSEEN, Outcome, error_code, outcome
from kproxy.wire.primitives import INT32, put_tags
from kproxy.wire.throttle import is_first

Oracle = Kio | KafkaPython

BEHIND_A_LIST = {(ApiKey.METADATA, 13), *((ApiKey.OFFSET_FETCH, version) for version in range(2, 8))}
"""A top-level error code that has no place of its own."""


def frame_of(rng: Random | None, key: int, version: int, body: bytes) -> bytes:
    """Make a frame of an answer's body, with header tags that nobody knows, or without any."""
    tags = put_tags([] if rng is None else random_tags(rng))
    head = b"\x00\x00\x00\x07" + (tags if response_header_flexible(key, version) else b"")
    return INT32.pack(len(head) + len(body)) + head + body


@pytest.mark.parametrize(("oracle", "key", "version"), cases())
def test_as_others_write_it(oracle: Oracle, key: int, version: int) -> None:
    """Of every answer that two codecs write, both are seen where they have a place of their own, else neither."""
    for seed in range(6):
        rng = Random(seed)
        tree = oracle.message(rng, key, version, "response")
        error: Any = ErrorCode(41) if oracle is KIO else 41
        throttle: Any = dt.timedelta(milliseconds=300) if oracle is KIO else 300
        told = "error_code" in tree and (key, version) not in BEHIND_A_LIST
        tree |= {name: error for name in ("error_code",) if name in tree}
        tree |= {name: throttle for name in ("throttle_time", "throttle_time_ms") if name in tree}
        frame = frame_of(rng, key, version, oracle.encode(key, version, "response", tree))
        expected = Outcome(41 if told else None, 300 if is_first(key, version) else None)
        assert outcome(key, version, b"###" + frame + b"\x00\x00\x00\x09", 3) == expected
        plain = frame_of(None, key, version, oracle.encode(key, version, "response", tree))
        assert error_code(key << 16 | version, b"###" + plain + b"\x00\x00\x00\x09", 3) == (expected.error_code or 0)


@pytest.mark.parametrize(("key", "version"), [(ApiKey.HEARTBEAT, 4), (ApiKey.HEARTBEAT, 0), (ApiKey.LIST_OFFSETS, 7)])
def test_cut_anywhere(key: int, version: int) -> None:
    """Of an answer that is cut, what is there is told, and no more; the next answer's bytes are not its own."""
    body = (INT32.pack(300) if is_first(key, version) else b"") + b"\x00\x29"
    frame = frame_of(Random(1), key, version, body)
    whole = outcome(key, version, frame, 0)
    for end in range(len(frame)):
        cut = outcome(key, version, frame[:end], 0)
        assert cut.throttle_time_ms in {None, whole.throttle_time_ms}
        assert cut.error_code is None or cut == whole
    short = INT32.pack(5) + b"\x00\x00\x00\x07\x00"  # no body at all, and another answer behind it
    assert outcome(key, version, short + bytes(40), 0) == UNSEEN


@pytest.mark.parametrize(("key", "version"), [(ApiKey.HEARTBEAT, 4), (ApiKey.HEARTBEAT, 0)])
def test_an_error_that_is_not_in_sight(key: int, version: int) -> None:
    """A code that is cut off, behind tags of the header, or in the next answer, is none."""
    key_version = key << 16 | version
    frame = frame_of(None, key, version, (INT32.pack(300) if is_first(key, version) else b"") + b"\x00\x29")
    assert error_code(key_version, frame, 0) == 0x29
    assert not any(error_code(key_version, frame[:end], 0) for end in range(len(frame)))
    tagged = INT32.pack(30) + b"\x00\x00\x00\x07" + b"\x01" + bytes([9] * 25)
    assert (error_code(key_version, tagged, 0) == 0) == response_header_flexible(key, version)
    assert error_code(key_version, INT32.pack(5) + b"\x00\x00\x00\x07\x00" + bytes([9] * 40), 0) == 0


def test_names_are_kafkas() -> None:
    """Each code has the name that another codec knows it by."""
    assert {code: name.lower() for code, name in ERROR_NAMES.items()} == {code.value: code.name for code in ErrorCode}


def test_what_is_not_known() -> None:
    """An answer to a request that kproxy does not know tells nothing."""
    for key, version in ((4, 0), (-1, 0), (ApiKey.HEARTBEAT, 9)):
        assert outcome(key, version, bytes(64), 0) == UNSEEN
        assert error_code(key << 16 | version, bytes([0, 0, 0, 60] + [9] * 60), 0) == 0


def test_only_client_apis_are_seen() -> None:
    """Each API with a code of its own is known to be one in its highest version, or moved it into a list."""
    frame = INT32.pack(60) + bytes(60)
    seen = {key for key, api in APIS.items() if outcome(key, api.max_version, frame, 0).error_code is not None}
    assert {ApiKey.FETCH, ApiKey.JOIN_GROUP, ApiKey.SHARE_FETCH, ApiKey.API_VERSIONS} <= seen
    assert not seen & {ApiKey.PRODUCE, ApiKey.METADATA, ApiKey.FIND_COORDINATOR, ApiKey.OFFSET_COMMIT}


@given(st.sampled_from(sorted(APIS)), st.integers(0, 13), st.binary(max_size=60), st.integers(0, 60))
def test_never_an_error(key: int, version: int, data: bytes, pos: int) -> None:
    """Whatever the bytes are, something or nothing is told of them, and nothing is raised."""
    seen = outcome(key, version, data, pos)
    assert all(value is None or isinstance(value, int) for value in seen)
    assert error_code(key << 16 | version, data, pos) in {0, seen.error_code}
