"""Who may do what: rules in the shape of Kafka's ACLs, compiled, and asked per connection.

A rule allows or denies a principal operations on the resources that a pattern matches. Deny wins; where nothing is
said, the default holds. As in Kafka, to allow READ, WRITE, DELETE or ALTER is to allow DESCRIBE, and to allow
ALTER_CONFIGS is to allow DESCRIBE_CONFIGS (AclAuthorizer.matchingAclExists); a denial implies nothing::

    >>> access = Access((Rule(("User:alice",), frozenset({Operation.READ}), Resource.TOPIC, "orders-*", True),))
    >>> alice = Permissions(access, "User:alice", frozenset())
    >>> alice.allows(Operation.DESCRIBE, Resource.TOPIC, "orders-eu"), alice.allows(Operation.READ, Resource.TOPIC, "x")
    (True, False)

An Access is one listener's, and so is what it counts. Permissions are one connection's: answers are remembered, and
where no pattern can make a difference, ``always`` says so, so that nobody pays for rules that are not about them. Never
here: what a request needs, which is ``needs``.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from kproxy.wire.apis import APIS

REMEMBERED_MAX = 10_000
"""How many answers a connection remembers; each takes 100 bytes or so. A client has some hundred topics at most."""

TOPIC_IDS_MAX = 50_000
"""How many topics a listener knows by id (directory.TOPICS_MAX)."""


class Operation(StrEnum):
    """What one does to a resource (org.apache.kafka.common.acl.AclOperation)."""

    READ = "read"
    WRITE = "write"
    CREATE = "create"
    DELETE = "delete"
    ALTER = "alter"
    DESCRIBE = "describe"
    CLUSTER_ACTION = "cluster_action"
    DESCRIBE_CONFIGS = "describe_configs"
    ALTER_CONFIGS = "alter_configs"
    IDEMPOTENT_WRITE = "idempotent_write"


class Resource(StrEnum):
    """What it is done to (org.apache.kafka.common.resource.ResourceType)."""

    TOPIC = "topic"
    GROUP = "group"
    TXN = "transactional_id"
    CLUSTER = "cluster"


CLUSTER_NAME = "kafka-cluster"
"""The only resource of its type."""

_IMPLIED_BY = {
    Operation.DESCRIBE: frozenset({Operation.READ, Operation.WRITE, Operation.DELETE, Operation.ALTER}),
    Operation.DESCRIBE_CONFIGS: frozenset({Operation.ALTER_CONFIGS}),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. In patterns ``*`` stands for any characters and ``?`` for one."""

    principals: tuple[str, ...]
    """"User:alice", "Group:team-a", or a pattern."""
    operations: frozenset[Operation]
    resource: Resource | None
    """None: of every type, whatever its name."""
    pattern: str
    allow: bool


class Denial(NamedTuple):
    """Something that was denied, or would have been."""

    principal: str
    operation: str
    """Or the API that is denied as a whole."""
    resource: str
    name: str
    api: str
    dry_run: bool


class TopicNames:
    """The names of topics by id, learnt from the answers that pass on any connection of a listener."""

    def __init__(self) -> None:
        self._names: OrderedDict[bytes, str] = OrderedDict()
        self.wanted: Callable[[bytes], None] | None = None
        """Is told an id that somebody asked for and nobody knows; the shell looks it up."""

    def learn(self, topic_id: bytes, name: str) -> None:
        """Take a topic's name."""
        names = self._names
        if topic_id not in names and len(names) >= TOPIC_IDS_MAX:
            names.popitem(last=False)
        names[topic_id] = name

    def forget(self) -> None:
        """Forget them all: it is another cluster now."""
        self._names.clear()

    def find(self, topic_id: bytes) -> str | None:
        """Return a topic's name; None: it is not known, now."""
        name = self._names.get(topic_id)
        if name is None and self.wanted is not None:
            self.wanted(topic_id)
        return name


