"""ShareFetch answers while they stream: however they are cut, as long as before, and without an address."""

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import KIO, Tree, random_text

from kproxy.errors import Malformed, ProtocolError, Unsupported
from kproxy.wire.primitives import put_compact_string, put_tags, put_uvarint, tags
from kproxy.wire.sharefetch import FILLER_TAG, HELD_BYTES_MAX, ShareFetchWalk

HOST = "kafka-3.internal.example.com"
VERSIONS = (0, 1, 2)
# Body of an answer without topics, up to NodeEndpoints: throttle time, error, message, lock timeout, Responses.
NO_TOPICS = bytes(4) + bytes(2) + b"\x00" + b"\x00\x00\x75\x30" + b"\x01"


def answer(rng: Random, *, endpoints: bool = True) -> Tree:
    """Make a random answer of v1 or v2."""
    tree = KIO.message(rng, 78, 2, "response")
    for topic in tree["responses"]:
        for partition in topic["partitions"]:
            partition["records"] = rng.randbytes(rng.choice((0, 1, 100, 5_000)))
    ids = range(rng.choice((1, 2, 40))) if endpoints else ()
    tree["node_endpoints"] = [{"node_id": i, "host": HOST, "port": 9092, "rack": rng.choice((None, "r"))} for i in ids]
    return tree


def encode(version: int, tree: Tree, unknown_tags: Random | None = None) -> bytes:
    """Encode an answer; v0, which kio does not have, lacks v1's lock timeout."""
    body = KIO.encode(78, max(version, 1), "response", tree, unknown_tags)
    lock_timeout_at = 6 + len(put_compact_string(tree["error_message"]))
    return body if version else body[:lock_timeout_at] + body[lock_timeout_at + 4 :]


def decode(version: int, body: bytes, error_message: str | None) -> Tree:
    """Decode an answer; of v0, the lock timeout is nought."""
    lock_timeout_at = 6 + len(put_compact_string(error_message))
    if version == 0:
        body = body[:lock_timeout_at] + bytes(4) + body[lock_timeout_at:]
    return KIO.decode(78, max(version, 1), "response", body)


def walk(version: int, body: bytes, pieces: Iterable[bytes]) -> bytes:
    """Feed a whole body in pieces; return all that came out."""
    walker = ShareFetchWalk(version, len(body))
    out = b""
    fed = 0
    for piece in pieces:
        assert not walker.done
        fed += len(piece)
        out += walker.feed(piece)
        assert len(out) <= fed
        assert walker.done == (fed == len(body))
    assert walker.done
    return out


def whole(version: int, body: bytes) -> bytes:
    """Walk a body that comes in one piece."""
    return walk(version, body, [body])


def random_pieces(rng: Random, body: bytes) -> list[bytes]:
    """Cut a body at random."""
    cuts = sorted(rng.sample(range(1, len(body)), min(len(body) - 1, rng.choice((1, 3, 30)))))
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def fillings(body: bytes, out: bytes) -> tuple[int, list[tuple[int, bytes]]]:
    """Find where NodeEndpoints began, and the tagged fields that follow them now."""
    at = next(i for i, (before, after) in enumerate(zip(body, out, strict=True)) if before != after)
    assert out[at] == 1
    fields, end = tags(out, at + 1)
    assert end == len(out)
    return at, fields


@pytest.mark.parametrize("version", VERSIONS)
def test_no_address_is_left(version: int) -> None:
    """What comes out is as long, and the same message to kio but for node endpoints, of which there are none."""
    for seed in range(25):
        tree = answer(Random(seed))
        body = encode(version, tree)
        out = whole(version, body)
        assert len(out) == len(body)
        at, [(tag, filler)] = fillings(body, out)
        assert tag >= FILLER_TAG
        assert not any(filler)
        tree["node_endpoints"] = []
        assert out[:at] + b"\x01\x00" == encode(version, tree)
        expected = decode(version, encode(version, tree), tree["error_message"])
        assert decode(version, out[:at] + b"\x01\x00", tree["error_message"]) == expected


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("endpoints", [True, False])
def test_cuts(version: int, *, endpoints: bool) -> None:
    """However the body is cut, whole, byte by byte or at random, the same bytes come out."""
    for seed in range(6):
        rng = Random(seed)
        body = encode(version, answer(rng, endpoints=endpoints), unknown_tags=Random(seed))
        out = whole(version, body)
        assert walk(version, body, (body[i : i + 1] for i in range(len(body)))) == out
        for _ in range(5):
            assert walk(version, body, random_pieces(rng, body)) == out


