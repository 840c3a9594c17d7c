"""A real Apache Kafka for tests: brokers on this machine that can be stopped, killed, paused, moved and upgraded.

Node N listens on and advertises 127.0.1.N, never 127.0.0.1: an address that leaks through a proxy on 127.0.0.1 can
be told at a glance. Each has a SASL_PLAINTEXT listener (PLAIN; admin/admin-secret and gateway/gateway-secret) and a
PLAINTEXT one, for the brokers themselves and for comparing with a direct connection. About ten seconds to start::

    with KafkaCluster(tmp_path) as cluster:
        Producer({"bootstrap.servers": cluster.plain_bootstrap})
        cluster.broker(2).kill()
        cluster.broker(2).start()
        cluster.wait_all_in_metadata()

All waits are for a condition, with a deadline; logs are ``<data_dir>/node-N.log``.
"""

import base64
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import ElectionType, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from kproxy.testing.java import CURRENT, OLD, JavaTools, kafka_jars, missing_reason
from kproxy.testing.kafkanode import Broker, ClusterError, Shared, ask_brokers
from kproxy.testing.waiting import wait_until

__all__ = ["CURRENT", "OLD", "Broker", "ClusterError", "KafkaCluster", "ask_brokers", "missing_reason"]

USERS = {"admin": "admin-secret", "gateway": "gateway-secret"}


