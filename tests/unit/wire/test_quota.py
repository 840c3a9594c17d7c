"""Refusals for a quota, read back by kio and kafka-python."""

from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import KIO, KafkaPython, Kio, Tree, cases

from kproxy.errors import Malformed, ProtocolError, Unsupported
from kproxy.wire import quota
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.primitives import put_string

PRODUCE, CREATE_TOPICS, DELETE_TOPICS, CREATE_PARTITIONS = 0, 19, 20, 37
QUOTA = quota.THROTTLING_QUOTA_EXCEEDED
Oracle = Kio | KafkaPython

REFUSABLE = [
    case for case in cases(CREATE_TOPICS, DELETE_TOPICS, CREATE_PARTITIONS) if quota.refusable(*case.values[1:])
]
refused = pytest.mark.parametrize(("oracle", "key", "version"), REFUSABLE)
produced = pytest.mark.parametrize(("oracle", "key", "version"), cases(PRODUCE))


def throttle(tree: Tree) -> Any:
    """Take an oracle's throttle time, whatever its type; None where the version has none."""
    name = "throttle_time" if "throttle_time" in tree else "throttle_time_ms"
    value = tree.pop(name, None)
    return value // timedelta(milliseconds=1) if isinstance(value, timedelta) else value


def refusal(key: int, version: int, request: Tree) -> Tree:
    """Make the answer, without its throttle time, that a client should read."""
    error = {"error_code": QUOTA, "error_message": quota.MESSAGE}
    if key == CREATE_TOPICS:
        nothing = {"topic_config_error_code": 0, "num_partitions": -1, "replication_factor": -1, "configs": []}
        topic_id = {"topic_id": None} if version >= 7 else {}
        return {"topics": [{"name": each["name"]} | topic_id | error | nothing for each in request["topics"]]}
    if key == CREATE_PARTITIONS:
        return {"results": [{"name": each["name"]} | error for each in request["topics"]]}
    if version >= 6:
        return {"responses": [each | error for each in request["topics"]]}
    return {"responses": [{"name": name} | error for name in request["topic_names"]]}


def produce_refusal(version: int, request: Tree) -> Tree:
    """Make the same for Produce, as read_produce has it."""
    partition: Tree = {"error_code": QUOTA, "base_offset": -1}
    if version >= 2:
        partition["log_append_time_ms"] = -1
    if version >= 5:
        partition["log_start_offset"] = -1
    if version >= 8:
        partition |= {"record_errors": [], "error_message": None}
    name = "topic_id" if version >= 13 else "name"
    responses = [
        {
            name: topic[name],
            "partition_responses": [{"index": each["index"]} | partition for each in topic["partition_data"]],
        }
        for topic in request["topic_data"]
    ]
    return {"responses": responses} | ({"node_endpoints": []} if version >= 10 else {})


def read_produce(oracle: Oracle, version: int, body: bytes) -> Tree:
    """Decode a Produce answer: the log append time as kafka-python has it, current_leader left out, as it must be."""
    tree = oracle.decode(PRODUCE, version, "response", body)
    for topic in tree["responses"]:
        for partition in topic["partition_responses"]:
            assert partition.pop("current_leader", None) in (None, {"leader_id": -1, "leader_epoch": -1})
            if "log_append_time" in partition:
                assert partition.pop("log_append_time") is None
                partition["log_append_time_ms"] = -1
    return tree


def refuse(key: int, version: int, body: bytes) -> bytes:
    """Refuse any of the four."""
    return quota.refuse_produce(version, body, 1) if key == PRODUCE else quota.refuse(key, version, body, 1)


def test_who_is_refused() -> None:
    """What a broker refuses for its own quota, and nothing else (KIP-599)."""
    assert {(19, 6), (19, 7), (20, 5), (20, 6), (37, 3)} == quota.REFUSABLE
    assert all(quota.refusable(key, version) for key, version in quota.REFUSABLE)
    assert not any(quota.refusable(*each) for each in ((19, 5), (20, 4), (37, 2), (0, 9), (19, 8), (-1, 0)))


@refused
def test_every_topic_comes_back(oracle: Oracle, key: int, version: int) -> None:
    """Each topic of the request, by the name or id that it was called by, in order, with error 89 and a message."""
    for seed in range(60):
        request = oracle.message(Random(seed), key, version, "request")
        body = oracle.encode(key, version, "request", request)
        answer = quota.refuse(key, version, body, 500 + seed)
        tree = oracle.decode(key, version, "response", answer)
        assert answer == oracle.encode(key, version, "response", tree)
        assert throttle(tree) == 500 + seed
        assert tree == refusal(key, version, request)