@pytest.mark.parametrize("version", VERSIONS)
def test_without_endpoints_nothing_changes(version: int) -> None:
    """An answer that names no address passes as it is, tags included; whole, it is not even copied."""
    for seed in range(30):
        body = encode(version, answer(Random(seed), endpoints=False), unknown_tags=Random(seed))
        assert ShareFetchWalk(version, len(body)).feed(body) is body


@pytest.mark.parametrize("version", VERSIONS)
def test_unknown_tags_are_kept(version: int) -> None:
    """Tagged fields that nobody knows stay in every struct but the endpoints, ids ascending, the filler's last."""
    for seed in range(25):
        tree = answer(Random(seed))
        body = encode(version, tree, unknown_tags=Random(seed))
        out = whole(version, body)
        assert len(out) == len(body)
        at, [*kept, (_, filler)] = fillings(body, out)
        assert not any(filler)
        assert body.endswith(put_tags(kept))
        assert HOST.encode() not in out[at:]
        tree["node_endpoints"] = []
        empty = encode(version, tree, unknown_tags=Random(seed))
        assert empty[: at + 1] == out[: at + 1]


@pytest.mark.parametrize("others", [[], [(0, b"")], [(5, b"#" * 130), (FILLER_TAG + 7, b"")], [(2_000_000, b"#")]])
def test_every_size_can_be_filled(others: list[tuple[int, bytes]]) -> None:
    """Whatever the endpoints' size, a tagged field fills it: also where the size of a size grows by a byte."""
    for host_bytes in (*range(260), *range(16_340, 16_400)):
        array = b"\x02" + bytes(4) + put_compact_string("x" * host_bytes) + bytes(4) + b"\x00\x00"
        body = NO_TOPICS + array + put_tags(others)
        out = whole(1, body)
        assert len(out) == len(body)
        _, fields = fillings(body, out)
        assert fields[:-1] == others
        assert not any(fields[-1][1])


def test_many_tags() -> None:
    """A count of tags that grows by a byte is made room for."""
    others = [(tag, b"") for tag in range(127)]
    body = NO_TOPICS + b"\x02" + bytes(4) + b"\x01" + bytes(4) + b"\x00\x00" + put_tags(others)
    out = whole(1, body)
    assert len(out) == len(body)
    _, fields = fillings(body, out)
    assert fields[:-1] == others


@pytest.mark.parametrize("tag", [(1 << 31) - 1, (1 << 32) - 1])
def test_no_tag_left(tag: int) -> None:
    """Where no id above the others' is left, the answer is Malformed."""
    body = NO_TOPICS + b"\x02" + bytes(4) + b"\x01" + bytes(4) + b"\x00\x00" + put_tags([(tag, b"")])
    with pytest.raises(Malformed, match="no tagged field"):
        whole(1, body)


EMPTY = "000000000000 00 00007530 01 01 00"
NAMED = "000000000000 00 00007530 01 02 00000001 036231 00002384 00 00 00"
OURS = "000000000000 00 00007530 01 01 01 8040 0a 00000000000000000000"


@pytest.mark.parametrize(("before", "after"), [(EMPTY, EMPTY), (NAMED, OURS)])
def test_examples(before: str, after: str) -> None:
    """Answers that Kafka's own classes wrote come out as the documentation says."""
    assert whole(1, bytes.fromhex(before)) == bytes.fromhex(after)


