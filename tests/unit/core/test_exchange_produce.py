"""Runs of Produce: their answers are told by their size, and nothing else ever passes for one."""

from random import Random

import pytest

from kproxy.core.exchange import Exchange, Front
from kproxy.core.offer import make_offer
from kproxy.core.tally import Tally
from kproxy.wire import frames
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.primitives import put_compact_string, put_tags

OFFER = make_offer([ApiVersionsAnswer(ranges={key: (api.min_version, api.max_version) for key, api in APIS.items()})])

THEIRS, OURS = b"\x00\x00\x00\x07\x03b7\x00\x00\x23\x84", b"\x00\x00\x00\x07\x03kp\x00\x00\x00\x13"
"""Node 7 as the broker names it, b7:9092, and as we do, kp:19; both to the port, in flexible versions."""

Turn = tuple[bytes, bytes, bytes, bytes]
"""A request, what of it the broker gets, the broker's answer, what the client gets."""


def exchange() -> Exchange:
    """Make one that offers everything and calls every broker kp:19."""
    return Exchange(Front(OFFER, Tally()), lambda _node, _host, _port: ("kp", 19))


def produce(rng: Random, number: int, version: int, acks: int) -> Turn:
    """Make a Produce request and its answer, bare or with an error text or with a broker's address."""
    topic = rng.choice(["t", "orders"])
    request = b"\x00" + acks.to_bytes(2, "big", signed=True) + bytes(rng.randrange(5, 200))
    asked = frames.request(ApiKey.PRODUCE, version, number, "c", request)
    if acks == 0:
        return asked, asked, b"", b""
    head = b"\x02" + (bytes(16) if version >= 13 else put_compact_string(topic))
    count = rng.choice([1, 1, 1, 2])
    why = put_compact_string("no") if rng.random() < 0.2 else b"\x00"
    body = head + bytes([count + 1]) + (bytes(30) + b"\x01" + why + b"\x00") * count + b"\x00" + bytes(4)

    def tail(node: bytes) -> bytes:
        return put_tags([(0, b"\x02" + node + b"\x00\x00")]) if named else b"\x00"

    named = version >= 10 and rng.random() < 0.2
    theirs = frames.response(number, ApiKey.PRODUCE, version, body + tail(THEIRS))
    return asked, asked, theirs, frames.response(number, ApiKey.PRODUCE, version, body + tail(OURS))


def metadata(number: int) -> Turn:
    """Make a Metadata v12 request and an answer with one broker."""
    asked = frames.request(ApiKey.METADATA, 12, number, "c", b"\x01\x00\x00\x00")
    bodies = [bytes(4) + b"\x02" + node + b"\x00\x00" + bytes(5) + b"\x01\x00" for node in (THEIRS, OURS)]
    theirs, ours = (frames.response(number, ApiKey.METADATA, 12, body) for body in bodies)
    return asked, asked, theirs, ours


def plain(number: int) -> Turn:
    """Make a Fetch v11 request and an answer as long as a bare Produce's."""
    asked = frames.request(ApiKey.FETCH, 11, number, "c", bytes(40))
    answer = frames.response(number, ApiKey.FETCH, 11, bytes(44))
    return asked, asked, answer, answer


def turn(rng: Random, number: int) -> Turn:
    """Make a turn of any kind, Produce more often than not."""
    kind = rng.randrange(8)
    if kind == 0:
        return metadata(number)
    if kind == 1:
        return plain(number)
    if kind == 2:  # answered by kproxy: the SASL that this listener does not speak
        asked = frames.request(ApiKey.SASL_HANDSHAKE, 1, number, "c", b"\x00\x05PLAIN")
        return asked, b"", b"", frames.response(number, ApiKey.SASL_HANDSHAKE, 1, b"\x00\x22" + bytes(4))
    return produce(rng, number, rng.choice([9, 11, 11, 11, 13]), rng.choice([-1, -1, -1, 1, 0]))


def cut(rng: Random, data: bytes) -> list[bytes]:
    """Cut bytes into reads: whole, or at random."""
    if rng.random() < 0.3:
        return [data]
    at = sorted(rng.sample(range(len(data) + 1), k=min(len(data), rng.randrange(6))))
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True) if a != b]


@pytest.mark.parametrize("seed", range(150))
def test_runs(seed: int) -> None:
    """Whatever Produce stands among, and however both sides are cut, all is forwarded, rewritten and in order."""
    rng = Random(seed)
    each = exchange()
    number = 0
    for _ in range(30):
        turns = [turn(rng, number := number + 1) for _ in range(rng.choice([1, 1, 2, 5, 17]))]
        asked = b"".join(each.from_client(read) for read in cut(rng, b"".join(t[0] for t in turns)))
        assert asked == b"".join(t[1] for t in turns)
        got = b"".join(each.replies)
        each.replies.clear()
        got += b"".join(each.from_broker(read) for read in cut(rng, b"".join(t[2] for t in turns)))
        assert got == b"".join(t[3] for t in turns)
        assert each.idle
        assert b"b7" not in got


@pytest.mark.parametrize("between", [plain, metadata])
def test_a_run_that_has_been_answered(between: object) -> None:
    """What follows an answered run is told from it, with an answer of our own behind it or not, and Produce goes on."""
    assert callable(between)
    rng = Random(1)
    each = exchange()
    for number in range(6):
        asked, _, theirs, ours = produce(Random(0), number, 11, 1)
        assert each.from_client(asked) == asked
        assert each.from_broker(theirs) == ours
        asked, _, theirs, ours = between(number)
        assert each.from_client(asked) == asked
        own = turn_of_our_own(rng, number) if number % 2 else b""
        if own:
            each.reply(own)
        assert each.from_broker(theirs) == ours + own
        assert each.idle
        assert not each.replies


def turn_of_our_own(rng: Random, number: int) -> bytes:
    """Write an answer of our own."""
    return frames.response(number, ApiKey.SASL_HANDSHAKE, 1, rng.randbytes(6))
