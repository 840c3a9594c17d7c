"""Who leads, coordinates and remembers what: where requests go when one address serves all brokers.

One Directory per cluster, fed with the answers that pass and with those that kproxy asked for itself. It holds what was
said last; the leader epoch keeps an older answer about a topic from undoing a newer one. Nothing is removed but by
bounds: a broker that is asked in error says so, and the client's own refresh passes by here::

    >>> directory = Directory()
    >>> directory.learn_topics([Topic(0, "t", bytes(16), [Partition(0, 0, 2, 5)])])
    >>> directory.find(Route(Target.LEADER_NAME, 0, "t", b"", 0))
    2

``epoch`` grows with every change that may send a request elsewhere, so that a connection may remember routes.
"""

from collections import OrderedDict
from collections.abc import Iterable

from kproxy.wire.cluster import NO_TOPIC_ID, Coordinator, Topic
from kproxy.wire.leaders import PartitionLeader
from kproxy.wire.routing import Route, Target

TOPICS_MAX = 50_000
COORDINATORS_MAX = 100_000
SESSIONS_MAX = 100_000
"""A broker keeps 1,000 Fetch sessions by default (max.incremental.fetch.session.cache.slots)."""

KEY_TYPE_GROUP, KEY_TYPE_TXN = 0, 1


_UNKNOWN = (-1, -1)


class _Leaders:
    """One topic: its partitions' leaders."""

    __slots__ = ("by_partition", "name", "topic_id")

    def __init__(self, name: str, topic_id: bytes) -> None:
        self.name = name
        self.topic_id = topic_id
        self.by_partition: dict[int, tuple[int, int]] = {}  # index -> (node id, leader epoch)


class Directory:
    """What is known of one cluster's leaders, coordinators and Fetch sessions."""

    def __init__(self) -> None:
        self.epoch = 0
        self._topics: OrderedDict[str, _Leaders] = OrderedDict()
        self._by_id: dict[bytes, _Leaders] = {}
        self._coordinators: OrderedDict[tuple[int, str], int] = OrderedDict()
        self._sessions: OrderedDict[int, int] = OrderedDict()

    def forget(self) -> None:
        """Forget all of it: it is another cluster now."""
        self.epoch += 1
        for known in (self._topics, self._by_id, self._coordinators, self._sessions):
            known.clear()

    # Learning.

    def learn_topics(self, topics: Iterable[Topic]) -> None:
        """Take the topics of a Metadata answer."""
        for topic in topics:
            if topic.name is None or not topic.partitions:
                continue
            known = self._topics.pop(topic.name, None)
            has_id = topic.topic_id != NO_TOPIC_ID
            if known is None or (has_id and known.topic_id not in (topic.topic_id, NO_TOPIC_ID)):
                self._drop(known)
                known = _Leaders(topic.name, topic.topic_id)
            # Without ids nobody knows whether the topic is still the same: one that was made anew begins at epoch 0.
            same = has_id and known.topic_id == topic.topic_id
            self._topics[topic.name] = known
            if has_id:
                known.topic_id = topic.topic_id
                self._by_id[topic.topic_id] = known
            for partition in topic.partitions:
                self._learn_leader(known, partition.partition_index, partition.leader_id, partition.leader_epoch, same)
        while len(self._topics) > TOPICS_MAX:
            self._drop(self._topics.popitem(last=False)[1])

    def learn_leaders(self, leaders: Iterable[PartitionLeader]) -> None:
        """Take the leaders that an answer told in passing (KIP-951), of topics that are known."""
        for topic, partition, leader_id, leader_epoch in leaders:
            known = self._by_id.get(topic) if isinstance(topic, bytes) else self._topics.get(topic)
            if known is not None:
                self._learn_leader(known, partition, leader_id, leader_epoch, True)

    def _learn_leader(self, known: _Leaders, partition: int, leader_id: int, leader_epoch: int, same: bool) -> None:
        """Take a leader; where the topic is surely the ``same`` one, not an older one than is known."""
        before_id, before_epoch = known.by_partition.get(partition, _UNKNOWN)
        if same and 0 <= leader_epoch < before_epoch:
            return
        known.by_partition[partition] = (leader_id, leader_epoch)
        if before_id != leader_id:
            self.epoch += 1

    def _drop(self, leaders: _Leaders | None) -> None:
        if leaders is not None:
            self._by_id.pop(leaders.topic_id, None)
            self.epoch += 1

    def learn_coordinators(self, key_type: int, asked: list[str], coordinators: Iterable[Coordinator]) -> None:
        """Take a FindCoordinator answer; up to v3 it does not repeat the key that was asked for."""
        for coordinator in coordinators:
            key = coordinator.key if coordinator.key is not None else next(iter(asked), None)
            if key is None or coordinator.error_code or coordinator.node_id < 0:
                continue
            if self._coordinators.pop((key_type, key), None) != coordinator.node_id:
                self.epoch += 1
            self._coordinators[key_type, key] = coordinator.node_id
        while len(self._coordinators) > COORDINATORS_MAX:
            self._coordinators.popitem(last=False)

    def learn_session(self, session_id: int, node_id: int) -> None:
        """Take the id of a Fetch session that a broker has made (KIP-227)."""
        self._sessions.pop(session_id, None)
        self._sessions[session_id] = node_id
        if len(self._sessions) > SESSIONS_MAX:
            self._sessions.popitem(last=False)

    # Asking.

    def find(self, route: Route) -> int | None:
        """Return the node that a route leads to, or None where that is not known. Not for the sticky targets."""
        target = route.target
        if target is Target.LEADER_NAME:
            return _leader(self._topics.get(route.name), route.partition)
        if target is Target.LEADER_ID:
            return _leader(self._by_id.get(route.topic_id), route.partition)
        if target is Target.GROUP:
            return self._coordinators.get((KEY_TYPE_GROUP, route.name))
        if target is Target.TXN:
            return self._coordinators.get((KEY_TYPE_TXN, route.name))
        if target is Target.FETCH_SESSION:
            return self._sessions.get(route.number)
        return route.number if target is Target.NODE else None


def _leader(leaders: _Leaders | None, partition: int) -> int | None:
    if leaders is None:
        return None
    node_id = leaders.by_partition.get(partition, _UNKNOWN)[0]
    return None if node_id < 0 else node_id
