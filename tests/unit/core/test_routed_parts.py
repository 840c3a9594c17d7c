"""RoutedExchange, one promise after the other: lanes, sessions, what is learnt, what ends a connection."""

from random import Random
from uuid import UUID

import pytest
from conversations import OFFER
from kio.schema.errors import ErrorCode
from oracles import KIO, Tree

from kproxy.core.directory import Directory
from kproxy.core.exchange import Front
from kproxy.core.offer import make_offer
from kproxy.core.rewrite import COLLECTED_BYTES_MAX
from kproxy.core.routed import WHOLE_BYTES_MAX, FanOut, Lookup, Pending, Reach, RoutedExchange, Turn
from kproxy.core.tally import Tally
from kproxy.errors import FrameTooLarge, Malformed, ProtocolError, Unsupported
from kproxy.wire import frames
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.cluster import Coordinator, Partition, Topic
from kproxy.wire.leaders import PartitionLeader
from kproxy.wire.primitives import INT16, INT32, put_string, put_tags
from kproxy.wire.routing import Route, Target

ID = bytes(range(16))


def exchange(directory: Directory | None = None) -> RoutedExchange:
    """Make one that offers everything, connected to brokers 2 and 1, the latter its lane."""
    directory = directory or Directory()
    leaders = [Partition(0, 0, 1, 0), Partition(0, 1, 2, 0), Partition(0, 2, 1, 0)]
    directory.learn_topics([Topic(0, "t", ID, leaders)])
    for node in (1, 2):
        directory.learn_coordinators(0, [f"g{node}"], [Coordinator(None, node, "b", 9092, 0)])
    each = RoutedExchange(Front(OFFER, Tally()), lambda node, _host, _port: (f"kp-{node}", 19092), directory)
    each.reached(2)
    each.reached(1)
    return each


def lane(each: RoutedExchange) -> int | None:
    """Look at the lane anew."""
    return each.lane


def pending(each: RoutedExchange) -> Pending | None:
    """Look anew at what is pending."""
    return each.pending


def heartbeat(node: int, correlation_id: int = 1) -> bytes:
    """Write a Heartbeat v0 to the coordinator on a node."""
    return frames.request(12, 0, correlation_id, "c", put_string(f"g{node}") + b"\0\0\0\1\0\1m")


def fetch(session_id: int, epoch: int, partition: int | None = 0, version: int = 12, rack: str = "") -> bytes:
    """Write a Fetch v11 to v14 of a partition of topic t, or of none."""
    tree = KIO.message(Random(0), 1, version, "request")
    topic: Tree = {"topic": "t"} if version < 13 else {"topic_id": UUID(bytes=ID)}
    asked = {"partition": partition, "current_leader_epoch": 0, "fetch_offset": 0, "log_start_offset": 0}
    asked |= {"last_fetched_epoch": -1, "partition_max_bytes": 1}
    topic["partitions"] = [{name: asked[name] for name in asked if version >= 12 or name != "last_fetched_epoch"}]
    tree |= {"session_id": session_id, "session_epoch": epoch, "rack_id": rack, "forgotten_topics_data": []}
    tree["topics"] = [] if partition is None else [topic]
    if version >= 12:
        tree["cluster_id"] = None
    return frames.request(1, version, 1, "c", KIO.encode(1, version, "request", tree))


def fetched(session_id: int, version: int = 12) -> bytes:
    """Write a Fetch answer."""
    tree = KIO.message(Random(0), 1, version, "response") | {"session_id": session_id}
    return frames.response(1, 1, version, KIO.encode(1, version, "response", tree))


def sent(each: RoutedExchange, request: bytes) -> bytes:
    """Send a request and connect to its broker, node 1 where any will do; return what left."""
    out = each.from_client(request)
    while isinstance(each.pending, Reach | Turn) and each.quiet:
        if isinstance(each.pending, Reach):
            each.reached(each.pending.node_id or 1)
        out += each.proceed()
    return out


