"""Where requests go, checked against requests that kio and kafka-python wrote."""

import io
from contextlib import suppress
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kio.schema.request_header.v1.header import RequestHeader as PlainHeader
from kio.schema.request_header.v2.header import RequestHeader as FlexibleHeader
from kio.serial import entity_writer
from kio.static.primitive import i16, i32
from oracles import KIO, KafkaPython, Kio, Tree, cases, random_tags

from kproxy.errors import Malformed, ProtocolError, Short, Unsupported
from kproxy.wire import routing
from kproxy.wire.apis import APIS, ApiKey, is_flexible
from kproxy.wire.primitives import put_compact_string, put_string, put_uvarint
from kproxy.wire.routing import Route, Target, blank_fetch_rack, route

Oracle = Kio | KafkaPython

CLIENT_IDS = (None, "", "c", "größe-漢字", "x" * 200, "y" * 3000)
FETCH = ApiKey.FETCH


def header(key: int, version: int, client_id: str | None, tags: list[tuple[int, bytes]] | None = None) -> bytes:
    """Let kio write a request header; tags that it does not know are put in behind it."""
    flexible = is_flexible(key, version)
    buffer = io.BytesIO()
    fields: dict[str, Any] = {"request_api_key": i16(key), "request_api_version": i16(version)}
    fields |= {"correlation_id": i32(77), "client_id": client_id}
    if flexible:
        entity_writer(FlexibleHeader)(buffer, FlexibleHeader(**fields))
    else:
        entity_writer(PlainHeader)(buffer, PlainHeader(**fields))
    raw = buffer.getvalue()
    if flexible and tags:
        raw = raw[:-1] + put_uvarint(len(tags))
        raw += b"".join(put_uvarint(tag) + put_uvarint(len(value)) + value for tag, value in tags)
    return raw


def first(items: list[Any] | None) -> Any:
    """Take the first of a list, None of an empty one or none."""
    return items[0] if items else None


def first_partition(tree: Tree, none: Target) -> Route:
    """Say where a message goes that names topics and partitions, whatever the fields are called."""
    topic = first(tree.get("topics", tree.get("topic_data")))
    if topic is None:
        return Route(none, 0)
    partitions = topic.get("partitions", topic.get("partition_data", topic.get("partition_indexes")))
    partition = first(partitions)
    if partition is None:
        return Route(none, 0)
    if isinstance(partition, dict):
        partition = next(partition[name] for name in ("partition_index", "partition", "index") if name in partition)
    if "topic_id" in topic:
        return Route(Target.LEADER_ID, 0, "", (topic["topic_id"] or UUID(int=0)).bytes, partition)
    return Route(Target.LEADER_NAME, 0, topic.get("name", topic.get("topic")), b"", partition)


GROUP_FIELDS = {15: "groups", 42: "groups_names", 69: "group_ids", 77: "group_ids", 89: "group_ids", 90: "groups"}
TOPIC, BROKER, BROKER_LOGGER = 2, 4, 8


def expected(key: int, version: int, tree: Tree) -> Route:
    """Say where an oracle's message must go (kafka-protocol: routing), but for the end."""
    if key == FETCH and version >= 7 and tree["session_id"] != 0:
        return Route(Target.FETCH_SESSION, 0, number=tree["session_id"])
    if key in (ApiKey.SHARE_FETCH, ApiKey.SHARE_ACKNOWLEDGE):
        return first_partition(tree, Target.SHARE_SESSION)
    if key in (0, 1, 2, 21, 23, 61):
        return first_partition(tree, Target.ANY)
    if key in (32, 33, 44):
        resource = first(tree["resources"]) or {"resource_type": 0}
        if resource["resource_type"] in (BROKER, BROKER_LOGGER) and resource["resource_name"] in (
            "0",
            "7",
            "2147483647",
        ):
            return Route(Target.NODE, 0, number=int(resource["resource_name"]))
        return Route(Target.ANY, 0)
    if key in (22, 24, 25, 26, 65):
        name = tree.get("transactional_id", tree.get("v3_and_below_transactional_id"))
        if key == ApiKey.DESCRIBE_TRANSACTIONS:
            name = first(tree["transactional_ids"])
        if key == ApiKey.ADD_PARTITIONS_TO_TXN and version >= 4:
            name = (first(tree["transactions"]) or {"transactional_id": None})["transactional_id"]
        return Route(Target.ANY, 0) if name is None else Route(Target.TXN, 0, name)
    name = tree.get("group_id")
    if key in GROUP_FIELDS or (key == ApiKey.OFFSET_FETCH and version >= 8):
        name = first(tree[GROUP_FIELDS.get(key, "groups")])
        name = name["group_id"] if isinstance(name, dict) else name
    return Route(Target.ANY, 0) if name is None else Route(Target.GROUP, 0, name)


