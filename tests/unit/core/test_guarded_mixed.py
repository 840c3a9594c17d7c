"""Requests that are denied in part: the rest goes on, and the answer is joined, for each API and version."""

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import pytest
from guarded_stage import Guard, allow, body_of, errors
from oracles import KafkaPython, Kio, Tree, cases

from kproxy.core.access import Access, Resource
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey

TOPIC, GROUP, TXN = 29, 30, 53


class Mixed(NamedTuple):
    """Where an API's names are, in a request and in its answer; ``code``: what a denied one gets."""

    code: int
    asked: str
    name: str
    answered: str
    answered_name: str


def _topics(asked: str, answered: str | None = None, name: str = "name") -> Mixed:
    return Mixed(TOPIC, asked, name, answered or asked, name)


_TOPICS = _topics("topics")
_GROUPS = Mixed(GROUP, "groups", "", "groups", "group_id")
_RESOURCES = Mixed(TOPIC, "resources", "resource_name", "responses", "resource_name")

MIXED: dict[int, Callable[[int], Mixed | None]] = {
    ApiKey.PRODUCE: lambda version: _topics("topic_data", "responses") if version < 13 else None,
    ApiKey.FETCH: lambda version: _topics("topics", "responses", "topic") if version < 13 else None,
    ApiKey.LIST_OFFSETS: lambda _: _TOPICS,
    ApiKey.OFFSET_COMMIT: lambda version: _TOPICS if version < 10 else None,
    ApiKey.OFFSET_FETCH: lambda version: _TOPICS if version < 8 else None,
    ApiKey.CREATE_TOPICS: lambda _: _TOPICS,
    ApiKey.DELETE_TOPICS: lambda version: (
        _topics("topics", "responses") if version > 5 else Mixed(TOPIC, "topic_names", "", "responses", "name")
    ),
    ApiKey.DELETE_RECORDS: lambda _: _TOPICS,
    ApiKey.OFFSET_FOR_LEADER_EPOCH: lambda _: _topics("topics", name="topic"),
    ApiKey.TXN_OFFSET_COMMIT: lambda _: _TOPICS,
    ApiKey.DESCRIBE_CONFIGS: lambda _: _RESOURCES._replace(answered="results"),
    ApiKey.ALTER_CONFIGS: lambda _: _RESOURCES,
    ApiKey.INCREMENTAL_ALTER_CONFIGS: lambda _: _RESOURCES,
    ApiKey.CREATE_PARTITIONS: lambda _: _topics("topics", "results"),
    ApiKey.OFFSET_DELETE: lambda _: _TOPICS,
    ApiKey.DESCRIBE_PRODUCERS: lambda _: _TOPICS,
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: lambda _: _TOPICS,
    ApiKey.DESCRIBE_GROUPS: lambda _: _GROUPS,
    ApiKey.DELETE_GROUPS: lambda _: _GROUPS._replace(asked="groups_names", answered="results"),
    ApiKey.CONSUMER_GROUP_DESCRIBE: lambda _: _GROUPS._replace(asked="group_ids"),
    ApiKey.SHARE_GROUP_DESCRIBE: lambda _: _GROUPS._replace(asked="group_ids"),
    ApiKey.STREAMS_GROUP_DESCRIBE: lambda _: _GROUPS._replace(asked="group_ids"),
    ApiKey.FIND_COORDINATOR: lambda version: (
        Mixed(GROUP, "coordinator_keys", "", "coordinators", "key") if version > 3 else None
    ),
    ApiKey.DESCRIBE_TRANSACTIONS: lambda _: Mixed(
        TXN, "transactional_ids", "", "transaction_states", "transactional_id"
    ),
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: lambda _: _topics("topics", "responses", "topic_name"),
    ApiKey.DELETE_SHARE_GROUP_OFFSETS: lambda _: _topics("topics", "responses", "topic_name"),
}

_INNER = ("partitions", "partition_data", "partition_indexes", "partition_responses")

