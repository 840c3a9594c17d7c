"""A connection under rules: what passes, what is answered in its place, sessions, ids, and who goes before whom."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from guarded_stage import EVERYTHING, Guard, allow, answer, body_of, deny, errors, request
from kio.schema.errors import ErrorCode

from kproxy.core import guarded
from kproxy.core.access import Access, Operation, Resource
from kproxy.core.amendments import Join
from kproxy.core.sasl import Ask
from kproxy.errors import FrameTooLarge, Malformed
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey

READ, WRITE, DESCRIBE, CREATE = Operation.READ, Operation.WRITE, Operation.DESCRIBE, Operation.CREATE
OK_ID, SECRET_ID, NEW_ID = UUID(int=1), UUID(int=2), UUID(int=3)
OK = allow("ok*", READ, WRITE)
HEAD = frames.request(ApiKey.DESCRIBE_CLUSTER, 0, 6, "c", b"\0\0")


def produce(number: int, *topics: Any, version: int = 9, acks: int = -1, txn: str | None = None) -> bytes:
    """Write a Produce; a topic is a name or an id."""
    rows = [
        {
            ("topic_id" if version > 12 else "name"): topic,
            "partition_data": [{"index": 0, "records": b"r" * 20}, {"index": 1, "records": b"s"}],
        }
        for topic in topics
    ]
    tree = {"transactional_id": txn, "acks": acks, "timeout": _ms(1000), "topic_data": rows}
    return request(0, version, number, tree)


def _ms(milliseconds: int) -> timedelta:
    return timedelta(milliseconds=milliseconds)


def produced(number: int, *topics: Any, version: int = 9) -> bytes:
    """Write the answer."""
    partition: dict[str, Any] = {
        "index": 0,
        "error_code": _none(),
        "base_offset": 5,
        "log_append_time": None,
        "log_start_offset": 0,
        "record_errors": [],
        "error_message": None,
    }
    if version > 9:
        partition["current_leader"] = {"leader_id": -1, "leader_epoch": -1}
    rows = [{("topic_id" if version > 12 else "name"): topic, "partition_responses": [partition]} for topic in topics]
    tree = {"responses": rows, "throttle_time": _ms(0)}
    if version > 9:
        tree["node_endpoints"] = []
    return answer(0, version, number, tree)


def _none() -> ErrorCode:
    return ErrorCode.none


def fetch(number: int, *topics: Any, session: tuple[int, int] = (0, -1), version: int = 11, **more: Any) -> bytes:
    """Write a Fetch."""
    rows = [
        {
            ("topic_id" if version > 12 else "topic"): topic,
            "partitions": [
                {
                    "partition": 0,
                    "current_leader_epoch": -1,
                    "fetch_offset": number,
                    "log_start_offset": -1,
                    "partition_max_bytes": 1000,
                    **({"last_fetched_epoch": -1} if version > 11 else {}),
                }
            ],
        }
        for topic in topics
    ]
    tree: dict[str, Any] = {
        "replica_id": -1,
        "max_wait": _ms(500),
        "min_bytes": 1,
        "max_bytes": 1000,
        "isolation_level": 0,
        "session_id": session[0],
        "session_epoch": session[1],
        "topics": rows,
        "forgotten_topics_data": [],
        "rack_id": "",
        **({"cluster_id": None} if version > 11 else {}),
    }
    return request(1, version, number, tree | more)


def fetched(number: int, *topics: Any, session: int = 0, version: int = 11, error: int = 0) -> bytes:
    """Write the answer."""
    partition: dict[str, Any] = {
        "partition_index": 0,
        "error_code": _none(),
        "high_watermark": 1,
        "last_stable_offset": 1,
        "log_start_offset": 0,
        "aborted_transactions": None,
        "preferred_read_replica": -1,
        "records": b"r" * 300,
    }
    if version > 11:
        partition["diverging_epoch"] = {"epoch": -1, "end_offset": -1}
        partition["current_leader"] = {"leader_id": -1, "leader_epoch": -1}
        partition["snapshot_id"] = {"end_offset": -1, "epoch": -1}
    rows = [{("topic_id" if version > 12 else "topic"): topic, "partitions": [partition]} for topic in topics]
    tree = {"throttle_time": _ms(0), "error_code": ErrorCode(error), "session_id": session, "responses": rows}
    return answer(1, version, number, tree)


def metadata(number: int, *topics: Any, version: int = 12, creates: bool = False, everything: bool = False) -> bytes:
    """Write a Metadata request; a topic is a name or an id."""
    zero = None
    rows = [
        {"name": None if isinstance(topic, UUID) else topic}
        | ({"topic_id": topic if isinstance(topic, UUID) else zero} if version > 9 else {})
        for topic in topics
    ]
    tree: dict[str, Any] = {"topics": None if everything else rows}
    if version > 3:
        tree["allow_auto_topic_creation"] = creates
    if version > 7:
        tree["include_topic_authorized_operations"] = False
    if 8 <= version <= 10:
        tree["include_cluster_authorized_operations"] = False
    return request(3, version, number, tree)


def described(number: int, *topics: tuple[str | None, UUID | None], version: int = 12) -> bytes:
    """Write the answer, without brokers."""
    rows: list[dict[str, Any]] = [
        {
            "error_code": _none(),
            "name": name,
            "is_internal": False,
            "partitions": [],
            **({"topic_id": topic_id} if version > 9 else {}),
            **({"topic_authorized_operations": -1} if version > 7 else {}),
        }
        for name, topic_id in topics
    ]
    tree: dict[str, Any] = {"brokers": [], "cluster_id": "k", "controller_id": 1, "topics": rows}
    if version > 2:
        tree["throttle_time"] = _ms(0)
    if 8 <= version <= 10:
        tree["cluster_authorized_operations"] = -1
    return answer(3, version, number, tree)


def topics_of(guard: Guard, key: int, version: int, array: str, name: str) -> list[tuple[Any, set[Any]]]:
    """Read the client's last answer: each topic, and its errors."""
    tree = body_of(key, version, guard.client_got[-1], "response")
    return [(row[name], errors(row) - {0}) for row in tree[array]]