def answered(each: RoutedExchange, request: bytes, answer: bytes) -> int | None:
    """Send a request, wait for quiet, answer it, and return its lane."""
    assert sent(each, request) == request
    assert each.from_broker(answer) == answer
    return each.lane


BEAT = frames.response(1, 12, 0, b"\0\0")


def test_a_group_that_is_gone() -> None:
    """A KIP-848 member whose group its broker does not know is told to join anew, and only once."""
    each = exchange()
    request = frames.request(68, 0, 1, "c", b"\x03g1")
    gone, unknown = (frames.response(1, 68, 0, bytes(4) + bytes((0, code)) + bytes(9)) for code in (69, 25))
    for told in (unknown, gone):
        assert sent(each, request) == request
        assert each.from_broker(gone) == told


@pytest.mark.parametrize("cut", range(1, len(BEAT)))
def test_never_turns_amid_an_answer(cut: int) -> None:
    """The lane turns when the last byte of the last answer is there, and not before."""
    each = exchange()
    assert each.from_client(heartbeat(1)) == heartbeat(1)
    assert each.from_client(heartbeat(2)) == b""
    each.from_broker(BEAT[:cut])
    assert (each.quiet, each.proceed(), pending(each)) == (False, b"", Turn())
    each.from_broker(BEAT[cut:])
    assert (each.quiet, pending(each)) == (True, Turn())
    assert (each.proceed(), lane(each)) == (heartbeat(2), 2)


def test_turns_behind_what_gets_no_answer() -> None:
    """Requests with acks=0 leave for their lane before it turns, in one read or several."""
    each = exchange()
    unanswered = [produce(partition) for partition in (0, 0, 1)]
    assert (each.from_client(b"".join(unanswered)), lane(each)) == (unanswered[0] * 2, 1)
    assert pending(each) == Turn()
    assert each.quiet
    assert (each.proceed(), lane(each)) == (unanswered[2], 2)
    assert (each.from_client(unanswered[0]), lane(each)) == (unanswered[0], 1)


def produce(partition: int, acks: int = 0) -> bytes:
    """Write a Produce v7 to topic t."""
    body = put_string(None) + INT16.pack(acks) + bytes(4) + INT32.pack(1) + put_string("t") + INT32.pack(1)
    return frames.request(0, 7, 1, "c", body + INT32.pack(partition) + INT32.pack(-1))


@pytest.mark.parametrize("known", [True, False])
def test_like_the_last_one(*, known: bool) -> None:
    """A request is only sent after the last of its API where it begins alike; where it names nobody, too."""
    each = exchange()
    nobody = fetch(0, -1, None)
    assert answered(each, nobody, fetched(0)) == 1
    assert answered(each, nobody, fetched(0)) == 1
    assert answered(each, fetch(0, -1, 1), fetched(0)) == 2
    assert answered(each, nobody, fetched(0)) == 2
    if known:
        each._directory.learn_topics([Topic(0, "t", ID, [Partition(0, 1, 1, 1)])])
    assert answered(each, fetch(0, -1, 1), fetched(0)) == (1 if known else 2)


def test_a_fetch_session_is_where_it_was_made() -> None:
    """Its id is learnt from the answer that names it, for every connection, and counts more than the topics named."""
    directory = Directory()
    first, second = exchange(directory), exchange(directory)
    assert answered(first, fetch(0, 0, 1), fetched(77)) == 2
    assert answered(first, fetch(77, 1, 0), fetched(77)) == 2
    assert answered(second, heartbeat(1), BEAT) == 1
    assert answered(second, fetch(77, 2, None), fetched(77)) == 2
    # One that is closed and made anew by the same request, and one that nobody knew.
    assert answered(second, fetch(77, 0, 1), fetched(78)) == 2
    assert answered(second, heartbeat(1), BEAT) == 1
    assert answered(second, fetch(79, 1, 1), fetched(79)) == 1
    routes = [Route(Target.FETCH_SESSION, 0, number=number) for number in (77, 78, 79)]
    assert [directory.find(route) for route in routes] == [2, 2, 1]


