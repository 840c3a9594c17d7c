"""Directory: what was said last counts, what is older does not, and nothing grows without bound."""

from collections.abc import Callable

import pytest

from kproxy.core import directory as room
from kproxy.core.directory import KEY_TYPE_GROUP, KEY_TYPE_TXN, Directory
from kproxy.wire.cluster import NO_TOPIC_ID, Coordinator, Partition, Topic
from kproxy.wire.leaders import PartitionLeader
from kproxy.wire.routing import Route, Target

ID, OTHER_ID = b"i" * 16, b"j" * 16
UNKNOWN_TOPIC = 3


def topic(*leaders: tuple[int, int], name: str | None = "t", topic_id: bytes = ID) -> Topic:
    """Make a topic whose partitions have these (leader, leader epoch)."""
    return Topic(0, name, topic_id, [Partition(0, index, *leader) for index, leader in enumerate(leaders)])


def by_name(partition: int = 0, name: str = "t") -> Route:
    """Make a route to a leader."""
    return Route(Target.LEADER_NAME, 0, name, b"", partition)


def by_id(partition: int = 0, topic_id: bytes = ID) -> Route:
    """Make a route to a leader by topic id."""
    return Route(Target.LEADER_ID, 0, "", topic_id, partition)


def coordinator(node_id: int, key: str | None = None, error_code: int = 0) -> Coordinator:
    """Make one of a FindCoordinator answer."""
    return Coordinator(key, node_id, "b", 9092, error_code)


@pytest.mark.parametrize("target", list(Target))
def test_nothing_is_known_at_first(target: Target) -> None:
    """Only a node id needs no directory; whatever else is asked for is unknown."""
    assert Directory().find(Route(target, 0, "x", ID, 0, 7)) == (7 if target is Target.NODE else None)


def test_leaders() -> None:
    """A leader is found by name and by id, partition by partition; one that is not there is unknown."""
    each = Directory()
    each.learn_topics([topic((1, 4), (-1, 5), (3, 6))])
    assert [each.find(by_name(partition)) for partition in range(4)] == [1, None, 3, None]
    assert [each.find(by_id(partition)) for partition in range(4)] == [1, None, 3, None]
    assert each.find(by_name(name="other")) is None


def test_epoch_grows_with_what_moves_requests() -> None:
    """The epoch grows when a leader, a topic or a coordinator changes, and not when all is as it was."""
    each = Directory()
    seen = [each.epoch]
    lessons: list[Callable[[], None]] = [
        lambda: each.learn_topics([topic((1, 4))]),
        lambda: each.learn_topics([topic((2, 5))]),
        lambda: each.learn_topics([topic((2, 0), topic_id=OTHER_ID)]),
        lambda: each.learn_leaders([PartitionLeader("t", 0, 3, 1)]),
        lambda: each.learn_coordinators(KEY_TYPE_GROUP, ["g"], [coordinator(1)]),
        lambda: each.learn_coordinators(KEY_TYPE_GROUP, ["g"], [coordinator(2)]),
    ]
    for learn in lessons:
        for _ in range(2):
            learn()
            seen.append(each.epoch)
    changes, repeats = seen[1::2], seen[2::2]
    assert changes == repeats
    assert sorted(set(changes)) == changes


def test_an_older_answer_does_not_undo_a_newer_one() -> None:
    """Of one topic, told by its id, a lower leader epoch changes nothing; an equal or missing one does."""
    each = Directory()
    each.learn_topics([topic((1, 5))])
    each.learn_topics([topic((2, 4))])
    assert each.find(by_name()) == 1
    each.learn_topics([topic((3, 5))])
    assert each.find(by_name()) == 3
    each.learn_topics([topic((2, -1))])
    assert each.find(by_id()) == 2


def test_a_topic_made_anew() -> None:
    """A topic with another id is another: its epochs begin again, and the old id leads nowhere."""
    each = Directory()
    each.learn_topics([topic((1, 5), (1, 5))])
    each.learn_topics([topic((2, 0), topic_id=OTHER_ID)])
    assert each.find(by_name()) == each.find(by_id(topic_id=OTHER_ID)) == 2
    assert each.find(by_id()) is None
    assert each.find(by_name(1)) is None