def teach(guard: Guard, *topics: tuple[str, UUID]) -> None:
    """Let a Metadata answer pass by."""
    guard.send(metadata(99, everything=True))
    guard.reply(described(99, *topics))


# Producing.


@pytest.mark.parametrize("version", [3, 8, 9, 12])
def test_the_same_topic_is_not_read_twice(version: int) -> None:
    """What begins as an allowed request passes at a look; another topic is looked at, and remembered, too."""
    guard = Guard(Access((OK,)))
    one, two, bad = (produce(1, topic, version=version) for topic in ("ok-1", "ok-22", "secret"))
    stream = one * 3 + two * 2 + one
    assert guard.send(stream) == stream
    assert guard.send(one + bad + two) == one + two
    for _ in range(8):
        guard.reply(produced(1, "ok-1", version=version))
    rows = [body_of(0, version, frame, "response")["responses"][0]["name"] for frame in guard.client_got]
    assert rows == ["ok-1"] * 7 + ["secret", "ok-1"]


@pytest.mark.parametrize("version", [3, 9, 12])
def test_several_topics_at_a_look(version: int) -> None:
    """Requests of several allowed topics pass, again and again; one denied topic more, anywhere, is found."""
    guard = Guard(Access((OK,)))
    long = "ok-" + "x" * 200
    good, more = (produce(1, *names, version=version) for names in (("ok-1", "ok-2", long), (long, "ok-1")))
    alone = produce(1, long, version=version)
    stream = good + more + alone
    for _ in range(2):
        assert guard.send(stream * 2) == stream * 2
        assert guard.send(stream[:-30]) + guard.send(stream[-30:]) == stream
    for names in (("secret", "ok-1"), ("ok-1", "secret"), (long, "secret", "ok-1")):
        out = guard.send(good + produce(2, *names, version=version))
        assert b"secret" not in out
    broken = good[:-40] + b"\xff" * 40
    with pytest.raises(Malformed):
        guard.send(broken)


def test_names_that_are_none() -> None:
    """A name that is no UTF-8 is refused, and one whose length has two bytes is not taken for another."""
    bad = produce(1, "ok-1").replace(b"ok-1", b"ok-\xff")
    for none in (bad, produce(1, "ok-1", "ok-2").replace(b"ok-2", b"ok-\xff")):
        with pytest.raises(Malformed):
            Guard(Access((OK,))).send(none)
    guard = Guard(Access((OK,)))
    good = produce(1, "ok-1")
    assert guard.send(good) == good
    # As much as the first byte of a longer length says, "ok-1" stands here; the name is "k-1...", 14,213 bytes of it.
    tricky = good.replace(b"\x05ok-1", b"\x85ok-1" + b"z" * 20_000)
    tricky = (len(tricky) - 4).to_bytes(4) + tricky[4:]
    with pytest.raises(Malformed):
        guard.send(tricky)


def test_a_long_request_of_one_topic_is_not_held() -> None:
    """Records stream by as they come, once the topic is known to be allowed."""
    guard = Guard(Access((OK,)))
    frame = produce(1, "ok-1")
    big = frame[:-30] + bytes(3_000_000)
    big = (len(big) - 4).to_bytes(4) + big[4:]
    assert guard.send(big[:20]) == b""
    assert guard.send(big[20:100]) == big[:100]
    assert guard.send(big[100:]) == big[100:]


def test_what_must_be_whole_and_is_too_long() -> None:
    """A longer request than is held ends the connection, and says why."""
    guard = Guard(Access((OK,)))
    head = produce(1, "ok-1", "ok-2")
    with pytest.raises(FrameTooLarge, match="must read whole"):
        guard.send((guarded.WHOLE_BYTES_MAX + 1).to_bytes(4) + head[4:60])
    dry = Guard(Access((OK,), dry_run=True))
    start = (guarded.WHOLE_BYTES_MAX + 1).to_bytes(4) + head[4:60]
    assert dry.send(start) == start


def test_transactional_ids() -> None:
    """A transaction that one may not write is refused whole, whatever its topics."""
    guard = Guard(Access((OK, allow("t-*", WRITE, resource=Resource.TXN))))
    good = produce(1, "ok-1", txn="t-1")
    assert guard.send(good * 2) == good * 2
    assert guard.send(produce(2, "ok-1", txn="x")) == b""
    guard.reply(produced(1, "ok-1") * 2)
    assert topics_of(guard, 0, 9, "responses", "name") == [("ok-1", {53})]


@pytest.mark.parametrize("topics", [("secret",), ("ok-1", "secret")])
def test_no_acks_and_denied(topics: tuple[str, ...]) -> None:
    """A Produce that wants no answer and is denied ends the connection; what is allowed of it, and before it, goes."""
    guard = Guard(Access((OK,)))
    good = produce(1, "ok-1", acks=0)
    out = guard.send(good + produce(2, *topics, acks=0) + good)
    assert out.startswith(good)
    assert len(guard.broker_got) == len(topics)
    assert guard.closed == 1
    assert guard.send(good) == b""
    assert guard.to_client == b""


def test_no_acks_and_its_api_denied() -> None:
    """Likewise where Produce is denied as a whole."""
    guard = Guard(Access((EVERYTHING,), denied_apis=frozenset({0})))
    assert guard.send(produce(1, "ok-1", acks=0)) == b""
    assert guard.closed == 1