def one_partition(records: bytes) -> bytes:
    """Write a v1 body up to one partition's records, included."""
    partition = bytes(6) + b"\x00" + bytes(2) + b"\x00" + bytes(8) + b"\x00" + put_uvarint(len(records) + 1) + records
    return NO_TOPICS[:-1] + b"\x02" + bytes(16) + b"\x02" + partition


def test_records_are_not_held() -> None:
    """Records pass through as the very objects that came, and what is held in between is one header at most."""
    piece = bytes(65_536)
    head = one_partition(b"")[:-1] + put_uvarint(64 * len(piece) + 1)
    acquired = put_uvarint(501) + (bytes(18) + b"\x00") * 500
    rest = acquired + b"\x00" + b"\x00" + bytes.fromhex("02 00000001 036231 00002384 00 00 00")
    walker = ShareFetchWalk(1, len(head) + 64 * len(piece) + len(rest))
    assert walker.feed(head) == head
    for _ in range(64):
        assert walker.feed(piece) is piece
    out = 0
    for fed, byte in enumerate(rest):
        assert fed - out < 30
        out += len(walker.feed(bytes((byte,))))
    assert walker.done


@pytest.mark.parametrize(
    "start",
    [
        bytes(6) + put_uvarint(2 * HELD_BYTES_MAX),  # an error message
        NO_TOPICS + put_uvarint(100_000) + bytes(4) + put_uvarint(2 * HELD_BYTES_MAX),  # a host
    ],
)
def test_what_is_held_is_bounded(start: bytes) -> None:
    """A header or tail that has no end is Malformed before it fills the memory."""
    piece = bytes(100_000)
    walker = ShareFetchWalk(1, 1 << 30)
    walker.feed(start)
    for _ in range(10):
        assert walker.feed(piece) == b""
    with pytest.raises(Malformed, match="without an end"):
        walker.feed(piece)


@pytest.mark.parametrize("version", VERSIONS)
def test_prefixes(version: int) -> None:
    """A body that ends before the answer does, or goes on behind it, is Malformed."""
    body = encode(version, answer(Random(5)))
    for end in range(len(body)):
        with pytest.raises(Malformed):
            whole(version, body[:end])
    with pytest.raises(Malformed):
        whole(version, body + b"\x00")
    with pytest.raises(Malformed):
        ShareFetchWalk(version, len(body)).feed(body + b"\x00")


def test_records_beyond_the_body() -> None:
    """Records that would not end within the body are Malformed, though they were let through."""
    body = one_partition(bytes(1_000))
    walker = ShareFetchWalk(1, len(body) - 1)
    assert walker.feed(body[:-10]) == body[:-10]
    with pytest.raises(Malformed):
        walker.feed(body[-10:-1])


def test_an_unknown_version() -> None:
    """A version whose layout is not known here is not guessed at."""
    for version in (-1, 3):
        with pytest.raises(Unsupported):
            ShareFetchWalk(version, 100)


@given(body=st.binary(min_size=1, max_size=120), version=st.sampled_from(VERSIONS), seed=st.integers(0, 99))
def test_garbage(body: bytes, version: int, seed: int) -> None:
    """Whatever the bytes and cuts, as many bytes come out as went in or ProtocolError is raised, nothing else."""
    try:
        out = walk(version, body, random_pieces(Random(seed), body) if len(body) > 1 else [body])
    except ProtocolError:
        return
    assert len(out) == len(body)


@given(seed=st.integers(0, 999), at=st.integers(0, 99_999), byte=st.integers(0, 255))
def test_damaged(seed: int, at: int, byte: int) -> None:
    """Whatever byte is wrong, cuts do not change what comes out: the same bytes, or a ProtocolError."""
    rng = Random(seed)
    tree = answer(rng)
    tree["error_message"] = random_text(rng)
    body = bytearray(encode(1, tree))
    body[at % len(body)] = byte
    results = []
    for pieces in ([bytes(body)], random_pieces(rng, bytes(body))):
        try:
            results.append(walk(1, bytes(body), pieces))
        except ProtocolError:
            results.append(b"refused")
    assert results[0] == results[1]
