"""What Exchange does with bytes that break the protocol: it raises the right error early, and forwards none of them."""

import re
from random import Random

import pytest
from conversations import (
    BROKER_HOST,
    OFFER,
    Talk,
    advertise,
    answer_frame,
    conversation,
    request_frame,
    rewritten_answers,
    whole,
)
from hypothesis import given
from hypothesis import strategies as st

from kproxy.core.exchange import AWAITED_MAX, FRAME_BYTES_MAX, HELD_BYTES_MAX, Exchange, Front
from kproxy.core.offer import make_offer
from kproxy.core.rewrite import BROKERS_BYTES_MAX, COLLECTED_BYTES_MAX
from kproxy.core.tally import Tally
from kproxy.errors import FrameTooLarge, Malformed, ProtocolError, Unsupported
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.primitives import INT16, INT32, put_string, put_uvarint

FETCH = frames.request(ApiKey.FETCH, 11, 1, "c", b"fetch")
BODY = b"\x00\x00\x01" + bytes(37)  # of a Produce v9 and up, acks is 1
FETCHED = frames.response(1, ApiKey.FETCH, 11, b"records")


def exchange(request_bytes_max: int = FRAME_BYTES_MAX) -> Exchange:
    """Make one that offers everything."""
    return Exchange(Front(OFFER, Tally(), request_bytes_max), advertise)


def raises_at(each: Exchange, data: bytes, error: type[ProtocolError], match: str) -> int:
    """Send byte by byte; return how many bytes it took to raise this error. Nothing of them may have been forwarded."""
    taken = 0
    with pytest.raises(error, match=re.escape(match)) as raised:  # noqa: PT012  the number of reads is the point
        for taken in range(1, len(data) + 1):
            assert each.from_client(data[taken - 1 : taken]) == b""
    assert raised.type is error
    return taken


# The client's mistakes.


@pytest.mark.parametrize(
    ("first", "error", "match"),
    [
        (INT32.pack(-1), Malformed, "request of -1 bytes"),
        (INT32.pack(-(2**31)), Malformed, "request of -2147483648 bytes"),
        (INT32.pack(0), Malformed, "request of 0 bytes"),
        (INT32.pack(9), Malformed, "a header alone has 10"),
        (INT32.pack(1001), FrameTooLarge, "request of 1001 bytes; the maximum is 1000"),
        (INT32.pack(2**31 - 1), FrameTooLarge, "the maximum is 1000"),
        (b"GET / HTTP/1.1\r\n", FrameTooLarge, "the maximum is 1000"),
        (bytes.fromhex("16030102000100"), FrameTooLarge, "the maximum is 1000"),
    ],
)
def test_sizes(first: bytes, error: type[ProtocolError], match: str) -> None:
    """A size that cannot be, TLS and HTTP included, ends the connection at its fourth byte, first or not."""
    assert raises_at(exchange(1000), first, error, match) == 4
    each = exchange(1000)
    assert each.from_client(FETCH + first[:3]) == FETCH
    with pytest.raises(error, match=match):
        each.from_client(first[3:4])
    with pytest.raises(error, match=match):
        exchange(1000).from_client(FETCH + first + bytes(20))


def test_the_largest_request_passes() -> None:
    """A request of just the maximum passes."""
    request = frames.request(ApiKey.FETCH, 11, 1, None, bytes(1000 - 10))
    assert exchange(1000).from_client(request) == request


@pytest.mark.parametrize(
    ("key", "version", "text"),
    [
        (1, 16, "Fetch version 16: offered are versions 0 to 15"),
        (1, -1, "Fetch version 65535: offered"),
        (17, 2, "SaslHandshake version 2: offered are versions 0 to 1"),
        (4, 0, "LeaderAndIsr version 0: not offered"),
        (999, 0, "API 999 version 0: not offered"),
        (-1, 0, "API 65535 version 0: not offered"),
    ],
)
def test_not_offered(key: int, version: int, text: str) -> None:
    """What was not offered ends the connection at the version's last byte."""
    request = INT32.pack(1000) + INT16.pack(key) + INT16.pack(version) + bytes(996)
    assert raises_at(exchange(), request, Unsupported, text) == 8