def test_by_id() -> None:
    """Topics that are told by id are resolved: those not seen yet are UNKNOWN_TOPIC_ID, and are asked for."""
    access = Access((OK,))
    wanted: list[bytes] = []
    access.names.wanted = wanted.append
    guard = Guard(access)
    good = produce(1, OK_ID, version=13)
    assert guard.send(good) == b""
    assert topics_of(guard, 0, 13, "responses", "topic_id") == [(OK_ID, {100})]
    assert set(wanted) == {OK_ID.bytes}
    teach(guard, ("ok-1", OK_ID), ("secret", SECRET_ID))
    assert guard.send(good * 2) == good * 2
    assert guard.send(produce(2, SECRET_ID, version=13)) == b""
    guard.reply(produced(1, OK_ID, version=13) * 2)
    assert topics_of(guard, 0, 13, "responses", "topic_id") == [(SECRET_ID, {29})]


def test_ids_of_who_may_all() -> None:
    """Where no name can make a difference, a topic whose name is not known is as good as another."""
    guard = Guard(Access((allow("*", READ, WRITE, DESCRIBE), allow("g", DESCRIBE, resource=Resource.GROUP))))
    for frame in (
        produce(1, NEW_ID, version=13),
        produce(1, NEW_ID, SECRET_ID, version=13),
        fetch(2, NEW_ID, version=13),
    ):
        assert guard.send(frame) == frame
    for session in ((0, 0), (77, 0)):
        frame = fetch(3, NEW_ID, session=session, version=13)
        assert body_of(1, 13, guard.send(frame), "request")["session_id"] == 0
    group = {"group_id": "g", "member_id": None, "member_epoch": -1, "topics": None}
    asked = request(9, 10, 1, {"groups": [group], "require_stable": False})
    assert guard.send(asked) == asked
    guard = Guard(Access((allow("*", DESCRIBE, CREATE), allow("g", DESCRIBE, resource=Resource.GROUP))))
    rows = [{"topic_id": NEW_ID, "partitions": []}]
    tree = {"throttle_time": _ms(0), "groups": [{"group_id": "g", "topics": rows, "error_code": _none()}]}
    guard.send(asked)
    assert guard.reply(answer(9, 10, 1, tree)) == answer(9, 10, 1, tree)


# Fetching.


@pytest.mark.parametrize("version", [7, 11, 12])
def test_a_session_is_remembered(version: int) -> None:
    """A session keeps what is allowed at the broker; each of its answers repeats what is denied in it."""
    guard = Guard(Access((OK,)))
    out = guard.send(fetch(1, "ok-1", "secret", session=(0, 0), version=version))
    assert [row["topic"] for row in body_of(1, version, out, "request")["topics"]] == ["ok-1"]
    guard.reply(fetched(1, "ok-1", session=77, version=version))
    assert topics_of(guard, 1, version, "responses", "topic") == [("secret", {29}), ("ok-1", set())]
    going_on = fetch(2, session=(77, 1), version=version)
    assert guard.send(going_on) == going_on
    guard.reply(fetched(2, session=77, version=version))
    assert topics_of(guard, 1, version, "responses", "topic") == [("secret", {29})]
    forgetting = fetch(
        3, session=(77, 2), version=version, forgotten_topics_data=[{"topic": "secret", "partitions": [0]}]
    )
    assert guard.send(forgetting) == forgetting
    assert guard.reply(fetched(3, session=77, version=version)) == fetched(3, session=77, version=version)
    assert guard.send(fetch(4, "hidden", session=(77, 3), version=version)) != b""
    guard.reply(fetched(4, session=77, version=version))
    assert topics_of(guard, 1, version, "responses", "topic") == [("hidden", {29})]


def test_an_allowed_session_passes_at_a_look() -> None:
    """Within a session of nothing but allowed topics requests and answers pass byte for byte."""
    guard = Guard(Access((OK,)))
    first = fetch(1, "ok-1", session=(0, 0))
    assert guard.send(first) == first
    assert guard.reply(fetched(1, "ok-1", session=77)) == fetched(1, "ok-1", session=77)
    for number in range(2, 6):
        later = fetch(number, *("ok-1", "ok-2")[: number % 3], session=(77, number - 1))
        assert guard.send(later) == later
        assert guard.reply(fetched(number, session=77)) == fetched(number, session=77)
    assert guard.send(fetch(7, "ok-1", "secret", session=(77, 6))) != b""


def test_another_connections_session_is_not_found() -> None:
    """A session that was not made here could hold anything: it is not found, and never closed for its owner."""
    guard = Guard(Access((OK,)))
    assert guard.send(fetch(1, session=(77, 1))) == b""
    assert errors(body_of(1, 11, guard.client_got[0], "response")) == {70}
    out = guard.send(fetch(2, "ok-1", session=(77, 0)))
    assert body_of(1, 11, out, "request")["session_id"] == 0


def test_all_of_a_fetch_denied() -> None:
    """A Fetch of nothing that is allowed is answered here, without a session."""
    guard = Guard(Access((OK,)))
    assert guard.send(fetch(1, "secret", session=(0, 0))) == b""
    tree = body_of(1, 11, guard.client_got[0], "response")
    assert tree["session_id"] == 0
    assert errors(tree) == {0, 29}


def test_followers_are_denied() -> None:
    """A Fetch as a follower's takes CLUSTER_ACTION."""
    guard = Guard(Access((OK,)))
    assert guard.send(fetch(1, "ok-1", replica_id=2)) == b""
    assert topics_of(guard, 1, 11, "responses", "topic") == [("ok-1", {29})]


def test_a_session_with_an_unknown_id() -> None:
    """A topic whose id was not known is fetched by a new session, once it is."""
    guard = Guard(Access((OK,)))
    teach(guard, ("ok-1", OK_ID))
    guard.send(fetch(1, OK_ID, NEW_ID, session=(0, 0), version=13))
    guard.reply(fetched(1, OK_ID, session=77, version=13))
    assert topics_of(guard, 1, 13, "responses", "topic_id") == [(NEW_ID, {100}), (OK_ID, set())]
    guard.send(fetch(2, session=(77, 1), version=13))
    guard.reply(fetched(2, session=77, version=13))
    assert topics_of(guard, 1, 13, "responses", "topic_id") == [(NEW_ID, {100})]
    teach(guard, ("ok-2", NEW_ID))
    assert guard.send(fetch(3, session=(77, 2), version=13)) == b""
    assert errors(body_of(1, 13, guard.client_got[-1], "response")) == {70}


