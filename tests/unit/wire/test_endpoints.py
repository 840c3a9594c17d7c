"""Splicing endpoints: only addresses change, as two other codecs see it, and every other byte stays."""

import contextlib
import copy
import itertools
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import KIO, KafkaPython, Kio, Tree, cases, random_tags

from kproxy.errors import Malformed, ProtocolError, Short, Unsupported
from kproxy.wire import frames
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.endpoints import REWRITTEN, is_rewritten, names_no_broker, splice, splice_metadata
from kproxy.wire.primitives import put_compact_string, put_tags

WHOLE = (
    ApiKey.METADATA,
    ApiKey.FIND_COORDINATOR,
    ApiKey.DESCRIBE_CLUSTER,
    ApiKey.PRODUCE,
    ApiKey.SHARE_ACKNOWLEDGE,
    ApiKey.DESCRIBE_QUORUM,
)
HOSTS = ("kafka-3.internal", "b1", "größe.example", "::1", "x" * 130)


def advertise(node_id: int, host: str, port: int) -> tuple[str, int]:
    """Give a node an address that holds all that was said of it, longer or shorter than its own."""
    return f"kp-{node_id}-{host[:3]}-{port}" * (1 + node_id % 3 * 10), 19092 + node_id % 100


def drop_odd(node_id: int, host: str, port: int) -> tuple[str, int] | None:
    """Leave odd nodes out."""
    return None if node_id % 2 else advertise(node_id, host, port)


