"""Exchanges under limits: no byte is changed, lost or sent twice, and none is waited for that need not be."""

from collections.abc import Sequence
from random import Random

import pytest
from conversations import OFFER, Cut, advertise, at_random, conversation, one_byte, one_frame, whole
from metered_conversations import (
    MeteredRoutedTalk,
    MeteredTalk,
    ThrottledTalk,
    check_metered,
    throttled_conversation,
)
from metered_stage import Stage, bucket, fetch, fetched, in_pieces, produce, slots, window
from test_exchange_holding import Renewal

from kproxy.core.exchange import Exchange, Front
from kproxy.core.limits import Action, Rule, Unit
from kproxy.core.metered import MeteredExchange
from kproxy.core.offer import make_offer
from kproxy.core.tally import Tally
from kproxy.errors import Malformed, ProtocolError, Unsupported
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.primitives import INT16, INT32

WIDE = 1 << 40

NEVER = (
    bucket("requests", rate=WIDE, burst=WIDE, key=("client_ip",)),
    bucket("in", unit=Unit.BYTES_IN, rate=WIDE, burst=WIDE),
    bucket("out", unit=Unit.BYTES_OUT, rate=WIDE, burst=WIDE, key=("client_id", "client_ip")),
    window("window", count=WIDE, key=("client_id",)),
    window("window in", unit=Unit.BYTES_IN, count=WIDE),
    window("window out", unit=Unit.BYTES_OUT, count=WIDE),
    slots("slots", max_in_flight=WIDE),
    slots("all slots", max_in_flight=WIDE, count_long_polls=True),
)
"""Limits of every kind that no conversation ever reaches."""


@pytest.mark.parametrize("cut", [whole, one_byte, one_frame, at_random])
@pytest.mark.parametrize("seed", range(12))
def test_limits_that_never_trigger(seed: int, cut: Cut) -> None:
    """Below its limits a connection is as without, however the bytes are cut, and gives back every slot."""
    rng = Random(seed)
    rules = NEVER if seed % 3 else rng.sample(NEVER, 2)
    talk = MeteredTalk(conversation(rng, rng.choice((1, 5, 25))), *rules)
    talk.run(rng, cut)
    assert not any(limit.delayed or limit.throttled for limit in talk.limits.limits)


@pytest.mark.parametrize("cut", [whole, one_byte, one_frame, at_random])
@pytest.mark.parametrize("seed", range(12))
def test_limits_that_never_trigger_before_a_cluster(seed: int, cut: Cut) -> None:
    """The same before a whole cluster, also where logins are renewed in between."""
    rng = Random(seed)
    talk = MeteredRoutedTalk(rng, rng.choice((1, 5, 25)), *(NEVER if seed % 3 else rng.sample(NEVER, 2)))
    talk.run(cut, hold_share=0.05 if seed % 2 else 0.0)
    check_metered(talk.exchange, talk.limits)


TIGHT = (
    bucket("requests", rate=3.0, burst=2.0),
    bucket("at once", rate=3.0, burst=4.0, nodelay=True),
    bucket("in", unit=Unit.BYTES_IN, rate=4000.0, burst=1000.0),
    bucket("out", unit=Unit.BYTES_OUT, rate=9000.0),
    window("window", count=3, window_seconds=0.7),
    window("window in", unit=Unit.BYTES_IN, count=5000, window_seconds=0.3, max_wait_seconds=0.2),
    window("window out", unit=Unit.BYTES_OUT, count=20_000, window_seconds=0.5),
    slots("slots", max_in_flight=2, max_wait_seconds=5.0),
    slots("all slots", max_in_flight=3, count_long_polls=True, waiting=0),
)


@pytest.mark.parametrize("cut", [whole, one_byte, one_frame, at_random])
@pytest.mark.parametrize("seed", range(16))
def test_limits_that_delay(seed: int, cut: Cut) -> None:
    """Whatever is delayed, for whatever reason, goes on in its order, and not a byte of it or of an answer changes."""
    rng = Random(seed)
    sure = TIGHT[4 * (seed % 2)]  # of bytes there may be few, and slots may be free where bytes come one by one
    more = [rule for rule in TIGHT if rule is not sure]
    rules = TIGHT if seed % 4 == 0 else (sure, *rng.sample(more, rng.choice((0, 1, 2))))
    talk = MeteredTalk(conversation(rng, 25), *rules)
    talk.run(rng, cut)
    assert any(limit.delayed for limit in talk.limits.limits)