def test_a_fetch_answer_streams_by() -> None:
    """Of a joined Fetch answer only the head is held; an answer with an error of its own stays as it is."""
    guard = Guard(Access((OK,)))
    guard.send(fetch(1, "ok-1", "secret") + fetch(2, "ok-1", "secret"))
    reply = fetched(1, "ok-1")
    assert guard.reply(reply[:10]) == b""
    assert len(guard.reply(reply[10:60])) > 50
    assert guard.reply(reply[60:]) == reply[60:]
    assert topics_of(guard, 1, 11, "responses", "topic") == [("secret", {29}), ("ok-1", set())]
    assert guard.reply(fetched(2, error=6)) == fetched(2, error=6)


# Metadata.


def test_all_topics_are_those_one_may_describe() -> None:
    """Topics one may not describe do not appear, and ids are learnt from what does not, too."""
    access = Access((allow("ok*", DESCRIBE),))
    guard = Guard(access)
    asked = metadata(1, everything=True)
    assert guard.send(asked) == asked
    guard.reply(described(1, ("ok-1", OK_ID), ("secret", SECRET_ID)))
    assert topics_of(guard, 3, 12, "topics", "name") == [("ok-1", set())]
    assert access.names.find(SECRET_ID.bytes) == "secret"


@pytest.mark.parametrize("version", [0, 1, 3, 4, 9, 12])
def test_named_topics(version: int) -> None:
    """A topic that one may not describe is denied when it is named, and the broker is not asked for it."""
    guard = Guard(Access((allow("ok*", DESCRIBE, CREATE),)))
    out = guard.send(metadata(1, "ok-1", "secret", version=version))
    assert [row["name"] for row in body_of(3, version, out, "request")["topics"]] == ["ok-1"]
    guard.reply(described(1, ("ok-1", OK_ID), version=version))
    assert topics_of(guard, 3, version, "topics", "name") == [("secret", {29}), ("ok-1", set())]


@pytest.mark.parametrize("version", [0, 1, 4, 12])
def test_nothing_but_denied_topics(version: int) -> None:
    """Where nothing is left to ask for the brokers are told all the same, and no topic."""
    guard = Guard(Access((allow("ok*", DESCRIBE, CREATE),)))
    out = guard.send(metadata(1, "secret", version=version))
    assert body_of(3, version, out, "request")["topics"] == []
    guard.reply(described(1, *[("secret", SECRET_ID), ("ok-1", OK_ID)][: 2 * (version == 0)], version=version))
    assert topics_of(guard, 3, version, "topics", "name") == [("secret", {29})]


def test_no_topic_is_created_without_the_right() -> None:
    """Auto-creation takes CREATE on the topic or the cluster, and CreateTopics itself; else it is switched off."""
    create = [allow("ok*", DESCRIBE), allow("ok-new", CREATE), allow("*", CREATE, resource=Resource.CLUSTER)]
    for rules, apis, creates in [
        (create[:1], (), False),
        (create[:2], (), True),
        (create[::2], (), True),
        (create, (19,), False),
    ]:
        guard = Guard(Access(tuple(rules), denied_apis=frozenset(apis)))
        out = guard.send(metadata(1, "ok-new", creates=True))
        assert body_of(3, 12, out, "request")["allow_auto_topic_creation"] is creates


@pytest.mark.parametrize("version", [0, 1, 3])
def test_old_versions_create_nothing_either(version: int) -> None:
    """Where a version always creates, all topics are asked for instead, as that creates none."""
    guard = Guard(Access((allow("ok*", DESCRIBE),)))
    out = guard.send(metadata(1, "ok-1", "ok-new", "secret", version=version))
    assert body_of(3, version, out, "request")["topics"] == ([] if version == 0 else None)
    guard.reply(described(1, ("ok-1", None), ("ok-2", None), ("secret", None), version=version))
    assert sorted(topics_of(guard, 3, version, "topics", "name")) == [
        ("ok-1", set()),
        ("ok-new", {3}),
        ("secret", {29}),
    ]


def test_topics_by_id() -> None:
    """A topic asked for by an id that nobody knows is denied once the answer has its name."""
    guard = Guard(Access((allow("ok*", DESCRIBE),)))
    asked = metadata(1, OK_ID, SECRET_ID)
    assert guard.send(asked) == asked
    guard.reply(described(1, ("ok-1", OK_ID), ("secret", SECRET_ID), (None, NEW_ID)))
    tree = body_of(3, 12, guard.client_got[0], "response")
    assert [(row["topic_id"], row["name"], errors(row) - {0}) for row in tree["topics"]] == [
        (SECRET_ID, None, {29}),
        (OK_ID, "ok-1", set()),
        (NEW_ID, None, set()),
    ]
    out = guard.send(metadata(2, OK_ID, SECRET_ID))
    assert [row["topic_id"] for row in body_of(3, 12, out, "request")["topics"]] == [OK_ID]


def test_dry_run_changes_nothing() -> None:
    """In a dry run all passes as it is, what would have been denied is told, and answers are not filtered."""
    guard = Guard(Access((OK,), dry_run=True))
    stream = produce(1, "secret") + produce(2, "ok-1", "secret", acks=0) + fetch(3, "secret", session=(77, 1))
    assert guard.send(stream) == stream
    assert [denial.name for denial in guard.told] == ["secret"] * 3
    assert all(denial.dry_run for denial in guard.told)
    guard.reply(produced(1, "secret") + fetched(3, "secret"))
    asked = metadata(4, "secret", creates=True)
    assert guard.send(asked) == asked
    reply = described(4, ("secret", SECRET_ID))
    assert guard.reply(reply) == reply
    assert guard.exchange._shown(ApiKey.LIST_GROUPS, 0, b"?") == b"?"


# Groups.


