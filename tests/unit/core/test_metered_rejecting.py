"""Requests that are answered with THROTTLING_QUOTA_EXCEEDED in their place, and those that cannot be."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from conversations import Cut, answer_frame, api_versions, at_random, one_byte, whole
from metered_stage import (
    START,
    Stage,
    bucket,
    fetch,
    fetched,
    heartbeat,
    in_pieces,
    produce,
    produced,
    slots,
    split,
    window,
)
from oracles import KAFKA_PYTHON, KIO, KafkaPython, Kio

from kproxy.core.directory import Directory
from kproxy.core.limits import Action, Rule, Unit
from kproxy.core.metered import REFUSED_REQUEST_BYTES_MAX, SETTLING_SECONDS
from kproxy.core.routed import Lookup
from kproxy.core.sasl import Login, Plain
from kproxy.errors import Malformed
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.primitives import INT16, INT32
from kproxy.wire.quota import THROTTLING_QUOTA_EXCEEDED

REJECT, THROTTLE = Action.REJECT, Action.THROTTLE
CREATE, DELETE, PARTITIONS = ApiKey.CREATE_TOPICS, ApiKey.DELETE_TOPICS, ApiKey.CREATE_PARTITIONS

EMPTY: dict[str, Any] = {"node_endpoints": []}
"""An answer's part that must not name brokers which nobody knows."""

REJECTED = [
    pytest.param(oracle, key, version, id=f"{key.name}-v{version}-{oracle.name}")
    for oracle in (KIO, KAFKA_PYTHON)
    for key, versions in ((CREATE, (6, 7)), (DELETE, (5, 6)), (PARTITIONS, (3,)), (ApiKey.PRODUCE, range(3, 14)))
    for version in versions
    if version in oracle.versions(key)
]


def request_tree(oracle: Kio | KafkaPython, key: int, version: int) -> dict[str, Any]:
    """Make a request that asks for something."""
    rng = Random(version)
    while True:
        tree = oracle.message(rng, key, version, "request")
        if key == ApiKey.PRODUCE:
            tree["acks"] = -1
            if tree["topic_data"] and all(topic["partition_data"] for topic in tree["topic_data"]):
                return tree
        elif tree.get("topics") or tree.get("topic_names"):
            return tree


def errors(tree: Any) -> set[int]:
    """Collect all error codes of an answer."""
    if isinstance(tree, dict):
        found = {int(value) for name, value in tree.items() if name == "error_code"}
        return found.union(*(errors(value) for value in tree.values()))
    return set().union(*map(errors, tree)) if isinstance(tree, list) else set()


def throttle_ms(tree: dict[str, Any]) -> int:
    """Take the throttle time, whatever its type."""
    if "throttle_time" in tree:
        seconds: float = tree["throttle_time"].total_seconds()
        return round(seconds * 1000)
    milliseconds: int = tree["throttle_time_ms"]
    return milliseconds


def rejecting(rule: Rule | None = None) -> Rule:
    """Make a limit that lets one request pass and rejects the next, Produce included."""
    return replace(rule or bucket(rate=0.5), action=REJECT, reject_produce=True)


def delete(number: int, version: int = 5) -> bytes:
    """Write a DeleteTopics request for one topic."""
    topic = b"\x02\x02t" if version < 6 else b"\x02\x02t" + bytes(16) + b"\x00"
    return frames.request(DELETE, version, number, "c", topic + INT32.pack(1000) + b"\x00")


def deleted(number: int) -> bytes:
    """Write the broker's answer to ``delete``."""
    return frames.response(number, DELETE, 5, bytes(4) + b"\x02\x02t" + bytes(2) + b"\x00\x00" + b"\x00")


def ids(stream: bytes) -> list[int]:
    """List the correlation ids of answers."""
    return [INT32.unpack_from(frame, 4)[0] for frame in split(stream)]


@pytest.mark.parametrize(("oracle", "key", "version"), REJECTED)
@pytest.mark.parametrize("cut", [whole, one_byte, at_random])
def test_rejected(oracle: Kio | KafkaPython, key: int, version: int, cut: Cut) -> None:
    """The second request is answered, in its place, with error 89 for all that it asks, and when to ask again."""
    body = oracle.encode(key, version, "request", request_tree(oracle, key, version))
    one, two, three = (frames.request(key, version, number, "c", body) for number in (1, 2, 3))
    stage = Stage(rejecting())
    wire = stage.wire()
    rng, data = Random(1), one + two
    while data:
        size = cut(rng, data, 0)
        wire.send(data[:size])
        data = data[size:]
    stage.after(0)
    assert wire.to_broker == one
    assert wire.to_client == b""
    theirs = oracle.encode(key, version, "response", oracle.message(rng, key, version, "response") | EMPTY)
    wire.answer(answer_frame(key, version, 1, theirs))
    refusal = split(wire.to_client)[1]
    assert ids(refusal) == [2]
    tree = oracle.decode(key, version, "response", refusal[frames.response_body_at(refusal, 4, key, version) :])
    assert errors(tree) == {THROTTLING_QUOTA_EXCEEDED}
    assert throttle_ms(tree) == 2000
    assert (stage.limit.asked, stage.limit.rejected, stage.limit.throttled) == (2, 1, 0)
    assert stage.tally.requests[key << 16 | version] == 2
    wire.send(three)
    stage.after(3)
    assert wire.to_broker == one + three
    assert wire.times[-1] == (3, 2.0)


