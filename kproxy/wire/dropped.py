"""Which versions newer releases of Kafka no longer take, which is who breaks when a cluster goes there.

Kafka 4.0 raised the lowest version of 19 of clients' APIs (KIP-896), and 4.1 those of share groups, whose first ones
were an early access (KIP-932). Nothing was dropped since, up to 4.3::

    >>> FIRST_VERSIONS["4.0"]["Fetch"]               # v0 to v3 are refused
    4

What brokers advertise is no guide: 4.0 and later still tell Produce v0, which librdkafka asks for, and refuse it
(KAFKA-18659). What is not listed has lost nothing.
"""

_KAFKA_4_0 = {
    "Produce": 3,
    "Fetch": 4,
    "ListOffsets": 1,
    "OffsetCommit": 2,
    "OffsetFetch": 1,
    "JoinGroup": 2,
    "CreateTopics": 2,
    "DeleteTopics": 1,
    "OffsetForLeaderEpoch": 2,
    "DescribeAcls": 1,
    "CreateAcls": 1,
    "DeleteAcls": 1,
    "DescribeConfigs": 1,
    "AlterReplicaLogDirs": 1,
    "DescribeLogDirs": 1,
    "CreateDelegationToken": 1,
    "RenewDelegationToken": 1,
    "ExpireDelegationToken": 1,
    "DescribeDelegationToken": 1,
}
_SHARE_GROUPS = {"ShareGroupHeartbeat": 1, "ShareGroupDescribe": 1, "ShareFetch": 1, "ShareAcknowledge": 1}

FIRST_VERSIONS: dict[str, dict[str, int]] = {
    "4.0": _KAFKA_4_0,
    # JoinGroup v0 and v1 came back with 4.0.1 and 4.1.0 (KAFKA-19444).
    "4.1": {name: first for name, first in _KAFKA_4_0.items() if name != "JoinGroup"} | _SHARE_GROUPS,
}
"""Release -> API -> the lowest version that is taken from it on; the last release stands for all later ones."""
