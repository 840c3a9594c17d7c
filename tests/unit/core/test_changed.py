"""What is configured changes while connections live: rules, what they are watched for, and the cluster itself."""

from typing import Any

from guarded_stage import Guard, allow, body_of, errors
from metered_stage import bucket
from metered_stage import fetch as asked
from metered_stage import fetched as answered
from test_guarded import fetch, fetched, produce
from test_observed import Seen

from kproxy.core.access import Access, Operation, Permissions, TopicNames
from kproxy.core.directory import KEY_TYPE_GROUP, Directory
from kproxy.core.latency import Latencies
from kproxy.core.observed import Observation, Picks, Watch
from kproxy.core.patience import Patience
from kproxy.core.view import Change, ClusterView
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.cluster import Broker, Coordinator, Partition, Topic
from kproxy.wire.routing import Route, Target

FETCH_SESSION_ID_NOT_FOUND, TOPIC_AUTHORIZATION_FAILED = 70, 29


def access(*patterns: str) -> Access:
    """Allow everybody to read and write these topics."""
    return Access(tuple(allow(pattern, Operation.READ, Operation.WRITE) for pattern in patterns))


def rules(guard: Guard, *patterns: str) -> None:
    """Put a connection under other rules."""
    guard.exchange.guard_by(Permissions(access(*patterns), "User:alice", ()))


def answers(guard: Guard, key: int, version: int) -> list[set[Any]]:
    """Return the error codes of each answer that the client got."""
    return [errors(body_of(key, version, frame, "response")) for frame in guard.client_got]


def test_other_rules_count_from_the_next_request() -> None:
    """What passed at a look is denied as soon as the rules say so, and what was denied passes."""
    guard = Guard(access("ok"))
    for number in (1, 2, 3):
        assert guard.send(produce(number, "ok")) == produce(number, "ok")
    rules(guard, "other")
    assert guard.send(produce(4, "ok")) == b""
    assert guard.send(produce(5, "other")) == produce(5, "other")
    rules(guard, "ok")
    assert guard.send(produce(6, "ok")) == produce(6, "ok")
    assert guard.send(produce(7, "other")) == b""


def test_a_session_of_other_rules_is_not_found() -> None:
    """A Fetch session made under other rules could hold what is denied now: the client makes a new one."""
    guard = Guard(access("ok", "secret"))
    guard.send(fetch(1, "ok", "secret", session=(0, 0)))
    guard.reply(fetched(1, "ok", "secret", session=77))
    assert guard.send(fetch(2, session=(77, 1))) == fetch(2, session=(77, 1))
    guard.reply(fetched(2, session=77))
    rules(guard, "ok")
    assert guard.send(fetch(3, session=(77, 2))) == b""
    assert answers(guard, 1, 11)[-1] == {FETCH_SESSION_ID_NOT_FOUND}
    out = guard.send(fetch(4, "ok", "secret", session=(0, 0)))
    assert [row["topic"] for row in body_of(1, 11, out, "request")["topics"]] == ["ok"]


def test_a_session_that_is_being_made_is_not_remembered() -> None:
    """Where the rules change between a session's first request and its answer, it is not found either."""
    guard = Guard(access("ok", "secret"))
    guard.send(fetch(1, "ok", "secret", session=(0, 0)))
    rules(guard, "ok")
    guard.reply(fetched(1, "ok", "secret", session=77))
    assert guard.send(fetch(2, session=(77, 1))) == b""
    assert answers(guard, 1, 11)[-1] == {FETCH_SESSION_ID_NOT_FOUND}


def test_rules_that_say_the_same() -> None:
    """Rules are the same if they say the same, whatever they have counted or learnt."""
    one, other = access("a", "b"), access("a", "b")
    other.names.learn(bytes(16), "t")
    other.denied["Produce", "topic"] += 1
    assert one.same(other)
    assert not one.same(access("b", "a"))
    assert not one.same(None)


# What is watched for.


def entry(seen: Seen) -> list[int]:
    """Return the correlation ids that were told; forget them."""
    told = [one.correlation_id for one in seen.told]
    seen.told.clear()
    return told


