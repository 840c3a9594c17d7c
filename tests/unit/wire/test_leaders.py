"""Leaders told in passing, held against answers that two foreign codecs wrote."""

from random import Random
from typing import Any
from uuid import UUID

import pytest
from oracles import KIO, KafkaPython, Kio, cases

from kproxy.errors import ProtocolError
from kproxy.wire.apis import ApiKey
from kproxy.wire.leaders import PartitionLeader, produce_leaders

PRODUCE = ApiKey.PRODUCE


def told(tree: dict[str, Any]) -> list[PartitionLeader]:
    """Read the leaders off an oracle's message."""
    leaders = []
    for topic in tree["responses"]:
        name = (topic["topic_id"] or UUID(int=0)).bytes if "topic_id" in topic else topic["name"]
        for partition in topic["partition_responses"]:
            leader = partition["current_leader"]  # None: kafka-python leaves out what is at its default
            if leader is not None and leader["leader_id"] >= 0:
                leaders.append(PartitionLeader(name, partition["index"], leader["leader_id"], leader["leader_epoch"]))
    return leaders


@pytest.mark.parametrize(
    ("oracle", "key", "version"),
    [case for case in cases(PRODUCE) if case.values[2] >= 10],
    ids=str,
)
def test_every_leader_is_told(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """The leaders of an answer are exactly those that the codec put in; those that are missing (-1) are left out."""
    rng = Random(version)
    some = 0
    for _ in range(60):
        tree = oracle.message(rng, key, version, "response")
        leaders = produce_leaders(version, oracle.encode(key, version, "response", tree))
        assert leaders == told(tree)
        some += len(leaders)
    assert some


@pytest.mark.parametrize("version", [10, 13])
def test_what_is_cut_is_refused(version: int) -> None:
    """A body that ends before its topics do raises ProtocolError, wherever it ends; unknown tags are stepped over."""
    rng = Random(1)
    tree = next(tree for tree in iter(lambda: KIO.message(rng, PRODUCE, version, "response"), None) if told(tree))
    body = KIO.encode(PRODUCE, version, "response", tree, unknown_tags=Random(2))
    assert produce_leaders(version, body) == told(tree)
    bare = KIO.encode(PRODUCE, version, "response", tree | {"node_endpoints": []})
    for end in range(len(bare) - 5):  # throttle_time_ms and no tags
        with pytest.raises(ProtocolError):
            produce_leaders(version, bare[:end])