@pytest.mark.parametrize(
    ("rule", "passed", "told_ms"),
    [
        (bucket(rate=2.0), 1, 500),
        (bucket(rate=2.0, burst=1.0, nodelay=True), 2, 500),
        (bucket(unit=Unit.BYTES_IN, rate=len(delete(1)) * 4.0), 1, 250),
        (window(count=3), 3, 1000),
        (window(unit=Unit.BYTES_IN, count=1), 1, 1000),
        (slots(max_in_flight=2, waiting=0), 2, 0),
        (bucket(rate=0.001, max_wait_seconds=2.5), 1, 2500),
    ],
)
def test_each_kind_rejects(rule: Rule, passed: int, told_ms: int) -> None:
    """Each kind of limit says when it may be asked again; what is rejected is charged nowhere."""
    stage = Stage(rejecting(rule), bucket("other", rate=1e9, burst=1e9))
    wire = stage.wire()
    wire.send(b"".join(map(delete, range(1, passed + 2))))
    assert wire.broker_got == list(range(1, passed + 1))
    wire.answer(b"".join(deleted(number) for number in range(1, passed + 1)))
    refusal = split(wire.to_client)[-1]
    assert ids(wire.to_client) == list(range(1, passed + 2))
    assert INT32.unpack_from(refusal, 9)[0] == told_ms
    assert [limit.asked for limit in stage.limits.limits] == [passed + 1, passed]


def test_many_are_rejected() -> None:
    """Rejections keep their places among answers of the broker's, and do not wait for one another."""
    stage = Stage(slots(max_in_flight=1, waiting=0, action=REJECT), Rule("free", bucket().kind, apis=frozenset()))
    wire = stage.wire()
    wire.send(heartbeat(1) + delete(2) + delete(3) + heartbeat(4) + delete(5) + heartbeat(6))
    assert wire.broker_got == [1, 2, 4, 6]
    answers = [frames.response(number, ApiKey.HEARTBEAT, 3, bytes(6)) for number in (1, 4, 6)]
    wire.answer(answers[0] + deleted(2) + answers[1] + answers[2])
    assert ids(wire.to_client) == [1, 2, 3, 4, 5, 6]
    assert stage.limit.rejected == 2


@pytest.mark.parametrize(
    ("request_", "limit"),
    [
        (fetch(2), rejecting()),
        (delete(2, version=4), rejecting()),
        (produce(2), bucket(rate=0.5, action=REJECT)),
        (produce(2, acks=0), rejecting()),
    ],
)
@pytest.mark.parametrize("size", [1000, 1])
def test_what_cannot_be_rejected_is_throttled(request_: bytes, limit: Rule, size: int) -> None:
    """Where a client would not understand a refusal, or expects no answer, the request passes and is told of."""
    stage = Stage(limit)
    wire = stage.wire()
    for piece in in_pieces(fetch(1) + request_ + fetch(3), size):
        wire.send(piece)
    stage.after(0)
    assert wire.broker_got == [1, 2]
    wire.answer(fetched(1))
    assert wire.client_got == [(1, 4000)]
    stage.after(9)
    assert wire.times == [(1, 0.0), (2, 0.0), (3, 4.0)]
    assert (stage.limit.rejected, stage.limit.throttled) == (0, 1)


def test_a_long_request_is_throttled() -> None:
    """A request that would have to be held whole, and is too long for that, passes as it comes."""
    stage = Stage(rejecting())
    wire = stage.wire()
    request = frames.request(ApiKey.PRODUCE, 7, 2, "c", b"\xff\xff" + INT16.pack(-1) + bytes(REFUSED_REQUEST_BYTES_MAX))
    wire.send(fetch(1) + request[:100])
    assert wire.to_broker == fetch(1) + request[:100]
    assert stage.limit.throttled == 1