def offset_fetch(number: int, groups: dict[str, list[str] | None], version: int = 8) -> bytes:
    """Write an OffsetFetch of several groups."""
    rows = [
        {
            "group_id": group,
            "topics": None if topics is None else [{"name": name, "partition_indexes": [0]} for name in topics],
        }
        for group, topics in groups.items()
    ]
    return request(9, version, number, {"groups": rows, "require_stable": False})


def offsets(number: int, groups: dict[str, list[str]], version: int = 8) -> bytes:
    """Write the answer."""
    partition = {
        "partition_index": 0,
        "committed_offset": 5,
        "committed_leader_epoch": -1,
        "metadata": "",
        "error_code": _none(),
    }
    rows = [
        {
            "group_id": group,
            "topics": [{"name": name, "partitions": [partition]} for name in names],
            "error_code": _none(),
        }
        for group, names in groups.items()
    ]
    return answer(9, version, number, {"throttle_time": _ms(0), "groups": rows})


def test_topics_within_groups() -> None:
    """Groups are denied, topics within the others are, and of all topics those one may describe are shown."""
    guard = Guard(Access((allow("ok*", DESCRIBE), allow("g*", DESCRIBE, resource=Resource.GROUP))))
    out = guard.send(offset_fetch(1, {"g1": ["ok-1", "secret"], "x": ["ok-1"], "g2": None}))
    assert [
        (row["group_id"], row["topics"] and [topic["name"] for topic in row["topics"]])
        for row in body_of(9, 8, out, "request")["groups"]
    ] == [("g1", ["ok-1"]), ("g2", None)]
    guard.reply(offsets(1, {"g1": ["ok-1"], "g2": ["ok-2", "hidden"]}))
    tree = body_of(9, 8, guard.client_got[0], "response")
    assert {
        row["group_id"]: (int(row["error_code"]), {topic["name"]: errors(topic) - {0} for topic in row["topics"]})
        for row in tree["groups"]
    } == {"x": (30, {}), "g1": (0, {"secret": {29}, "ok-1": set()}), "g2": (0, {"ok-2": set()})}


def test_topics_within_groups_alone() -> None:
    """Where only topics within groups are denied, the answer has them in their groups, but for one with an error."""
    guard = Guard(Access((allow("ok*", DESCRIBE), allow("g*", DESCRIBE, resource=Resource.GROUP))))
    guard.send(offset_fetch(1, {"g1": ["ok-1", "secret"], "g2": ["secret"], "g3": ["ok-1"]}))
    guard.reply(offsets(1, {"g1": ["ok-1"], "g2": [], "g3": ["ok-1"]}))
    tree = body_of(9, 8, guard.client_got[0], "response")
    assert [[topic["name"] for topic in row["topics"]] for row in tree["groups"]] == [
        ["secret", "ok-1"],
        ["secret"],
        ["ok-1"],
    ]


@pytest.mark.parametrize("routed", [False, True])
def test_lists_hold_what_one_may_see(routed: bool) -> None:
    """ListGroups shows the groups one may describe, or all to who may describe the cluster."""
    rules = [allow("g*", DESCRIBE, resource=Resource.GROUP), allow("*", DESCRIBE, resource=Resource.CLUSTER)]
    listing = {"throttle_time": _ms(0), "error_code": _none()}
    groups = [{"group_id": name, "protocol_type": "consumer"} for name in ("g1", "x")]
    for many, seen in ((1, ["g1"]), (2, ["g1", "x"])):
        guard = Guard(Access(tuple(rules[:many])), routed=routed)
        asked = request(ApiKey.LIST_GROUPS, 1, 1, {})
        reply = answer(ApiKey.LIST_GROUPS, 1, 1, {**listing, "groups": groups})
        if routed:
            assert guard.send(asked) == b""
            guard.exchange.join(guard.exchange.pending, [reply[8:]])
            guard.proceed()
        else:
            assert guard.send(asked) == asked
            guard.reply(reply)
        assert [row["group_id"] for row in body_of(16, 1, guard.client_got[0], "response")["groups"]] == seen


def test_a_group_that_tells_of_hidden_topics() -> None:
    """A described group with members that read what one may not describe is an error (KIP-848)."""
    guard = Guard(Access((allow("ok*", DESCRIBE), allow("g*", DESCRIBE, resource=Resource.GROUP))))
    asked = request(69, 0, 1, {"group_ids": ["g1", "g2"], "include_authorized_operations": False})
    assert guard.send(asked) == asked
    groups = []
    for group, topic in (("g1", "ok-1"), ("g2", "secret")):
        assignment = {"topic_partitions": [{"topic_id": OK_ID, "topic_name": topic, "partitions": [0]}]}
        member: dict[str, Any] = {
            **dict.fromkeys(("member_id", "client_id", "client_host"), "m"),
            **dict.fromkeys(("instance_id", "rack_id", "subscribed_topic_regex")),
            "member_epoch": 1,
            "subscribed_topic_names": [],
            "assignment": assignment,
            "target_assignment": {"topic_partitions": []},
        }
        groups.append(
            {
                "error_code": _none(),
                "error_message": None,
                "group_id": group,
                "group_state": "Stable",
                "group_epoch": 1,
                "assignment_epoch": 1,
                "assignor_name": "u",
                "members": [member],
                "authorized_operations": -1,
            }
        )
    guard.reply(answer(69, 0, 1, {"throttle_time": _ms(0), "groups": groups}))
    tree = body_of(69, 0, guard.client_got[0], "response")
    assert [(row["group_id"], int(row["error_code"]), len(row["members"])) for row in tree["groups"]] == [
        ("g1", 0, 1),
        ("g2", 29, 0),
    ]


def test_heartbeats_pass_at_a_look() -> None:
    """A group's heartbeats are looked at once; another group is looked at anew."""
    guard = Guard(Access((allow("g*", READ, resource=Resource.GROUP),)))

    def heartbeat(number: int, group: str) -> bytes:
        tree = {"group_id": group, "generation_id": number, "member_id": "m", "group_instance_id": None}
        return request(12, 4, number, tree)

    for number in range(3):
        assert guard.send(heartbeat(number, "g1")) == heartbeat(number, "g1")
    assert guard.send(heartbeat(4, "x")) == b""
    assert guard.send(heartbeat(5, "g1")[:15]) == b""
    assert guard.send(heartbeat(5, "g1")[15:]) == heartbeat(5, "g1")