CASES = [case for case in cases(*MIXED) if MIXED[case.values[1]](case.values[2])]
RULES = tuple(allow("ok*", resource=kind) for kind in (Resource.TOPIC, Resource.GROUP, Resource.TXN))


def some(oracle: Kio | KafkaPython, key: int, version: int, rng: Random, *, kind: Any, array: str) -> Tree:
    """Make a random message with an array that has an element."""
    while True:
        tree = oracle.message(rng, key, version, kind)
        if tree[array] and all(
            value for row in tree[array] if isinstance(row, dict) for name, value in row.items() if name in _INNER
        ):
            return tree


def asked(oracle: Kio | KafkaPython, key: int, version: int, rng: Random, names: tuple[str, ...]) -> Tree:
    """Make a random request for these names, that gets an answer and is allowed otherwise."""
    mixed = MIXED[key](version)
    assert mixed is not None
    tree = some(oracle, key, version, rng, kind="request", array=mixed.asked)
    settled = {
        "acks": -1,
        "replica_id": -1,
        "session_id": 0,
        "session_epoch": -1,
        "group_id": "ok",
        "transactional_id": "ok",
        "key_type": 0,
    }
    tree |= {name: value for name, value in settled.items() if name in tree}
    if not mixed.name:
        tree[mixed.asked] = list(names)
        return tree
    rows = []
    for name in names:
        row = some(oracle, key, version, rng, kind="request", array=mixed.asked)[mixed.asked][0]
        row[mixed.name] = name
        if "resource_type" in row:
            row["resource_type"] = 2
        rows.append(row)
    tree[mixed.asked] = rows
    return tree


def answered(oracle: Kio | KafkaPython, key: int, version: int, rng: Random, names: tuple[str, ...]) -> Tree:
    """Make a random answer about these names, without an error of its own."""
    mixed = MIXED[key](version)
    assert mixed is not None
    tree = some(oracle, key, version, rng, kind="response", array=mixed.answered)
    if "error_code" in tree:
        tree["error_code"] = type(tree["error_code"])(0)
    tree |= {"node_endpoints": []} if "node_endpoints" in tree else {}
    rows = []
    for name in names:
        row = some(oracle, key, version, rng, kind="response", array=mixed.answered)[mixed.answered][0]
        row[mixed.answered_name] = name
        row |= {each: [] for each in ("members",) if each in row}
        row |= {"topology": None} if "topology" in row else {}
        row |= {"topics": []} if key == ApiKey.DESCRIBE_TRANSACTIONS else {}
        row |= {"host": "broker-3.leak.example.com", "port": 9092} if "host" in row else {}
        rows.append(row)
    tree[mixed.answered] = rows
    return tree