def test_a_part_waits_for_the_rest() -> None:
    """A request that is to be rejected is let through where it fits by the time that all of it is here."""
    stage = Stage(rejecting(bucket(rate=1.0)))
    wire = stage.wire()
    request = produce(2, records=bytes(60))
    wire.send(fetch(1) + request[:30])
    wire.send(request[30:40])
    assert (wire.broker_got, wire.exchange.waits, wire.exchange.idle) == ([1], False, False)
    stage.after(1)
    wire.send(request[40:])
    assert wire.broker_got == [1, 2]
    assert stage.limit.rejected == 0


def test_nothing_is_told_to_groups() -> None:
    """On a connection that carries heartbeats the refusal tells no time: the client asks again when it likes."""
    stage = Stage(rejecting(bucket(rate=0.25)))
    wire = stage.wire()
    wire.send(heartbeat(1) + delete(2))
    wire.answer(frames.response(1, ApiKey.HEARTBEAT, 3, bytes(6)) + deleted(2))
    wire.send(delete(3) + heartbeat(4))
    refusal = split(wire.to_client)[-1]
    assert (ids(refusal), INT32.unpack_from(refusal, 9)[0]) == ([3], 0)
    stage.after(2)
    assert wire.times[-1] == (4, 1.0)


@pytest.mark.parametrize("garbage", [b"", b"\x02", b"\x02\x02t" + bytes(20)])
def test_a_request_that_makes_no_sense(garbage: bytes) -> None:
    """What is to be answered here must be a request: otherwise the connection ends, as with any that kproxy answers."""
    stage = Stage(rejecting())
    wire = stage.wire()
    wire.send(delete(1))
    with pytest.raises(Malformed):
        wire.send(frames.request(DELETE, 5, 2, "c", garbage))


@pytest.mark.parametrize("body", [b"", b"\x05", b"\x00\x00"])
def test_produce_that_makes_no_sense(body: bytes) -> None:
    """A Produce request whose acks cannot be read is refused as without limits."""
    stage = Stage(rejecting())
    wire = stage.wire()
    wire.send(fetch(1))
    with pytest.raises(Malformed, match="Produce request ends before its acks"):
        wire.send(frames.request(ApiKey.PRODUCE, 9, 2, "c", body))
    stage = Stage(rejecting())
    wire = stage.wire()
    wire.send(fetch(1))
    nameless = INT32.pack(12) + INT16.pack(0) + INT16.pack(9) + INT32.pack(2) + INT16.pack(-2) + bytes(2)
    with pytest.raises(Malformed, match="client id length -2"):
        wire.send(nameless)


def test_rejected_while_a_login_is_renewed() -> None:
    """A refusal that has no place yet, as requests before it are withheld, waits for that."""
    stage = Stage(rejecting(bucket(rate=0.5)))
    wire = stage.wire()
    exchange = wire.exchange
    exchange.hold()
    wire.send(delete(1) + delete(2))
    assert (wire.to_broker, wire.to_client) == (b"", b"")
    assert exchange.wake_at == START + SETTLING_SECONDS
    stage.after(1)
    login = Login(Plain("gateway", "secret"))
    ask = login.begin()
    exchange.ask(ask, lambda _body: None)
    wire.answer(frames.response(ask.correlation_id, ask.key, ask.version, b"\x00\x00" + INT32.pack(0)))
    assert wire.to_client == b""
    wire.to_broker += exchange.release()
    assert wire.to_broker == delete(1)
    stage.after(0.5)
    assert wire.to_client == b""
    wire.answer(deleted(1))
    assert ids(wire.to_client) == [1, 2]
    assert stage.limit.rejected == 1


def test_rejected_before_a_cluster() -> None:
    """Before a whole cluster a refusal keeps its place behind a request whose broker must be found first."""
    stage = Stage(rejecting())
    wire = stage.routed_wire(Directory())
    exchange: Any = wire.exchange
    wire.send(produce(1) + produce(2))
    assert isinstance(exchange.pending, Lookup)
    stage.after(0.1)
    assert (wire.to_broker, wire.to_client) == (b"", b"")
    wire.to_broker += exchange.proceed(give_up=True)
    assert wire.to_broker == produce(1)
    stage.after(0.1)
    wire.answer(produced(1))
    assert ids(wire.to_client) == [1, 2]


def test_our_answers_around_a_refusal() -> None:
    """What kproxy answers by itself keeps its place beside a refusal, with nothing outstanding and with something."""
    stage = Stage(rejecting(bucket(rate=0.5)))
    wire = stage.wire()
    ours = api_versions(Random(5), 7)
    wire.send(delete(1))
    wire.send(ours.request + delete(2))
    wire.answer(deleted(1))
    assert ids(wire.to_client) == [1, 7, 2]
    wire.send(ours.request)
    stage.after(2)
    assert ids(wire.to_client) == [1, 7, 2, 7]