def test_topics_of_a_new_group() -> None:
    """A KIP-848 member that subscribes to what it may not describe is told so, and stays a member."""
    guard = Guard(Access((allow("g*", READ, resource=Resource.GROUP), allow("ok*", DESCRIBE))))
    tree = {
        "group_id": "g",
        "member_id": "m",
        "member_epoch": 1,
        "instance_id": None,
        "rack_id": None,
        "rebalance_timeout": _ms(0),
        "subscribed_topic_names": ["ok-1", "secret"],
        "server_assignor": None,
        "topic_partitions": None,
    }
    assert guard.send(request(68, 0, 1, tree)) == b""
    assert errors(body_of(68, 0, guard.client_got[0], "response")) == {29}
    good = request(68, 0, 2, tree | {"subscribed_topic_names": ["ok-1"]})
    assert guard.send(good) == good


def test_a_transaction_is_all_or_nothing() -> None:
    """AddPartitionsToTxn with a denied topic adds none: the others are not attempted."""
    guard = Guard(Access((OK, allow("t", WRITE, resource=Resource.TXN))))
    rows = [{"name": name, "partitions": [0]} for name in ("ok-1", "secret")]
    tree = {
        "v3_and_below_transactional_id": "t",
        "v3_and_below_producer_id": 1,
        "v3_and_below_producer_epoch": 1,
        "v3_and_below_topics": rows,
    }
    assert guard.send(request(24, 3, 1, tree)) == b""
    answered = body_of(24, 3, guard.client_got[0], "response")["results_by_topic_v3_and_below"]
    assert {row["name"]: errors(row) for row in answered} == {"ok-1": {55}, "secret": {29}}


# In its place.


@pytest.mark.parametrize("metered", [False, True])
@pytest.mark.parametrize("routed", [False, True])
def test_its_place(routed: bool, metered: bool) -> None:
    """Whatever it is combined with, an answer of ours leaves behind those to what was asked before."""
    guard = Guard(Access((OK, allow("*", DESCRIBE))), routed=routed, metered=metered)
    good, bad, mixed = fetch(1, "ok-1"), fetch(2, "secret"), fetch(3, "ok-1", "secret")
    out = guard.send(good + bad + mixed + bad + good)
    while guard.exchange.settled is False or out == b"":
        pending = getattr(guard.exchange, "pending", None)
        if pending is None:
            break
        out = guard.proceed()
    for number in (1, 3, 1):
        guard.reply(fetched(number, "ok-1"))
        while getattr(guard.exchange, "pending", None) is not None:
            guard.proceed()
    assert [frame[7] for frame in guard.client_got] == [1, 2, 3, 2, 1]
    assert [frame[11] for frame in guard.broker_got] == [1, 3, 1]
    assert guard.exchange.idle


def test_held_back_at_a_boundary() -> None:
    """While the exchange holds requests back, one that is denied waits in its place, and so does what follows."""
    guard = Guard(Access((OK,)))
    good, bad = produce(1, "ok-1"), produce(2, "secret")
    guard.send(good[:40])
    guard.exchange.hold()
    assert guard.send(good[40:] + good + bad + good) == good[40:]
    assert not guard.exchange.settled
    assert not guard.exchange.idle
    assert guard.send(good) == b""
    before = guard.exchange.progress
    assert guard.exchange.release() == good * 3
    assert guard.exchange.progress != before
    for _ in range(4):
        guard.reply(produced(1, "ok-1"))
    assert [frame[7] for frame in guard.client_got] == [1, 1, 2, 1, 1]
    assert guard.exchange.settled
    assert len(guard.told) == 1


def test_garbage_is_refused() -> None:
    """What is no request is refused as without rules, at once, and what is cut short in a body as well."""
    for garbage in (b"\0\0\0\1", b"\0\0\0\1\0\0", b"\xff\xff\xff\xff\0\0\0\0", HEAD + b"\0\0\0\1zzzz"):
        with pytest.raises(Malformed):
            Guard(Access((OK,))).send(garbage)
    good = produce(1, "ok-1", "ok-2")
    short = (len(good) - 14).to_bytes(4) + good[4:-10]
    with pytest.raises(Malformed):
        Guard(Access((OK,))).send(short + good)


def test_bytes_behind_a_request() -> None:
    """As a broker does, bytes behind a request's body are let be; librdkafka asks for all topics with three of them."""
    guard = Guard(Access((allow("ok*", DESCRIBE),)))
    asked = frames.request(ApiKey.METADATA, 13, 1, "c", bytes.fromhex("00 00 00 00 01 00 00"))
    assert guard.send(asked) == asked


def test_garbage_while_requests_are_held_back() -> None:
    """It is refused once it is looked at."""
    guard = Guard(Access((OK,)))
    guard.exchange.hold()
    assert guard.send(b"\0\0\0\1zzzz") == b""
    assert guard.send(b"zzzz") == b""
    with pytest.raises(Malformed):
        guard.exchange.release()


def test_what_is_not_about_anybody_costs_nothing() -> None:
    """Where no rule can make a difference, requests are not looked at beyond their API."""
    guard = Guard(Access((deny("secret", WRITE),), default_allow=True))
    noise = frames.request(ApiKey.FETCH, 11, 1, "c", b"?" * 40)
    assert guard.send(noise * 3) == noise * 3
    with pytest.raises(Malformed):
        guard.send(frames.request(ApiKey.PRODUCE, 9, 1, "c", b"?" * 40))


def test_api_versions_is_answered() -> None:
    """ApiVersions is answered as without rules, and keeps its place."""
    guard = Guard(Access())
    assert guard.send(frames.request(18, 0, 1, "c", b"")) == b""
    assert guard.client_got[0][7] == 1


