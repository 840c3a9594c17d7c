"""Throttle times in answers, wherever the field stands, and what else a connection under limits does with answers."""

from datetime import timedelta
from random import Random
from typing import Any

import pytest
from conversations import answer_frame, nodes
from metered_stage import Stage, bucket, fetch, fetched, in_pieces, produce, produced, slots
from oracles import KAFKA_PYTHON, KIO, KafkaPython, Kio

from kproxy.core.limits import HEARTBEATS, Action, Unit
from kproxy.core.meteredanswers import HELD_ANSWER_BYTES_MAX
from kproxy.core.sasl import Ask
from kproxy.errors import Malformed
from kproxy.wire import frames
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.primitives import INT32, put_string
from kproxy.wire.throttle import CARRYING

THROTTLE = Action.THROTTLE
ALL_APIS = frozenset(range(100))

TOLD = [
    pytest.param(oracle, key, version, id=f"{APIS[key].name}-v{version}-{oracle.name}")
    for oracle in (KIO, KAFKA_PYTHON)
    for key, version in sorted(CARRYING)
    if version in oracle.versions(key) and key not in HEARTBEATS and key != ApiKey.SHARE_FETCH
]


def request_of(oracle: Kio | KafkaPython, key: int, version: int, number: int) -> bytes:
    """Write a request of any API that gets an answer."""
    tree = oracle.message(Random(1), key, version, "request")
    if key == ApiKey.PRODUCE:
        tree["acks"] = -1
    return frames.request(key, version, number, "c", oracle.encode(key, version, "request", tree))


