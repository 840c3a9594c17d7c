"""Frames and headers: where bodies begin, in whole frames, in prefixes, and in garbage."""

import contextlib
import datetime as dt
import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import KAFKA_PYTHON, KIO, KafkaPython, Kio, cases, random_tags

from kproxy.errors import Malformed, ProtocolError, Short, Unsupported
from kproxy.wire import frames
from kproxy.wire.apis import APIS, ApiKey, is_flexible
from kproxy.wire.primitives import put_string, put_tags

CLIENT_IDS = (None, "", "rdkafka", "größe", "x" * 40)


def tagged_request(rng: random.Random, key: int, version: int, body: bytes) -> tuple[bytes, str | None, int]:
    """Make a request of which the header has tags that nobody knows; return it, its client id, and its body's place."""
    client_id = rng.choice(CLIENT_IDS)
    head = key.to_bytes(2, "big") + version.to_bytes(2, "big") + b"\x00\x00\x00\x07" + put_string(client_id)
    if is_flexible(key, version):
        head += put_tags(random_tags(rng))
    return head + body, client_id, len(head)


@pytest.mark.parametrize(("key", "version"), [(a.key, v) for a in APIS.values() for v in {0, a.max_version}])
def test_request_body(key: int, version: int) -> None:
    """The body of a request is found behind any client id and any tags, and not before the header is all there."""
    for seed in range(8):
        data, client_id, body_at = tagged_request(random.Random(seed), key, version, b"body")
        data = b"####" + data
        assert frames.request_body_at(data, 4, len(data)) == 4 + body_at
        assert frames.request_body_at(data, 4, 4 + body_at) == 4 + body_at
        assert frames.client_id(data, 4) == client_id
        for most in (0, 2, 40_000):
            assert frames.client_id_bytes(data, 4, most) == (client_id or "").encode()[:most]
        for end in range(4, 4 + body_at):
            with pytest.raises(Short):
                frames.request_body_at(data, 4, end)
            with pytest.raises(Short):
                frames.request_body_at(data[:end], 4, end)


def test_whole_frames() -> None:
    """A frame made here is one that its own readers, and a reader who goes by Kafka's words, find the body of."""
    assert frames.request(ApiKey.METADATA, 9, 5, "c", bytes.fromhex("00 01 00 00 00")) == bytes.fromhex(
        "00 00 00 11 00 03 00 09 00 00 00 05 00 01 63 00 00 01 00 00 00",
    )
    assert frames.request(ApiKey.METADATA, 0, 5, None, b"B").hex() == "0000000b" + "0003000000000005ffff" + "42"
    assert frames.response(5, ApiKey.METADATA, 9, b"B").hex() == "00000006" + "0000000500" + "42"
    assert frames.response(5, ApiKey.METADATA, 8, b"B").hex() == "00000005" + "00000005" + "42"
    assert frames.response(5, ApiKey.API_VERSIONS, 3, b"B").hex() == "00000005" + "00000005" + "42"


def test_response_body() -> None:
    """The body of a response is found behind its tags, and not before the header is all there."""
    for key, version, tag_bytes in ((3, 8, b""), (3, 9, b"\x00"), (3, 9, b"\x01\x05\x02##"), (18, 3, b"")):
        data = b"####" + b"\x00\x00\x00\x07" + tag_bytes
        assert frames.response_body_at(data + b"B", 4, key, version) == len(data)
        for end in range(4, len(data)):
            with pytest.raises(Short):
                frames.response_body_at(data[:end], 4, key, version)