# What is rare.


def share_fetch(number: int, *ids: UUID, epoch: int = 1, version: int = 1) -> bytes:
    """Write a ShareFetch of group g."""
    topics = [{"topic_id": each, "partitions": [{"partition_index": 0, "acknowledgement_batches": []}]} for each in ids]
    tree: dict[str, Any] = {
        "group_id": "g",
        "member_id": "m",
        "share_session_epoch": epoch,
        "max_wait": _ms(1),
        "min_bytes": 1,
        "max_bytes": 1,
        "max_records": 1,
        "batch_size": 1,
        "topics": topics,
        "forgotten_topics_data": [],
    }
    return request(78, version, number, tree)


def share_fetched(number: int, *ids: UUID, version: int = 1) -> bytes:
    """Write its answer, with an address that must not be seen."""
    partition: dict[str, Any] = {
        "partition_index": 0,
        "error_code": _none(),
        "error_message": None,
        "acknowledge_error_code": _none(),
        "acknowledge_error_message": None,
        "current_leader": {"leader_id": 1, "leader_epoch": 1},
        "records": b"r" * 300,
        "acquired_records": [],
    }
    tree: dict[str, Any] = {
        "throttle_time": _ms(0),
        "error_code": _none(),
        "error_message": None,
        "acquisition_lock_timeout": _ms(1000),
        "responses": [{"topic_id": each, "partitions": [partition]} for each in ids],
        "node_endpoints": [{"node_id": 1, "host": "broker-3.leak.example.com", "port": 9092, "rack": None}],
    }
    return answer(78, version, number, tree)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_shares(step: int) -> None:
    """A ShareFetch is joined as it streams by, and names no broker; one of nothing allowed goes on in its session."""
    guard = Guard(Access((OK, allow("g", READ, resource=Resource.GROUP))))
    teach(guard, ("ok-1", OK_ID), ("secret", SECRET_ID))
    guard.to_client = guard.to_broker = b""
    out = guard.send(share_fetch(1, OK_ID, SECRET_ID))
    assert [row["topic_id"] for row in body_of(78, 1, out, "request")["topics"]] == [OK_ID]
    reply = share_fetched(1, OK_ID)
    for at in range(0, len(reply), step):
        guard.reply(reply[at : at + step])
        assert guard.exchange.answer_missing == (max(0, len(reply) - at - step) if at + step >= 8 else 0)
    assert b"leak" not in guard.to_client
    # kio reads no tagged field that it does not know, which is what endpoints are blanked with.
    assert guard.client_got[0].count(b"r" * 300) == 1
    assert SECRET_ID.bytes in guard.client_got[0]
    assert guard.send(share_fetch(2, SECRET_ID)) != b""
    assert guard.exchange.answer_missing == 0
    guard.reply(share_fetched(2))
    assert guard.send(share_fetch(3, SECRET_ID, epoch=0)) == b""
    assert topics_of(guard, 78, 1, "responses", "topic_id") == [(SECRET_ID, {29})]
    assert guard.exchange.idle


def test_offsets_by_id() -> None:
    """All of a group's offsets, told by ids, are those of topics that are known and may be described."""
    guard = Guard(Access((allow("ok*", DESCRIBE), allow("g", DESCRIBE, resource=Resource.GROUP))))
    teach(guard, ("ok-1", OK_ID), ("secret", SECRET_ID))
    group = {"group_id": "g", "member_id": None, "member_epoch": -1, "topics": None}
    asked = request(9, 10, 1, {"groups": [group], "require_stable": False})
    assert guard.send(asked) == asked
    partition = {"partition_index": 0, "committed_offset": 5, "committed_leader_epoch": -1, "metadata": ""}
    rows = [
        {"topic_id": each, "partitions": [{**partition, "error_code": _none()}]} for each in (OK_ID, SECRET_ID, NEW_ID)
    ]
    tree = {"throttle_time": _ms(0), "groups": [{"group_id": "g", "topics": rows, "error_code": _none()}]}
    guard.reply(answer(9, 10, 1, tree))
    (shown,) = body_of(9, 10, guard.client_got[-1], "response")["groups"]
    assert [row["topic_id"] for row in shown["topics"]] == [OK_ID]


def test_slots_are_given_back_at_once() -> None:
    """A denied request takes no slot from others, and those before it keep theirs until they are answered."""
    guard = Guard(Access((OK,)), metered=True, slots=3)
    good, bad = produce(1, "ok-1"), produce(2, "secret")
    assert guard.limits is not None
    assert guard.send(good + bad + good) == good + good
    assert guard.send(bad) == b""
    (limit,) = guard.limits.limits
    assert guard.send(good) == good
    assert not guard.exchange.waits
    assert guard.send(good) == b""
    assert guard.exchange.waits
    for _ in range(3):
        guard.reply(produced(1, "ok-1"))
    assert [frame[7] for frame in guard.client_got] == [1, 2, 1, 2, 1]
    assert limit is not None


def test_slots_of_different_requests() -> None:
    """A denied request's slot is found among those of others, whatever they asked."""
    guard = Guard(Access((OK,)), metered=True, slots=2)
    good, bad = produce(1, "ok-1"), fetch(2, "secret")
    for _ in range(3):
        assert guard.send(good + bad) == good
        assert not guard.exchange.waits
        guard.reply(produced(1, "ok-1"))
    assert [frame[7] for frame in guard.client_got] == [1, 2] * 3
    assert guard.send(good + good) == good + good


def test_slots_of_what_was_let_through() -> None:
    """Where requests were let through as a connection is drained they have no slots, and give none back."""
    guard = Guard(Access((OK,)), metered=True, slots=1)
    good, bad = produce(1, "ok-1"), produce(2, "secret")
    assert guard.send(good + good + good) == good
    assert guard.exchange.flush() == good + good
    guard.reply(produced(1, "ok-1"))
    assert guard.send(bad) == b""
    guard.reply(produced(1, "ok-1") * 2)
    assert [frame[7] for frame in guard.client_got] == [1, 1, 1, 2]
    assert guard.send(good) == good  # whose slot has been given back, by then
    unlimited = Guard(Access((OK,)), metered=True)
    assert unlimited.send(bad) == b""
    assert len(unlimited.client_got) == 1