THROTTLED = (
    bucket("requests", Action.THROTTLE, rate=3.0),
    bucket("in", Action.THROTTLE, Unit.BYTES_IN, rate=4000.0),
    bucket("out", Action.THROTTLE, Unit.BYTES_OUT, rate=4000.0),
    window("window", Action.THROTTLE, count=3, window_seconds=0.7),
    window("window in", Action.THROTTLE, Unit.BYTES_IN, count=5000, window_seconds=0.3),
    window("window out", Action.THROTTLE, Unit.BYTES_OUT, count=5000, window_seconds=0.5),
    slots("slots", Action.THROTTLE, max_in_flight=2, waiting=0, max_wait_seconds=5.0),
)


@pytest.mark.parametrize("cut", [whole, one_byte, one_frame, at_random])
@pytest.mark.parametrize("seed", range(14))
def test_limits_that_throttle(seed: int, cut: Cut) -> None:
    """However answers are cut and rewritten, a throttle time is all that is changed in them, and never lowered."""
    rng = Random(seed)
    rules = [*rng.sample(THROTTLED, 2), *rng.sample(TIGHT, seed % 2)]
    talk = ThrottledTalk(throttled_conversation(rng, 25), *rules)
    talk.run(rng, cut)
    assert talk.told


# What is no request.

GARBAGE = [
    bytes(4),
    INT32.pack(-1),
    INT32.pack(9) + bytes(9),
    INT32.pack(100 * 1024 * 1024 + 1),
    b"GET / HTTP/1.1\r\nHost: kafka\r\n\r\n",
    INT32.pack(100) + b"\x7f" * 100,
    frames.request(ApiKey.METADATA, 99, 1, "c", bytes(9)),
    frames.request(ApiKey.PRODUCE, 9, 1, "c", b""),
    frames.request(ApiKey.PRODUCE, 9, 1, "c", b"\x00\x01"),
    frames.request(ApiKey.PRODUCE, 7, 1, "c", b"\x00\x09t"),
    frames.request(ApiKey.PRODUCE, 9, 1, "c", b"\xff" * 9),
    INT32.pack(20) + bytes.fromhex("0000 0007 00000001 fff0") + bytes(10),
    INT32.pack(90_000) + bytes.fromhex("0000 0009 00000001 ffff 01 7f ffff04") + bytes(90_000),
    INT32.pack(90_000) + bytes.fromhex("0012 0003 00000001 ffff 00") + bytes(90_000),
]


def outcome(exchange: Exchange, pieces: Sequence[bytes]) -> tuple[bytes, int, str]:
    """Feed what a client sends; return what was forwarded, and with which piece it ended, and how."""
    out = b""
    for number, piece in enumerate(pieces):
        try:
            out += exchange.from_client(piece)
        except ProtocolError as error:
            return out, number, repr(error)
    return out, -1, ""


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("before", [b"", fetch(1), fetch(1) + produce(2)])
@pytest.mark.parametrize("size", [1, 11, 100_000])
@pytest.mark.parametrize("rules", [NEVER, (bucket(rate=WIDE),)])
def test_garbage(garbage: bytes, before: bytes, size: int, rules: tuple[Rule, ...]) -> None:
    """What is no request is refused as without limits, in the same words, at the same byte.

    But for an ApiVersions that is too long, where it comes first: its client id is awaited.
    """
    if size == 1:
        garbage = garbage[:200]
    pieces = in_pieces(before + garbage, size)
    ours, at, how = outcome(Stage(*rules).wire().exchange, pieces)
    theirs, at_theirs, how_theirs = outcome(Exchange(Front(OFFER, Tally()), advertise), pieces)
    assert (ours, how) == (theirs, how_theirs)
    assert at == at_theirs or (not before and garbage == GARBAGE[-1][: len(garbage)] and at * size < 14)


@pytest.mark.parametrize(
    "garbage", [INT32.pack(20) + bytes.fromhex("0001 000b 00000001 fff0") + bytes(10), fetch(1)[:16] + b"\x00"]
)
def test_garbage_that_is_the_brokers_business(garbage: bytes) -> None:
    """A request that is forwarded as it is, right or wrong, is so under limits, and takes a slot as any."""
    garbage = INT32.pack(len(garbage) - 4) + garbage[4:]
    for rules in (NEVER, (slots(),)):
        stage = Stage(*rules)
        wire = stage.wire()
        wire.send(garbage + garbage)
        stage.after(0)
        wire.answer(fetched(1))
        stage.after(0)
        assert wire.to_broker == garbage * 2
        wire.answer(fetched(1))
        check_metered(wire.exchange, stage.limits)