def some_request(rng: Random, oracle: Oracle, key: int, version: int) -> tuple[Tree, bytes]:
    """Make a random request from its api_key on, in which what is rare elsewhere is not."""
    tree = oracle.message(rng, key, version, "request")
    if key == FETCH and version >= 7 and rng.random() < 0.7:
        tree["session_id"] = 0
    for resource in tree.get("resources", ()):
        resource["resource_type"] = rng.choice((TOPIC, BROKER, BROKER_LOGGER))
        resource["resource_name"] = rng.choice(("", "0", "7", "2147483647", "2147483648", "99999999999", "x", "٣", "²"))
    start = header(key, version, rng.choice(CLIENT_IDS), random_tags(rng))
    return tree, start + oracle.encode(key, version, "request", tree)


def check_prefixes(key: int, version: int, request: bytes, found: Route) -> None:
    """Hold a route's ``end`` against all cuts near it, and some before."""
    for end in {*range(min(60, len(request))), *range(max(0, found.end - 40), min(found.end + 10, len(request)))}:
        for data in (request[:end], request):  # with or without bytes behind the end
            if end < found.end:
                with pytest.raises(Short):
                    route(key, version, data, 0, end)
            else:
                assert route(key, version, data, 0, end) == found


@pytest.mark.parametrize(("oracle", "key", "version"), cases(*routing._SHAPES))
def test_requests_go_where_the_oracles_message_says(oracle: Oracle, key: int, version: int) -> None:
    """Wherever a request lies and however much of it is there, it has its one route or asks for more bytes."""
    rng = Random(key * 100 + version)
    for _ in range(15):
        tree, request = some_request(rng, oracle, key, version)
        before, behind = rng.randbytes(rng.randrange(9)), rng.randbytes(rng.randrange(9))
        pos = len(before)
        found = route(key, version, before + request + behind, pos, pos + len(request))
        assert found == expected(key, version, tree)._replace(end=found.end)
        check_prefixes(key, version, request, found._replace(end=found.end - pos))


@pytest.mark.parametrize(("key", "version"), [(78, 1), (78, 2), (79, 1), (79, 2), (90, 1), (24, 4)])
def test_tags_that_nobody_knows_do_not_matter(key: int, version: int) -> None:
    """A later Kafka may add tagged fields at every level."""
    rng = Random(key)
    for seed in range(30):
        tree = KIO.message(rng, key, version, "request")
        request = header(key, version, "c") + KIO.encode(key, version, "request", tree, unknown_tags=Random(seed))
        found = route(key, version, request, 0, len(request))
        assert found == expected(key, version, tree)._replace(end=found.end)


def test_share_requests_of_the_early_access_are_routed() -> None:
    """ShareFetch v0 has two fields less before its topics, which no oracle knows any more."""
    ids = put_compact_string("g") + put_compact_string("m")
    topics = b"\x02" + bytes(range(16)) + b"\x02" + b"\x00\x00\x00\x05"
    for key, fields in ((ApiKey.SHARE_FETCH, bytes(16)), (ApiKey.SHARE_ACKNOWLEDGE, bytes(4))):
        request = header(key, 0, "c") + ids + fields + topics
        found = route(key, 0, request, 0, len(request))
        assert found == Route(Target.LEADER_ID, len(request), topic_id=bytes(range(16)), partition=5)


def test_every_api_for_clients_has_a_target() -> None:
    """An API that is added to the table must be given a route, and none has two."""
    assert routing._SHAPES.keys() | routing._BY_KEY.keys() == APIS.keys()
    assert not routing._SHAPES.keys() & routing._BY_KEY.keys()