def test_not_offered_by_the_cluster() -> None:
    """What kproxy understands and the cluster lacks is refused by name."""
    each = Exchange(Front(make_offer([ApiVersionsAnswer(ranges={3: (0, 9)})]), Tally()), advertise)
    with pytest.raises(Unsupported, match="Fetch version 11: not offered"):
        each.from_client(FETCH)


@pytest.mark.parametrize("version", [0, 3, 9])
@pytest.mark.parametrize("follows", [b"", FETCH, b"\xff" * 100])
def test_produce_without_acks(version: int, follows: bytes) -> None:
    """A Produce request that ends before its acks is refused when its last byte is there, whatever follows."""
    transactional_id = b"" if version < 3 else put_string(None) if version < 9 else b"\x00"
    whole_request = frames.request(ApiKey.PRODUCE, version, 1, "client", transactional_id + b"\x00\x01")
    for cut in range(10, 16):
        request = INT32.pack(cut) + whole_request[4 : 4 + cut]
        with pytest.raises(Malformed):
            exchange().from_client(request + follows)
        assert raises_at(exchange(), request, Malformed, "Produce request ends before its acks") == len(request)
        each = exchange()
        each.from_client(whole_request)
        with pytest.raises(Malformed):  # begins as the last one did, but is said to end before that
            each.from_client(request + whole_request[4 + cut :])


def test_produce_of_nonsense() -> None:
    """A client id length below -1 is Malformed as soon as it is read."""
    request = INT32.pack(500) + bytes((0, 0, 0, 7, 0, 0, 0, 1)) + INT16.pack(-2) + bytes(490)
    assert raises_at(exchange(), request, Malformed, "client id length -2") == 14


def produce(header_bytes: int) -> bytes:
    """Make a Produce v9 request whose acks end ``header_bytes`` behind its first byte; tags fill the header."""
    transactional_id_and_acks = b"\x00\x00\x01"
    fixed = 4 + 10 + len(transactional_id_and_acks)
    tag_bytes = header_bytes - fixed - len(b"\x01\x07") - 3  # its size takes three bytes
    tags = b"\x01\x07" + put_uvarint(tag_bytes) + bytes(tag_bytes)
    body = INT16.pack(0) + INT16.pack(9) + INT32.pack(1) + INT16.pack(-1) + tags + transactional_id_and_acks + bytes(50)
    return INT32.pack(len(body)) + body


