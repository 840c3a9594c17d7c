"""The offer: what every broker of a cluster has and kproxy understands, and what that means to older clients."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.core.offer import Kind, Offer, make_offer
from kproxy.wire.apis import APIS, BROKER_ONLY, ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.endpoints import is_rewritten

KAFKA = json.loads((Path(__file__).parents[1] / "wire" / "kafka_apis.json").read_text())
TRANSACTIONS_V2 = {"transaction.version": (2, 2)}


def broker(release: str, **fields: Any) -> ApiVersionsAnswer:
    """Make the ApiVersions answer of a broker of one Kafka release; from 4.0 on it says Produce 0 (KAFKA-18659)."""
    ranges = {api["key"]: tuple(api["versions"][release]) for api in KAFKA if release in api["versions"]}
    ranges[0] = (0, ranges[0][1])
    return ApiVersionsAnswer(ranges=ranges, **fields)


def features(finalized: dict[str, tuple[int, int]], epoch: int = 3) -> dict[str, Any]:
    """Make the feature tags of an answer."""
    supported = {"transaction.version": (0, 2), "kraft.version": (0, 1)}
    return {"supported_features": supported, "finalized_features": finalized, "finalized_features_epoch": epoch}


OLD, NEW = broker("3.9"), broker("4.2", **features(TRANSACTIONS_V2))


def test_one_broker() -> None:
    """A single broker's table is offered but for what kproxy does not understand and what is for brokers only."""
    ranges = make_offer([NEW]).answer.ranges
    assert ranges[ApiKey.FETCH] == (4, 15)
    assert ranges[ApiKey.PRODUCE] == (0, 13)
    assert ranges[ApiKey.METADATA] == (0, 13)
    assert not ranges.keys() & BROKER_ONLY.keys()
    assert list(ranges) == sorted(ranges)


def test_two_releases() -> None:
    """Of brokers of two releases, in any order, only what both have is offered."""
    for tables in ([OLD, NEW], [NEW, OLD]):
        ranges = make_offer(tables).answer.ranges
        assert ranges[ApiKey.PRODUCE] == (0, 11)
        assert ranges[ApiKey.FETCH] == (4, 15)
        assert ranges[ApiKey.METADATA] == (0, 12)
        assert ApiKey.SHARE_FETCH not in ranges


def test_nothing_in_common() -> None:
    """An API whose ranges do not meet is not offered."""
    answers = [ApiVersionsAnswer(ranges={1: (0, 3)}), ApiVersionsAnswer(ranges={1: (4, 17), 3: (0, 1)})]
    assert not make_offer(answers).answer.ranges.keys() & {1, 3}


def test_unknown_keys() -> None:
    """What kproxy has never heard of is not offered, nor a version above its own."""
    offer = make_offer([ApiVersionsAnswer(ranges={999: (0, 3), 1: (20, 30), 3: (0, 99)})])
    assert not offer.answer.ranges.keys() & {1, 999}
    assert offer.answer.ranges[3] == (0, APIS[3].max_version)


def test_own_answers() -> None:
    """What kproxy answers by itself is offered as kproxy has it, whatever the brokers say."""
    for table in (ApiVersionsAnswer(), ApiVersionsAnswer(ranges={18: (0, 9), 17: (1, 1)})):
        ranges = make_offer([table]).answer.ranges
        assert ranges == {ApiKey.SASL_HANDSHAKE: (0, 1), ApiKey.API_VERSIONS: (0, 4), ApiKey.SASL_AUTHENTICATE: (0, 2)}


def test_features() -> None:
    """Features are those that all brokers support, finalized ones those of the latest epoch."""
    other = broker(
        "4.2",
        supported_features={"transaction.version": (1, 3), "group.version": (0, 1)},
        finalized_features={"transaction.version": (1, 1)},
        finalized_features_epoch=2,
    )
    answer = make_offer([other, NEW]).answer
    assert answer.supported_features == {"transaction.version": (1, 2)}
    assert answer.finalized_features == TRANSACTIONS_V2
    assert answer.finalized_features_epoch == 3
    distant = broker("4.2", supported_features={"transaction.version": (3, 4)})
    assert make_offer([NEW, distant]).answer.supported_features == {}