@pytest.mark.parametrize("garbage", [bytes(20), INT32.pack(100 * 1024 * 1024 + 1), bytes(5)])
def test_garbage_while_requests_are_held(garbage: bytes) -> None:
    """While a login is renewed what comes is only kept; it is refused when it is looked at, and whatever follows it."""
    stage = Stage(bucket(rate=WIDE), slots(max_in_flight=9))
    wire = stage.wire()
    wire.exchange.hold()
    for piece in in_pieces(fetch(1) + garbage, 9):
        wire.send(piece)
    wire.send(fetch(2))
    assert wire.to_broker == b""
    with pytest.raises(ProtocolError, match="request of"):
        wire.exchange.release()


def test_garbage_behind_one_that_waits() -> None:
    """What is held back is looked at when it goes on; where that cannot be forwarded nothing is held any more."""
    stage = Stage(bucket())
    wire = stage.wire()
    unknown = frames.request(ApiKey.METADATA, 99, 9, "c", b"")
    wire.send(fetch(1) + fetch(2) + unknown + fetch(3))
    with pytest.raises(Unsupported):
        stage.after(2)
    assert not wire.exchange.waits
    wire = stage.wire()
    with pytest.raises(Unsupported):
        wire.send(unknown + fetch(1) + fetch(2))
    assert not wire.exchange.waits
    wire.flush()
    assert wire.to_broker == b""


def test_a_new_offer_in_the_same_read() -> None:
    """What an ApiVersions of the same read makes known is let through, and is counted from the next one on."""
    less = make_offer([ApiVersionsAnswer(ranges={1: (0, 4)})])
    stage = Stage(bucket(), offer=less)
    wire = stage.wire()
    stage._front.offer = OFFER
    wire.send(frames.request(ApiKey.API_VERSIONS, 0, 9, "c", b"") + fetch(1))
    assert (wire.broker_got, stage.limit.asked) == ([1], 0)
    wire.send(fetch(2) + fetch(3))
    assert (wire.broker_got, stage.limit.asked) == ([1, 2], 2)


# Who the client is.


@pytest.mark.parametrize("size", [1, 5, 13, 1000])
@pytest.mark.parametrize("name", ["", None, "c", "größe", "x" * 32_000])
def test_client_id(name: str | None, size: int) -> None:
    """The client id of the first request, wherever it is cut, decides which limits apply; none is the empty one."""
    stage = Stage(bucket(key=("client_id",)), bucket("named", client_ids=("x*", "größe")))
    one, two = stage.wire(), stage.wire()
    for piece in in_pieces(fetch(1, client_id=name), 1000 if name and len(name) > 1000 else size):
        one.send(piece)
    two.send(fetch(2, client_id="other") + fetch(3, client_id=name))
    assert (one.broker_got, two.broker_got) == ([1], [2])
    (key, _), (other, _) = stage.limit.meters()
    assert (key[:50], other) == ((name or "")[:50], "other")  # a long one is shortened
    assert stage.limits.limits[1].asked == (name == "größe" or (name or "")[:1] == "x")


@pytest.mark.parametrize("name", [b"\xff\xfe", b"c" * 7])
def test_a_client_id_that_is_none(name: bytes) -> None:
    """A client id that is no text, or longer than its request, counts as none, and is the broker's to refuse."""
    stage = Stage(bucket(key=("client_id",)))
    wire = stage.wire()
    head = bytes.fromhex("0001 000b 00000001") + INT16.pack(len(name))
    frame = INT32.pack(len(head) + 2) + head + name[:2]
    wire.send(frame)
    assert wire.to_broker == frame
    assert [key for key, _ in stage.limit.meters()] == [""]


def test_garbage_first() -> None:
    """What is refused for its API names no client: no limit is asked for it."""
    stage = Stage(bucket(key=("client_id",)))
    wire = stage.wire()
    with pytest.raises(Unsupported):
        wire.send(frames.request(ApiKey.METADATA, 99, 9, "c", b""))
    assert list(stage.limit.meters()) == []
    wire.close()
    never_metered = MeteredExchange(Front(OFFER, Tally()), advertise)
    assert never_metered.idle
    assert never_metered.progress == never_metered.progress