@pytest.mark.parametrize("version", range(7, 16))
def test_a_session_id_is_read_off_any_answer(version: int) -> None:
    """However the answer to a Fetch is cut, it passes unchanged, and the session it names is known."""
    tree = KIO.message(Random(3), 1, version, "response") | {"session_id": 77}
    head = put_tags([(9, b"x" * 200)]) if version >= 12 else b""
    body = KIO.encode(1, version, "response", tree)
    answer = INT32.pack(4 + len(head) + len(body)) + INT32.pack(1) + head + body
    for cut in range(len(answer)):
        each = exchange()
        request = KIO.message(Random(3), 1, version, "request") | {"session_id": 0, "session_epoch": 0}
        each.from_client(frames.request(1, version, 1, "c", KIO.encode(1, version, "request", request)))
        each.proceed(give_up=True)
        each.reached(2)
        assert each.from_broker(answer[:cut]) + each.from_broker(answer[cut:]) == answer
        assert each._directory.find(Route(Target.FETCH_SESSION, 0, number=77)) == 2


@pytest.mark.parametrize("version", [10, 13])
def test_a_leader_is_learnt_from_a_refusal(version: int) -> None:
    """A Produce answer that names the new leader (KIP-951) sends the next request there, without Metadata."""
    each = exchange()
    each._directory.learn_leaders([PartitionLeader("t", 0, 1, 3)])
    tree = KIO.message(Random(0), 0, version, "response")
    partition = {"index": 0, "error_code": ErrorCode.not_leader_or_follower, "base_offset": -1, "record_errors": []}
    partition |= {"log_append_time": None, "log_start_offset": -1, "error_message": None}
    partition |= {"current_leader": {"leader_id": 2, "leader_epoch": 4}}
    name = {"name": "t"} if version < 13 else {"topic_id": UUID(bytes=ID)}
    tree["responses"] = [name | {"partition_responses": [partition]}]
    tree["node_endpoints"] = [{"node_id": 2, "host": "b2", "port": 9092, "rack": "r"}]
    answer = frames.response(1, 0, version, KIO.encode(0, version, "response", tree))
    each.from_client(produce_v(version))
    assert b"b2" not in each.from_broker(answer)
    assert (each.from_client(produce_v(version)), lane(each)) == (produce_v(version), 2)


def produce_v(version: int, partition: int = 0) -> bytes:
    """Write a flexible Produce to a partition of topic t."""
    topic = b"\2t\2" if version < 13 else ID + b"\2"
    body = b"\0\0\1" + bytes(4) + b"\2" + topic + INT32.pack(partition) + b"\0\0\0\0"
    return frames.request(0, version, 1, "c", body)


def test_produce_answers_are_awaited_as_one() -> None:
    """Produce requests one behind the other cost one note of what is awaited, whatever their partitions."""
    each = exchange()
    requests = b"".join(produce_v(10, partition) for partition in (0, 0, 2, 2, 0))
    assert each.from_client(requests) == requests
    assert (each.asked, len(each._awaited)) == (5, 1)


def test_a_share_session_is_where_it_was_begun() -> None:
    """A share request without topics goes to the broker of the last one, wherever the lane has been since."""
    each = exchange()
    assert (each.from_client(acknowledge(ID)), lane(each), each.tied_to_lane) == (acknowledge(ID), 1, 1)
    assert each.tied
    each.from_broker(frames.response(1, 79, 1, ACKNOWLEDGED))
    assert answered(each, heartbeat(2), BEAT) == 2
    assert answered(each, acknowledge(None), frames.response(1, 79, 1, ACKNOWLEDGED)) == 1


ACKNOWLEDGED = bytes(6) + b"\0\1\1\0"


