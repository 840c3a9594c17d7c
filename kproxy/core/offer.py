"""What kproxy offers in ApiVersions: the intersection over the cluster's live brokers and what kproxy understands.

A client negotiates once per connection, and its next request may go to any broker; so a version is offered only
where every live broker has it. Broker-only and unknown APIs are dropped, Produce's minimum stays 0 where a broker
says so (KAFKA-18659: librdkafka looks for it), and what kproxy answers by itself keeps kproxy's range. Feature tags
are passed on from the brokers, and dropped wherever Produce is offered below 12: a Java producer would otherwise
rely on transaction protocol V2, which needs Produce 12 (TransactionManager.maybeUpdateTransactionV2Enabled).

An Offer is immutable; ``kinds`` is what the data path asks of it, once per frame::

    >>> offer.kinds.get(1 << 16 | 11, Kind.REFUSED)     # Fetch v11: forwarded as it is
    0
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

from kproxy.wire import apiversions
from kproxy.wire.apis import APIS, ApiKey
from kproxy.wire.apiversions import ApiVersionsAnswer, ClientSoftware
from kproxy.wire.endpoints import is_rewritten


class Kind(IntEnum):
    """What the data path does with a request of one (API, version). PLAIN is 0: the common test is ``if kind``."""

    PLAIN = 0
    PRODUCE = 1
    """acks must be read: 0 gets no answer."""
    PRODUCE_REWRITTEN = 2
    """As PRODUCE, and the answer may carry addresses."""
    REWRITTEN = 3
    """The answer may carry addresses, or tell a member of a group to give up (ConsumerGroupHeartbeat)."""
    SHARE = 4
    """As REWRITTEN, and the session ends with the upstream connection (KIP-932)."""
    API_VERSIONS = 5
    """From here on: answered by kproxy, never forwarded."""
    SASL = 6
    """A listener without SASL refuses it, as a broker does."""
    FAREWELL = 7
    """Metadata of a client that is to leave: answered by kproxy, which sends it to its bootstrap servers (KIP-1102)."""
    REFUSED = 8
    """Not offered."""


# Answered by kproxy whatever the brokers have.
_OWN = {int(ApiKey.API_VERSIONS): (0, 4), int(ApiKey.SASL_HANDSHAKE): (0, 1), int(ApiKey.SASL_AUTHENTICATE): (0, 2)}

_INVALID_REQUEST = 42

# Produce 12 and transaction protocol V2 belong together (KIP-890).
_PRODUCE_FOR_FEATURES = 12


@dataclass(frozen=True, slots=True)
class Offer:
    """One table of API versions, and what each of its entries means to the data path."""

    answer: ApiVersionsAnswer
    kinds: dict[int, int]
    """api_key << 16 | api_version -> Kind, offered ones only."""

    def introduce(self, version: int, body: bytes) -> tuple[bytes, ClientSoftware | None]:
        """Answer an ApiVersions request, v0 to v4; return that, and what the client says that it is (KIP-511)."""
        software = apiversions.parse_request(version, body)
        if software is not None and not all(map(apiversions.valid_client_software, software)):
            return apiversions.response(version, ApiVersionsAnswer(error_code=_INVALID_REQUEST)), None
        return apiversions.response(version, self.answer), software

    def without(self, hidden: Collection[int], capped: Mapping[int, int]) -> "Offer":
        """Return an offer without some APIs, and with highest versions for others."""
        ranges = {
            key: (low, min(high, capped.get(key, high)))
            for key, (low, high) in self.answer.ranges.items()
            if key not in hidden and low <= capped.get(key, high)
        }
        kinds = {
            key_version: kind
            for key_version, kind in self.kinds.items()
            if key_version >> 16 in ranges and key_version & 0xFFFF <= ranges[key_version >> 16][1]
        }
        return Offer(replace(self.answer, ranges=ranges), kinds)

    def covers(self, older: "Offer") -> bool:
        """Tell whether a client that negotiated ``older`` may go on: nothing it was told has been taken away.

        Finalized features count: a producer that believes in another transaction protocol must negotiate anew.
        """
        if self.answer.finalized_features != older.answer.finalized_features:
            return False
        ranges = self.answer.ranges
        return all(
            key in ranges and ranges[key][0] <= low and high <= ranges[key][1]
            for key, (low, high) in older.answer.ranges.items()
        )


def _kind(key: int, version: int) -> Kind:
    if key == ApiKey.PRODUCE:
        return Kind.PRODUCE_REWRITTEN if is_rewritten(key, version) else Kind.PRODUCE
    if key == ApiKey.API_VERSIONS:
        return Kind.API_VERSIONS
    if key in (ApiKey.SASL_HANDSHAKE, ApiKey.SASL_AUTHENTICATE):
        return Kind.SASL
    if key in (ApiKey.SHARE_FETCH, ApiKey.SHARE_ACKNOWLEDGE):
        return Kind.SHARE
    if key == ApiKey.CONSUMER_GROUP_HEARTBEAT or is_rewritten(key, version):
        return Kind.REWRITTEN
    return Kind.PLAIN


def _intersect(tables: list[dict[int, tuple[int, int]]]) -> dict[int, tuple[int, int]]:
    ranges = {}
    for key, api in sorted(APIS.items()):
        if key in _OWN:
            ranges[key] = _OWN[key]
            continue
        if not all(key in table for table in tables):
            continue
        low = max(api.min_version, *(table[key][0] for table in tables))
        high = min(api.max_version, *(table[key][1] for table in tables))
        if low <= high:
            ranges[key] = (low, high)
    return ranges


def _common_features(answers: list[ApiVersionsAnswer]) -> dict[str, tuple[int, int]]:
    tables = [answer.supported_features for answer in answers]
    common = {}
    for name in tables[0]:
        if all(name in table for table in tables):
            low = max(table[name][0] for table in tables)
            high = min(table[name][1] for table in tables)
            if low <= high:
                common[name] = (low, high)
    return common


def make_offer(answers: Iterable[ApiVersionsAnswer]) -> Offer:
    """Build the offer for a cluster from the ApiVersions answers of its brokers, at least one."""
    tables = list(answers)
    ranges = _intersect([table.ranges for table in tables])
    latest = max(tables, key=lambda table: table.finalized_features_epoch)
    with_features = ranges.get(ApiKey.PRODUCE, (0, 0))[1] >= _PRODUCE_FOR_FEATURES
    answer = ApiVersionsAnswer(
        error_code=0,
        ranges=ranges,
        throttle_time_ms=0,
        supported_features=_common_features(tables) if with_features else {},
        finalized_features_epoch=latest.finalized_features_epoch if with_features else -1,
        finalized_features=latest.finalized_features if with_features else {},
        zk_migration_ready=False,
    )
    kinds = {
        key << 16 | version: int(_kind(key, version))
        for key, (low, high) in ranges.items()
        for version in range(low, high + 1)
    }
    return Offer(answer, kinds)