@pytest.mark.parametrize(("oracle", "key", "version"), CASES)
def test_mixed(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """What is allowed goes to the broker, all else of the request unchanged; the answer has the denied beside it."""
    mixed = MIXED[key](version)
    assert mixed is not None
    rng = Random(key << 8 | version)
    cut = rng.choice(("whole", "bytes", "random"))
    guard = Guard(Access(RULES))
    tree = asked(oracle, key, version, rng, ("ok-1", "secret", "ok-2", "hidden"))
    body = oracle.encode(key, version, "request", tree)
    feed(guard.send, frames.request(key, version, 7, "c", body), cut, rng)
    (got,) = guard.broker_got
    forwarded = body_of_by(oracle, key, version, got, "request")
    left = [row[mixed.name] if mixed.name else row for row in forwarded[mixed.asked]]
    assert left == ["ok-1", "ok-2"]
    assert {**forwarded, mixed.asked: 0} == {**tree_of(oracle, key, version, body), mixed.asked: 0}
    assert guard.to_client == b""

    reply = answered(oracle, key, version, rng, ("ok-1", "ok-2"))
    encoded = oracle.encode(key, version, "response", reply)
    feed(guard.reply, frames.response(7, key, version, encoded), cut, rng)
    (got,) = guard.client_got
    joined = body_of_by(oracle, key, version, got, "response")
    rows = {row[mixed.answered_name]: row for row in joined[mixed.answered]}
    assert set(rows) == {"ok-1", "ok-2", "secret", "hidden"}
    assert len(joined[mixed.answered]) == 4
    assert errors(rows["secret"]) - {0} == errors(rows["hidden"]) - {0} == {mixed.code}
    said = tree_of(oracle, key, version, encoded, "response")
    if key != ApiKey.FIND_COORDINATOR:  # there addresses change
        assert [rows[name] for name in ("ok-1", "ok-2")] == said[mixed.answered]
    assert {**joined, mixed.answered: 0} == {**said, mixed.answered: 0}
    assert {denial.name for denial in guard.told} == {"secret", "hidden"}
    assert guard.exchange.idle


@pytest.mark.parametrize(("oracle", "key", "version"), CASES)
def test_all_allowed(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """Where all is allowed request and answer pass byte for byte, again and again."""
    rng = Random(version)
    guard = Guard(Access(RULES))
    for number in range(3):
        tree = asked(oracle, key, version, rng, ("ok-1", "ok-2") if number else ("ok-1",))
        frame = frames.request(key, version, number, "c", oracle.encode(key, version, "request", tree))
        assert guard.send(frame + frame) == frame + frame
        reply = answered(oracle, key, version, rng, ("ok-1",))
        back = frames.response(number, key, version, oracle.encode(key, version, "response", reply))
        if key == ApiKey.FIND_COORDINATOR:
            guard.reply(back + back)
        else:
            assert guard.reply(back + back) == back + back
    assert guard.told == []


@pytest.mark.parametrize(("oracle", "key", "version"), CASES)
def test_all_denied(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """Where nothing is left of a request it is answered here, in its place behind what was asked before."""
    mixed = MIXED[key](version)
    assert mixed is not None
    rng = Random(version)
    guard = Guard(Access(RULES))
    before = frames.request(ApiKey.DESCRIBE_CLUSTER, 0, 6, "c", b"\0\0")
    tree = asked(oracle, key, version, rng, ("secret", "hidden"))
    frame = frames.request(key, version, 7, "c", oracle.encode(key, version, "request", tree))
    assert guard.send(before + frame + before) == before + before
    assert guard.to_client == b""
    answer = oracle.encode(60, 0, "response", oracle.message(rng, 60, 0, "response") | {"brokers": []})
    guard.reply(frames.response(6, 60, 0, answer))
    first, second = guard.client_got
    assert (first[7], second[7]) == (6, 7)
    rows = body_of_by(oracle, key, version, second, "response")[mixed.answered]
    assert {row[mixed.answered_name] for row in rows} == {"secret", "hidden"}
    assert errors(rows) - {0} == {mixed.code}


def feed(into: Callable[[bytes], bytes], data: bytes, cut: str, rng: Random) -> None:
    """Hand over bytes whole, one by one, or in random pieces."""
    while data:
        size = len(data) if cut == "whole" else 1 if cut == "bytes" else rng.randrange(1, 40)
        into(data[:size])
        data = data[size:]


def body_of_by(oracle: Kio | KafkaPython, key: int, version: int, frame: bytes, kind: Any) -> Tree:
    """Read a frame's body by one of the codecs."""
    if oracle.name == "kio":
        return body_of(key, version, frame, kind)
    at = (frames.request_body_at(frame, 4, len(frame)) if kind == "request" else 0) or frames.response_body_at(
        frame, 4, key, version
    )
    return oracle.decode(key, version, kind, frame[at:])


def tree_of(oracle: Kio | KafkaPython, key: int, version: int, body: bytes, kind: Any = "request") -> Tree:
    """Read a body back, as codecs change some values."""
    return oracle.decode(key, version, kind, body)