def test_answers_without_ids() -> None:
    """Before Metadata v10 nobody can tell a topic made anew: what was said last counts, and the id is kept."""
    each = Directory()
    each.learn_topics([topic((1, 5), topic_id=NO_TOPIC_ID)])
    each.learn_topics([topic((2, 0), topic_id=NO_TOPIC_ID)])
    assert each.find(by_name()) == 2
    each.learn_topics([topic((3, 0))])
    each.learn_topics([topic((1, 0), topic_id=NO_TOPIC_ID)])
    assert each.find(by_name()) == each.find(by_id()) == 1


def test_topics_that_say_nothing() -> None:
    """A topic without a name or without partitions is left out, and one that is known stays."""
    each = Directory()
    each.learn_topics([topic((1, 5))])
    each.learn_topics([Topic(UNKNOWN_TOPIC, "t", NO_TOPIC_ID, []), topic((2, 6), name=None)])
    assert each.find(by_name()) == each.find(by_id()) == 1


def test_leaders_told_in_passing() -> None:
    """A leader that a Produce answer told counts for a topic that is known, unless it is an older one."""
    each = Directory()
    each.learn_topics([topic((1, 5), (1, 5))])
    each.learn_leaders([PartitionLeader("t", 0, 2, 6), PartitionLeader(ID, 1, 3, 6), PartitionLeader("t", 1, 2, 4)])
    each.learn_leaders([PartitionLeader("other", 0, 2, 6), PartitionLeader(OTHER_ID, 0, 2, 6)])
    assert [each.find(by_name(partition)) for partition in range(2)] == [2, 3]
    assert each.find(by_name(name="other")) is None


def test_coordinators() -> None:
    """A coordinator is known by the answer's key or, before v4, by the request's; an error teaches nothing."""
    each = Directory()
    each.learn_coordinators(KEY_TYPE_GROUP, ["x"], [coordinator(1)])
    each.learn_coordinators(KEY_TYPE_TXN, ["a", "x"], [coordinator(2, "a"), coordinator(3, "x")])
    each.learn_coordinators(KEY_TYPE_TXN, ["x"], [coordinator(-1, error_code=15), coordinator(-1)])
    each.learn_coordinators(KEY_TYPE_TXN, [], [coordinator(1)])
    assert each.find(Route(Target.GROUP, 0, "x")) == 1
    assert each.find(Route(Target.TXN, 0, "a")) == 2
    assert each.find(Route(Target.TXN, 0, "x")) == 3


def test_sessions() -> None:
    """A Fetch session is known by its id; the broker that gave it out last has it."""
    each = Directory()
    each.learn_session(7, 1)
    each.learn_session(7, 2)
    assert each.find(Route(Target.FETCH_SESSION, 0, number=7)) == 2
    assert each.find(Route(Target.FETCH_SESSION, 0, number=8)) is None


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bounds the oldest go: of topics, with their ids, of coordinators and of sessions."""
    for name in ("TOPICS_MAX", "COORDINATORS_MAX", "SESSIONS_MAX"):
        monkeypatch.setattr(room, name, 3)
    each = Directory()
    ids = [bytes((n,)) * 16 for n in range(1, 6)]
    each.learn_topics([topic((1, 0), name=f"t{n}", topic_id=ids[n]) for n in range(4)])
    each.learn_topics([topic((1, 0), name="t1", topic_id=ids[1]), topic((1, 0), name="t4", topic_id=ids[4])])
    for n in range(5):
        each.learn_coordinators(KEY_TYPE_GROUP, [f"g{n}"], [coordinator(1)])
        each.learn_session(n, 1)
    kept = [1, 3, 4]
    assert [n for n in range(5) if each.find(by_name(name=f"t{n}")) is not None] == kept
    assert [n for n in range(5) if each.find(by_id(topic_id=ids[n])) is not None] == kept
    assert [n for n in range(5) if each.find(Route(Target.GROUP, 0, f"g{n}")) is not None] == [2, 3, 4]
    assert [n for n in range(5) if each.find(Route(Target.FETCH_SESSION, 0, number=n)) is not None] == [2, 3, 4]
