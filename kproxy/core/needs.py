"""What each API needs: which operations on which of the resources that its requests name (KafkaApis.scala).

A need is about one name, or about each element of an array; what is denied is then taken out of it, and the rest goes
on. A Fetch needs READ on each of its topics, an OffsetCommit READ on its group and on each of its topics::

    >>> needs(ApiKey.OFFSET_COMMIT)
    (Need(READ, GROUP, 'group'), Need(READ, TOPIC, 'topics'))

Never here: whether anybody may do it.
"""

from typing import NamedTuple

from kproxy.core.access import Operation, Resource
from kproxy.wire.apis import ApiKey

TOPIC_AUTHORIZATION_FAILED = 29
GROUP_AUTHORIZATION_FAILED = 30
CLUSTER_AUTHORIZATION_FAILED = 31
TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
DELEGATION_TOKEN_AUTHORIZATION_FAILED = 65
OPERATION_NOT_ATTEMPTED = 55
UNKNOWN_TOPIC_ID = 100
UNKNOWN_TOPIC_OR_PARTITION = 3
FETCH_SESSION_ID_NOT_FOUND = 70

ERRORS = {
    Resource.TOPIC: TOPIC_AUTHORIZATION_FAILED,
    Resource.GROUP: GROUP_AUTHORIZATION_FAILED,
    Resource.CLUSTER: CLUSTER_AUTHORIZATION_FAILED,
    Resource.TXN: TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}


class Need(NamedTuple):
    """One need."""

    operation: Operation
    resource: Resource
    field: str = ""
    """Where the name stands: in a field of that name (group, txn), or in each element of an array, whose field is the
    resource's. A dot: in an array within each element of an array. Nothing: the cluster is meant."""
    partial: bool = True
    """Whether what is denied can be taken out of an array; otherwise one denied element denies all."""
    config: bool = False
    """Elements are config resources, of which each says its type; ``resource`` is of no account then."""

    def __repr__(self) -> str:
        """Shorten it."""
        return f"Need({self.operation.name}, {self.resource.name}, {self.field!r})"


_O, _R = Operation, Resource
_READ_GROUP = Need(_O.READ, _R.GROUP, "group")
_DESCRIBE_GROUPS = (Need(_O.DESCRIBE, _R.GROUP, "groups"),)
_WRITE_TXN = Need(_O.WRITE, _R.TXN, "txn")
_DESCRIBE_TOPICS = Need(_O.DESCRIBE, _R.TOPIC, "topics")
_READ_TOPICS = Need(_O.READ, _R.TOPIC, "topics")
_ALTER_CLUSTER = (Need(_O.ALTER, _R.CLUSTER),)
_DESCRIBE_CLUSTER = (Need(_O.DESCRIBE, _R.CLUSTER),)
_HEARTBEAT = (_READ_GROUP, Need(_O.DESCRIBE, _R.TOPIC, "topics", partial=False))
_ALTER_RESOURCES = (Need(_O.ALTER_CONFIGS, _R.CLUSTER, "resources", config=True),)