@pytest.mark.parametrize("pieces", [1, 2, 100])
def test_what_is_held_of_a_request_is_bounded(pieces: int) -> None:
    """A Produce header of 72 KiB passes, a longer one is refused, and however it is cut."""
    longest = produce(HELD_BYTES_MAX)
    too_long = produce(HELD_BYTES_MAX + 1)
    step = -(-len(longest) // pieces)
    each = exchange()
    assert b"".join(each.from_client(longest[at : at + step]) for at in range(0, len(longest), step)) == longest
    each = exchange()
    with pytest.raises(FrameTooLarge, match="73728 bytes do not tell"):  # noqa: PT012  any of the reads may raise
        for at in range(0, len(too_long), step):
            assert each.from_client(too_long[at : at + step]) == b""


def test_not_one_byte_more_is_held() -> None:
    """72 KiB of a request that do not tell what it is are kept; one more byte ends the connection."""
    each = exchange()
    too_long = produce(HELD_BYTES_MAX + 2)
    assert each.from_client(too_long[:HELD_BYTES_MAX]) == b""
    with pytest.raises(FrameTooLarge):
        each.from_client(too_long[HELD_BYTES_MAX : HELD_BYTES_MAX + 1])


def test_two_longest_strings() -> None:
    """The longest client id and transactional id that Kafka's types hold pass before acks, byte by byte from there."""
    request = frames.request(ApiKey.PRODUCE, 7, 1, "c" * 32_767, put_string("t" * 32_767) + b"\x00\x00" + bytes(9))
    each = exchange()
    out = each.from_client(request[:65_530])
    for at in range(65_530, len(request)):
        out += each.from_client(request[at : at + 1])
    assert out == request
    assert each.asked == 0


@pytest.mark.parametrize("key", [ApiKey.API_VERSIONS, ApiKey.SASL_HANDSHAKE, ApiKey.SASL_AUTHENTICATE])
def test_what_kproxy_answers_is_small(key: ApiKey) -> None:
    """A request that must be whole is refused at its eighth byte when that would be much, and however it is cut."""
    request = frames.request(key, 0, 1, None, bytes(HELD_BYTES_MAX))
    assert raises_at(exchange(), request, FrameTooLarge, f"request of {HELD_BYTES_MAX + 10} bytes") == 8
    with pytest.raises(FrameTooLarge):
        exchange().from_client(request)


@pytest.mark.parametrize(
    "request_",
    [
        frames.request(ApiKey.API_VERSIONS, 0, 1, "c", b"more"),
        frames.request(ApiKey.API_VERSIONS, 3, 1, "c", b"\x05"),
        INT32.pack(10) + INT16.pack(18) + INT16.pack(0) + INT32.pack(1) + INT16.pack(500),
        INT32.pack(10) + INT16.pack(18) + INT16.pack(3) + INT32.pack(1) + INT16.pack(-9),
    ],
)
def test_api_versions_of_nonsense(request_: bytes) -> None:
    """An ApiVersions request that cannot be read ends the connection, without an answer."""
    each = exchange()
    with pytest.raises(Malformed):
        each.from_client(request_)
    assert each.replies == []


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_noise_from_the_client(reads: list[bytes]) -> None:
    """Whatever a client sends, nothing but ProtocolError is raised, and what is forwarded is what came."""
    each = exchange()
    out = b""
    try:
        for read in reads:
            out += each.from_client(read)
    except ProtocolError:
        pass
    assert b"".join(reads).startswith(out)


@given(seed=st.integers(0, 40), at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_broken_byte_from_the_client(seed: int, at: int, byte: int) -> None:
    """One wrong byte anywhere in a conversation raises nothing but ProtocolError."""
    talk = Talk(conversation(Random(seed), 6))
    data = bytearray(talk.from_client)
    data[at % len(data)] = byte
    try:
        exchange().from_client(bytes(data))
    except ProtocolError:
        return


# The broker's mistakes.


def asked(key: int, version: int) -> Exchange:
    """Make an exchange with one request under way."""
    each = exchange()
    each.from_client(request_frame(Random(1), key, version, 7, BODY))
    assert each.outstanding == 1
    return each


AWAITED = [(3, 1), (3, 12), (10, 2), (10, 4), (60, 0), (0, 11), (78, 1), (79, 1), (55, 2)]


@pytest.mark.parametrize("size", [-1, -(2**31), 0, 3])
@pytest.mark.parametrize(("key", "version"), [(1, 11), *AWAITED])
def test_sizes_of_answers(key: int, version: int, size: int) -> None:
    """An answer's size that cannot be ends the connection at its fourth byte; nothing of it reaches the client."""
    each = asked(key, version)
    assert each.from_broker(INT32.pack(size)[:3]) == b""
    with pytest.raises(Malformed, match=f"answer of {size} bytes"):
        each.from_broker(INT32.pack(size)[3:] + b"more")


def test_answer_without_a_request() -> None:
    """An answer that nobody asked for is refused at its first byte, and however much of it is there."""
    for cut in (1, 3, 4, 5, len(FETCHED)):
        each = asked(1, 11)
        assert each.from_broker(FETCHED) == FETCHED
        with pytest.raises(Malformed, match="not asked for"):
            each.from_broker(FETCHED[:cut])
        with pytest.raises(Malformed, match="not asked for"):
            asked(1, 11).from_broker(FETCHED + FETCHED[:cut])


@pytest.mark.parametrize(("key", "version"), [api for api in AWAITED if api[0] != ApiKey.PRODUCE])
def test_answers_in_disorder(key: int, version: int) -> None:
    """An awaited answer with another correlation id is refused at its eighth byte; none of its bytes get through."""
    theirs, _ = rewritten_answers(Random(1), key, version, 8)
    each = asked(key, version)
    assert each.from_broker(theirs[:7]) == b""
    with pytest.raises(Malformed, match="another correlation id"):
        each.from_broker(theirs[7:8])
    with pytest.raises(Malformed, match="another correlation id"):
        asked(key, version).from_broker(theirs)


@pytest.mark.parametrize("count", [1, 3])
def test_other_answer_in_place_of_produce(count: int) -> None:
    """What stands where a Produce answer must be and names brokers is never forwarded: it does not parse as one."""
    for key, version in AWAITED:
        if key not in (ApiKey.PRODUCE, ApiKey.SHARE_FETCH):
            theirs, _ = rewritten_answers(Random(1), key, version, 7)
            each = exchange()
            for number in range(count):
                each.from_client(request_frame(Random(1), ApiKey.PRODUCE, 11, number, BODY))
            with pytest.raises(Malformed):
                each.from_broker(theirs)


@pytest.mark.parametrize(("key", "version"), AWAITED)
def test_cut_answers(key: int, version: int) -> None:
    """An awaited answer that is whole by its size and ends too early raises, wherever it ends; no address gets out."""
    theirs, _ = rewritten_answers(Random(3), key, version, 7)
    for end in range(8, len(theirs) - 1):
        cut = INT32.pack(end - 4) + theirs[4:end]
        for pieces in ((cut,), (cut[:10], cut[10:])):
            each = asked(key, version)
            out = b""
            try:
                for piece in pieces:
                    out += each.from_broker(piece)
            except ProtocolError:
                assert BROKER_HOST.encode() not in out
            else:
                assert key == ApiKey.METADATA  # what follows the brokers streams by unread
                assert BROKER_HOST.encode() not in out


@pytest.mark.parametrize("version", [1, 12])
def test_metadata_ends_before_its_brokers(version: int) -> None:
    """A Metadata answer without all of its brokers is Malformed, in one piece or two."""
    theirs, _ = rewritten_answers(Random(1), ApiKey.METADATA, version, 7)
    cut = INT32.pack(12) + theirs[4:16]
    with pytest.raises(Malformed, match="ends before its brokers do"):
        asked(ApiKey.METADATA, version).from_broker(cut)
    each = asked(ApiKey.METADATA, version)
    assert each.from_broker(cut[:-1]) == b""
    with pytest.raises(Malformed, match="ends before its brokers do"):
        each.from_broker(cut[-1:])


def test_too_many_brokers() -> None:
    """Brokers without an end are held up to a bound."""
    head = INT32.pack(2**31 - 1) + INT32.pack(7) + INT32.pack(2**31 - 1)
    broker = INT32.pack(1) + put_string(BROKER_HOST) + INT32.pack(9092)
    piece = broker * 10_000
    each = asked(ApiKey.METADATA, 0)
    assert each.from_broker(head) == b""
    with pytest.raises(FrameTooLarge, match="brokers in a Metadata answer"):  # noqa: PT012  the number of pieces is the point
        for _ in range(BROKERS_BYTES_MAX // len(piece) + 2):
            assert each.from_broker(piece) == b""


def test_too_long_to_be_held() -> None:
    """An answer that would have to be held whole is refused at its eighth byte when it is longer than the bound."""
    with pytest.raises(FrameTooLarge, match="held whole"):
        asked(10, 2).from_broker(INT32.pack(COLLECTED_BYTES_MAX) + INT32.pack(7))
    assert asked(10, 2).from_broker(INT32.pack(COLLECTED_BYTES_MAX - 4) + INT32.pack(7)) == b""


def test_share_fetch_header_without_end() -> None:
    """A ShareFetch answer's header is held up to a bound, and must end before the answer does."""
    endless = INT32.pack(2**31 - 1) + INT32.pack(7) + b"\x01\x05" + put_uvarint(2**28)
    each = asked(78, 1)
    assert each.from_broker(endless) == b""
    with pytest.raises(Malformed, match="ShareFetch answer's header"):
        each.from_broker(bytes(5000))
    with pytest.raises(Malformed, match="ShareFetch answer's header"):
        asked(78, 1).from_broker(INT32.pack(4) + INT32.pack(7))


@given(seed=st.integers(0, 60), at=st.integers(0, 100_000), byte=st.integers(0, 255), cut=st.integers(1, 50))
def test_a_broken_byte_from_the_broker(seed: int, at: int, byte: int, cut: int) -> None:
    """One wrong byte anywhere behind an awaited answer's size raises nothing but ProtocolError."""
    rng = Random(seed)
    key, version = rng.choice(AWAITED)
    theirs, _ = rewritten_answers(rng, key, version, 7)
    data = bytearray(theirs)
    at = 4 + at % (len(data) - 4)
    data[at] = byte
    each = Exchange(Front(OFFER, Tally()), lambda _node_id, _host, _port: ("ours", 1))
    each.from_client(request_frame(Random(1), key, version, 7, BODY))
    try:
        for start in range(0, len(data), cut):
            each.from_broker(bytes(data[start : start + cut]))
    except ProtocolError:
        return


@given(st.lists(st.binary(max_size=30), max_size=6), st.sampled_from([(1, 11), *AWAITED]))
def test_noise_from_the_broker(reads: list[bytes], case: tuple[int, int]) -> None:
    """Whatever a broker sends, nothing but ProtocolError is raised."""
    each = Exchange(Front(OFFER, Tally()), lambda _node_id, _host, _port: ("ours", 1))
    each.from_client(request_frame(Random(1), *case, 7, BODY))
    try:
        for read in reads:
            each.from_broker(read)
    except ProtocolError:
        return


def test_repeated_ids() -> None:
    """A client that gives every request the same id gets each answer rewritten as what was asked in its place."""
    for seed in range(20):
        rng = Random(seed)
        keys = [rng.choice(AWAITED) for _ in range(10)]
        answers = [rewritten_answers(rng, key, version, 7) for key, version in keys]
        each = exchange()
        for key, version in keys:
            each.from_client(request_frame(rng, key, version, 7, BODY))
        each.from_client(FETCH)
        answers.append((FETCHED, FETCHED))
        assert each.from_broker(b"".join(theirs for theirs, _ in answers)) == b"".join(ours for _, ours in answers)
        assert each.idle


def test_another_answer_under_a_repeated_id() -> None:
    """An answer under the right id that is not what was asked for is refused, not passed on."""
    metadata, _ = rewritten_answers(Random(3), ApiKey.METADATA, 1, 7)
    for key, version in AWAITED[2:]:
        with pytest.raises(ProtocolError):
            asked(key, version).from_broker(metadata)


def test_nothing_is_forwarded_with_a_bad_answer() -> None:
    """An extra answer behind a conversation raises in the same read."""
    talk = Talk(conversation(Random(5), 10))
    talk.client_step(Random(1), whole)
    with pytest.raises(Malformed, match="not asked for"):
        talk.exchange.from_broker(talk._answers + answer_frame(1, 11, 1, b"more"))


def test_what_is_awaited_is_bounded() -> None:
    """A client that asks without end and reads nothing is stopped before what is remembered of it fills the memory."""
    each = exchange()
    request = request_frame(Random(1), ApiKey.DESCRIBE_CLUSTER, 0, 7, BODY)
    each.from_client(request * AWAITED_MAX)
    with pytest.raises(Malformed, match="without reading an answer"):
        each.from_client(request)