def ask(seen: Seen, number: int) -> None:
    """Ask something, and have it answered."""
    seen.send(asked(number))
    seen.answer(answered(number))


def test_another_log_is_told_from_the_next_request() -> None:
    """After a change the new log gets entries, by the new picks, and the old one none."""
    seen = Seen()
    ask(seen, 1)
    assert entry(seen) == [1]
    other: list[Observation] = []
    seen.watch.follow(Watch(seen.clock, lambda: 0.0, None, other.append, Picks()))
    seen.exchange.watch_anew()
    ask(seen, 2)
    assert (entry(seen), [one.correlation_id for one in other]) == ([], [2])
    seen.watch.follow(Watch(seen.clock, lambda: 0.0, None, other.append, Picks(principals=("User:bob",))))
    seen.exchange.watch_anew()
    ask(seen, 3)
    assert len(other) == 1


def test_a_log_that_ends_amid_a_request() -> None:
    """A request that was read while there was a log is told to nobody when there is none at its end."""
    seen = Seen(latency=True)
    seen.send(asked(1))
    seen.watch.follow(None)
    seen.exchange.watch_anew()
    seen.answer(answered(1))
    ask(seen, 2)
    assert (entry(seen), seen.watch.latencies) == ([], None)


def test_what_was_measured_stays() -> None:
    """Latencies go on to be counted where they were, as long as they are asked for."""
    seen = Seen(latency=True)
    before = seen.watch.latencies
    seen.watch.follow(Watch(seen.clock, lambda: 0.0, Latencies(), None, Picks(sample=0)))
    assert seen.watch.latencies is before
    seen.watch.follow(Watch(seen.clock, lambda: 0.0, None, None, Picks(sample=0)))
    assert seen.watch.latencies is None


def test_what_waits_is_still_told() -> None:
    """A request that a limit holds while the log changes is told when it goes, as long as it took."""
    seen = Seen(bucket(rate=1, burst=5))
    ask(seen, 1)
    seen.send(asked(2))
    seen.exchange.watch_anew()
    seen.go_on()
    seen.answer(answered(2))
    assert entry(seen) == [1, 2]


# Another cluster.


def test_another_cluster_takes_its_place() -> None:
    """Brokers of another cluster's id are the only ones, at once; what those before could do is forgotten."""
    view = ClusterView()
    view.apply_brokers([Broker(1, "old", 1, None), Broker(2, "old", 2, None)], "old", 0)
    view.set_table(1, ApiVersionsAnswer(ranges={1: (4, 11)}))
    change = view.apply_brokers([Broker(1, "new", 1, None), Broker(3, "new", 3, None)], "new", 1)
    assert change == Change([3], [1], [2], replaced=True)
    assert view.table(1) is None
    assert view.brokers.keys() == {1, 3}
    assert not view.apply_brokers([Broker(1, "new", 1, None)], None, 2).replaced


def test_what_was_learnt_is_forgotten() -> None:
    """Leaders, coordinators and topic ids of another cluster are not known here."""
    directory = Directory()
    directory.learn_topics([Topic(0, "t", bytes(15) + b"1", [Partition(0, 0, 2, 5)])])
    directory.learn_coordinators(KEY_TYPE_GROUP, ["g"], [Coordinator("g", 3, "h", 1, 0)])
    epoch = directory.epoch
    directory.forget()
    assert directory.find(Route(Target.LEADER_NAME, 0, "t", b"", 0)) is None
    assert directory.find(Route(Target.GROUP, 0, "g", b"", 0)) is None
    assert directory.epoch > epoch
    names = TopicNames()
    names.learn(bytes(16), "t")
    names.forget()
    assert names.find(bytes(16)) is None


def test_patience_may_change() -> None:
    """Who comes next is held for as long as is configured now."""
    patience = Patience(1, 10)
    patience.change(3, 4)
    assert (patience.take("h", 1, 0), patience.take("h", 1, 1), patience.take("h", 1, 2)) == (3, 4, 4)