@dataclass(slots=True)
class Access:
    """What the clients of one listener may do."""

    rules: tuple[Rule, ...] = ()
    default_allow: bool = False
    denied_apis: frozenset[int] = frozenset()
    """API keys that nobody may use."""
    dry_run: bool = False
    """Count and tell what would be denied, and deny nothing."""
    names: TopicNames = field(default_factory=TopicNames)
    denied: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How much was denied, by API and type of resource."""
    tell: Callable[[Denial], None] | None = None
    """Is told each denial; the shell decides what of it to log."""

    def same(self, other: "Access | None") -> bool:
        """Whether the other says the same of everything."""
        return other is not None and self._said() == other._said()  # noqa: SLF001  one of its own kind

    def _said(self) -> tuple[object, ...]:
        return self.rules, self.default_allow, self.denied_apis, self.dry_run

    def deny(self, denial: Denial) -> None:
        """Count a denial, and tell it."""
        self.denied[denial.api, denial.resource] += 1
        if self.tell is not None:
            self.tell(denial)


_Matches = Callable[[str], object]


class _Compiled(NamedTuple):
    allow: bool
    all_names: bool
    matches: _Matches


class Permissions:
    """What one connection may do, as long as the rules stay: its principal does not change."""

    def __init__(self, access: Access, principal: str, groups: Iterable[str]) -> None:
        """Find the rules about a principal, "User:alice", who is in these groups, "team-a"."""
        self.access = access
        self.principal = principal
        called = (principal, *(f"Group:{group}" for group in groups))
        self._rules = tuple(rule for rule in access.rules if _is_about(rule, called))
        self._compiled: dict[tuple[Operation, Resource], tuple[_Compiled, ...]] = {}
        self._known: dict[tuple[Operation, Resource, str], bool] = {}

    def allows(self, operation: Operation, resource: Resource, name: str = CLUSTER_NAME) -> bool:
        """Tell whether an operation on a resource is allowed."""
        asked = (operation, resource, name)
        known = self._known.get(asked)
        if known is None:
            if len(self._known) >= REMEMBERED_MAX:
                self._known.clear()
            known = self._known[asked] = self._decide(operation, resource, name)
        return known

    def always(self, operation: Operation, resource: Resource) -> bool | None:
        """Tell whether it is allowed whatever the name; None: that depends on the name."""
        rules = self._about(operation, resource)
        if any(not rule.allow and rule.all_names for rule in rules):
            return False
        if any(not rule.allow for rule in rules):
            return None
        if self.access.default_allow or any(rule.all_names for rule in rules):
            return True
        return None if rules else False

    def somewhere(self, operation: Operation, resource: Resource) -> bool:
        """Tell whether it is allowed on some name (Authorizer.authorizeByResourceType, without what denials leave)."""
        rules = self._about(operation, resource)
        if any(not rule.allow and rule.all_names for rule in rules):
            return False
        return self.access.default_allow or any(rule.allow for rule in rules)

    def _decide(self, operation: Operation, resource: Resource, name: str) -> bool:
        allowed = False
        for rule in self._about(operation, resource):
            if rule.matches(name):
                if not rule.allow:
                    return False
                allowed = True
        return allowed or self.access.default_allow

    def _about(self, operation: Operation, resource: Resource) -> tuple[_Compiled, ...]:
        found = self._compiled.get((operation, resource))
        if found is None:
            meant = {operation}
            allowing = meant | _IMPLIED_BY.get(operation, frozenset())
            found = tuple(
                _Compiled(rule.allow, rule.resource in {None, Resource.CLUSTER} or rule.pattern == "*", _matcher(rule))
                for rule in self._rules
                if rule.resource in {None, resource} and rule.operations & (allowing if rule.allow else meant)
            )
            self._compiled[operation, resource] = found
        return found


def _is_about(rule: Rule, called: tuple[str, ...]) -> bool:
    return any(glob(pattern)(name) for pattern in rule.principals for name in called)


def _matcher(rule: Rule) -> _Matches:
    return glob("*") if rule.resource in {None, Resource.CLUSTER} else glob(rule.pattern)


def glob(pattern: str) -> _Matches:
    """Return what tells whether a text matches a pattern, as cheaply as the pattern allows."""
    if pattern == "*":
        return _anything
    plain = pattern.rstrip("*")
    if "*" not in plain and "?" not in plain:
        return pattern.__eq__ if plain == pattern else lambda text: text.startswith(plain)
    parts = (".*" if char == "*" else "." if char == "?" else re.escape(char) for char in pattern)
    return re.compile("".join(parts), re.DOTALL).fullmatch


def _anything(_text: str) -> bool:
    return True


# APIs as a whole.

_ADMIN = frozenset(
    {
        *("CreateTopics", "DeleteTopics", "CreatePartitions", "DeleteRecords"),
        *("CreateAcls", "DeleteAcls", "AlterConfigs", "IncrementalAlterConfigs", "AlterReplicaLogDirs"),
        *("CreateDelegationToken", "RenewDelegationToken", "ExpireDelegationToken"),
        *("DeleteGroups", "OffsetDelete", "AlterShareGroupOffsets", "DeleteShareGroupOffsets"),
        *("ElectLeaders", "AlterPartitionReassignments", "AlterClientQuotas", "AlterUserScramCredentials"),
        *("UpdateFeatures", "UnregisterBroker", "AddRaftVoter", "RemoveRaftVoter"),
    }
)
_WRITING = frozenset(
    {"Produce", "InitProducerId", "AddPartitionsToTxn", "AddOffsetsToTxn", "EndTxn", "TxnOffsetCommit"}
)

PRESETS: dict[str, frozenset[str]] = {"no_admin": _ADMIN, "read_only": _ADMIN | _WRITING}
"""Names for lists of APIs. no_admin: whatever changes the cluster, its topics, groups, users or settings, but not what
producers and consumers do. read_only: that, and whatever a producer does; a consumer's own group and offsets are not
taken for writing, as it could not read without them."""

HIDDEN = frozenset({"GetTelemetrySubscriptions", "PushTelemetry", "DescribeTopicPartitions", "ConsumerGroupDescribe"})
"""APIs that clients do better without than with an error, so that a denied one vanishes from ApiVersions. Without
telemetry's two a client sends none, where an error is logged by each (KIP-714). Java's admin client falls back from
DescribeTopicPartitions to Metadata, and from ConsumerGroupDescribe to DescribeGroups. All others stay: what is missing
is told to the application as too old a broker (UnsupportedVersionException), or changes what the client takes the
broker for (librdkafka and kafka-python guess from some APIs what else there is); a denial says what it is."""

KEYS = {api.name: key for key, api in APIS.items()}

CAPPED = {KEYS["Fetch"]: 14, KEYS["AddPartitionsToTxn"]: 3}
"""The highest versions offered where rules on resources apply. What is above is for brokers alone: Fetch v15 hides the
id of a follower behind all else (KIP-903), and AddPartitionsToTxn from v4 on is the brokers'."""
