"""Rules in the shape of Kafka's ACLs: who may do what, and what needs no look."""

import pytest
from conversations import OFFER
from guarded_stage import EVERYTHING, allow, deny

from kproxy.core import access as module
from kproxy.core.access import CAPPED, Access, Denial, Operation, Permissions, Resource, Rule, TopicNames, glob
from kproxy.core.decision import decide, unconditional
from kproxy.core.needs import needs
from kproxy.wire.apis import APIS, ApiKey

READ, WRITE, DESCRIBE, ALTER, CREATE = (
    Operation.READ,
    Operation.WRITE,
    Operation.DESCRIBE,
    Operation.ALTER,
    Operation.CREATE,
)
TOPIC, GROUP, TXN, CLUSTER = Resource.TOPIC, Resource.GROUP, Resource.TXN, Resource.CLUSTER


def alice(*rules: Rule, default: bool = False, groups: frozenset[str] = frozenset()) -> Permissions:
    """Be alice under some rules."""
    return Permissions(Access(rules, default_allow=default), "User:alice", groups)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("orders", ["orders"], ["orders2", "order", ""]),
        ("orders-*", ["orders-", "orders-eu"], ["orders", "xorders-eu"]),
        ("*", ["", "a", "a\nb"], []),
        ("*-eu", ["a-eu", "-eu"], ["a-eu2"]),
        ("o?d*s", ["odds", "oxdxxs"], ["ods"]),
        ("a.b*", ["a.b", "a.bc"], ["axb"]),
        ("[ab]?", ["[ab]x"], ["ax"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    """A star stands for anything, a question mark for one character, and all else for itself."""
    matches = glob(pattern)
    assert all(map(matches, matching))
    assert not any(map(matches, others))


def test_deny_wins_and_the_default_holds() -> None:
    """A denial beats what allows, wherever it stands, and where nothing is said the default holds."""
    rules = (deny("orders-x", READ), allow("orders-*", READ), deny("orders-y", READ))
    for default in (False, True):
        who = alice(*rules, default=default)
        assert who.allows(READ, TOPIC, "orders-eu")
        assert not who.allows(READ, TOPIC, "orders-x")
        assert not who.allows(READ, TOPIC, "orders-y")
        assert who.allows(READ, TOPIC, "other") is default
        assert who.allows(READ, GROUP, "orders-eu") is default


def test_what_is_implied() -> None:
    """To allow reading is to allow describing; to deny it denies only that."""
    for operation in (READ, WRITE, Operation.DELETE, ALTER):
        assert alice(allow("t", operation)).allows(DESCRIBE, TOPIC, "t")
        assert alice(deny("t", operation), default=True).allows(DESCRIBE, TOPIC, "t")
    assert alice(allow("t", Operation.ALTER_CONFIGS)).allows(Operation.DESCRIBE_CONFIGS, TOPIC, "t")
    assert not alice(allow("t", Operation.ALTER_CONFIGS)).allows(DESCRIBE, TOPIC, "t")
    assert not alice(allow("t", CREATE)).allows(DESCRIBE, TOPIC, "t")


def test_whom_a_rule_is_about() -> None:
    """A rule is about a principal, a pattern of principals, or a group of users."""

    def may(principal: str, groups: frozenset[str] = frozenset()) -> bool:
        rule = Rule((principal,), frozenset({READ}), TOPIC, "t", True)
        return alice(rule, groups=groups).allows(READ, TOPIC, "t")

    assert may("User:alice")
    assert may("User:a*")
    assert may("*")
    assert not may("User:bob")
    assert may("Group:team-a", frozenset({"team-a", "team-b"}))
    assert may("Group:team-*", frozenset({"team-b"}))
    assert not may("Group:team-a")
    assert not may("User:team-a", frozenset({"team-a"}))


def test_the_cluster_and_everything() -> None:
    """A rule about the cluster needs no name, and one about everything is about each type."""
    who = alice(Rule(("*",), frozenset({ALTER}), CLUSTER, "*", True))
    assert who.allows(ALTER, CLUSTER)
    assert who.allows(DESCRIBE, CLUSTER)
    assert not who.allows(CREATE, CLUSTER)
    assert all(alice(EVERYTHING).allows(READ, resource, "x") for resource in Resource)


def test_what_is_always_so() -> None:
    """Where no name can make a difference that is known, and only there."""
    assert alice(allow("*", READ)).always(READ, TOPIC) is True
    assert alice(allow("*", READ)).always(DESCRIBE, TOPIC) is True
    assert alice(allow("*", READ), deny("x", READ)).always(READ, TOPIC) is None
    assert alice(allow("*", READ), deny("*", READ)).always(READ, TOPIC) is False
    assert alice(allow("x", READ)).always(READ, TOPIC) is None
    assert alice().always(READ, TOPIC) is False
    assert alice(default=True).always(READ, TOPIC) is True
    assert alice(deny("x", READ), default=True).always(READ, TOPIC) is None


def test_somewhere() -> None:
    """An idempotent producer must be allowed to write anything at all."""
    assert alice(allow("x", WRITE)).somewhere(WRITE, TOPIC)
    assert not alice(allow("x", READ)).somewhere(WRITE, TOPIC)
    assert not alice(allow("x", WRITE), deny("*", WRITE)).somewhere(WRITE, TOPIC)
    assert alice(default=True).somewhere(WRITE, TOPIC)
    producer = {"txn": None}
    assert decide(alice(allow("x", WRITE)), ApiKey.INIT_PRODUCER_ID, producer).allowed
    cluster = Rule(("*",), frozenset({Operation.IDEMPOTENT_WRITE}), CLUSTER, "*", True)
    assert decide(alice(cluster), ApiKey.INIT_PRODUCER_ID, producer).allowed
    assert decide(alice(), ApiKey.INIT_PRODUCER_ID, producer).code == 31


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are remembered, up to a bound, and stay the same beyond it; likewise topic ids."""
    monkeypatch.setattr(module, "REMEMBERED_MAX", 2)
    monkeypatch.setattr(module, "TOPIC_IDS_MAX", 2)
    who = alice(allow("a*", READ))
    assert [who.allows(READ, TOPIC, name) for name in ("a", "b", "a2", "a", "b")] == [True, False, True, True, False]
    assert len(who._known) <= 2
    names = TopicNames()
    for number in (1, 2, 2, 3):
        names.learn(bytes([number]), f"t{number}")
    assert [names.find(bytes([number])) for number in (1, 2, 3)] == [None, "t2", "t3"]


def test_denials_are_counted_and_told() -> None:
    """A denial is counted by API and type of resource, and told to whoever listens."""
    access = Access()
    denial = Denial("User:alice", READ, TOPIC, "t", "Fetch", False)
    access.deny(denial)
    told: list[Denial] = []
    access.tell = told.append
    access.deny(denial)
    assert access.denied == {("Fetch", "topic"): 2}
    assert told == [denial]


@pytest.mark.parametrize("key", APIS)
def test_who_may_everything_is_not_looked_at(key: int) -> None:
    """Whoever may do everything pays for nothing but Metadata, which teaches the ids of topics."""
    assert unconditional(alice(EVERYTHING), key) is (key != ApiKey.METADATA)
    assert not unconditional(alice(EVERYTHING, deny("x", resource=None)), ApiKey.FETCH)


@pytest.mark.parametrize(
    ("key", "missing"),
    [
        (ApiKey.FETCH, (Operation.CLUSTER_ACTION, CLUSTER)),
        (ApiKey.ADD_PARTITIONS_TO_TXN, (Operation.CLUSTER_ACTION, CLUSTER)),
        (ApiKey.FIND_COORDINATOR, (DESCRIBE, TXN)),
        (ApiKey.DESCRIBE_CONFIGS, (Operation.DESCRIBE_CONFIGS, GROUP)),
        (ApiKey.INIT_PRODUCER_ID, (Operation.IDEMPOTENT_WRITE, CLUSTER)),
        (ApiKey.STREAMS_GROUP_DESCRIBE, (DESCRIBE, TOPIC)),
        (ApiKey.LIST_GROUPS, (DESCRIBE, GROUP)),
    ],
)
def test_what_is_looked_at(key: int, missing: tuple[Operation, Resource]) -> None:
    """One right that an API may need and that is not there is enough to look at its requests."""
    operation, resource = missing
    assert not unconditional(alice(EVERYTHING, deny("x", operation, resource=resource)), key)


def test_topics_of_streams() -> None:
    """A Streams member is denied if its topology names what it may not describe (KIP-1071)."""
    rules = (allow("g", READ, resource=GROUP), allow("ok*", DESCRIBE))
    part = {
        "source_topics": [{"value": "ok-1"}],
        "repartition_sink_topics": None,
        "state_changelog_topics": [{"name": "ok-2"}],
        "repartition_source_topics": [],
    }
    for topic, code in (("ok-1", 0), ("secret", 29)):
        subtopologies = [part, {**part, "repartition_source_topics": [{"name": topic}]}]
        values = {"group": "g", "topology": {"subtopologies": subtopologies}}
        assert decide(alice(*rules), ApiKey.STREAMS_GROUP_HEARTBEAT, values).code == code
    assert decide(alice(*rules), ApiKey.STREAMS_GROUP_HEARTBEAT, {"group": "g", "topology": None}).allowed


def test_needs_are_short_to_read() -> None:
    """A need says what it is about."""
    assert repr(needs(ApiKey.HEARTBEAT)) == "(Need(READ, GROUP, 'group'),)"


def test_creating_topics_on_the_cluster() -> None:
    """CREATE on the cluster is CREATE on each topic."""
    values = {"topics": [{"name": "a"}, {"name": "b"}]}
    assert decide(alice(allow("a", CREATE)), ApiKey.CREATE_TOPICS, values).cut == {"topics": {1: 29}}
    cluster = Rule(("*",), frozenset({CREATE}), CLUSTER, "*", True)
    assert decide(alice(cluster), ApiKey.CREATE_TOPICS, values).allowed


def test_configs_of_what() -> None:
    """Configs are a topic's, a group's or the cluster's, each with its own error."""
    rows = [{"type": kind, "resource": "x"} for kind in (2, 4, 8, 16, 32)]
    denied = {"resources": {0: 29, 1: 31, 2: 31, 3: 31, 4: 30}}
    assert decide(alice(), ApiKey.DESCRIBE_CONFIGS, {"resources": rows}).cut == denied
    assert decide(alice(EVERYTHING), ApiKey.DESCRIBE_CONFIGS, {"resources": rows}).allowed


def test_followers_without_topics() -> None:
    """A follower's request that names nothing is denied as a whole, and not taken for a client's."""
    assert decide(alice(), ApiKey.FETCH, {"replica_id": 1, "topics": None}).code == 29
    assert decide(alice(), ApiKey.FETCH, {"replica_id": 1, "topics": [{"name": "t"}]}).cut == {"topics": {0: 29}}
    assert decide(alice(EVERYTHING), ApiKey.FETCH, {"replica_id": 1, "topics": [{"name": "t"}]}).allowed


def test_what_is_offered() -> None:
    """What is hidden or capped is missing from what clients are told, and from what they may ask for."""
    offer = OFFER.without({ApiKey.PUSH_TELEMETRY}, CAPPED | {int(ApiKey.HEARTBEAT): -1})
    assert offer.answer.ranges[ApiKey.FETCH] == (0, 14)
    assert ApiKey.PUSH_TELEMETRY not in offer.answer.ranges
    assert ApiKey.HEARTBEAT not in offer.answer.ranges
    assert {key_version for key_version in OFFER.kinds if key_version not in offer.kinds} == {
        1 << 16 | 15,
        24 << 16 | 4,
        24 << 16 | 5,
        72 << 16,
        *(12 << 16 | version for version in range(5)),
    }
    assert OFFER.covers(offer)
    assert not offer.covers(OFFER)
