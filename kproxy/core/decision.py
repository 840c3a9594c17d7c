"""What becomes of a request under rules: it is allowed, denied as a whole, or in part.

A Verdict names the denied elements by their array and index, each with its error, so that they can be taken out of the
request and put into the answer. A topic that is told by an id nobody knows yet is UNKNOWN_TOPIC_ID, at which every
client asks for Metadata, and that tells kproxy, too::

    >>> from kproxy.core.access import Access, Rule
    >>> rule = Rule(("User:alice",), frozenset({Operation.WRITE}), Resource.TOPIC, "orders-*", True)
    >>> alice = Permissions(Access((rule,)), "User:alice", ())
    >>> verdict = decide(alice, ApiKey.PRODUCE, {"txn": None, "topics": [{"name": "orders-eu"}, {"name": "secret"}]})
    >>> verdict.cut, verdict.denied[0][2]
    ({'topics': {1: 29}}, 'secret')

Never here: bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from kproxy.core.access import Operation, Permissions, Resource
from kproxy.core.needs import (
    CLUSTER_AUTHORIZATION_FAILED,
    ERRORS,
    NAMES,
    OPERATION_NOT_ATTEMPTED,
    SHOWN,
    UNKNOWN_TOPIC_ID,
    Need,
    needs,
)
from kproxy.core.refusals import config_error, coordinated
from kproxy.wire.apis import ApiKey
from kproxy.wire.shapes import Values

_FOLLOWED = frozenset({int(ApiKey.FETCH), int(ApiKey.LIST_OFFSETS), int(ApiKey.OFFSET_FOR_LEADER_EPOCH)})
"""Requests that a follower makes as well, with its id in replica_id; that takes CLUSTER_ACTION."""

_OF_BROKERS = _FOLLOWED | {int(ApiKey.ADD_PARTITIONS_TO_TXN)}
"""Requests that brokers make as well, in ways that clients must not."""

_CONFIGS = {2: Resource.TOPIC, 32: Resource.GROUP}

_TOPOLOGY_NAMES = ("source_topics", "repartition_sink_topics")
_TOPOLOGY_TOPICS = ("state_changelog_topics", "repartition_source_topics")


@dataclass(slots=True)
class Verdict:
    """See the module."""

    code: int = 0
    """The error for the request as a whole; 0: it is not denied as a whole."""
    cut: dict[str, dict[int, int]] = field(default_factory=dict)
    """Denied elements: array -> index -> error."""
    nested: dict[int, dict[int, int]] = field(default_factory=dict)
    """Denied topics within a group's: index of the group -> index of the topic -> error."""
    denied: list[tuple[str, str, str]] = field(default_factory=list)
    """Operation, type of resource, name."""

    @property
    def allowed(self) -> bool:
        """Nothing is denied."""
        return not (self.code or self.cut or self.nested)


def unconditional(permissions: Permissions, key: int) -> bool:
    """Tell whether requests of an API, whatever they name, are allowed, and their answers need no look either."""
    always = permissions.always
    if key == ApiKey.METADATA:
        return False  # its answers teach the names of topics
    if key in _OF_BROKERS and not permissions.allows(Operation.CLUSTER_ACTION, Resource.CLUSTER):
        return False
    asked = [(need.operation, need.resource) for need in (*needs(key), *SHOWN.get(key, ()))]
    if key == ApiKey.FIND_COORDINATOR:
        asked = [(Operation.DESCRIBE, Resource.GROUP), (Operation.DESCRIBE, Resource.TXN)]
        asked.append((Operation.CLUSTER_ACTION, Resource.CLUSTER))
    elif key in _CONFIG_APIS:
        asked += [(needs(key)[0].operation, resource) for resource in (Resource.TOPIC, Resource.GROUP)]
    elif key == ApiKey.INIT_PRODUCER_ID:
        asked.append((Operation.IDEMPOTENT_WRITE, Resource.CLUSTER))
    elif key in _TELLING_OF_TOPICS:
        asked.append((Operation.DESCRIBE, Resource.TOPIC))
    return all(always(operation, resource) for operation, resource in asked)


_CONFIG_APIS = frozenset({ApiKey.DESCRIBE_CONFIGS, ApiKey.ALTER_CONFIGS, ApiKey.INCREMENTAL_ALTER_CONFIGS})
_TELLING_OF_TOPICS = frozenset(
    {
        ApiKey.CONSUMER_GROUP_DESCRIBE,
        ApiKey.SHARE_GROUP_DESCRIBE,
        ApiKey.STREAMS_GROUP_DESCRIBE,
        ApiKey.STREAMS_GROUP_HEARTBEAT,
    }
)


def decide(permissions: Permissions, key: int, values: Values) -> Verdict:
    """Hold a request against the rules."""
    verdict = Verdict()
    judge = _Judge(permissions, verdict)
    if key == ApiKey.FIND_COORDINATOR:
        judge.coordinators(values)
    elif key == ApiKey.INIT_PRODUCER_ID and values["txn"] is None:
        judge.producer_id()
    elif key == ApiKey.CREATE_TOPICS and permissions.allows(Operation.CREATE, Resource.CLUSTER):
        pass
    elif key in _FOLLOWED and values.get("replica_id", -1) >= 0 and not judge.is_broker():
        verdict.cut["topics"] = dict.fromkeys(range(len(values["topics"] or ())), ERRORS[Resource.TOPIC])
        verdict.code = 0 if verdict.cut["topics"] else ERRORS[Resource.TOPIC]
    elif key == ApiKey.ADD_PARTITIONS_TO_TXN and "transactions" in values:  # v4 and later, between brokers
        verdict.code = 0 if judge.is_broker() else ERRORS[Resource.CLUSTER]
    else:
        for need in needs(key):
            judge.need(need, values)
            if verdict.code:
                return verdict
        if key == ApiKey.STREAMS_GROUP_HEARTBEAT:
            judge.topology(values)
    return verdict


