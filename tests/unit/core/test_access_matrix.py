"""The authorization matrix: every client-facing API, at its lowest and highest version, allowed and denied."""

from random import Random
from typing import Any

import pytest
from guarded_stage import EVERYTHING, Guard, body_of, errors
from oracles import KafkaPython, Kio, Tree, cases

from kproxy.core.access import HIDDEN, KEYS, PRESETS, Access
from kproxy.wire import frames
from kproxy.wire.apis import APIS, ApiKey

TOPIC, GROUP, CLUSTER, TXN, NOT_ATTEMPTED, UNKNOWN_ID = 29, 30, 31, 53, 55, 100

DENIED: dict[int, set[int]] = {
    ApiKey.PRODUCE: {TOPIC, TXN, UNKNOWN_ID},
    ApiKey.FETCH: {TOPIC, UNKNOWN_ID},
    ApiKey.LIST_OFFSETS: {TOPIC},
    ApiKey.OFFSET_COMMIT: {GROUP},
    ApiKey.OFFSET_FETCH: {GROUP},
    ApiKey.FIND_COORDINATOR: {GROUP, TXN, CLUSTER},
    ApiKey.JOIN_GROUP: {GROUP},
    ApiKey.HEARTBEAT: {GROUP},
    ApiKey.LEAVE_GROUP: {GROUP},
    ApiKey.SYNC_GROUP: {GROUP},
    ApiKey.DESCRIBE_GROUPS: {GROUP},
    ApiKey.CREATE_TOPICS: {TOPIC},
    ApiKey.DELETE_TOPICS: {TOPIC, UNKNOWN_ID},
    ApiKey.DELETE_RECORDS: {TOPIC},
    ApiKey.INIT_PRODUCER_ID: {TXN, CLUSTER},
    ApiKey.OFFSET_FOR_LEADER_EPOCH: {TOPIC},
    ApiKey.ADD_PARTITIONS_TO_TXN: {TXN},
    ApiKey.ADD_OFFSETS_TO_TXN: {TXN},
    ApiKey.END_TXN: {TXN},
    ApiKey.TXN_OFFSET_COMMIT: {TXN},
    ApiKey.DESCRIBE_ACLS: {CLUSTER},
    ApiKey.CREATE_ACLS: {CLUSTER},
    ApiKey.DELETE_ACLS: {CLUSTER},
    ApiKey.DESCRIBE_CONFIGS: {TOPIC, GROUP, CLUSTER},
    ApiKey.ALTER_CONFIGS: {TOPIC, GROUP, CLUSTER},
    ApiKey.ALTER_REPLICA_LOG_DIRS: {CLUSTER},
    ApiKey.DESCRIBE_LOG_DIRS: {CLUSTER},
    ApiKey.CREATE_PARTITIONS: {TOPIC},
    ApiKey.CREATE_DELEGATION_TOKEN: {CLUSTER},
    ApiKey.RENEW_DELEGATION_TOKEN: {CLUSTER},
    ApiKey.EXPIRE_DELEGATION_TOKEN: {CLUSTER},
    ApiKey.DESCRIBE_DELEGATION_TOKEN: {CLUSTER},
    ApiKey.DELETE_GROUPS: {GROUP},
    ApiKey.ELECT_LEADERS: {CLUSTER},
    ApiKey.INCREMENTAL_ALTER_CONFIGS: {TOPIC, GROUP, CLUSTER},
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: {CLUSTER},
    ApiKey.LIST_PARTITION_REASSIGNMENTS: {CLUSTER},
    ApiKey.OFFSET_DELETE: {GROUP},
    ApiKey.DESCRIBE_CLIENT_QUOTAS: {CLUSTER},
    ApiKey.ALTER_CLIENT_QUOTAS: {CLUSTER},
    ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS: {CLUSTER},
    ApiKey.ALTER_USER_SCRAM_CREDENTIALS: {CLUSTER},
    ApiKey.DESCRIBE_QUORUM: {CLUSTER},
    ApiKey.UPDATE_FEATURES: {CLUSTER},
    ApiKey.DESCRIBE_PRODUCERS: {TOPIC},
    ApiKey.UNREGISTER_BROKER: {CLUSTER},
    ApiKey.DESCRIBE_TRANSACTIONS: {TXN},
    ApiKey.CONSUMER_GROUP_HEARTBEAT: {GROUP},
    ApiKey.CONSUMER_GROUP_DESCRIBE: {GROUP},
    ApiKey.LIST_CONFIG_RESOURCES: {CLUSTER},
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: {TOPIC},
    ApiKey.SHARE_GROUP_HEARTBEAT: {GROUP},
    ApiKey.SHARE_GROUP_DESCRIBE: {GROUP},
    ApiKey.SHARE_FETCH: {GROUP},
    ApiKey.SHARE_ACKNOWLEDGE: {GROUP},
    ApiKey.ADD_RAFT_VOTER: {CLUSTER},
    ApiKey.REMOVE_RAFT_VOTER: {CLUSTER},
    ApiKey.STREAMS_GROUP_HEARTBEAT: {GROUP},
    ApiKey.STREAMS_GROUP_DESCRIBE: {GROUP},
    ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS: {GROUP},
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: {GROUP},
    ApiKey.DELETE_SHARE_GROUP_OFFSETS: {GROUP},
}
"""The errors that a client without any right may get (KafkaApis.scala)."""