@pytest.mark.parametrize("key", routing._BY_KEY)
def test_some_requests_are_told_by_their_key_alone(key: int) -> None:
    """Once key and version are there, nothing else is read of them."""
    targets = {16: Target.ALL, 66: Target.ALL, 34: Target.REFUSE, 35: Target.REFUSE}
    targets |= {71: Target.STICKY, 72: Target.STICKY}
    assert route(key, 0, b"..\0\0\0\0", 2, 6) == Route(targets.get(key, Target.ANY), 6)
    with pytest.raises(Short):
        route(key, 0, b"..\0\0\0\0", 2, 5)


@pytest.mark.parametrize(("key", "version"), [(-1, 0), (27, 1), (83, 0), (1, 16), (0, 14), (12, -1), (0, -1), (999, 0)])
def test_what_is_not_offered_is_unsupported(key: int, version: int) -> None:
    """APIs between brokers, versions above ours, and nonsense have no route."""
    with pytest.raises(Unsupported):
        route(key, version, bytes(100), 0, 100)


@pytest.mark.parametrize(
    ("key", "version", "body"),
    [
        (0, 3, put_string(None) + bytes(6) + b"\xff" * 4),  # a null array
        (0, 9, b"\x00" + bytes(6) + b"\x01"),  # no topic
        (0, 9, b"\x00" + bytes(6) + b"\x02\x02t\x01"),  # a topic without a partition
        (2, 1, bytes(8)),
        (21, 2, b"\x00"),
        (12, 4, b"\x00"),  # a null group, which only a broker can judge
        (12, 3, b"\xff\xff"),
        (15, 0, bytes(4)),
    ],
)
def test_a_request_that_names_nothing_goes_anywhere(key: int, version: int, body: bytes) -> None:
    """Any broker knows what to answer to an empty request."""
    request = header(key, version, "c") + body
    assert route(key, version, request, 0, len(request)) == Route(Target.ANY, len(request))


def test_a_share_session_may_name_no_topic() -> None:
    """Then it goes where this connection's last share request went."""
    for topics in (b"\x01", b"\x02" + bytes(16) + b"\x01"):
        request = header(79, 1, "c") + b"\x02g\x02m" + bytes(4) + topics
        assert route(79, 1, request, 0, len(request)) == Route(Target.SHARE_SESSION, len(request))


@pytest.mark.parametrize(
    ("key", "version", "body"),
    [
        (0, 3, put_string(None) + bytes(6) + b"\xff\xff\xff\xfe"),  # a count of -2
        (0, 3, b"\xff\xfe"),  # a length of -2
        (0, 8, put_string("t") + bytes(6) + b"\0\0\0\1" + b"\xff\xff" + bytes(8)),  # a topic without a name
        (0, 9, b"\x00" + bytes(6) + b"\x02\x00" + bytes(9)),
        (0, 9, b"\x00" + bytes(6) + b"\x02\x02\xff\x02" + bytes(9)),  # not UTF-8
        (12, 3, b"\x00\x01\xff"),
        (12, 4, b"\xff" * 6),  # a length of more than 32 bits
    ],
)
def test_what_cannot_be_a_request_is_malformed(key: int, version: int, body: bytes) -> None:
    """No bytes that may follow could mend it."""
    request = header(key, version, "c") + body
    with pytest.raises(Malformed) as caught:
        route(key, version, request, 0, len(request))
    assert not isinstance(caught.value, Short)


def test_a_client_id_of_a_length_below_minus_one_is_malformed() -> None:
    """Both ways of reading a header agree on it."""
    for key in (0, 12):
        request = bytes((0, key, 0, 4)) + bytes(4) + b"\xff\xfe" + bytes(40)
        with pytest.raises(Malformed, match="string length -2"):
            route(key, 4, request, 0, len(request))


def test_long_beginnings_are_read_but_not_without_end() -> None:
    """Strings of the largest size are no obstacle; 128 KiB without a word of where to go are refused."""
    longest = "z" * 32767
    request = header(12, 4, longest, [(9, bytes(32767))]) + put_compact_string(longest)
    found = route(12, 4, request, 0, len(request))
    assert found == Route(Target.GROUP, len(request), longest)
    check_prefixes(12, 4, request, found)

    endless = header(12, 4, "c", [(tag, bytes(120)) for tag in range(1100)])
    for end in (2000, 131_071):
        with pytest.raises(Short):
            route(12, 4, endless, 0, end)
    with pytest.raises(Malformed, match="does not tell"):
        route(12, 4, endless, 0, 131_072)