def acknowledge(topic_id: bytes | None) -> bytes:
    """Write a ShareAcknowledge v1."""
    topics = b"\1" if topic_id is None else b"\2" + topic_id + b"\2" + bytes(4) + b"\1\0\0"
    return frames.request(79, 1, 1, "c", b"\2g\2m" + INT32.pack(1) + topics + b"\0")


def test_telemetry_stays_with_one_broker() -> None:
    """A client's telemetry goes to the broker that got the first of it, and when that is lost to the lane there is."""
    each = exchange()
    telemetry, answer = frames.request(71, 0, 1, "c", ID + b"\0"), frames.response(1, 71, 0, b"x")
    assert answered(each, heartbeat(2), BEAT) == 2
    assert answered(each, telemetry, answer) == 2
    assert answered(each, heartbeat(1), BEAT) == 1
    assert answered(each, telemetry, answer) == 2
    each.lost(2)
    assert answered(each, heartbeat(1), BEAT) == 1
    assert answered(each, telemetry, answer) == 1
    assert answered(each, heartbeat(2), BEAT) == 2
    assert answered(each, telemetry, answer) == 1


def test_nothing_is_taken_for_a_broker_that_is_not_connected() -> None:
    """A request waits until its broker is reached; if another leads by then it goes there instead."""
    each = exchange()
    each.lost(2)
    assert each.from_client(produce(0) + produce(1) + produce(2)) == produce(0)
    assert (pending(each), each.asked) == (Turn(), 0)
    route = Route(Target.LEADER_NAME, 38, "t", b"", 1)
    assert (each.proceed(), pending(each)) == (b"", Reach(2, route))
    each.reached(2)
    assert (each.proceed(), lane(each), pending(each)) == (produce(1), 2, Turn())
    each.lost(1)
    assert (each.proceed(), pending(each)) == (b"", Reach(1, route._replace(partition=2)))
    each._directory.learn_leaders([PartitionLeader("t", 2, 2, 1)])
    assert (each.proceed(), lane(each), pending(each)) == (produce(2), 2, None)