@pytest.mark.parametrize(("oracle", "key", "version"), cases(ApiKey.PRODUCE))
def test_acks(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """The acks field is read from every version, with and without transactional id and tags, not before it is there."""
    for seed in range(8):
        rng = random.Random(seed)
        tree = oracle.message(rng, key, version, "request")
        tree["acks"] = acks = rng.choice((-1, 0, 1))
        body = oracle.encode(key, version, "request", tree)
        data, _, body_at = tagged_request(rng, key, version, body)
        data = b"####" + data
        assert frames.produce_acks(data, 4) == acks
        transactional_id = tree.get("transactional_id")
        id_bytes = 0 if version < 3 else len((transactional_id or "").encode()) + 2
        if version >= 9:
            id_bytes += len((transactional_id or "").encode()) // 127 - 1
        end = 4 + body_at + id_bytes + 2
        assert frames.produce_acks(data[:end], 4) == acks
        assert frames.produce_acks(data, 4, end) == acks
        for short in range(4, end):
            with pytest.raises(Short):
                frames.produce_acks(data[:short], 4)
            with pytest.raises(Short):
                frames.produce_acks(data, 4, short)


@pytest.mark.parametrize(("oracle", "key", "version"), cases(ApiKey.FETCH))
def test_long_polls(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """A Fetch of any version may wait if it has a time and a number of bytes to wait for; told once both are there."""
    for seed, (max_wait_ms, min_bytes) in enumerate(
        itertools.product((-1, 0, 1, 500, 2**31 - 1), (-1, 0, 1, 2**31 - 1))
    ):
        rng = random.Random(seed)
        tree = oracle.message(rng, key, version, "request")
        if oracle is KIO:
            tree["max_wait"] = dt.timedelta(milliseconds=max(max_wait_ms, 0))
        else:
            tree["max_wait_ms"] = max_wait_ms
        tree["min_bytes"] = min_bytes
        data, _, body_at = tagged_request(rng, key, version, oracle.encode(key, version, "request", tree))
        data = b"####" + data
        end = 4 + body_at + (8 if version >= 15 else 12)
        for here in (end, end + 1, len(data)):
            assert frames.fetch_long_polls(data, 4, here) == (max_wait_ms > 0 and min_bytes > 0, end)
        for short in range(4, end):
            with pytest.raises(Short):
                frames.fetch_long_polls(data[:short], 4, short)
            with pytest.raises(Short):
                frames.fetch_long_polls(data, 4, short)


@pytest.mark.parametrize("key", [ApiKey.PRODUCE, ApiKey.FETCH, ApiKey.METADATA])
@pytest.mark.parametrize("version", [0, 3, 9])
def test_an_impossible_client_id(key: int, version: int) -> None:
    """A client id length below -1 is Malformed, not a matter of more bytes."""
    head = bytes((0, key, 0, version, 0, 0, 0, 1)) + b"\xff\xfe" + bytes(20)
    readers: list[Callable[[], object]] = [
        lambda: frames.request_body_at(head, 0, len(head)),
        lambda: frames.client_id(head, 0),
    ]
    if key == ApiKey.PRODUCE:
        readers.append(lambda: frames.produce_acks(head, 0))
    if key == ApiKey.FETCH:
        readers.append(lambda: frames.fetch_long_polls(head, 0, len(head)))
    for read in readers:
        with pytest.raises(Malformed) as error:
            read()
        assert error.type is Malformed


def test_a_request_that_is_not_for_clients() -> None:
    """A request between brokers is Unsupported."""
    with pytest.raises(Unsupported):
        frames.request_body_at(bytes((0, 4)) + bytes(20), 0, 22)


@given(st.binary(max_size=40))
def test_garbage(data: bytes) -> None:
    """Whatever the bytes, a position within them comes back or ProtocolError is raised, nothing else."""
    with contextlib.suppress(ProtocolError):
        assert 0 < frames.request_body_at(data, 0, len(data)) <= len(data)
    with contextlib.suppress(ProtocolError):
        assert 0 < frames.response_body_at(data, 0, ApiKey.METADATA, 9) <= len(data)
    with contextlib.suppress(ProtocolError):
        frames.client_id(data, 0)
    with contextlib.suppress(ProtocolError):
        frames.produce_acks(b"\x00\x00\x00\x09" + data, 0)
    with contextlib.suppress(ProtocolError):
        fetch = b"\x00\x01\x00\x0c" + data
        assert 8 < frames.fetch_long_polls(fetch, 0, len(fetch))[1] <= len(fetch)


@pytest.mark.parametrize(
    ("first_bytes", "words"),
    [
        (bytes.fromhex("1603010200"), ("TLS", "PLAINTEXT")),
        (bytes.fromhex("1603"), ("TLS", "SASL_PLAINTEXT")),
        *((start, ("HTTP", "Kafka")) for start in (b"GET / HTTP/1.1", b"POST", b"HEAD", b"PUT ", b"HTTP/1.1 400")),
        *((start, ("HTTP", "Kafka")) for start in (b"OPTIONS", b"DELETE", b"PRI * HTTP/2.0", b"CONNECT", b"PATCH")),
    ],
)
def test_garbage_with_a_name(first_bytes: bytes, words: tuple[str, ...]) -> None:
    """Who speaks TLS or HTTP to a Kafka port is told so in one line, with the way out."""
    text = frames.describe_garbage(first_bytes)
    assert text is not None
    assert "\n" not in text
    assert all(word in text for word in words)


@pytest.mark.parametrize("first_bytes", [b"", b"\x16", b"GET", b"\x00\x00\x00\x20", b"\x16\x02\x00\x00", b"SSH-"])
def test_garbage_without_a_name(first_bytes: bytes) -> None:
    """Anything else is not guessed at."""
    assert frames.describe_garbage(first_bytes) is None


@pytest.mark.parametrize("oracle", [KIO, KAFKA_PYTHON], ids=lambda oracle: oracle.name)
def test_random_requests(oracle: Kio | KafkaPython) -> None:
    """Of every API and version that the oracles know, the body of a whole frame is found and decodes."""
    rng = random.Random(1)
    for case in cases():
        its_oracle, key, version = case.values
        if its_oracle is oracle:
            body = oracle.encode(key, version, "request", oracle.message(rng, key, version, "request"))
            frame = frames.request(key, version, 7, rng.choice(CLIENT_IDS), body)
            assert int.from_bytes(frame[:4], "big") == len(frame) - 4
            at = frames.request_body_at(frame, 4, len(frame))
            assert frame[at:] == body