@given(
    key=st.sampled_from(sorted(APIS)),
    version=st.integers(0, 15),
    body=st.binary(max_size=120),
    client_id=st.sampled_from([b"\0\0", b"\xff\xff", b"\xff\xfe", b"\0\1c", b"\x7f\xff"]),
    cut=st.integers(0, 140),
)
@example(key=12, version=4, body=b"\0", client_id=b"\0\0", cut=140)
def test_garbage_raises_nothing_but_protocol_errors(
    key: int, version: int, body: bytes, client_id: bytes, cut: int
) -> None:
    """Whatever the bytes, there is a route or a ProtocolError, and more bytes never change a route that was told."""
    request = bytes((0, key, 0, version)) + bytes(4) + client_id + body
    whole: Route | None = None
    with suppress(ProtocolError):
        whole = route(key, version, request, 0, len(request))
    with suppress(ProtocolError):
        assert route(key, version, request[:cut], 0, min(cut, len(request))) == whole


def framed(request: bytes) -> bytes:
    """Put the size in front."""
    return len(request).to_bytes(4, "big") + request


@pytest.mark.parametrize(("oracle", "key", "version"), cases(FETCH))
def test_the_rack_of_a_fetch_is_blanked_and_nothing_else(oracle: Oracle, key: int, version: int) -> None:
    """The frame keeps its size, and an oracle reads the same request with a rack of NULs."""
    rng = Random(version)
    for _ in range(30):
        tree = oracle.message(rng, key, version, "request")
        if "replica_state" in tree:
            tree["replica_state"] = {"replica_id": -1, "replica_epoch": -1}  # as all consumers
        start = header(key, version, rng.choice(CLIENT_IDS), random_tags(rng))
        frame = framed(start + oracle.encode(key, version, "request", tree))
        blanked = blank_fetch_rack(version, frame)
        if not tree.get("rack_id"):
            assert blanked is frame
            continue
        size = len(tree["rack_id"].encode())
        assert blanked == framed(start + oracle.encode(key, version, "request", tree | {"rack_id": "\0" * size}))


def test_a_rack_behind_unknown_tags_is_blanked() -> None:
    """Tagged fields at every level, known or not, stay as they are."""
    rng = Random(11)
    for version in range(12, 16):
        for seed in range(20):
            tree = KIO.message(rng, FETCH, version, "request") | {"rack_id": "eu-west-1a"}
            blank = tree | {"rack_id": "\0" * 10}
            start = header(FETCH, version, "c")
            before, after = (
                framed(start + KIO.encode(FETCH, version, "request", each, unknown_tags=Random(seed)))
                for each in (tree, blank)
            )
            assert blank_fetch_rack(version, before) == (before if before.endswith(b"\1\0") else after)
            empty = framed(
                start + KIO.encode(FETCH, version, "request", tree | {"rack_id": ""}, unknown_tags=Random(seed))
            )
            assert blank_fetch_rack(version, empty) is empty


def test_null_lists_and_a_null_rack_are_stepped_over() -> None:
    """Kafka allows none of them, and a broker will say so."""
    for version, nothing in ((11, b"\xff" * 4), (12, b"\x00")):
        fields = bytes(25 if version == 11 else 24) + nothing + nothing
        start = header(FETCH, version, "c")
        rack, blank = (put_string, put_compact_string)[version - 11]("az"), b"\0\0"
        end = b"\0" if version == 12 else b""
        fields = bytes(25) + nothing + nothing
        frame = framed(start + fields + rack + end)
        assert blank_fetch_rack(version, frame) == framed(start + fields + rack[: -len(blank)] + blank + end)
    frame = framed(header(FETCH, 11, "c") + bytes(25) + b"\xff" * 8 + b"\xff\xff")
    assert blank_fetch_rack(11, frame) is frame


@given(version=st.integers(11, 15), body=st.binary(max_size=120))
def test_a_garbage_fetch_raises_nothing_but_protocol_errors(version: int, body: bytes) -> None:
    """Whatever the bytes, a frame of the same size or a ProtocolError."""
    with suppress(ProtocolError):
        frame = framed(header(FETCH, version, "c") + body)
        assert len(blank_fetch_rack(version, frame)) == len(frame)