def test_no_features_without_produce_12() -> None:
    """Where Produce is offered below 12, no feature is: a client would rely on transaction protocol V2 (KIP-890)."""
    answer = make_offer([OLD, NEW]).answer
    assert (answer.supported_features, answer.finalized_features, answer.finalized_features_epoch) == ({}, {}, -1)


def test_kinds() -> None:
    """Every offered version has its kind, and nothing else has one."""
    offer = make_offer([NEW])
    assert {(k >> 16, k & 0xFFFF) for k in offer.kinds} == {
        (key, version) for key, (low, high) in offer.answer.ranges.items() for version in range(low, high + 1)
    }
    for (key, version), kind in {
        (1, 11): Kind.PLAIN,
        (0, 9): Kind.PRODUCE,
        (0, 10): Kind.PRODUCE_REWRITTEN,
        (3, 0): Kind.REWRITTEN,
        (55, 1): Kind.PLAIN,
        (55, 2): Kind.REWRITTEN,
        (68, 0): Kind.REWRITTEN,
        (78, 1): Kind.SHARE,
        (79, 1): Kind.SHARE,
        (18, 4): Kind.API_VERSIONS,
        (17, 1): Kind.SASL,
        (36, 0): Kind.SASL,
    }.items():
        assert offer.kinds[key << 16 | version] == kind
    for key_version, kind_ in offer.kinds.items():
        named = kind_ in (Kind.PRODUCE_REWRITTEN, Kind.REWRITTEN, Kind.SHARE)
        assert named == (key_version >> 16 == 68 or is_rewritten(key_version >> 16, key_version & 0xFFFF))


@pytest.mark.parametrize(
    ("now", "older", "covered"),
    [
        ([NEW], [NEW], True),
        ([NEW], [OLD, NEW], False),  # the older offer had no finalized features
        ([broker("4.2")], [OLD], False),  # Fetch 0 to 3 are gone
        ([OLD], [OLD, broker("4.2")], True),
        ([OLD, NEW], [NEW], False),
        ([broker("4.2", **features({"transaction.version": (1, 1)}))], [NEW], False),
        ([broker("4.2", **features(TRANSACTIONS_V2, epoch=9))], [NEW], True),
    ],
)
def test_covers(now: list[ApiVersionsAnswer], older: list[ApiVersionsAnswer], *, covered: bool) -> None:
    """An offer covers an older one when a client that was told the older one was told nothing that has changed."""
    assert make_offer(now).covers(make_offer(older)) is covered


RANGES = st.dictionaries(
    st.sampled_from([0, 1, 3, 4, 78, 999]),
    st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda pair: (min(pair), max(pair))),
)


@given(st.lists(RANGES, min_size=1, max_size=4))
def test_intersection(tables: list[dict[int, tuple[int, int]]]) -> None:
    """A version is offered when every broker has it and kproxy understands it, and a wider offer covers a narrower."""
    offer = make_offer(ApiVersionsAnswer(ranges=table) for table in tables)
    own = {17, 18, 36}
    offered = {(k >> 16, k & 0xFFFF) for k in offer.kinds if k >> 16 not in own}
    assert offered == {
        (key, version)
        for key in (0, 1, 3, 4, 78, 999)
        for version in range(21)
        if key in APIS
        and APIS[key].min_version <= version <= APIS[key].max_version
        and all(key in table and table[key][0] <= version <= table[key][1] for table in tables)
    }
    wider: Offer = make_offer([ApiVersionsAnswer(ranges=tables[0])])
    assert wider.covers(offer)
    assert offer.covers(wider) == (offer.kinds == wider.kinds)