# What the shell asks, and does.


def test_idle() -> None:
    """Half a request is under way; whole ones that are held back may still go to any broker."""
    stage = Stage(bucket())
    wire = stage.wire()
    exchange = wire.exchange
    idle = [exchange.idle]
    for piece in (fetch(1)[:9], fetch(1)[9:] + fetch(2)):
        wire.send(piece)
        idle.append(exchange.idle)
    wire.answer(fetched(1))
    idle.append(exchange.idle)
    assert idle == [True, False, False, True]
    assert (exchange.waits, exchange.at_boundary, exchange.held_bytes) == (True, True, len(fetch(2)))


def test_progress() -> None:
    """Whatever comes is progress, and so is the time while a limit makes the client wait, but no other time."""
    stage = Stage(bucket())
    wire = stage.wire()
    seen = {wire.exchange.progress}
    stage.after(1)
    assert wire.exchange.progress in seen
    for piece in in_pieces(fetch(1), 9):
        wire.send(piece)
        seen.add(wire.exchange.progress)
    for piece in in_pieces(fetched(1), 3):
        wire.answer(piece)
        seen.add(wire.exchange.progress)
    wire.send(fetch(2))
    for _ in range(5):
        seen.add(wire.exchange.progress)
        stage.after(0.125)
    assert len(seen) == 1 + len(in_pieces(fetch(1), 9)) + len(in_pieces(fetched(1), 3)) + 5


@pytest.mark.parametrize("cut", [0, 3, 8, 20, len(fetch(3))])
def test_flush(cut: int) -> None:
    """At the end all that is held goes at once, and the request that is half here is let through as it comes."""
    stage = Stage(bucket())
    wire = stage.wire()
    wire.send(fetch(1) + fetch(2) + fetch(3)[:cut])
    assert wire.broker_got == [1]
    wire.flush()
    assert wire.to_broker == fetch(1) + fetch(2) + (fetch(3)[:cut] if cut >= 8 else b"")
    assert not wire.exchange.waits
    stage.after(5)
    wire.send(fetch(3)[cut:])
    assert wire.to_broker == fetch(1) + fetch(2) + fetch(3)
    wire.flush()
    wire.answer(fetched(1) + fetched(2) + fetched(3))
    check_metered(wire.exchange, stage.limits)


def test_what_is_flushed_is_charged() -> None:
    """To send and go at once is no way around a limit: the next connection pays for it, each request once."""
    stage = Stage(bucket(rate=1.0), window("window", count=99), slots("slots", max_in_flight=9))
    one, two = stage.wire(), stage.wire()
    one.send(fetch(1) + fetch(2) + fetch(3) + frames.request(ApiKey.API_VERSIONS, 0, 9, "c", b""))
    one.flush()
    one.close()
    two.send(fetch(4))
    stage.after(9)
    assert two.times == [(4, 3.0)]
    assert [limit.asked for limit in stage.limits.limits] == [4, 4, 2]


def test_flush_garbage() -> None:
    """What is no request is refused when it is let through at the end."""
    wire = Stage(bucket()).wire()
    wire.send(fetch(1) + fetch(2) + bytes(10))
    with pytest.raises(Malformed):
        wire.flush()


@pytest.mark.parametrize("cut", [whole, one_frame, at_random])
@pytest.mark.parametrize("seed", range(6))
def test_renewed_amid_limits(seed: int, cut: Cut) -> None:
    """A login that is renewed while requests are delayed changes nothing for the client, wherever it begins."""
    turns = conversation(Random(seed), 6)
    for hold_at in range(0, 40, 3):
        rng = Random(seed)
        talk = MeteredTalk(turns, *rng.sample(TIGHT, 2), slots("more", max_in_flight=1))
        renewal: Renewal | None = None
        for step in range(100_000):
            if step == hold_at:
                renewal = Renewal(talk)
            if renewal is not None and not renewal.done:
                renewal.step()
            if not talk.step(rng, cut) and renewal is not None and renewal.done:
                break
            if renewal is not None and renewal.done and talk.exchange._holding:
                talk.upstream(talk.exchange.release())
        talk.check_end()
        check_metered(talk.exchange, talk.limits)
