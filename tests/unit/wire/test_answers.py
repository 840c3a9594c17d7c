"""Joined lists and refusals, read back by kio and kafka-python."""

from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode
from oracles import KIO, KafkaPython, Kio, Tree, cases

from kproxy.errors import Malformed, ProtocolError, Unsupported
from kproxy.wire import answers

LIST_GROUPS, ALTER_DIRS, DESCRIBE_DIRS, LIST_TRANSACTIONS = 16, 34, 35, 66
LISTS = {LIST_GROUPS: "groups", LIST_TRANSACTIONS: "transaction_states"}
JOINS = {LIST_GROUPS: answers.join_list_groups, LIST_TRANSACTIONS: answers.join_list_transactions}
POLICY_VIOLATION = 44
Oracle = Kio | KafkaPython

listings = pytest.mark.parametrize(("oracle", "key", "version"), cases(LIST_GROUPS, LIST_TRANSACTIONS))


def throttle(tree: Tree) -> Any:
    """Take an oracle's throttle time, whatever its type; None where the version has none."""
    return tree.get("throttle_time", tree.get("throttle_time_ms"))


def some_answer(rng: Random, oracle: Oracle, key: int, version: int, error: str) -> Tree:
    """Make a random answer of one broker with this error."""
    code: Any = ErrorCode[error]
    return oracle.message(rng, key, version, "response") | {"error_code": code if oracle is KIO else int(code)}


@listings
def test_the_lists_of_all_brokers_become_one(oracle: Oracle, key: int, version: int) -> None:
    """Every entry of every broker in order, the longest throttle time, the rest as the first broker said."""
    rng = Random(key + version)
    for brokers in (1, 2, 3, 7):
        trees = [some_answer(rng, oracle, key, version, "none") for _ in range(brokers)]
        bodies = [oracle.encode(key, version, "response", tree) for tree in trees]
        joined = oracle.decode(key, version, "response", JOINS[key](version, bodies))
        expected = trees[0] | {LISTS[key]: [entry for tree in trees for entry in tree[LISTS[key]]]}
        if version or key == LIST_TRANSACTIONS:
            name = "throttle_time" if "throttle_time" in expected else "throttle_time_ms"
            expected[name] = max(throttle(tree) for tree in trees)
        assert joined == oracle.decode(key, version, "response", oracle.encode(key, version, "response", expected))
        if brokers == 1:
            assert JOINS[key](version, bodies) == bodies[0]


@listings
def test_a_broker_that_fails_does_not_hide_the_others(oracle: Oracle, key: int, version: int) -> None:
    """Answers with an error are left out; only if all have one is the first passed on, with nothing in the list."""
    rng = Random(key + version)
    good = some_answer(rng, oracle, key, version, "none")
    loading = some_answer(rng, oracle, key, version, "coordinator_load_in_progress") | {LISTS[key]: []}
    refused = some_answer(rng, oracle, key, version, "cluster_authorization_failed") | {LISTS[key]: []}
    bodies = [oracle.encode(key, version, "response", tree) for tree in (loading, good, refused)]
    for order in (bodies, bodies[::-1]):
        joined = oracle.decode(key, version, "response", JOINS[key](version, order))
        assert joined["error_code"] == 0
        assert joined[LISTS[key]] == good[LISTS[key]]
    joined = oracle.decode(key, version, "response", JOINS[key](version, [bodies[2], bodies[0]]))
    assert (joined["error_code"], joined[LISTS[key]]) == (31, [])
    assert throttle(joined) in (throttle(loading), throttle(refused), None)


@listings
def test_no_answer_at_all_says_come_again(oracle: Oracle, key: int, version: int) -> None:
    """COORDINATOR_NOT_AVAILABLE, which admin clients retry."""
    joined = oracle.decode(key, version, "response", JOINS[key](version, []))
    assert (joined["error_code"], joined[LISTS[key]]) == (answers.COORDINATOR_NOT_AVAILABLE, [])