@produced
def test_every_partition_comes_back(oracle: Oracle, key: int, version: int) -> None:
    """Each partition of the request, in order, with error 89 and no offset; a time to wait from v1 on."""
    for seed in range(60):
        request = oracle.message(Random(seed), key, version, "request")
        body = oracle.encode(key, version, "request", request)
        answer = quota.refuse_produce(version, body, 500 + seed)
        tree = read_produce(oracle, version, answer)
        assert throttle(tree) == (500 + seed if version else None)
        assert tree == produce_refusal(version, request)


def test_produce_as_kafka_writes_it() -> None:
    """Of the oldest and the newest version, every byte."""
    oldest = bytes.fromhex("0001 00000064 00000001 0001 74 00000001 00000005 00000002 abcd")
    assert quota.refuse_produce(0, oldest, 500).hex(" ", 4) == bytes.fromhex(
        "00000001 0001 74 00000001 00000005 0059 ffffffffffffffff",
    ).hex(" ", 4)
    newest = bytes.fromhex("00 0001 00000064 02" + "07" * 16 + "02 00000005 03 abcd 00 00 00")
    assert quota.refuse_produce(13, newest, 500) == bytes.fromhex(
        "02" + "07" * 16 + "02 00000005 0059" + "ff" * 24 + "01 00 00 00 000001f4 00",
    )


@pytest.mark.parametrize(
    ("oracle", "key", "version"),
    [case for case in REFUSABLE + cases(PRODUCE) if case.values[0] is KIO and case.values[2] >= 3],
)
def test_unknown_tags_are_not_echoed(oracle: Kio, key: int, version: int) -> None:
    """Tagged fields that nobody knows, in any struct of the request, change nothing in the answer."""
    for seed in range(20):
        request = oracle.message(Random(seed), key, version, "request")
        answers = {
            refuse(key, version, body)
            for body in (
                oracle.encode(key, version, "request", request),
                oracle.encode(key, version, "request", request, unknown_tags=Random(seed)),
            )
        }
        assert len(answers) == 1


@pytest.mark.parametrize(("oracle", "key", "version"), REFUSABLE + cases(PRODUCE))
def test_a_refused_request_must_be_one(oracle: Oracle, key: int, version: int) -> None:
    """A request that is cut or continued is malformed."""
    for seed in range(3):
        body = oracle.encode(key, version, "request", oracle.message(Random(seed), key, version, "request"))
        for wrong in [body[:cut] for cut in range(len(body))] + [body + b"\0"]:
            with pytest.raises(Malformed):
                refuse(key, version, wrong)


def test_a_topic_without_a_name() -> None:
    """A null where a name must be is malformed and not echoed; so is a negative length of records."""
    null_topic = b"\x02\x00" + bytes(20)
    for key, version in quota.REFUSABLE - {(DELETE_TOPICS, 6)}:
        with pytest.raises(Malformed, match="null"):
            quota.refuse(key, version, null_topic, 0)
    start = bytes(6) + b"\x00\x00\x00\x01"
    with pytest.raises(Malformed, match="null"):
        quota.refuse_produce(0, start + b"\xff\xff" + bytes(4), 0)
    with pytest.raises(Malformed, match="null"):
        quota.refuse_produce(9, b"\x00" + bytes(6) + null_topic, 0)
    with pytest.raises(Malformed, match="-2"):
        quota.refuse_produce(0, start + put_string("t") + b"\x00\x00\x00\x01" + bytes(4) + b"\xff\xff\xff\xfe", 0)


def test_other_requests_are_not_refused() -> None:
    """A version whose clients do not know the error, or another API, is Unsupported."""
    for key, version in ((CREATE_TOPICS, 5), (DELETE_TOPICS, 4), (CREATE_PARTITIONS, 2), (PRODUCE, 9), (3, 9)):
        with pytest.raises(Unsupported):
            quota.refuse(key, version, b"", 0)
    for version in (-1, APIS[ApiKey.PRODUCE].max_version + 1):
        with pytest.raises(Unsupported):
            quota.refuse_produce(version, b"", 0)


@given(case=st.sampled_from(sorted(quota.REFUSABLE)), version=st.integers(0, 13), body=st.binary(max_size=100))
def test_garbage_raises_nothing_but_protocol_errors(case: tuple[int, int], version: int, body: bytes) -> None:
    """Whatever the bytes, an answer or a ProtocolError."""
    for begin in (b"", b"\x02\x02t"):
        with suppress(ProtocolError):
            quota.refuse(*case, begin + body, 0)
    for begin in (b"", bytes(7) + b"\x02\x02t"):
        with suppress(ProtocolError):
            quota.refuse_produce(version, begin + body, 0)
