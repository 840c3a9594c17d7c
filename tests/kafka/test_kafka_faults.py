"""A real Kafka whose brokers end sessions, die, come and move, with traffic through the proxy all the while."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from clients import ADDRESSINGS, each_addressing
from clients.aio import Aio
from clients.confluent import Confluent
from clients.fixtures import LOGIN, PARTITIONS, MakeTopic
from clients.kafkapython import KafkaPython
from clients.library import Library, consume, produce
from clients.records import assert_exact, make_records, new_name
from clients.traffic import Traffic
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.proxy import ProxyProcess
from kproxy.testing.waiting import wait_until

LIBRARIES: tuple[Library, ...] = (Confluent(), Aio(), KafkaPython())

RunProxy = Callable[..., ProxyProcess]

# What takes half a minute is in CI done once; FakeBrokers play the same for every addressing in milliseconds.
each_addressing_in_time = pytest.mark.parametrize(
    "addressing", [pytest.param(one, marks=() if one == "ports" else pytest.mark.matrix) for one in ADDRESSINGS]
)


def topic_on(address: str, broker: int, partitions: int = PARTITIONS) -> str:
    """Make a topic whose partitions are on one broker."""
    name = new_name()
    assignment = [[broker]] * partitions
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    admin.create_topics([NewTopic(name, partitions, replica_assignment=assignment)])[name].result(20)
    return name


def send_and_leave(address: str, topic: str, count: int) -> None:
    """Send records with acks=0, a request each, and close as soon as they are handed to the system."""
    settings = {"bootstrap.servers": address, "acks": 0, "linger.ms": 0, "batch.num.messages": 1, "log_level": 0}
    producer = Producer(settings)
    for number in range(count):
        producer.produce(topic, b"%d" % number, partition=number % PARTITIONS)
    assert producer.flush(20) == 0
    producer.close()


def stored(cluster: KafkaCluster, topic: str) -> int:
    """Count the records of a topic; -1 while its leaders are not known everywhere."""
    consumer = Consumer({"bootstrap.servers": cluster.plain_bootstrap, "group.id": "none", "log_level": 0})
    try:
        return sum(consumer.get_watermark_offsets(TopicPartition(topic, at), 10)[1] for at in range(PARTITIONS))
    except KafkaException as error:
        if error.args[0].code() not in (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError._UNKNOWN_PARTITION):
            raise
        return -1
    finally:
        consumer.close()


def check_acks_0(kafka_proxy: ProxyProcess, kafka_cluster: KafkaCluster, topic: str, times: int) -> None:
    """Send 2,000 records with acks=0, and count what arrives, so many times."""
    wait_until(lambda: stored(kafka_cluster, topic) == 0, 20, "the topic's leaders")
    for time in range(1, times + 1):
        send_and_leave(kafka_proxy.address, topic, 2000)
        wait_until(
            lambda: stored(kafka_cluster, topic) >= 2000 * time,  # noqa: B023 - called before the loop goes on
            20,
            lambda: f"{2000 * time} records, there are {stored(kafka_cluster, topic)}",  # noqa: B023 - same
        )
        assert stored(kafka_cluster, topic) == 2000 * time


def test_acks_0(kafka_proxy: ProxyProcess, kafka_cluster: KafkaCluster, new_topic: MakeTopic) -> None:
    """All of 2,000 records sent with acks=0 arrive, though their producer closes at once: 3 times out of 3."""
    check_acks_0(kafka_proxy, kafka_cluster, new_topic(), 3)


@pytest.mark.matrix
def test_acks_0_often(kafka_proxy: ProxyProcess, kafka_cluster: KafkaCluster, new_topic: MakeTopic) -> None:
    """All of 2,000 records sent with acks=0 arrive, though their producer closes at once: 20 times out of 20."""
    check_acks_0(kafka_proxy, kafka_cluster, new_topic(), 20)


@each_addressing_in_time
def test_the_bootstrap_broker_dies(faulty_kafka: KafkaCluster, run_proxy: RunProxy, addressing: str) -> None:
    """Killed, the only broker that the proxy was told of is not missed: traffic goes on, and new clients are served."""
    proxy = run_proxy(faulty_kafka.broker(1).sasl_address, login=LOGIN, addressing=addressing)
    topic = new_name()
    admin = AdminClient({"bootstrap.servers": proxy.address, "log_level": 0})
    admin.create_topics([NewTopic(topic, PARTITIONS, 3)])[topic].result(20)
    with Traffic(Confluent(), proxy.address, topic, PARTITIONS) as traffic:
        traffic.wait_read(500)
        faulty_kafka.broker(1).kill()
        traffic.wait_read(2000)
        records, other = make_records(200, PARTITIONS), topic_on(proxy.address, broker=2)
        produce(Aio(), proxy.address, other, records, partitions=PARTITIONS)
        assert_exact(records, consume(Aio(), proxy.address, other, PARTITIONS))
    traffic.check_nothing_lost()
    traffic.check_stored(faulty_kafka.broker(2).plain_address)


@pytest.fixture(scope="module")
def small_kafka(require_kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:  # noqa: ARG001 - a condition
    """One broker whose sessions end after three seconds (KIP-368), and to which others may be added."""
    limit = {"listener.name.sasl_plaintext.connections.max.reauth.ms": "3000"}
    with KafkaCluster(tmp_path_factory.mktemp("small"), brokers=1, properties=limit) as cluster:
        yield cluster


@each_addressing
def test_sessions_that_end(small_kafka: KafkaCluster, run_proxy: RunProxy, addressing: str) -> None:
    """Sessions of 3 s, renewed under the traffic of three libraries at once, are noticed by none of them."""
    proxy = run_proxy(small_kafka.sasl_bootstrap, login=LOGIN, addressing=addressing)
    topics = [topic_on(proxy.address, broker=1) for _ in LIBRARIES]
    with ExitStack() as stack:
        traffics = [
            stack.enter_context(Traffic(library, proxy.address, topic, PARTITIONS, per_second=200))
            for library, topic in zip(LIBRARIES, topics, strict=True)
        ]
        for traffic in traffics:
            traffic.wait_read(max(1, 1600 - len(traffic.read)))
        opened = proxy.tap.connections.total()
    for traffic in traffics:
        traffic.check()
    assert proxy.tap.connections.total() == opened
    assert "client connection closed" not in proxy.log.read_text(encoding="utf-8")


@each_addressing_in_time
def test_a_broker_is_added_and_moves(small_kafka: KafkaCluster, run_proxy: RunProxy, addressing: str) -> None:
    """A broker that is added is served without a restart, and so it is after it has moved to another address."""
    proxy = run_proxy(small_kafka.sasl_bootstrap, login=LOGIN, addressing=addressing)
    node_id = max(broker.node_id for broker in small_kafka.brokers) + 1
    added = small_kafka.add_broker(node_id)
    topic = topic_on(proxy.address, broker=node_id)
    with Traffic(Confluent(), proxy.address, topic, PARTITIONS) as traffic:
        traffic.wait_read(300)
        old = added.sasl_address
        added.move(host=f"127.0.1.{100 + node_id}")
        assert added.sasl_address != old
        traffic.wait_read(600)
    traffic.check_nothing_lost()
