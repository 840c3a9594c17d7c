"""Metadata and FindCoordinator, checked against kio and kafka-python."""

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode
from oracles import KAFKA_PYTHON, KIO, KafkaPython, Kio, Tree, cases, random_text

from kproxy.errors import Malformed, ProtocolError, Unsupported
from kproxy.wire import cluster
from kproxy.wire.cluster import NO_TOPIC_ID, Broker, ClusterAnswer, Coordinator, Partition, Topic

METADATA, FIND_COORDINATOR = 3, 10
Oracle = Kio | KafkaPython

metadata_cases = pytest.mark.parametrize(("oracle", "key", "version"), cases(METADATA))
coordinator_cases = pytest.mark.parametrize(("oracle", "key", "version"), cases(FIND_COORDINATOR))


def id_bytes(value: UUID | None) -> bytes:
    """Write a topic id; kio has None for the one of zeros."""
    return NO_TOPIC_ID if value is None else value.bytes


def as_cluster(tree: Tree) -> ClusterAnswer:
    """Tell an oracle's Metadata answer in our words."""
    return ClusterAnswer(
        [Broker(item["node_id"], item["host"], item["port"], item.get("rack")) for item in tree["brokers"]],
        tree.get("cluster_id"),
        tree.get("controller_id", -1),
        [
            Topic(
                topic["error_code"],
                topic["name"],
                id_bytes(topic.get("topic_id")),
                [
                    Partition(
                        item["error_code"], item["partition_index"], item["leader_id"], item.get("leader_epoch", -1)
                    )
                    for item in topic["partitions"]
                ],
            )
            for topic in tree["topics"]
        ],
        tree.get("error_code", 0),
    )


def named(tree: Tree, version: int) -> Tree:
    """Give every topic a name: kio allows none from v10 on, Kafka's answers from v12."""
    for topic in tree["topics"]:
        topic["name"] = topic["name"] if version >= 12 else topic["name"] or ""
    return tree


@metadata_cases
def test_metadata_answers_are_read_as_the_oracles_mean_them(oracle: Oracle, key: int, version: int) -> None:
    """Brokers, ids and leaders come out, replica lists of any length and null racks notwithstanding."""
    rng = Random(key + version)
    for _ in range(60):
        tree = named(oracle.message(rng, key, version, "response"), version)
        body = oracle.encode(key, version, "response", tree)
        assert cluster.parse_metadata_response(version, body) == as_cluster(tree)


@metadata_cases
def test_long_replica_lists_are_stepped_over(oracle: Oracle, key: int, version: int) -> None:
    """Lists whose count needs two bytes, empty ones, and many partitions do not mislead the walk."""
    none: Any = ErrorCode.none if oracle is KIO else 0
    partition: Tree = {"error_code": none, "leader_id": 3, "leader_epoch": 4}
    partition |= {"replica_nodes": [1] * 200, "isr_nodes": [], "offline_replicas": [2] * 127}
    topic: Tree = {"error_code": none, "name": "t", "topic_id": UUID(int=5), "is_internal": False}
    topic |= {"authorized_operations": set(), "topic_authorized_operations": 0}
    tree = oracle.message(Random(1), key, version, "response")
    tree["topics"] = [topic | {"partitions": [partition | {"partition_index": index} for index in range(300)]}]
    body = oracle.encode(key, version, "response", tree)
    expected = as_cluster(oracle.decode(key, version, "response", body))
    assert cluster.parse_metadata_response(version, body) == expected


@pytest.mark.parametrize("version", range(9, 14))
def test_tags_that_nobody_knows_are_stepped_over(version: int) -> None:
    """A later Kafka may add tagged fields at every level."""
    rng = Random(version)
    for seed in range(40):
        tree = named(KIO.message(rng, METADATA, version, "response"), version)
        body = KIO.encode(METADATA, version, "response", tree, unknown_tags=Random(seed))
        assert cluster.parse_metadata_response(version, body) == as_cluster(tree)