def test_what_may_go_anywhere_needs_one_connection() -> None:
    """What any broker may answer waits until one is reached, again when that one is lost, and then goes there."""
    each = exchange()
    nobody = frames.request(18, 0, 1, "c", b"") + frames.request(48, 0, 1, "c", b"")
    for node in (1, 2, 7):
        each.lost(1)
        each.lost(2)
        assert each.from_client(nobody) == b""
        assert isinstance(pending(each), Turn | Reach)
        if pending(each) == Turn():  # our own answer goes before it
            assert each.proceed() == b""
        assert pending(each) == Reach(None, Route(Target.ANY, 8))
        each.reached(node)
        assert (each.proceed(), lane(each)) == (nobody[-len(nobody) // 2 :], node)
        each.from_broker(frames.response(1, 48, 0, b"x"))
        each.lost(node)


def test_a_node_that_is_not_there() -> None:
    """A config request for a broker that does not exist goes to any, when the shell says so."""
    each = exchange()
    request = frames.request(32, 0, 1, "c", INT32.pack(1) + b"\4" + put_string("99") + INT32.pack(-1))
    assert each.from_client(request) == b""
    assert pending(each) == Reach(99, Route(Target.NODE, 24, number=99))
    assert (each.proceed(give_up=True), lane(each)) == (request, 1)


def test_forsaken() -> None:
    """What waits for a broker that cannot be reached at all is given back, and counted by the shell."""
    each = exchange()
    each.lost(1)
    assert each.from_client(heartbeat(1) + heartbeat(2)) == b""
    assert each.forsake() == heartbeat(1) + heartbeat(2)
    assert (pending(each), each.idle) == (None, True)


def test_a_lookup_and_giving_up() -> None:
    """What nobody knows is looked up; known then, it goes there, and given up, to the lane that there is."""
    each = exchange()
    unknown = frames.request(12, 0, 1, "c", put_string("g9") + b"\0\0\0\1\0\1m")
    assert answered(each, heartbeat(2), BEAT) == 2
    assert each.from_client(unknown + heartbeat(1)) == b""
    assert pending(each) == Lookup(Route(Target.GROUP, 19, "g9"))
    assert not each.idle
    assert each.from_client(unknown) == b""  # all the same, behind the rest
    assert (each.proceed(give_up=True), lane(each)) == (unknown, 2)
    assert pending(each) == Turn()
    each.from_broker(BEAT)
    assert (each.proceed(), lane(each)) == (heartbeat(1), 1)
    each.from_broker(BEAT)
    assert (each.proceed(), pending(each)) == (b"", Lookup(Route(Target.GROUP, 19, "g9")))
    each._directory.learn_coordinators(0, ["g9"], [Coordinator(None, 2, "b", 9092, 0)])
    assert (each.proceed(), lane(each)) == (unknown, 2)


def test_given_up_while_holding() -> None:
    """What was decided while a login was renewed holds when it is done."""
    each = exchange()
    unknown = frames.request(12, 0, 1, "c", put_string("g9") + b"\0\0\0\1\0\1m")
    each.from_client(unknown)
    assert each.hold()
    assert each.proceed(give_up=True) == b""
    assert pending(each) is None
    assert each.release() == b""
    assert pending(each) == Turn()
    assert each.proceed() == unknown
    assert each.hold()
    assert each.release() == b""
    assert pending(each) is None


def test_an_abandoned_exchange_waits_for_nothing() -> None:
    """Once the client is gone lanes turn without the answers that nobody reads."""
    each = exchange()
    assert each.from_client(heartbeat(1) + heartbeat(2)) == heartbeat(1)
    assert not each.quiet
    each.abandon()
    assert (each.quiet, each.proceed()) == (True, b"")
    assert isinstance(pending(each), Reach)
    each.reached(2)
    assert (each.proceed(), lane(each)) == (heartbeat(2), 2)


@pytest.mark.parametrize(("key", "version"), [(16, 0), (66, 0)])
def test_a_joined_answer_keeps_its_place(key: int, version: int) -> None:
    """What all brokers are asked is answered behind what was asked before, and what comes behind it waits."""
    each = exchange()
    body = b"" if key == 16 else b"\1\1\0"
    assert each.from_client(heartbeat(1) + frames.request(key, version, 7, "c", body) + heartbeat(1)) == heartbeat(1)
    assert pending(each) == FanOut(key, version, 7, body)
    each.join(FanOut(key, version, 7, body), [])
    assert each.replies == []
    assert each.proceed() == heartbeat(1)
    joined = frames.response(7, key, version, b"\0\x0f" + bytes(4) if key == 16 else bytes(4) + b"\0\x0f\1\1\0")
    assert each.from_broker(BEAT * 2) == BEAT + joined + BEAT


def test_log_dirs_are_refused() -> None:
    """DescribeLogDirs never reaches a broker; the shell learns of it."""
    each = exchange()
    assert each.from_client(frames.request(35, 3, 7, "c", b"\0\0")) == b""
    assert each.replies == [frames.response(7, 35, 3, bytes(4) + b"\0\x2c\1\0")]
    assert each.log_dirs_refused


@pytest.mark.parametrize("version", range(11, 16))
def test_racks_are_blanked(version: int) -> None:
    """A Fetch that names a rack waits until it is whole and goes without it, and so do all that follow."""
    each = exchange()
    racked, blanked = (fetch(0, -1, version=version, rack=rack) for rack in ("r1", "\0\0"))
    for cut in range(1, len(racked)):
        assert each.from_client(racked[:cut]) == b""
        assert each.from_client(racked[cut:]) == blanked
    assert each.asked == len(racked) - 1
    each = exchange()
    plain = fetch(0, -1, version=version)
    assert each.from_client(plain) == plain
    assert each.from_client(plain[:-1]) == plain[:-1]


def test_a_huge_fetch_streams() -> None:
    """A Fetch that is too long to be held is not: its rack passes."""
    each = exchange()
    small = fetch(0, -1, version=12)
    huge = INT32.pack(WHOLE_BYTES_MAX + 1) + small[4:]
    assert each.from_client(huge) == huge
    assert not each.at_boundary


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (
            INT32.pack(WHOLE_BYTES_MAX + 1) + heartbeat(1)[4:6].replace(b"\x0c", b"\x0a") + heartbeat(1)[6:],
            FrameTooLarge,
        ),
        (INT32.pack(WHOLE_BYTES_MAX + 1) + frames.request(18, 0, 1, "c", b"")[4:], FrameTooLarge),
        (INT32.pack(WHOLE_BYTES_MAX + 1) + frames.request(35, 0, 1, "c", b"")[4:], FrameTooLarge),
        (INT32.pack(9) + bytes(40), Malformed),
        (frames.request(12, 0, 1, "c", b"\0\x05g"), Malformed),
        (frames.request(0, 7, 1, "c", b"\xff\xff"), Malformed),
        (frames.request(12, 9, 1, "c", b""), Unsupported),
        (frames.request(12, 0, 1, "c", b"")[:4] + b"\0\x63" + bytes(9), Unsupported),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_ends_a_connection(request_: bytes, error: type[ProtocolError]) -> None:
    """What is too long to be held, ends too early or was not offered raises, and nothing of it is forwarded."""
    with pytest.raises(error):
        exchange().from_client(request_)


def test_a_versions_answer_is_heeded_at_once() -> None:
    """What is no longer offered is refused from the next ApiVersions on, also where it is like the last request."""
    each = exchange()
    front = each._front
    assert each.from_client(heartbeat(1)) == heartbeat(1)
    front.offer = make_offer([ApiVersionsAnswer(ranges={12: (1, 4)})])
    assert each.from_client(heartbeat(1)) == heartbeat(1)
    with pytest.raises(Unsupported):
        each.from_client(frames.request(18, 0, 1, "c", b"") + heartbeat(1))


@pytest.mark.parametrize("version", [12, 13, 15])
def test_a_fetch_answer_that_is_none(version: int) -> None:
    """An answer to a Fetch that ends within its header, or whose header does not end, raises."""
    request = fetch(0, 0, version=version)
    for answer in (INT32.pack(5) + INT32.pack(1) + b"\1", b"\x7f\0\0\0" + INT32.pack(1) + b"\xff" * 9):
        each = exchange()
        each.from_client(request)
        with pytest.raises(Malformed):
            each.from_broker(answer)
    each = exchange()
    each.from_client(request)
    tags = b"\x7f\xff\xff\0" + INT32.pack(1) + b"\1\x09\xff\xff\x7f"
    each.from_broker(tags)
    with pytest.raises(Malformed):
        each.from_broker(bytes(1 << 20))


def test_a_fetch_answer_without_a_session() -> None:
    """An answer too short to name a session teaches nothing and passes."""
    each = exchange()
    each.from_client(fetch(0, 0))
    short = frames.response(1, 1, 12, b"\0\0")
    assert each.from_broker(short) == short
    assert each.idle


def test_a_great_metadata_answer_streams() -> None:
    """A Metadata answer too long to be held passes, with our addresses, as it comes."""
    each = exchange()
    each.from_client(frames.request(3, 1, 1, "c", INT32.pack(-1)))
    broker = INT32.pack(1) + INT32.pack(1) + put_string("b1") + INT32.pack(9092) + put_string("rack")
    head = INT32.pack(COLLECTED_BYTES_MAX + 1) + INT32.pack(1) + broker
    ours = INT32.pack(1) + INT32.pack(1) + put_string("kp-1") + INT32.pack(19092) + put_string(None)
    size = COLLECTED_BYTES_MAX + 1 + len(ours) - len(broker)
    assert each.from_broker(head + b"rest") == INT32.pack(size) + INT32.pack(1) + ours + b"rest"