class _Judge:
    def __init__(self, permissions: Permissions, verdict: Verdict) -> None:
        self._permissions = permissions
        self._verdict = verdict

    def need(self, need: Need, values: Values) -> None:
        verdict = self._verdict
        outer, _, inner = need.field.partition(".")
        found = values.get(outer)
        if not need.field:
            if not self._allows(need.operation, need.resource):
                verdict.code = ERRORS[need.resource]
        elif isinstance(found, str):
            if not self._allows(need.operation, need.resource, found):
                verdict.code = ERRORS[need.resource]
        elif inner:
            for index, row in enumerate(found or ()):
                denied = self._elements(need, row[inner] or [])
                if denied and index not in verdict.cut.get(outer, ()):
                    verdict.nested[index] = denied
        elif found:
            denied = self._elements(need, found)
            if denied and not need.partial:
                if all("partitions" in row for row in found):
                    denied = dict.fromkeys(range(len(found)), OPERATION_NOT_ATTEMPTED) | denied
                else:
                    verdict.code = ERRORS[need.resource]
                    return
            if denied:
                verdict.cut[outer] = denied

    def _elements(self, need: Need, rows: list[Values]) -> dict[int, int]:
        denied = {}
        for index, row in enumerate(rows):
            resource = need.resource
            code = ERRORS[resource]
            if need.config:
                resource = _CONFIGS.get(row["type"], Resource.CLUSTER)
                code = config_error(row["type"])
                name = row["resource"]
            else:
                name = row.get(NAMES[resource])
            if name is None:
                name = self._permissions.access.names.find(row.get("id", b""))
                if name is None:
                    if not self._permissions.always(need.operation, resource):
                        denied[index] = UNKNOWN_TOPIC_ID
                    continue
            allowed = (
                self._allows(need.operation, resource)
                if resource is Resource.CLUSTER
                else self._allows(need.operation, resource, name)
            )
            if not allowed:
                denied[index] = code
        return denied

    def coordinators(self, values: Values) -> None:
        resource = coordinated(values)
        operation = Operation.CLUSTER_ACTION if resource is Resource.CLUSTER else Operation.DESCRIBE
        code = ERRORS[resource]
        denied = {}
        for index, name in enumerate(_keys(values)):
            if resource is Resource.CLUSTER:
                allowed = self._allows(operation, resource)
            else:
                allowed = self._allows(operation, resource, name)
            if not allowed:
                denied[index] = code
        if denied and "key" in values:
            self._verdict.code = code
        elif denied:
            self._verdict.cut["coordinators"] = denied

    def producer_id(self) -> None:
        permissions = self._permissions
        if permissions.allows(Operation.IDEMPOTENT_WRITE, Resource.CLUSTER) or permissions.somewhere(
            Operation.WRITE, Resource.TOPIC
        ):
            return
        self._allows(Operation.IDEMPOTENT_WRITE, Resource.CLUSTER)
        self._verdict.code = CLUSTER_AUTHORIZATION_FAILED

    def is_broker(self) -> bool:
        return self._allows(Operation.CLUSTER_ACTION, Resource.CLUSTER)

    def topology(self, values: Values) -> None:
        if any(
            not self._allows(Operation.DESCRIBE, Resource.TOPIC, name) for name in _topology(values["topology"] or {})
        ):
            self._verdict.code = ERRORS[Resource.TOPIC]

    def _allows(self, operation: Operation, resource: Resource, name: str | None = None) -> bool:
        permissions = self._permissions
        if name is None:
            if permissions.allows(operation, resource):
                return True
            self._verdict.denied.append((operation, resource, ""))
            return False
        if permissions.allows(operation, resource, name):
            return True
        self._verdict.denied.append((operation, resource, name))
        return False


def _keys(values: Values) -> list[str]:
    return [values["key"] or ""] if "key" in values else [row["key"] or "" for row in values["coordinators"] or ()]


def _topology(topology: Values) -> Iterator[str]:
    for part in topology.get("subtopologies") or ():
        for array in _TOPOLOGY_NAMES:
            yield from (row["value"] or "" for row in part.get(array) or ())
        for array in _TOPOLOGY_TOPICS:
            yield from (row["name"] or "" for row in part.get(array) or ())


def topics_of_group(group: Values) -> Iterator[str]:
    """Yield the topics that a described group's members tell of."""
    yield from _topology(group.get("topology") or {})
    for member in group["members"] or ():
        yield from (row["value"] or "" for row in member.get("subscribed_topic_names") or ())
        for assignment in (member.get("assignment") or {}, member.get("target_assignment") or {}):
            yield from (row["topic_name"] or "" for row in assignment.get("topic_partitions") or ())