def test_null_lists_count_as_empty() -> None:
    """A null replica list, which Kafka never writes, takes no more room than its count."""
    head = bytes(4) + b"\x01\x00" + bytes(4) + b"\x02" + b"\0\0" + b"\x02t" + b"\0" + b"\x02" + bytes(14)
    body = head + b"\0\0\0" + b"\0" + bytes(4) + b"\0" + bytes(4) + b"\0"
    assert cluster.parse_metadata_response(9, body).topics[0].partitions == [Partition(0, 0, 0, 0)]
    old = bytes(4) + b"\0\0\0\1" + b"\0\0" + b"\0\1t" + b"\0\0\0\1" + bytes(10)
    assert cluster.parse_metadata_response(0, old + b"\xff" * 8).topics[0].partitions == [Partition(0, 0, 0, -1)]
    with pytest.raises(Malformed, match="array count -2"):
        cluster.parse_metadata_response(0, old + b"\xff\xff\xff\xfe" + bytes(4))


def test_what_sends_a_client_away_is_read_by_another_codec() -> None:
    """It has an error at its top, and neither brokers nor topics (KIP-1102)."""
    body = cluster.rebootstrap_response()
    tree = KIO.decode(METADATA, cluster.REBOOTSTRAP_VERSION_MIN, "response", body)
    assert (tree["brokers"], tree["topics"], tree["cluster_id"], tree["controller_id"]) == ([], [], None, -1)
    assert (tree["error_code"].value, tree["throttle_time"].total_seconds()) == (129, 0)
    assert cluster.parse_metadata_response(13, body) == cluster.ClusterAnswer([], None, -1, [], 129)


def test_a_topic_without_a_name_needs_v12() -> None:
    """A null name is an answer to an unknown topic id, which v12 brought."""
    tree = KIO.message(Random(1), METADATA, 12, "response")
    tree["topics"][0]["name"] = None
    body = KIO.encode(METADATA, 12, "response", tree)
    assert cluster.parse_metadata_response(12, body).topics[0].name is None
    with pytest.raises(Malformed, match="name is null"):
        cluster.parse_metadata_response(11, body)


@metadata_cases
def test_metadata_requests_are_those_of_both_oracles(oracle: Oracle, key: int, version: int) -> None:
    """Brokers only, all topics, or some by name: as the oracles write them, and never creating a topic."""
    rng = Random(key + version)
    words = sorted({random_text(rng) for _ in range(5)})
    for topics in ((), None, *(words[:count] for count in range(1, 5))):
        tree: Tree = {
            "topics": None if topics is None else [{"topic_id": None, "name": name} for name in topics],
            "allow_auto_topic_creation": False,
            "include_cluster_authorized_operations": False,
            "include_topic_authorized_operations": False,
        }
        if version == 0 and topics is None:
            tree["topics"] = []
        if oracle is KAFKA_PYTHON and tree["topics"]:
            tree["topics"] = [item | {"topic_id": UUID(int=0)} for item in tree["topics"]]
        assert cluster.metadata_request(version, topics) == oracle.encode(key, version, "request", tree)
    assert cluster.metadata_request(version) == cluster.metadata_request(version, [])


@pytest.mark.parametrize("version", [12, 13])
def test_metadata_can_be_asked_by_topic_id(version: int) -> None:
    """From v12 on, with a null name."""
    ids = [UUID(int=7), UUID(int=1 << 127)]
    for oracle in (KIO, KAFKA_PYTHON):
        tree = oracle.decode(
            METADATA, version, "request", cluster.metadata_request(version, [each.bytes for each in ids])
        )
        assert [(topic["topic_id"], topic["name"]) for topic in tree["topics"]] == [(each, None) for each in ids]