class KafkaCluster:
    """Some brokers, ids from 1, each a broker and a controller in one process.

    Args:
        data_dir: A fresh folder, the caller's to delete.
        brokers: How many; up to 3 replicas are made of each topic.
        version: Of Kafka, as Maven knows it.
        properties: Set over the defaults on every node, e.g. {"broker.session.timeout.ms": "3000"}; those of one
            listener with its prefix, e.g. "listener.name.sasl_plaintext.connections.max.reauth.ms".
        heap: Of each node; 512m is enough for a few hundred topics.
        jvm_flags: Of each node, as "-Dname=value".
    """

    def __init__(
        self,
        data_dir: Path,
        brokers: int = 3,
        version: str = CURRENT,
        properties: Mapping[str, str] | None = None,
        *,
        heap: str = "512m",
        jvm_flags: tuple[str, ...] = (),
    ) -> None:
        self.data_dir = data_dir
        self.version = version
        # A leading dash would be taken for an option by StorageTool; Kafka's Uuid.randomUuid avoids it too.
        self.cluster_id = "k" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        self._properties = dict(properties or {})
        self._shared = Shared(data_dir, self.cluster_id, heap, jvm_flags, self._shared_properties)
        data_dir.mkdir(parents=True, exist_ok=True)
        self._brokers = {node: Broker(self._shared, node, version, controller=True) for node in range(1, brokers + 1)}

    def __enter__(self) -> Self:
        """Start all nodes."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all nodes."""
        self.stop()

    def start(self, timeout_seconds: float = 60) -> None:
        """Format and start all nodes side by side, and wait until each knows all of them.

        Raises:
            ClusterError: a node ended instead; all others are stopped then.
            TimeoutError: it took too long; likewise.
        """
        try:
            self._format(list(self._brokers.values()), timeout_seconds)
            for broker in self._brokers.values():
                broker.launch()
            self.wait_all_in_metadata(timeout_seconds)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all nodes at once: nothing of a test cluster is worth a controlled shutdown. May be called twice."""
        for broker in self._brokers.values():
            if broker.is_running:
                broker.kill()
            else:
                broker.stop()

    def broker(self, node_id: int) -> Broker:
        """Return one node, whether it runs or not."""
        return self._brokers[node_id]

    @property
    def brokers(self) -> list[Broker]:
        """All nodes, in the order of their ids."""
        return [self._brokers[node] for node in sorted(self._brokers)]

    def add_broker(self, node_id: int, timeout_seconds: float = 60) -> Broker:
        """Start one more node, without a controller, and wait until all nodes know it."""
        broker = Broker(self._shared, node_id, self.version, controller=False)
        self._brokers[node_id] = broker
        self._format([broker], timeout_seconds)
        broker.start(timeout_seconds=timeout_seconds)
        self.wait_all_in_metadata(timeout_seconds)
        return broker

    @property
    def sasl_bootstrap(self) -> str:
        """The SASL addresses of all nodes, comma between."""
        return ",".join(broker.sasl_address for broker in self.brokers)

    @property
    def plain_bootstrap(self) -> str:
        """The PLAINTEXT addresses of all nodes, comma between."""
        return ",".join(broker.plain_address for broker in self.brokers)

    def wait_all_in_metadata(self, timeout_seconds: float = 60) -> None:
        """Wait until all nodes that run, paused ones apart, name exactly one another.

        After a kill or a pause that takes broker.session.timeout.ms (9 s by default): missing heartbeats tell.

        Raises:
            ClusterError: a node ended meanwhile.
            TimeoutError: it took too long; the text holds what each names.
        """
        brokers = [broker for broker in self.brokers if broker.answers]
        expected = {broker.node_id for broker in brokers}

        def agreed() -> bool:
            return all(broker.nodes_seen() == expected for broker in brokers)

        def seen() -> str:
            return f"all nodes to name {expected}: {[(broker.node_id, broker.nodes_seen()) for broker in brokers]}"

        wait_until(agreed, timeout_seconds, seen)

    def make_topic(self, name: str, partitions: int, timeout_seconds: float = 30, **config: str) -> None:
        """Make a topic, with a replica on three brokers, and wait until every broker that runs knows all its leaders.

        Kafka says that it is made when one broker knows it. ``config``: the topic's, with _ for the dots.

        Raises:
            TimeoutError: it took too long.
        """
        settings = {key.replace("_", "."): value for key, value in config.items()}
        admins = [
            AdminClient({"bootstrap.servers": broker.plain_address, "log_level": 0})
            for broker in self.brokers
            if broker.answers
        ]
        admins[0].create_topics([NewTopic(name, partitions, 3, config=settings)])[name].result(timeout_seconds)

        def led(admin: AdminClient) -> bool:
            found = admin.list_topics(name, timeout=10).topics[name].partitions
            return len(found) == partitions and all(one.leader >= 0 for one in found.values())

        wait_until(lambda: all(map(led, admins)), timeout_seconds, f"all brokers to know {name}")

    def heal(self, timeout_seconds: float = 60) -> None:
        """Undo what a test did: nodes go on or start, all know all, and leaders are where they were.

        Kafka itself moves leaders back to a broker that returned only after minutes
        (leader.imbalance.check.interval.seconds).
        """
        for broker in self.brokers:
            if broker.is_running:
                broker.resume()
            else:
                broker.launch()
        self.wait_all_in_metadata(timeout_seconds)
        admin = AdminClient({"bootstrap.servers": self.plain_bootstrap, "log_level": 0})
        wait_until(lambda: _leads_evenly(admin), timeout_seconds, "every first replica to lead")

    def client(self, user: str = "gateway") -> dict[str, str]:
        """Return what a confluent-kafka client needs to connect directly and log in."""
        return {
            "bootstrap.servers": self.sasl_bootstrap,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": user,
            "sasl.password": USERS[user],
        }

    @property
    def tools(self) -> JavaTools:
        """Kafka's own programs, of the cluster's version."""
        return JavaTools(kafka_jars(self.version))

    def _shared_properties(self) -> dict[str, str]:
        """Return the properties that all nodes have in common."""
        voters = [f"{b.node_id}@127.0.1.{b.node_id}:{b.controller_port}" for b in self.brokers if b.controller]
        replicas = str(min(3, len(voters)))
        users = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
        login = f'username="admin" password="{USERS["admin"]}" {users};'
        return {
            "controller.quorum.voters": ",".join(voters),
            "listener.security.protocol.map": (
                "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT"
            ),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
                f"org.apache.kafka.common.security.plain.PlainLoginModule required {login}"
            ),
            "broker.heartbeat.interval.ms": "1000",  # must be at most half of broker.session.timeout.ms
            "num.partitions": "6",
            "default.replication.factor": replicas,
            "group.initial.rebalance.delay.ms": "0",
            "offsets.topic.num.partitions": "6",
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.num.partitions": "6",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "6",
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": "1",
        } | self._properties

    def _format(self, brokers: list[Broker], timeout_seconds: float) -> None:
        started = [(broker, broker.format()) for broker in brokers]
        try:
            for broker, process in started:
                if process.wait(timeout_seconds) != 0:
                    raise ClusterError(f"node {broker.node_id} could not be formatted:\n{broker.log_tail()}")
        finally:
            for _, process in started:
                process.kill()
                process.wait(10)


def _leads_evenly(admin: AdminClient) -> bool:
    """Whether every partition is led by its first replica; where not, have that one elected."""
    topics = admin.list_topics(timeout=10).topics.values()
    elsewhere = [
        TopicPartition(topic.topic, partition.id)
        for topic in topics
        for partition in topic.partitions.values()
        if partition.leader != partition.replicas[0]
    ]
    if elsewhere:
        with suppress(KafkaException):  # it may not be in sync yet: asked again
            admin.elect_leaders(ElectionType.PREFERRED, elsewhere).result(10)
    return not elsewhere
