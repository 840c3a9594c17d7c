"""ApiVersions, checked against kio and kafka-python."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import KAFKA_PYTHON, KIO, KafkaPython, Kio, Tree, cases

from kproxy.errors import Malformed, ProtocolError, Unsupported
from kproxy.wire import apiversions
from kproxy.wire.apiversions import ApiRange, ApiVersionsAnswer, ClientSoftware

KEY = 18
Oracle = Kio | KafkaPython

versions = pytest.mark.parametrize(("oracle", "key", "version"), cases(KEY))


def milliseconds(value: Any) -> int:
    """Make one of both oracles' times."""
    return int(value / timedelta(milliseconds=1)) if isinstance(value, timedelta) else int(value)


def as_answer(tree: Tree) -> ApiVersionsAnswer:
    """Tell an oracle's message in our words."""
    return ApiVersionsAnswer(
        error_code=tree["error_code"],
        ranges={item["api_key"]: (item["min_version"], item["max_version"]) for item in tree["api_keys"]},
        throttle_time_ms=milliseconds(tree.get("throttle_time", tree.get("throttle_time_ms", 0))),
        supported_features={
            item["name"]: (item["min_version"], item["max_version"]) for item in tree.get("supported_features", ())
        },
        finalized_features_epoch=tree.get("finalized_features_epoch", -1),
        finalized_features={
            item["name"]: (item["min_version_level"], item["max_version_level"])
            for item in tree.get("finalized_features", ())
        },
        zk_migration_ready=tree.get("zk_migration_ready", False),
    )


def some_answer(rng: Random, oracle: Oracle, version: int) -> tuple[ApiVersionsAnswer, bytes]:
    """Make a random answer, and what the oracle makes of it."""
    while True:
        tree = oracle.message(rng, KEY, version, "response")
        answer = as_answer(tree)
        names = [item["name"] for item in tree.get("supported_features", ())]
        # Names told twice and zero minima have tests of their own; error 35 has another shape.
        if (
            answer.error_code != apiversions.UNSUPPORTED_VERSION
            and len(answer.ranges) == len(tree["api_keys"])
            and len(set(names)) == len(names)
            and len(answer.finalized_features) == len(tree.get("finalized_features", ()))
            and (version == 4 or all(low for low, _ in answer.supported_features.values()))
        ):
            return answer, oracle.encode(KEY, version, "response", tree)


@versions
def test_answers_are_those_of_both_oracles(oracle: Oracle, key: int, version: int) -> None:
    """What is written is what the oracles write, byte for byte, and what they write is read as they meant it."""
    rng = Random(key + version)
    for _ in range(100):
        answer, body = some_answer(rng, oracle, version)
        assert apiversions.parse_response(version, body) == answer
        assert apiversions.response(version, answer) == body


@versions
def test_requests_are_those_of_both_oracles(oracle: Oracle, key: int, version: int) -> None:
    """A client's software is read from v3 on, and written as the oracles write it."""
    rng = Random(key + version)
    for _ in range(30):
        tree = oracle.message(rng, key, version, "request")
        body = oracle.encode(key, version, "request", tree)
        software = ClientSoftware(tree.get("client_software_name", "a"), tree.get("client_software_version", "1"))
        assert apiversions.parse_request(version, body) == (software if version >= 3 else None)
        assert apiversions.request(version, software) == body


def test_what_a_version_has_no_room_for_is_left_out() -> None:
    """Features need v3, the throttle time v1."""
    full = ApiVersionsAnswer(0, {1: (4, 15)}, 9, {"f": (1, 2)}, 3, {"f": (1, 2)}, zk_migration_ready=True)
    bare = ApiVersionsAnswer(0, {1: (4, 15)})
    assert apiversions.response(0, full) == apiversions.response(0, bare)
    assert apiversions.response(2, full) == apiversions.response(2, replace(bare, throttle_time_ms=9))
    for oracle in (KIO, KAFKA_PYTHON):
        assert as_answer(oracle.decode(KEY, 3, "response", apiversions.response(3, full))) == full


def test_a_feature_whose_minimum_is_zero_is_altered_below_v4() -> None:
    """KAFKA-17011: told as 1 to clients that cannot read a 0, left out where 0 is all there is; untouched in v4."""
    answer = ApiVersionsAnswer(supported_features={"kraft.version": (0, 1), "group.version": (0, 0), "x": (2, 3)})
    told = apiversions.parse_response(3, apiversions.response(3, answer)).supported_features
    assert told == {"kraft.version": (1, 1), "x": (2, 3)}
    assert apiversions.parse_response(4, apiversions.response(4, answer)) == answer
    only_zero = ApiVersionsAnswer(supported_features={"group.version": (0, 0)})
    assert apiversions.response(3, only_zero) == apiversions.response(3, ApiVersionsAnswer())