def test_lanes_hold_back_what_is_denied() -> None:
    """While a renewal holds requests back, with many brokers, what is denied waits, and is dropped with its broker."""
    for ending in ("release", "forsake"):
        guard = Guard(Access((OK, allow("*", DESCRIBE))), routed=True)
        guard.exchange.hold()
        bad = produce(2, "secret")
        assert guard.send(bad + bad) == b""
        assert guard.to_client == b""
        if ending == "forsake":
            assert guard.exchange.forsake() == bad + bad
            assert guard.exchange.settled
            assert guard.exchange.release() == b""
            assert guard.exchange.pending is None
            continue
        assert guard.exchange.release() == b""
        assert guard.exchange.pending is not None
        guard.proceed()
        assert [frame[7] for frame in guard.client_got] == [2, 2]


@pytest.mark.parametrize("routed", [False, True])
def test_sessions_of_lanes_are_learnt(routed: bool) -> None:
    """With many brokers, a session that is made in a joined answer is still its lane's."""
    guard = Guard(Access((OK,)), routed=routed)
    guard.send(fetch(1, "ok-1", "secret", session=(0, 0)))
    if routed:
        guard.proceed()
    reply = fetched(1, "ok-1", session=77)
    guard.reply(reply[:50])
    guard.reply(reply[50:])
    out = guard.send(fetch(2, session=(77, 1)))
    assert out == fetch(2, session=(77, 1))
    if routed:
        assert guard.directory._sessions == {77: 1}
        guard.exchange.lost(1)
        guard.exchange.saw_session(78)
        assert 78 not in guard.directory._sessions


def test_many_sessions() -> None:
    """Sessions are remembered up to a bound; the oldest is not found any more."""
    guard = Guard(Access((OK,)))
    for session in range(1, 103):
        guard.send(fetch(1, "ok-1", session=(0, 0)))
        guard.reply(fetched(1, "ok-1", session=session))
    assert guard.send(fetch(2, session=(1, 1))) == b""
    assert guard.send(fetch(3, session=(2, 1))) == b""
    assert guard.send(fetch(4, session=(3, 1))) != b""


def test_a_session_made_anew() -> None:
    """A session that is closed and made anew has another id, which is learnt, too."""
    guard = Guard(Access((OK,)))
    for number, session, made in ((1, (0, 0), 77), (2, (77, 1), 77), (3, (77, 0), 88), (4, (88, 1), 88)):
        frame = fetch(number, "ok-1", session=session)
        assert guard.send(frame) == frame
        guard.reply(fetched(number, "ok-1", session=made))


@pytest.mark.parametrize("version", [3, 9, 12, 13])
def test_any_cut(version: int) -> None:
    """However a client's bytes are cut, the broker gets the same, and so does the client."""
    frames_sent = [
        produce(number, *topics, version=version)
        for number, topics in enumerate([(OK_ID,) if version > 12 else ("ok-1",)] * 3 + [() for _ in range(2)])
    ]
    frames_sent.insert(2, produce(9, SECRET_ID if version > 12 else "secret", version=version))
    stream = b"".join(frames_sent)
    for step in (1, 2, 3, 5, 11, 10_000):
        access = Access((OK,))
        access.names.learn(OK_ID.bytes, "ok-1")
        access.names.learn(SECRET_ID.bytes, "secret")
        guard = Guard(access)
        for at in range(0, len(stream), step):
            guard.send(stream[at : at + step])
        assert guard.to_broker == b"".join(frame for frame in frames_sent if frame[11] != 9)


def test_answers_that_are_none() -> None:
    """A joined answer that ends before what was asked for, has no place for it, or never comes to it, is refused."""
    guard = Guard(Access((OK,)))
    guard.send(fetch(1, "ok-1", "secret"))
    with pytest.raises(Malformed, match="ends before"):
        guard.reply(b"\0\0\0\x0a\0\0\0\1" + bytes(6))
    endless = bytes(4) + bytes(4) + b"\0" + bytes(6) + b"\xff\xff\x7f" + bytes(66_000)
    with pytest.raises(FrameTooLarge, match="before what"):
        Join(78, 1, "topics", [b"?"]).expect(10_000_000).feed(endless, 0)
    guard = Guard(Access((allow("ok*"),)))
    rows: list[dict[str, Any]] = [{"name": name, "partitions": []} for name in ("ok-1", "secret")]
    guard.send(request(21, 0, 1, {"topics": rows, "timeout": _ms(1)}))
    with pytest.raises(Malformed, match="without"):
        guard.reply(frames.response(1, 21, 0, bytes(4) + b"\xff" * 4))


def test_an_answer_with_an_error_of_its_own() -> None:
    """It stays as it is, as nothing in it is about topics."""
    guard = Guard(Access((OK, allow("g", resource=Resource.GROUP))))
    rows = [{"name": name, "partitions": [{"partition_index": 0}]} for name in ("ok-1", "secret")]
    guard.send(request(47, 0, 1, {"group_id": "g", "topics": rows}))
    reply = answer(47, 0, 1, {"error_code": ErrorCode.not_coordinator, "throttle_time": _ms(0), "topics": []})
    assert guard.reply(reply) == reply


def test_requests_of_our_own() -> None:
    """An answer that kproxy itself asked for, as it renews a login, is nobody's to see, whatever the rules."""
    guard = Guard(Access((OK,)))
    got: list[bytes] = []
    guard.exchange.hold()
    guard.exchange.ask(Ask(b"", 5, 36, 2), got.append)
    assert guard.reply(frames.response(5, 36, 2, b"yes")) == b""
    assert got == [b"yes"]