@pytest.mark.parametrize(("key", "version"), [(16, 3), (16, 5), (66, 0), (66, 2)])
def test_tags_that_nobody_knows_are_kept(key: int, version: int) -> None:
    """Those of an entry stay with it, those at the end are the first broker's."""
    rng = Random(key)
    for seed in range(30):
        tree = some_answer(rng, KIO, key, version, "none")
        body = KIO.encode(key, version, "response", tree, unknown_tags=Random(seed))
        assert JOINS[key](version, [body]) == body
        empty = KIO.encode(key, version, "response", tree | {LISTS[key]: []})
        assert JOINS[key](version, [body, empty]) == body


@pytest.mark.parametrize("key", JOINS)
def test_a_list_cut_or_continued_is_malformed(key: int) -> None:
    """No proper prefix of an answer is joined, nor one with a byte behind it."""
    rng = Random(key)
    for version in (0, 1, 2):
        body = KIO.encode(key, version, "response", some_answer(rng, KIO, key, version, "none"))
        for wrong in [body[:cut] for cut in range(len(body))] + [body + b"\0"]:
            with pytest.raises(Malformed):
                JOINS[key](version, [wrong])


@pytest.mark.parametrize(("oracle", "key", "version"), cases(DESCRIBE_DIRS))
def test_describe_log_dirs_is_refused_where_clients_look(oracle: Oracle, key: int, version: int) -> None:
    """At the top from v3 on; before, in a log dir that has no name."""
    body = answers.refuse_log_dirs(key, version, b"", POLICY_VIOLATION)
    tree = oracle.decode(key, version, "response", body)
    if version >= 3:
        assert (tree["error_code"], tree["results"]) == (POLICY_VIOLATION, [])
    else:
        (result,) = tree["results"]
        assert (result["error_code"], result["log_dir"], result["topics"]) == (POLICY_VIOLATION, "", [])


@pytest.mark.parametrize(("oracle", "key", "version"), cases(ALTER_DIRS))
def test_alter_replica_log_dirs_is_refused_partition_by_partition(oracle: Oracle, key: int, version: int) -> None:
    """Every topic and partition of the request comes back, in order, with the error."""
    rng = Random(version)
    for _ in range(60):
        tree = oracle.message(rng, key, version, "request")
        request = oracle.encode(key, version, "request", tree)
        answer = oracle.decode(
            key, version, "response", answers.refuse_log_dirs(key, version, request, POLICY_VIOLATION)
        )
        assert answer["results"] == [
            {
                "topic_name": topic["name"],
                "partitions": [
                    {"partition_index": index, "error_code": POLICY_VIOLATION} for index in topic["partitions"]
                ],
            }
            for log_dir in tree["dirs"]
            for topic in log_dir["topics"]
        ]


def test_a_refused_request_must_be_one() -> None:
    """A request that is cut or continued is malformed, an unknown version or API unsupported."""
    tree: Tree = {"dirs": [{"path": "/d", "topics": [{"name": "t", "partitions": [0, 1]}]}]}
    for version in (1, 2):
        request = KIO.encode(ALTER_DIRS, version, "request", tree)
        for wrong in [request[:cut] for cut in range(len(request))] + [request + b"\0"]:
            with pytest.raises(Malformed):
                answers.refuse_log_dirs(ALTER_DIRS, version, wrong, POLICY_VIOLATION)
    for key, version in ((ALTER_DIRS, 3), (DESCRIBE_DIRS, 6), (DESCRIBE_DIRS, -1), (0, 0)):
        with pytest.raises(Unsupported):
            answers.refuse_log_dirs(key, version, b"", POLICY_VIOLATION)
    with pytest.raises(Unsupported):
        answers.join_list_groups(6, [])
    with pytest.raises(Unsupported):
        answers.join_list_transactions(3, [])


@given(version=st.integers(0, 5), body=st.binary(max_size=100), plausible=st.booleans())
def test_garbage_raises_nothing_but_protocol_errors(version: int, body: bytes, *, plausible: bool) -> None:
    """Whatever the bytes, an answer or a ProtocolError."""
    listing = bytes(6) + b"\x02" + body if plausible else body
    with suppress(ProtocolError):
        answers.join_list_groups(version, [listing])
    with suppress(ProtocolError):
        answers.join_list_transactions(version % 3, [listing])
    with suppress(ProtocolError):
        answers.refuse_log_dirs(ALTER_DIRS, version % 3, body, POLICY_VIOLATION)