def test_tags_that_nobody_knows_are_stepped_over() -> None:
    """A later Kafka may add tagged fields at every level."""
    rng = Random(5)
    for seed in range(60):
        tree = KIO.message(rng, KEY, 4, "response")
        tree["error_code"] = type(tree["error_code"]).none
        body = KIO.encode(KEY, 4, "response", tree, unknown_tags=Random(seed))
        assert apiversions.parse_response(4, body) == as_answer(tree)


@pytest.mark.parametrize("asked", range(5))
def test_an_unsupported_version_is_answered_in_v0(asked: int) -> None:
    """Error 35 and our range of key 18 in a v0 body, which is understood whatever version was asked (KIP-511)."""
    body = apiversions.unsupported_version_response()
    tree = KIO.decode(KEY, 0, "response", body)
    assert tree["error_code"].name == "unsupported_version"
    assert tree["api_keys"] == [{"api_key": 18, "min_version": 0, "max_version": 4}]
    answer = apiversions.parse_response(asked, body)
    assert (answer.error_code, answer.api_ranges()) == (35, [ApiRange(18, 0, 4)])
    # A broker before 2.4 names no range.
    assert apiversions.parse_response(asked, b"\x00\x23\x00\x00\x00\x00").ranges == {}


@pytest.mark.parametrize("version", [-1, 5])
def test_other_versions_are_not_looked_at(version: int) -> None:
    """The body of an unsupported version is never parsed, nor is one written."""
    software = ClientSoftware("a", "1")
    for call in (
        lambda: apiversions.parse_request(version, b""),
        lambda: apiversions.request(version, software),
        lambda: apiversions.parse_response(version, b""),
        lambda: apiversions.response(version, ApiVersionsAnswer()),
    ):
        with pytest.raises(Unsupported):
            call()


def test_client_software_is_judged_as_brokers_do() -> None:
    """Letters, digits, dots and dashes, the latter two inside only."""
    for text in ("a", "apache-kafka-java", "4.2.0-SNAPSHOT", "7"):
        assert apiversions.valid_client_software(text)
    for text in ("", "-a", "a-", "a.", "a b", "a_b", "a\n", "é"):
        assert not apiversions.valid_client_software(text)


def test_a_body_cut_or_continued_is_malformed() -> None:
    """No proper prefix of a message parses, nor does one with a byte behind it."""
    answer = ApiVersionsAnswer(0, {1: (4, 15), 3: (0, 13)}, 9, {"f": (1, 2)}, 3, {"f": (1, 2)}, zk_migration_ready=True)
    for version in range(5):
        body = apiversions.response(version, answer)
        for wrong in [body[:cut] for cut in range(len(body))] + [body + b"\0"]:
            with pytest.raises(Malformed):
                apiversions.parse_response(version, wrong)
    request = apiversions.request(3, ClientSoftware("librdkafka", "2.6.0"))
    for wrong in [request[:cut] for cut in range(len(request))] + [request + b"\0"]:
        with pytest.raises(Malformed):
            apiversions.parse_request(3, wrong)
    with pytest.raises(Malformed):
        apiversions.parse_request(0, b"\0")


@pytest.mark.parametrize(
    "tag", [b"\x00\x02\x01\x00", b"\x01\x09" + bytes(9), b"\x02\x01\x80", b"\x03\x02\x01\x01"], ids=str
)
def test_a_tag_whose_size_is_wrong_is_malformed(tag: bytes) -> None:
    """A tagged field fills its size exactly."""
    with pytest.raises(Malformed):
        apiversions.parse_response(3, b"\0\0\x01" + bytes(4) + b"\x01" + tag)


@given(version=st.integers(0, 4), body=st.binary(max_size=100), plausible=st.booleans())
def test_garbage_raises_nothing_but_protocol_errors(version: int, body: bytes, *, plausible: bool) -> None:
    """Whatever the bytes, a parser returns or raises a ProtocolError."""
    with suppress(ProtocolError):
        apiversions.parse_response(version, b"\0\0\x01\0\0\0\0" + body if plausible else body)
    with suppress(ProtocolError):
        apiversions.parse_request(version, body)