FREE = {
    ApiKey.DESCRIBE_CLUSTER,
    ApiKey.GET_TELEMETRY_SUBSCRIPTIONS,
    ApiKey.PUSH_TELEMETRY,
}
"""What takes no right."""

FILTERED = {ApiKey.METADATA, ApiKey.LIST_GROUPS, ApiKey.LIST_TRANSACTIONS}
"""What is always answered, with what one may see."""

OWN = {ApiKey.SASL_HANDSHAKE, ApiKey.API_VERSIONS, ApiKey.SASL_AUTHENTICATE}

EDGES = [
    case
    for case in cases(*(set(APIS) - OWN))
    if case.values[2]
    in {
        max(APIS[case.values[1]].min_version, case.values[0].versions(case.values[1])[0]),
        min(APIS[case.values[1]].max_version, case.values[0].versions(case.values[1])[-1]),
    }
]
edges = pytest.mark.parametrize(("oracle", "key", "version"), EDGES)


def named(oracle: Kio | KafkaPython, key: int, version: int, seed: int) -> Tree:
    """Make a random request that names something wherever it can, and wants an answer."""
    rng = Random(seed)
    while True:
        tree = oracle.message(rng, key, version, "request")
        if full(tree, key):
            return tree


def full(tree: Any, key: int) -> bool:
    """Whether no array but those of options is empty or null, and the groups are there."""
    wants = {
        *("topics", "topic_data", "partitions", "partition_data", "group_id", "groups", "groups_names", "group_ids"),
        *("resources", "creations", "filters", "coordinator_keys", "transactional_ids", "dirs", "entries", "deletions"),
        *("topic_names", "topic_partitions", "partition_indexes", "v3_and_below_topics"),
    }
    if key in (ApiKey.CONSUMER_GROUP_HEARTBEAT, ApiKey.STREAMS_GROUP_HEARTBEAT):
        wants = {"group_id"}
    if isinstance(tree, list):
        return all(full(each, key) for each in tree)
    if not isinstance(tree, dict):
        return True
    if tree.get("acks") == 0 or tree.get("replica_id", -1) >= 0:
        return False
    if key == ApiKey.FETCH and tree.get("session_epoch", -1) > 0:
        return False
    return all((value or name not in wants) and full(value, key) for name, value in tree.items())


@edges
def test_denied(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """Whoever has no right gets the proper error, everything that must be echoed, and the broker never hears of it."""
    if key in FREE | FILTERED:
        return
    for seed in range(3):
        guard = Guard(Access())
        tree = named(oracle, key, version, seed)
        body = oracle.encode(key, version, "request", tree)
        assert guard.send(frames.request(key, version, 7, "c", body)) == b""
        (got,) = guard.client_got
        assert got[4:8] == b"\0\0\0\7"
        answer = body_of(key, version, got, "response")
        found = errors(answer) - {0}
        expected = {CLUSTER} if key == ApiKey.ADD_PARTITIONS_TO_TXN and version > 3 else DENIED[key]
        if key == ApiKey.DESCRIBE_LOG_DIRS and version < 3:
            assert answer["results"] == []
        else:
            assert found, answer
            assert found <= expected, answer
        assert guard.told or UNKNOWN_ID in found
        assert guard.tally.requests[key << 16 | version] == 1
        assert guard.exchange.idle


@edges
def test_allowed(oracle: Kio | KafkaPython, key: int, version: int) -> None:
    """What is allowed reaches the broker byte for byte, or with nothing but the right to create topics taken away."""
    for seed in range(3):
        guard = Guard(Access((EVERYTHING,)))
        if (key == ApiKey.PRODUCE and version >= 13) or key in (ApiKey.FETCH, ApiKey.METADATA, ApiKey.DELETE_TOPICS):
            continue  # by id, or in sessions: see test_guarded
        frame = frames.request(
            key, version, 7, "c", oracle.encode(key, version, "request", named(oracle, key, version, seed))
        )
        assert guard.send(frame) == frame
        assert guard.to_client == b""
        assert guard.told == []


@edges
@pytest.mark.parametrize("dry_run", [False, True])
def test_apis_denied_as_a_whole(oracle: Kio | KafkaPython, key: int, version: int, dry_run: bool) -> None:
    """An API that is denied is answered with an error, and is not forwarded; in a dry run it is, and is counted."""
    guard = Guard(Access((EVERYTHING,), denied_apis=frozenset({key}), dry_run=dry_run))
    frame = frames.request(key, version, 7, "c", oracle.encode(key, version, "request", named(oracle, key, version, 1)))
    out = guard.send(frame)
    assert [(denial.api, denial.resource) for denial in guard.told] == [(APIS[key].name, "api")]
    if dry_run:
        assert out == frame
        return
    if key == ApiKey.METADATA:  # the brokers must be told all the same
        assert body_of(key, version, out, "request")["topics"] in (None, [])
        return
    assert out == b""
    answer = body_of(key, version, guard.client_got[0], "response")
    if not (key == ApiKey.DESCRIBE_LOG_DIRS and version < 3):
        assert errors(answer) - {0}, answer
        assert errors(answer) <= {0, TOPIC, GROUP, CLUSTER, TXN}, answer


def test_the_matrix_is_whole() -> None:
    """Each API of the table is in it, and every preset and hidden API exists."""
    assert set(APIS) == set(DENIED) | FREE | FILTERED | OWN
    assert PRESETS["no_admin"] < PRESETS["read_only"] <= KEYS.keys()
    assert KEYS.keys() >= HIDDEN
