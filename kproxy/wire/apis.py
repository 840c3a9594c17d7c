"""The table of Kafka's APIs: what clients may ask for, which versions kproxy understands, which are flexible.

A request and its answer always share versions and the first flexible one (KIP-482), so one row serves both::

    >>> APIS[ApiKey.METADATA]
    Api(key=3, name='Metadata', min_version=0, max_version=13, flexible_from=9)
    >>> is_flexible(ApiKey.METADATA, 8), is_flexible(ApiKey.METADATA, 9)
    (False, True)

Versions are the union over the brokers of Kafka 2.4 to 4.3; what one cluster offers is less. An API that is not in
the table was never offered to a client: asking for it is Unsupported, and a broker would close the connection too
(SocketServer.parseRequestHeader). Never here: which API is allowed, or where its request goes.
"""

from dataclasses import dataclass
from enum import IntEnum

from kproxy.errors import Unsupported


@dataclass(frozen=True, slots=True)
class Api:
    """One API as kproxy understands it.

    ``flexible_from`` is the first version with compact types and tagged fields, whose request header is v2 and
    response header v1; None: no version is flexible.
    """

    key: int
    name: str
    min_version: int
    max_version: int
    flexible_from: int | None


class ApiKey(IntEnum):
    """The keys of all client-facing APIs, by Kafka's names (org.apache.kafka.common.protocol.ApiKeys)."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    DESCRIBE_GROUPS = 15
    LIST_GROUPS = 16
    SASL_HANDSHAKE = 17
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    DELETE_TOPICS = 20
    DELETE_RECORDS = 21
    INIT_PRODUCER_ID = 22
    OFFSET_FOR_LEADER_EPOCH = 23
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28
    DESCRIBE_ACLS = 29
    CREATE_ACLS = 30
    DELETE_ACLS = 31
    DESCRIBE_CONFIGS = 32
    ALTER_CONFIGS = 33
    ALTER_REPLICA_LOG_DIRS = 34
    DESCRIBE_LOG_DIRS = 35
    SASL_AUTHENTICATE = 36
    CREATE_PARTITIONS = 37
    CREATE_DELEGATION_TOKEN = 38
    RENEW_DELEGATION_TOKEN = 39
    EXPIRE_DELEGATION_TOKEN = 40
    DESCRIBE_DELEGATION_TOKEN = 41
    DELETE_GROUPS = 42
    ELECT_LEADERS = 43
    INCREMENTAL_ALTER_CONFIGS = 44
    ALTER_PARTITION_REASSIGNMENTS = 45
    LIST_PARTITION_REASSIGNMENTS = 46
    OFFSET_DELETE = 47
    DESCRIBE_CLIENT_QUOTAS = 48
    ALTER_CLIENT_QUOTAS = 49
    DESCRIBE_USER_SCRAM_CREDENTIALS = 50
    ALTER_USER_SCRAM_CREDENTIALS = 51
    DESCRIBE_QUORUM = 55
    UPDATE_FEATURES = 57
    DESCRIBE_CLUSTER = 60
    DESCRIBE_PRODUCERS = 61
    UNREGISTER_BROKER = 64
    DESCRIBE_TRANSACTIONS = 65
    LIST_TRANSACTIONS = 66
    CONSUMER_GROUP_HEARTBEAT = 68
    CONSUMER_GROUP_DESCRIBE = 69
    GET_TELEMETRY_SUBSCRIPTIONS = 71
    PUSH_TELEMETRY = 72
    LIST_CONFIG_RESOURCES = 74
    DESCRIBE_TOPIC_PARTITIONS = 75
    SHARE_GROUP_HEARTBEAT = 76
    SHARE_GROUP_DESCRIBE = 77
    SHARE_FETCH = 78
    SHARE_ACKNOWLEDGE = 79
    ADD_RAFT_VOTER = 80
    REMOVE_RAFT_VOTER = 81
    STREAMS_GROUP_HEARTBEAT = 88
    STREAMS_GROUP_DESCRIBE = 89
    DESCRIBE_SHARE_GROUP_OFFSETS = 90
    ALTER_SHARE_GROUP_OFFSETS = 91
    DELETE_SHARE_GROUP_OFFSETS = 92


# Key, name, lowest and highest version, first flexible version.
_ROWS: tuple[tuple[int, str, int, int, int | None], ...] = (
    (0, "Produce", 0, 13, 9),
    # Fetch exists up to v18. From v16 an answer may end with the brokers' own addresses, behind all its records; v16 to
    # v18 give a consumer nothing else, and without them it refreshes its metadata at a leader change (KIP-951).
    (1, "Fetch", 0, 15, 12),
    (2, "ListOffsets", 0, 11, 6),
    (3, "Metadata", 0, 13, 9),
    (8, "OffsetCommit", 0, 10, 8),
    (9, "OffsetFetch", 0, 10, 6),
    (10, "FindCoordinator", 0, 6, 3),
    (11, "JoinGroup", 0, 9, 6),
    (12, "Heartbeat", 0, 4, 4),
    (13, "LeaveGroup", 0, 5, 4),
    (14, "SyncGroup", 0, 5, 4),
    (15, "DescribeGroups", 0, 6, 5),
    (16, "ListGroups", 0, 5, 3),
    (17, "SaslHandshake", 0, 1, None),
    # ApiVersions v5 (Kafka 4.4, KIP-1242) names the broker that the client believes to speak to; a proxy has to answer
    # that itself.
    (18, "ApiVersions", 0, 4, 3),
    (19, "CreateTopics", 0, 7, 5),
    (20, "DeleteTopics", 0, 6, 4),
    (21, "DeleteRecords", 0, 2, 2),
    (22, "InitProducerId", 0, 6, 2),
    (23, "OffsetForLeaderEpoch", 0, 4, 4),
    # AddPartitionsToTxn v4 and later are for brokers only; a broker refuses them without CLUSTER_ACTION.
    (24, "AddPartitionsToTxn", 0, 5, 3),
    (25, "AddOffsetsToTxn", 0, 4, 3),
    (26, "EndTxn", 0, 5, 3),
    (28, "TxnOffsetCommit", 0, 5, 3),
    (29, "DescribeAcls", 0, 3, 2),
    (30, "CreateAcls", 0, 3, 2),
    (31, "DeleteAcls", 0, 3, 2),
    (32, "DescribeConfigs", 0, 4, 4),
    (33, "AlterConfigs", 0, 2, 2),
    (34, "AlterReplicaLogDirs", 0, 2, 2),
    (35, "DescribeLogDirs", 0, 5, 2),
    (36, "SaslAuthenticate", 0, 2, 2),
    (37, "CreatePartitions", 0, 3, 2),
    (38, "CreateDelegationToken", 0, 3, 2),
    (39, "RenewDelegationToken", 0, 2, 2),
    (40, "ExpireDelegationToken", 0, 2, 2),
    (41, "DescribeDelegationToken", 0, 3, 2),
    (42, "DeleteGroups", 0, 2, 2),
    (43, "ElectLeaders", 0, 2, 2),
    (44, "IncrementalAlterConfigs", 0, 1, 1),
    (45, "AlterPartitionReassignments", 0, 1, 0),
    (46, "ListPartitionReassignments", 0, 0, 0),
    (47, "OffsetDelete", 0, 0, None),
    (48, "DescribeClientQuotas", 0, 1, 1),
    (49, "AlterClientQuotas", 0, 1, 1),
    (50, "DescribeUserScramCredentials", 0, 0, 0),
    (51, "AlterUserScramCredentials", 0, 0, 0),
    (55, "DescribeQuorum", 0, 2, 0),
    (57, "UpdateFeatures", 0, 2, 0),
    (60, "DescribeCluster", 0, 2, 0),
    (61, "DescribeProducers", 0, 0, 0),
    (64, "UnregisterBroker", 0, 0, 0),
    (65, "DescribeTransactions", 0, 0, 0),
    (66, "ListTransactions", 0, 2, 0),
    (68, "ConsumerGroupHeartbeat", 0, 1, 0),
    (69, "ConsumerGroupDescribe", 0, 1, 0),
    (71, "GetTelemetrySubscriptions", 0, 0, 0),
    (72, "PushTelemetry", 0, 0, 0),
    # ListClientMetricsResources until Kafka 4.0.
    (74, "ListConfigResources", 0, 1, 0),
    (75, "DescribeTopicPartitions", 0, 0, 0),
    (76, "ShareGroupHeartbeat", 0, 1, 0),
    (77, "ShareGroupDescribe", 0, 1, 0),
    (78, "ShareFetch", 0, 2, 0),
    (79, "ShareAcknowledge", 0, 2, 0),
    (80, "AddRaftVoter", 0, 1, 0),
    (81, "RemoveRaftVoter", 0, 0, 0),
    (88, "StreamsGroupHeartbeat", 0, 0, 0),
    (89, "StreamsGroupDescribe", 0, 0, 0),
    (90, "DescribeShareGroupOffsets", 0, 1, 0),
    (91, "AlterShareGroupOffsets", 0, 0, 0),
    (92, "DeleteShareGroupOffsets", 0, 0, 0),
)

#: The client-facing APIs by key.
APIS: dict[int, Api] = {row[0]: Api(*row) for row in _ROWS}

#: APIs between brokers and controllers: refused, and left out of ApiVersions answers. Brokers do offer 27 and 83 to
#: 87 on their client listener; 27 (WriteTxnMarkers) has one client use, ``Admin.abortTransaction``.
BROKER_ONLY: dict[int, str] = {
    4: "LeaderAndIsr",
    5: "StopReplica",
    6: "UpdateMetadata",
    7: "ControlledShutdown",
    27: "WriteTxnMarkers",
    52: "Vote",
    53: "BeginQuorumEpoch",
    54: "EndQuorumEpoch",
    56: "AlterPartition",
    58: "Envelope",
    59: "FetchSnapshot",
    62: "BrokerRegistration",
    63: "BrokerHeartbeat",
    67: "AllocateProducerIds",
    70: "ControllerRegistration",
    73: "AssignReplicasToDirs",
    82: "UpdateRaftVoter",
    83: "InitializeShareGroupState",
    84: "ReadShareGroupState",
    85: "WriteShareGroupState",
    86: "DeleteShareGroupState",
    87: "ReadShareGroupStateSummary",
}

# The first flexible version per key; "never" is above any version that an INT16 can hold.
_FLEXIBLE_FROM = {api.key: 1 << 15 if api.flexible_from is None else api.flexible_from for api in APIS.values()}


def is_flexible(key: int, version: int) -> bool:
    """Whether a request has header v2 and a body of compact types and tagged fields; its answer's body likewise.

    Raises Unsupported for a key that is not in APIS. A version above the table's is taken as flexible where its
    predecessors are: such an ApiVersions request must still be understood, to answer it with our range.
    """
    try:
        return version >= _FLEXIBLE_FROM[key]
    except KeyError:
        raise Unsupported(f"API key {key} is not for clients") from None


def response_header_flexible(key: int, version: int) -> bool:
    """Whether a response has header v1, with tagged fields behind the correlation id.

    Never for ApiVersions: the client that asks does not know yet what the broker speaks (KIP-511).
    Raises Unsupported for a key that is not in APIS.
    """
    return key != ApiKey.API_VERSIONS and is_flexible(key, version)