def structs(tree: Any) -> Iterator[Tree]:
    """List all structs of a message."""
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from structs(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from structs(value)


def nodes(tree: Tree) -> list[Tree]:
    """List all structs that are a node with an address."""
    return [each for each in structs(tree) if {"node_id", "broker_id"} & each.keys() and "host" in each]


def answer(oracle: Kio | KafkaPython, key: int, version: int, rng: Random) -> Tree:
    """Make a random answer with plausible nodes."""
    tree = oracle.message(rng, key, version, "response")
    for node in nodes(tree):
        node.update(host=rng.choice(HOSTS), port=rng.choice((0, 9092, 65535)))
        node["node_id" if "node_id" in node else "broker_id"] = rng.choice((0, 1, 7, 2**31 - 1))
    return tree


def advertised(tree: Tree, *, key: int, blank_racks: bool = False) -> Tree:
    """Make the message that a client should see of this one."""
    tree = copy.deepcopy(tree)
    for node in nodes(tree):
        node_id = node["node_id"] if "node_id" in node else node["broker_id"]
        if key != ApiKey.FIND_COORDINATOR or (node_id >= 0 and node["host"]):
            node["host"], node["port"] = advertise(node_id, node["host"], node["port"])
        if blank_racks and "rack" in node:
            node["rack"] = None
    for each in structs(tree):
        if "listeners" in each:
            each["listeners"] = []
    return tree


def is_unchanged(key: int, version: int) -> bool:
    """Whether answers of this version name no address."""
    return (key == ApiKey.PRODUCE and version < 10) or (key == ApiKey.DESCRIBE_QUORUM and version < 2)


@pytest.mark.parametrize(("oracle", "key", "version"), cases(*WHOLE))
def test_only_addresses_change(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """The spliced answer is, byte for byte, what a codec writes for the same message with the other addresses."""
    for seed, blank_racks in itertools.product(range(10), (False, True)):
        tree = answer(oracle, key, version, Random(seed))
        body = oracle.encode(key, version, "response", tree)
        out = splice(key, version, body, advertise, blank_racks=blank_racks)
        expected = tree if is_unchanged(key, version) else advertised(tree, key=key, blank_racks=blank_racks)
        assert oracle.decode(key, version, "response", out) == expected
        assert out == oracle.encode(key, version, "response", expected)


@pytest.mark.parametrize(("oracle", "key", "version"), [case for case in cases(*WHOLE) if case.values[0] is KIO])
def test_unknown_tags_are_kept(oracle: Kio, key: int, version: int) -> None:
    """Tagged fields that nobody knows are where they were, in every struct of the answer."""
    for seed in range(10):
        tree = answer(oracle, key, version, Random(seed))
        for each in structs(tree):  # emptied, their own tags would be gone
            if "listeners" in each:
                each["listeners"] = []
        body = oracle.encode(key, version, "response", tree, unknown_tags=Random(seed))
        expected = tree if is_unchanged(key, version) else advertised(tree, key=key)
        out = splice(key, version, body, advertise)
        assert out == oracle.encode(key, version, "response", expected, unknown_tags=Random(seed))


@pytest.mark.parametrize(("oracle", "key", "version"), cases(*WHOLE))
def test_nothing_changed(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """An answer whose addresses stay as they are comes back as the same object."""
    for seed in range(5):
        tree = answer(oracle, key, version, Random(seed))
        for each in structs(tree):
            if "listeners" in each:
                each["listeners"] = []
        body = oracle.encode(key, version, "response", tree)
        assert splice(key, version, body, lambda _, host, port: (host, port)) is body


@pytest.mark.parametrize(("oracle", "key", "version"), cases(*WHOLE))
def test_prefixes(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """No prefix of a whole answer passes for one, nor an answer with a byte too many."""
    if is_unchanged(key, version):
        return
    body = oracle.encode(key, version, "response", answer(oracle, key, version, Random(3)))
    for wrong in (*(body[:end] for end in range(len(body))), body + b"\x00"):
        with pytest.raises(Malformed):
            splice(key, version, wrong, advertise)


@pytest.mark.parametrize(("oracle", "key", "version"), cases(ApiKey.METADATA))
def test_metadata_prefixes(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """However little of a Metadata answer is there, its brokers come out whole and right, or more is asked for."""
    for seed in range(5):
        tree = answer(oracle, key, version, Random(seed))
        body = oracle.encode(key, version, "response", tree)
        whole, at = splice_metadata(version, b"##" + body + b"##", 2, advertise)
        assert whole + body[at - 2 :] == oracle.encode(key, version, "response", advertised(tree, key=key))
        for end in range(len(body)):
            if end < at - 2:
                with pytest.raises(Short):
                    splice_metadata(version, body[:end], 0, advertise)
            else:
                assert splice_metadata(version, body[:end], 0, advertise) == (whole, at - 2)


@pytest.mark.parametrize(
    ("oracle", "key", "version"),
    [case for case in cases(ApiKey.PRODUCE, ApiKey.SHARE_ACKNOWLEDGE) if not is_unchanged(*case.values[1:])],
)
def test_dropped_node_endpoints(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """A node endpoint without an address for clients is left out; without any left, the tag is not written."""
    for seed in range(10):
        tree = answer(oracle, key, version, Random(seed))
        body = oracle.encode(key, version, "response", tree)
        tree["node_endpoints"] = [node for node in tree["node_endpoints"] or [] if not node["node_id"] % 2]
        out = splice(key, version, body, drop_odd)
        assert out == oracle.encode(key, version, "response", advertised(tree, key=key))


@pytest.mark.parametrize(
    ("oracle", "key", "version"),
    cases(ApiKey.METADATA, ApiKey.DESCRIBE_CLUSTER, ApiKey.FIND_COORDINATOR),
)
def test_other_nodes_cannot_be_dropped(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """A broker without an address for clients makes the answer Malformed: it neither leaks nor goes missing."""
    tree = answer(oracle, key, version, Random(1))
    for node in nodes(tree)[:1]:
        node["node_id" if "node_id" in node else "broker_id"] = 1
        with pytest.raises(Malformed, match="no address"):
            splice(key, version, oracle.encode(key, version, "response", tree), drop_odd)


@pytest.mark.parametrize(("oracle", "key", "version"), cases(ApiKey.FIND_COORDINATOR))
def test_no_coordinator(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """The stand-in for a coordinator that comes with an error is left alone."""
    tree = answer(oracle, key, version, Random(1))
    for node_id, host, port in ((-1, "", -1), (-1, "b1", 9092), (1, "", 9092)):
        for node in nodes(tree):
            node.update(node_id=node_id, host=host, port=port)
        body = oracle.encode(key, version, "response", tree)
        assert splice(key, version, body, drop_odd) is body


def test_share_acknowledge_v0() -> None:
    """ShareAcknowledge v0, which no codec here has, is as v1."""
    body = KIO.encode(79, 1, "response", answer(KIO, ApiKey.SHARE_ACKNOWLEDGE, 1, Random(1)))
    assert splice(79, 0, body, advertise) == splice(79, 1, body, advertise) != body


EXAMPLES: dict[tuple[int, int], str] = {
    (ApiKey.METADATA, 0): "00000001 00000001 0002 6231 00002384 00000000",
    (ApiKey.METADATA, 1): "00000001 00000001 0002 6231 00002384 ffff 00000001 00000000",
    (ApiKey.METADATA, 3): "00000000 00000001 00000001 0002 6231 00002384 ffff 0001 63 00000001 00000000",
    (ApiKey.METADATA, 9): "00000000 02 00000001 03 6231 00002384 00 00 02 63 00000001 01 80000000 00",
    (ApiKey.METADATA, 13): "00000000 02 00000001 03 6231 00002384 00 00 02 63 00000001 01 0000 00",
    (ApiKey.PRODUCE, 10): "02 0274 02 00000000 0006 ffffffffffffffff ffffffffffffffff ffffffffffffffff 01 00"
    "01 00 09 00000001 00000005 00 00 00000000 01 00 0e 02 00000001 03 6231 00002384 00 00",
}


@pytest.mark.parametrize(("key", "version"), EXAMPLES)
def test_examples(key: int, version: int) -> None:
    """Broker 1 = b1:9092, as Kafka's own classes write it, becomes broker 1 = kp:19 and nothing else."""
    body = bytes.fromhex(EXAMPLES[key, version])
    out = splice(key, version, body, lambda node_id, host, port: {(1, "b1", 9092): ("kp", 19)}[node_id, host, port])
    assert out == body.replace(b"b1\x00\x00\x23\x84", b"kp\x00\x00\x00\x13") != body


def plain_produce(version: int, topic: str, error: int = 0, errors: bytes = b"\x01") -> bytes:
    """Write the answer to one partition of one topic."""
    name = b"\x02" * 16 if version >= 13 else put_compact_string(topic)
    partition = bytes(4) + error.to_bytes(2, "big") + b"\xff" * 24 + errors + b"\x00\x00"
    return b"\x02" + name + b"\x02" + partition + b"\x00" + bytes(4) + b"\x00"


@pytest.mark.parametrize("version", range(10, 14))
@pytest.mark.parametrize("topic", ["", "t", "x" * 126, "x" * 127, "x" * 249])
def test_the_usual_produce_answer(version: int, topic: str) -> None:
    """The answer that nearly every Produce gets comes back as the same object, and none of its prefixes passes."""
    body = plain_produce(version, topic)
    assert splice(ApiKey.PRODUCE, version, body, drop_odd) is body
    failed = plain_produce(version, topic, 87, b"\x02" + bytes(4) + put_compact_string("why") + b"\x00")
    assert splice(ApiKey.PRODUCE, version, failed, drop_odd) is failed
    for wrong in (*(body[:end] for end in range(len(body))), body + b"\x00"):
        with pytest.raises(Malformed):
            splice(ApiKey.PRODUCE, version, wrong, drop_odd)


def framed(version: int, body: bytes) -> bytes:
    """Put a Produce answer into its frame."""
    return frames.response(7, ApiKey.PRODUCE, version, body)


@pytest.mark.parametrize(("oracle", "key", "version"), cases(ApiKey.PRODUCE))
def test_who_names_no_broker(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """An answer that shows by its size that it names no broker is one that splicing leaves alone, or none at all."""
    rng = Random(version)
    seen = 0
    for _ in range(300 if version >= 10 else 0):
        tree = oracle.message(rng, key, version, "response")
        if rng.random() < 0.5:
            tree["responses"] = tree["responses"][:1]
            for partition in (each for topic in tree["responses"] for each in topic["partition_responses"]):
                partition |= {"record_errors": [], "error_message": None}
        data = bytearray(b"prefix" + framed(version, oracle.encode(key, version, "response", tree)))
        if rng.random() < 0.5:
            data[rng.randrange(14, len(data))] = rng.randrange(256)
        size = len(data) - 10
        if names_no_broker(version, bytes(data), 6, size):
            seen += 1
            body = bytes(data[15:])
            with contextlib.suppress(Malformed):  # after damage
                assert splice(key, version, body, lambda *_: pytest.fail("it names a broker")) is body
    assert seen or version < 10


@pytest.mark.parametrize("version", [10, 12, 13])
def test_the_usual_answer_names_no_broker(version: int) -> None:
    """One topic whose partitions all went well shows by its size that there is nothing to splice; no other does."""
    for topic in ("t", "x" * 126):
        for count in (1, 2, 126):
            head = bytes(16) if version == 13 else put_compact_string(topic)
            partition = bytes(30) + b"\x01\x00\x00"
            body = b"\x02" + head + bytes([count + 1]) + partition * count + b"\x00" + bytes(4)
            data = framed(version, body + b"\x00")
            assert names_no_broker(version, data, 0, len(data) - 4)
            named = framed(version, body + put_tags([(0, b"\x01")]))
            assert not names_no_broker(version, named, 0, len(named) - 4)
    for odd in (b"", b"\x01" + bytes(5), b"\x03" + bytes(60), b"\x02\xff" + bytes(60), b"\x02\x70" + bytes(40)):
        data = framed(version, odd)
        assert not names_no_broker(version, data, 0, len(data) - 4)


@pytest.mark.parametrize("tag_buffer", ["02000101000101", "01000100", "0100020100", "01000101", "010000"])
def test_odd_produce_tags(tag_buffer: str) -> None:
    """NodeEndpoints twice, or not exactly one array, are Malformed; an empty array is as good as none."""
    body = plain_produce(12, "t")[:-1] + bytes.fromhex(tag_buffer)
    if tag_buffer == "01000101":
        assert splice(ApiKey.PRODUCE, 12, body, drop_odd) == plain_produce(12, "t")
    else:
        with pytest.raises(Malformed):
            splice(ApiKey.PRODUCE, 12, body, drop_odd)


def test_foreign_tags_around_node_endpoints() -> None:
    """Other tagged fields of a Produce answer stay, in order, with NodeEndpoints rewritten or gone."""
    endpoint = bytes.fromhex("02 00000001 03 6231 00002384 00 00")
    for seed in range(20):
        others = random_tags(Random(seed))
        body = plain_produce(12, "t")[:-1] + put_tags([(0, endpoint), *others])
        ours = endpoint.replace(b"b1\x00\x00\x23\x84", b"kp\x00\x00\x00\x13")
        assert splice(0, 12, body, lambda *_: ("kp", 19)) == body.replace(endpoint, ours)
        assert splice(0, 12, body, lambda *_: None) == plain_produce(12, "t")[:-1] + put_tags(others)


def test_which_answers_are_rewritten() -> None:
    """Exactly the answers in which Kafka's schemas have an address to connect to, or a controller's, are seen."""
    assert {key for key, _ in REWRITTEN} == {*WHOLE, ApiKey.SHARE_FETCH}
    for api in APIS.values():
        for version in KIO.versions(api.key):
            if version <= api.max_version and api.key not in (ApiKey.SHARE_FETCH, ApiKey.STREAMS_GROUP_HEARTBEAT):
                found = False
                for seed in range(8):
                    tree = KIO.message(Random(seed), api.key, version, "response")
                    found |= any({"host", "port"} <= each.keys() for each in structs(tree))
                assert is_rewritten(api.key, version) == (found and api.key != ApiKey.STREAMS_GROUP_DESCRIBE), api
    assert is_rewritten(ApiKey.SHARE_FETCH, 0)


@pytest.mark.parametrize(("key", "version"), [(3, 14), (3, -1), (0, 14), (4, 0), (78, 1), (1, 16)])
def test_what_is_not_known(key: int, version: int) -> None:
    """An answer whose layout is not known here is not guessed at."""
    with pytest.raises(Unsupported):
        splice(key, version, b"", advertise)
    if key == ApiKey.METADATA:
        with pytest.raises(Unsupported):
            splice_metadata(version, b"", 0, advertise)


@given(data=st.binary(max_size=120), key_version=st.sampled_from(sorted(REWRITTEN)))
def test_garbage(data: bytes, key_version: tuple[int, int]) -> None:
    """Whatever the bytes, splicing them returns bytes or raises ProtocolError, nothing else."""
    try:
        splice(*key_version, data, advertise)
    except ProtocolError:
        return


@given(seed=st.integers(0, 1000), at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_damaged(seed: int, at: int, byte: int) -> None:
    """Whatever byte of an answer is wrong, splicing it returns bytes or raises ProtocolError, nothing else."""
    rng = Random(seed)
    key, version = rng.choice(
        [kv for kv in sorted(REWRITTEN) if kv[0] != ApiKey.SHARE_FETCH and kv[1] in KIO.versions(kv[0])]
    )
    body = bytearray(KIO.encode(key, version, "response", answer(KIO, key, version, rng)))
    body[at % len(body)] = byte
    try:
        splice(key, version, bytes(body), advertise)
    except ProtocolError:
        return