_NEEDS: dict[int, tuple[Need, ...]] = {
    ApiKey.PRODUCE: (_WRITE_TXN, Need(_O.WRITE, _R.TOPIC, "topics")),
    ApiKey.FETCH: (_READ_TOPICS,),
    ApiKey.LIST_OFFSETS: (_DESCRIBE_TOPICS,),
    ApiKey.METADATA: (_DESCRIBE_TOPICS,),
    ApiKey.OFFSET_COMMIT: (_READ_GROUP, _READ_TOPICS),
    ApiKey.OFFSET_FETCH: (
        Need(_O.DESCRIBE, _R.GROUP, "group"),
        *_DESCRIBE_GROUPS,
        _DESCRIBE_TOPICS,
        Need(_O.DESCRIBE, _R.TOPIC, "groups.topics"),
    ),
    ApiKey.JOIN_GROUP: (_READ_GROUP,),
    ApiKey.HEARTBEAT: (_READ_GROUP,),
    ApiKey.LEAVE_GROUP: (_READ_GROUP,),
    ApiKey.SYNC_GROUP: (_READ_GROUP,),
    ApiKey.DESCRIBE_GROUPS: _DESCRIBE_GROUPS,
    # Or CREATE on the cluster.
    ApiKey.CREATE_TOPICS: (Need(_O.CREATE, _R.TOPIC, "topics"),),
    ApiKey.DELETE_TOPICS: (Need(_O.DELETE, _R.TOPIC, "topics"),),
    ApiKey.DELETE_RECORDS: (Need(_O.DELETE, _R.TOPIC, "topics"),),
    # Without a transactional id: see decision.
    ApiKey.INIT_PRODUCER_ID: (_WRITE_TXN,),
    ApiKey.OFFSET_FOR_LEADER_EPOCH: (_DESCRIBE_TOPICS,),
    ApiKey.ADD_PARTITIONS_TO_TXN: (_WRITE_TXN, Need(_O.WRITE, _R.TOPIC, "topics", partial=False)),
    ApiKey.ADD_OFFSETS_TO_TXN: (_WRITE_TXN, _READ_GROUP),
    ApiKey.END_TXN: (_WRITE_TXN,),
    ApiKey.TXN_OFFSET_COMMIT: (_WRITE_TXN, _READ_GROUP, _READ_TOPICS),
    ApiKey.DESCRIBE_ACLS: _DESCRIBE_CLUSTER,
    ApiKey.CREATE_ACLS: _ALTER_CLUSTER,
    ApiKey.DELETE_ACLS: _ALTER_CLUSTER,
    ApiKey.DESCRIBE_CONFIGS: (Need(_O.DESCRIBE_CONFIGS, _R.CLUSTER, "resources", config=True),),
    ApiKey.ALTER_CONFIGS: _ALTER_RESOURCES,
    ApiKey.ALTER_REPLICA_LOG_DIRS: _ALTER_CLUSTER,
    ApiKey.DESCRIBE_LOG_DIRS: _DESCRIBE_CLUSTER,
    ApiKey.CREATE_PARTITIONS: (Need(_O.ALTER, _R.TOPIC, "topics"),),
    # To a broker a token is the user's who asks, and behind kproxy all clients are one: whoever has such a token is
    # kproxy. So they are for those who may do anything.
    ApiKey.CREATE_DELEGATION_TOKEN: _ALTER_CLUSTER,
    ApiKey.RENEW_DELEGATION_TOKEN: _ALTER_CLUSTER,
    ApiKey.EXPIRE_DELEGATION_TOKEN: _ALTER_CLUSTER,
    ApiKey.DESCRIBE_DELEGATION_TOKEN: _ALTER_CLUSTER,
    ApiKey.DELETE_GROUPS: (Need(_O.DELETE, _R.GROUP, "groups"),),
    ApiKey.ELECT_LEADERS: _ALTER_CLUSTER,
    ApiKey.INCREMENTAL_ALTER_CONFIGS: _ALTER_RESOURCES,
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: _ALTER_CLUSTER,
    ApiKey.LIST_PARTITION_REASSIGNMENTS: _DESCRIBE_CLUSTER,
    ApiKey.OFFSET_DELETE: (Need(_O.DELETE, _R.GROUP, "group"), _READ_TOPICS),
    ApiKey.DESCRIBE_CLIENT_QUOTAS: (Need(_O.DESCRIBE_CONFIGS, _R.CLUSTER),),
    ApiKey.ALTER_CLIENT_QUOTAS: (Need(_O.ALTER_CONFIGS, _R.CLUSTER),),
    ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS: _DESCRIBE_CLUSTER,
    ApiKey.ALTER_USER_SCRAM_CREDENTIALS: _ALTER_CLUSTER,
    ApiKey.DESCRIBE_QUORUM: _DESCRIBE_CLUSTER,
    ApiKey.UPDATE_FEATURES: _ALTER_CLUSTER,
    ApiKey.DESCRIBE_PRODUCERS: (_READ_TOPICS,),
    ApiKey.UNREGISTER_BROKER: _ALTER_CLUSTER,
    ApiKey.DESCRIBE_TRANSACTIONS: (Need(_O.DESCRIBE, _R.TXN, "transactions"),),
    ApiKey.CONSUMER_GROUP_HEARTBEAT: _HEARTBEAT,
    ApiKey.CONSUMER_GROUP_DESCRIBE: _DESCRIBE_GROUPS,
    ApiKey.LIST_CONFIG_RESOURCES: (Need(_O.DESCRIBE_CONFIGS, _R.CLUSTER),),
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: (_DESCRIBE_TOPICS,),
    ApiKey.SHARE_GROUP_HEARTBEAT: _HEARTBEAT,
    ApiKey.SHARE_GROUP_DESCRIBE: _DESCRIBE_GROUPS,
    ApiKey.SHARE_FETCH: (_READ_GROUP, _READ_TOPICS),
    ApiKey.SHARE_ACKNOWLEDGE: (_READ_GROUP, _READ_TOPICS),
    ApiKey.ADD_RAFT_VOTER: _ALTER_CLUSTER,
    ApiKey.REMOVE_RAFT_VOTER: _ALTER_CLUSTER,
    ApiKey.STREAMS_GROUP_HEARTBEAT: (_READ_GROUP,),
    ApiKey.STREAMS_GROUP_DESCRIBE: _DESCRIBE_GROUPS,
    ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS: (*_DESCRIBE_GROUPS, Need(_O.DESCRIBE, _R.TOPIC, "groups.topics")),
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: (_READ_GROUP, _READ_TOPICS),
    ApiKey.DELETE_SHARE_GROUP_OFFSETS: (Need(_O.DELETE, _R.GROUP, "group"), _READ_TOPICS),
}


def needs(key: int) -> tuple[Need, ...]:
    """Return what an API needs; FindCoordinator, whose keys are groups or not, has a place of its own."""
    return _NEEDS.get(key, ())


NAMES = {Resource.TOPIC: "name", Resource.GROUP: "group", Resource.TXN: "txn"}
"""The field of an element that holds the resource's name."""

SHOWN: dict[int, tuple[Need, ...]] = {
    ApiKey.METADATA: (_DESCRIBE_TOPICS,),
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: (_DESCRIBE_TOPICS,),
    ApiKey.LIST_GROUPS: _DESCRIBE_GROUPS,
    ApiKey.LIST_TRANSACTIONS: (Need(_O.DESCRIBE, _R.TXN, "transactions"),),
    ApiKey.DESCRIBE_TRANSACTIONS: (Need(_O.DESCRIBE, _R.TOPIC, "transactions.topics"),),
    ApiKey.OFFSET_FETCH: (_DESCRIBE_TOPICS, Need(_O.DESCRIBE, _R.TOPIC, "groups.topics")),
    ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS: (Need(_O.DESCRIBE, _R.TOPIC, "groups.topics"),),
}
"""Answers that tell of what was not named: what one may not describe is left out of them."""

GROUPS_SHOWN = frozenset({ApiKey.CONSUMER_GROUP_DESCRIBE, ApiKey.SHARE_GROUP_DESCRIBE, ApiKey.STREAMS_GROUP_DESCRIBE})
"""Answers in which a group's members tell of topics: if one may not describe one of these, the group is an error."""