def test_what_a_version_cannot_ask_is_unsupported() -> None:
    """Topic ids need v12 and 16 bytes, transactions FindCoordinator v1, and versions must be known."""
    calls: list[Callable[[], object]] = [
        lambda: cluster.metadata_request(11, [bytes(16)]),
        lambda: cluster.metadata_request(12, [bytes(15)]),
        lambda: cluster.metadata_request(14),
        lambda: cluster.parse_metadata_response(-1, b""),
        lambda: cluster.find_coordinator_request(0, "t", cluster.KEY_TYPE_TRANSACTION),
        lambda: cluster.find_coordinator_request(7, "t"),
        lambda: cluster.parse_find_coordinator_request(7, b""),
        lambda: cluster.parse_find_coordinator_response(7, b""),
    ]
    for call in calls:
        with pytest.raises(Unsupported):
            call()


@coordinator_cases
def test_find_coordinator_requests_are_those_of_both_oracles(oracle: Oracle, key: int, version: int) -> None:
    """What is written is what the oracles write, and what they write is read as they meant it."""
    rng = Random(key + version)
    for _ in range(40):
        name, key_type = random_text(rng), rng.randrange(2) if version else 0
        tree: Tree = {"key": name, "key_type": key_type, "coordinator_keys": [name]}
        assert cluster.find_coordinator_request(version, name, key_type) == oracle.encode(key, version, "request", tree)

        tree = oracle.message(rng, key, version, "request")
        keys = tree["coordinator_keys"] if version >= 4 else [tree["key"]]
        body = oracle.encode(key, version, "request", tree)
        assert cluster.parse_find_coordinator_request(version, body) == (tree.get("key_type", 0), keys)


@coordinator_cases
def test_find_coordinator_answers_are_read_as_the_oracles_mean_them(oracle: Oracle, key: int, version: int) -> None:
    """One coordinator before v4, one per key from there on, each with its own error."""
    rng = Random(key + version)
    for _ in range(60):
        tree = oracle.message(rng, key, version, "response")
        items = tree["coordinators"] if version >= 4 else [tree]
        expected = [
            Coordinator(item.get("key"), item["node_id"], item["host"], item["port"], item["error_code"])
            for item in items
        ]
        assert (
            cluster.parse_find_coordinator_response(version, oracle.encode(key, version, "response", tree)) == expected
        )


def test_a_body_cut_or_continued_is_malformed() -> None:
    """No proper prefix of a message parses, nor does one with a byte behind it, but for Metadata."""
    rng = Random(3)
    parsers: list[tuple[Callable[[int, bytes], object], int, Any]] = [
        (cluster.parse_metadata_response, METADATA, "response"),
        (cluster.parse_find_coordinator_response, FIND_COORDINATOR, "response"),
        (cluster.parse_find_coordinator_request, FIND_COORDINATOR, "request"),
    ]
    for parse, key, kind in parsers:
        for version in KAFKA_PYTHON.versions(key):
            for _ in range(4):
                tree = KAFKA_PYTHON.message(rng, key, version, kind)
                body = KAFKA_PYTHON.encode(key, version, kind, tree)
                longer = [] if key == METADATA else [body + b"\0"]
                for wrong in [body[:cut] for cut in range(len(body))] + longer:
                    with pytest.raises(Malformed):
                        parse(version, wrong)


@given(version=st.integers(0, 13), body=st.binary(max_size=150), plausible=st.booleans())
def test_garbage_raises_nothing_but_protocol_errors(version: int, body: bytes, *, plausible: bool) -> None:
    """Whatever the bytes, a parser returns or raises a ProtocolError."""
    no_brokers = bytes(4) + b"\x01\x00" + bytes(4)
    with suppress(ProtocolError):
        cluster.parse_metadata_response(version, no_brokers + body if plausible and version >= 9 else body)
    with suppress(ProtocolError):
        cluster.parse_find_coordinator_request(version, body)
    with suppress(ProtocolError):
        cluster.parse_find_coordinator_response(version, body)
