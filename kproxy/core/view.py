"""What kproxy knows of a cluster: its brokers, where they are, what each can do, and so what is offered to clients.

Fed with the answers to kproxy's own Metadata and ApiVersions requests. A broker that is missing from an answer is
remembered for a while, with its ApiVersions table: it is probably being restarted, and an offer that grew meanwhile
would be taken back from clients when it returns.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from kproxy.core.offer import Offer, make_offer
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.cluster import Broker

FORGET_AFTER_SECONDS = 300.0
"""How long a broker is remembered after it left the cluster's Metadata; Java's metadata.max.age.ms is as long."""


class Change(NamedTuple):
    """What a Metadata answer changed."""

    added: list[int]
    moved: list[int]
    forgotten: list[int]
    replaced: bool = False
    """It is another cluster now, with another id: nothing that was known of topics, groups or sessions holds."""


@dataclass(slots=True)
class ClusterView:
    """One cluster as kproxy last saw it."""

    brokers: dict[int, Broker] = field(default_factory=dict)
    """By node id, the absent ones that are still remembered included."""
    cluster_id: str | None = None
    offer: Offer | None = None
    """None until a broker has answered."""
    _tables: dict[int, ApiVersionsAnswer] = field(default_factory=dict)
    _absent_since: dict[int, float] = field(default_factory=dict)

    def apply_brokers(self, brokers: Iterable[Broker], cluster_id: str | None, now_seconds: float) -> Change:
        """Take the brokers of a Metadata answer.

        Where another cluster has answered, the brokers of the one before are forgotten at once, and what they could do.
        """
        seen = {broker.node_id: broker for broker in brokers}
        replaced = None not in (cluster_id, self.cluster_id) and cluster_id != self.cluster_id
        if replaced:
            self._tables.clear()
        added = [node_id for node_id in seen if node_id not in self.brokers]
        moved = [
            node_id
            for node_id, broker in seen.items()
            if node_id in self.brokers and self.brokers[node_id][:3] != broker[:3]
        ]
        self.brokers |= seen
        self.cluster_id = cluster_id or self.cluster_id
        forgotten = []
        for node_id in list(self.brokers):
            if node_id in seen:
                self._absent_since.pop(node_id, None)
            elif replaced or now_seconds - self._absent_since.setdefault(node_id, now_seconds) >= FORGET_AFTER_SECONDS:
                forgotten.append(node_id)
                self._absent_since.pop(node_id, None)
                del self.brokers[node_id]
                self._tables.pop(node_id, None)
        if forgotten:
            self._make_offer()
        return Change(added, moved, forgotten, replaced)

    def present(self) -> list[int]:
        """Return the node ids that the last Metadata answer had."""
        return [node_id for node_id in self.brokers if node_id not in self._absent_since]

    def set_table(self, node_id: int, table: ApiVersionsAnswer) -> bool:
        """Take a broker's ApiVersions answer; tell whether the offer has changed by it.

        That of a broker which was forgotten meanwhile is left out: nothing would ever take it back.
        """
        if node_id not in self.brokers:
            return False
        self._tables[node_id] = table
        before = self.offer
        self._make_offer()
        return self.offer is not before

    def table(self, node_id: int) -> ApiVersionsAnswer | None:
        """Return a broker's last ApiVersions answer."""
        return self._tables.get(node_id)

    def _make_offer(self) -> None:
        if self._tables:
            offer = make_offer(self._tables.values())
            if self.offer is None or self.offer.answer != offer.answer:
                self.offer = offer