@pytest.mark.parametrize(("oracle", "key", "version"), TOLD)
def test_told(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """An answer of each API that has the field tells the pause, and is the broker's in all else but brokers' names."""
    stage = Stage(bucket(action=THROTTLE, rate=2.0, apis=ALL_APIS))
    wire = stage.wire()
    for number in (1, 2):
        wire.send(request_of(oracle, key, version, number))
    rng = Random(version)
    tree = oracle.message(rng, key, version, "response")
    name = "throttle_time" if "throttle_time" in tree else "throttle_time_ms"
    zero: Any = timedelta(0) if name == "throttle_time" else 0
    tree[name] = zero
    tree.pop("node_endpoints", None)
    tree |= {
        each: []
        for each in ("node_endpoints", "brokers", "nodes", "coordinators")
        if each in decoded_names(oracle, key, version)
    }
    for node in nodes(tree):
        node.update(host="", port=-1)
        node["node_id"] = -1
    body = oracle.encode(key, version, "response", tree)
    for piece in in_pieces(answer_frame(key, version, 1, body), rng.choice((1, 7, 10_000))):
        wire.answer(piece)
    told = wire.to_client[frames.response_body_at(wire.to_client, 4, key, version) :]
    tree = oracle.decode(key, version, "response", body)
    assert tree[name] == zero
    tree[name] = timedelta(seconds=1) if name == "throttle_time" else 1000
    assert oracle.decode(key, version, "response", told) == tree


def decoded_names(oracle: Kio | KafkaPython, key: int, version: int) -> set[str]:
    """List the fields of an answer."""
    return set(oracle.message(Random(1), key, version, "response"))


@pytest.mark.parametrize("version", [3, 7, 8, 9, 11, 12])
@pytest.mark.parametrize("cut", range(1, 60, 3))
def test_cut_anywhere(version: int, cut: int) -> None:
    """Answers that tell the pause at their end, and at their beginning, may be cut anywhere."""
    stage = Stage(bucket(action=THROTTLE, rate=2.0))
    wire = stage.wire()
    wire.send(fetch(1) + produce(2, version=version))
    wire.send(fetch(3))
    stage.after(0.5)
    theirs = fetched(1) + produced(2, version)
    for piece in in_pieces(theirs, cut):
        wire.answer(piece)
    assert wire.to_client == fetched(1, 500) + produced(2, version, 500)
    stage.after(0.5)
    wire.answer(fetched(3))
    assert wire.to_client.endswith(fetched(3))


def test_over_before_it_can_be_told() -> None:
    """An answer that was held to be told of a pause leaves unchanged when that is over, and what follows does, too."""
    stage = Stage(bucket(action=THROTTLE, rate=2.0))
    wire = stage.wire()
    wire.send(produce(1) + produce(2))
    wire.answer(produced(1)[:-2])
    assert wire.to_client == b""
    stage.after(2)
    wire.send(fetch(3))  # from here on it is not muted any more
    wire.answer(produced(1)[-2:] + produced(2)[:20])
    wire.answer(produced(2)[20:] + fetched(3))
    assert wire.to_client == produced(1) + produced(2) + fetched(3)
    wire.close()
    stage.check_idle()


@pytest.mark.parametrize("size", [1, 40, 1000])
def test_charged_once(size: int) -> None:
    """The bytes of an answer are charged once, when its size is here, though it is held to be told of that."""
    stage = Stage(bucket(action=THROTTLE, unit=Unit.BYTES_OUT, rate=len(produced(1))))
    wire = stage.wire()
    wire.send(produce(1) + produce(2))
    theirs = produced(1) + produced(2)
    for piece in in_pieces(theirs, size):
        wire.answer(piece)
    assert wire.to_client == produced(1, throttle_ms=1000) + produced(2, throttle_ms=2000)
    assert stage.limit.throttled == 2
    assert stage.limit.delay_seconds == pytest.approx(3.0)


def test_too_long_to_be_told() -> None:
    """An answer that tells at its end, and is too long to be held for that, passes as it comes."""
    stage = Stage(bucket(action=THROTTLE, rate=2.0))
    wire = stage.wire()
    wire.send(produce(1, version=7) * 2)
    theirs = INT32.pack(HELD_ANSWER_BYTES_MAX) + produced(1, 7)[4:]
    wire.answer(theirs[:8])
    assert wire.to_client == theirs[:8]
    wire.answer(theirs[8:])
    assert wire.to_client == theirs
    rest = bytes(HELD_ANSWER_BYTES_MAX + 4 - len(theirs))
    assert wire.exchange.from_broker(rest) is rest
    wire.answer(produced(1, 7))
    assert wire.to_client == theirs + produced(1, 7, 1000)


def test_the_longest_that_is_held() -> None:
    """An answer just short enough is held, and told of the pause."""
    stage = Stage(bucket(action=THROTTLE, rate=2.0))
    wire = stage.wire()
    wire.send(fetch(1) + produce(2, version=7))
    partitions = (HELD_ANSWER_BYTES_MAX - 27) // 30
    start = INT32.pack(1) + put_string("t") + INT32.pack(partitions) + bytes(30 * partitions)
    theirs = frames.response(2, ApiKey.PRODUCE, 7, start + INT32.pack(0))
    wire.answer(fetched(1))
    for piece in in_pieces(theirs, 300_000):
        wire.answer(piece)
    assert wire.to_client == fetched(1, 1000) + frames.response(2, ApiKey.PRODUCE, 7, start + INT32.pack(1000))


def test_plain_answers_are_not_copied() -> None:
    """Below its limits, whole answers and the middle of one leave as the very objects that came."""
    stage = Stage(bucket(rate=1e9), slots(max_in_flight=99))
    exchange = stage.wire().exchange
    answer = fetched(1)
    request = fetch(1)
    assert exchange.from_client(request) is request
    assert exchange.from_broker(answer) is answer
    exchange.from_client(request)
    exchange.from_broker(answer[:20])
    middle = answer[20:-1]
    assert exchange.from_broker(middle) is middle


MUTED = bucket(action=THROTTLE, rate=0.5)
COUNTED = bucket(unit=Unit.BYTES_OUT, rate=1e9, burst=1e9)


@pytest.mark.parametrize("rules", [[slots(max_in_flight=9)], [MUTED], [COUNTED]])
@pytest.mark.parametrize("behind", [b"\x00", b"\x00\x00\x00", b"\x00\x00\x00\x09", fetched(3)])
@pytest.mark.parametrize("asked", [0, 1])
def test_an_answer_that_nobody_asked_for(rules: list[Any], behind: bytes, asked: int) -> None:
    """The first byte of an answer that was not asked for ends the connection, as without limits."""
    stage = Stage(*rules)
    wire = stage.wire()
    wire.send(fetch(1) * 2)
    with pytest.raises(Malformed, match="was not asked for"):
        wire.answer(fetched(1) * 2 + behind)
    wire = stage.wire()
    if asked:
        wire.send(fetch(1))
        wire.answer(fetched(1))
    with pytest.raises(Malformed, match="was not asked for"):
        wire.answer(behind)


@pytest.mark.parametrize("rules", [[slots(max_in_flight=9)], [MUTED], [COUNTED]])
@pytest.mark.parametrize("size", [3, 0, -1])
def test_an_answer_without_a_head(rules: list[Any], size: int) -> None:
    """An answer that cannot be one is refused, as without limits."""
    wire = Stage(*rules).wire()
    wire.send(fetch(1) * 2)
    with pytest.raises(Malformed, match=f"answer of {size} bytes"):
        wire.answer(fetched(1) + INT32.pack(size))


@pytest.mark.parametrize(
    "body", [b"", b"\x00", INT32.pack(1), INT32.pack(1) + b"\x00\x01t" + INT32.pack(2) + bytes(40)]
)
def test_an_answer_that_cannot_be_told(body: bytes) -> None:
    """An answer in which the field cannot be found is none, and nothing of it is forwarded."""
    wire = Stage(MUTED).wire()
    wire.send(fetch(1) + produce(2, version=7))
    wire.answer(fetched(1))
    with pytest.raises(Malformed):
        wire.answer(frames.response(2, ApiKey.PRODUCE, 7, body))
    assert wire.client_got == [(1, 4000)]


def test_our_own_asks_in_between() -> None:
    """Answers to requests of kproxy's own are nobody's: neither told, nor counted, nor a slot."""
    stage = Stage(MUTED, slots("slots", max_in_flight=9), COUNTED)
    wire = stage.wire()
    exchange = wire.exchange
    wire.send(fetch(1) * 2)
    exchange.hold()
    bodies: list[bytes] = []
    own = frames.response(9, ApiKey.SASL_HANDSHAKE, 1, b"\x00\x00" + INT32.pack(0))
    exchange.ask(Ask(frames.request(17, 1, 9, "own", b"\x00\x05PLAIN"), 9, 17, 1), bodies.append)
    wire.answer(fetched(1) + fetched(1) + own)
    assert bodies == [own[8:]]
    assert wire.client_got == [(1, 4000), (1, 4000)]
    assert exchange.idle
    wire.close()
    stage.check_idle()
