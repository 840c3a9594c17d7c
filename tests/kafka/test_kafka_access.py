"""Access rules with real clients and a real Kafka: what is allowed works, what is denied raises their own errors."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import aiokafka
import clients
import confluent_kafka as ck
import kafka
import pytest
from aiokafka.errors import TopicAuthorizationFailedError as AioDenied
from clients import each_addressing
from clients.aio import Aio
from clients.confluent import Confluent
from clients.fixtures import LOGIN, PARTITIONS
from clients.kafkapython import KafkaPython
from clients.library import Library, consume, produce
from clients.limited import RunProxy, events, tally
from clients.limitedtraffic import make_topic
from clients.records import assert_exact, make_records, new_name
from confluent_kafka.admin import AdminClient, NewTopic
from kafka.errors import TopicAuthorizationFailedError as KafkaPythonDenied

from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.proxy import ProxyProcess

SECONDS = 30

LIBRARIES: tuple[Callable[[], Library], ...] = (Confluent, Aio, KafkaPython)


def run_guarded(run_proxy: RunProxy, folder: Path, cluster: KafkaCluster, topic: str, addressing: str) -> ProxyProcess:
    """Start a proxy whose clients may read and write one topic, in groups that begin with ok."""
    rules = [
        {"principal": "User:*", "operations": ["read", "write"], "topic": topic},
        {"principal": "User:*", "operations": ["read"], "group": "ok-*"},
        {"principal": "User:*", "operations": ["write"], "transactional_id": "ok-*"},
    ]
    path = folder / "access.yaml"
    path.write_text(json.dumps({"listeners": {"public": {"access": {"rules": rules}}}}), encoding="utf-8")
    return run_proxy(cluster.sasl_bootstrap, "--config", str(path), login=LOGIN, addressing=addressing)


@each_addressing
@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_allowed_works(
    kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, library: Callable[[], Library], addressing: str
) -> None:
    """Records go through, alone and in a group, as without rules; a transaction that is allowed commits."""
    topic = make_topic(kafka_cluster)
    proxy = run_guarded(run_proxy, tmp_path, kafka_cluster, topic, addressing)
    records = make_records(300, PARTITIONS)
    produce(library(), proxy.address, topic, records, partitions=PARTITIONS)
    assert_exact(records, consume(library(), proxy.address, topic, PARTITIONS, group=f"ok-{new_name()}"))
    assert not [event for event in events(proxy, "denied by access rules") if event["name"] == topic]


@each_addressing
def test_confluent_is_denied(kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, addressing: str) -> None:
    """Librdkafka reports a denied topic and a denied group, and reads on in the topic that is allowed."""
    topic, secret = make_topic(kafka_cluster), make_topic(kafka_cluster)
    proxy = run_guarded(run_proxy, tmp_path, kafka_cluster, topic, addressing)
    errors: list[ck.KafkaError] = []
    producer = ck.Producer({"bootstrap.servers": proxy.address, "log_level": 0, "message.timeout.ms": 20_000})
    for name in (secret, topic):
        producer.produce(name, b"x", partition=0, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(SECONDS) == 0
    assert {error and error.code() for error in errors} == {ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, None}
    producer.close()

    settings = {"bootstrap.servers": proxy.address, "auto.offset.reset": "earliest", "log_level": 0}
    consumer = ck.Consumer({**settings, "group.id": f"ok-{new_name()}"})
    consumer.subscribe([topic, secret])
    seen = _poll(consumer, lambda found: found >= {ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, topic})
    assert secret not in seen
    consumer.close()

    stranger = ck.Consumer({**settings, "group.id": "other"})
    stranger.subscribe([topic])
    assert _poll(stranger, bool) == {ck.KafkaError.GROUP_AUTHORIZATION_FAILED}
    stranger.close()
    names = {event["name"] for event in events(proxy, "denied by access rules")}
    assert {secret, "other"} <= names


def _poll(consumer: ck.Consumer, enough: Callable[[set[object]], bool]) -> set[object]:
    """Poll until the topics that records came from, and the codes of errors, are enough."""
    found: set[object] = set()
    deadline = time.monotonic() + SECONDS
    while not enough(found) and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None:
            error = message.error()
            found.add(error.code() if error is not None else message.topic())
    return found


@each_addressing
def test_kafka_python_is_denied(
    kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, addressing: str
) -> None:
    """kafka-python raises its own error for a denied topic, and reads what is allowed."""
    topic, secret = make_topic(kafka_cluster), make_topic(kafka_cluster)
    proxy = run_guarded(run_proxy, tmp_path, kafka_cluster, topic, addressing)
    producer = kafka.KafkaProducer(bootstrap_servers=proxy.address)
    producer.send(topic, b"x", partition=0).get(SECONDS)
    with pytest.raises(KafkaPythonDenied):
        producer.send(secret, b"x", partition=0).get(SECONDS)
    producer.close()
    consumer = kafka.KafkaConsumer(
        topic, bootstrap_servers=proxy.address, group_id=f"ok-{new_name()}", auto_offset_reset="earliest"
    )
    deadline = time.monotonic() + SECONDS
    while not (found := consumer.poll(500)) and time.monotonic() < deadline:
        pass
    assert {partition.topic for partition in found} == {topic}
    # kafka-python logs what its metadata says of a topic that it subscribes to, and raises what a commit is told.
    with pytest.raises(KafkaPythonDenied):
        consumer.commit({kafka.TopicPartition(secret, 0): kafka.OffsetAndMetadata(1, "", -1)})
    consumer.close()


@each_addressing
def test_aiokafka_is_denied(kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, addressing: str) -> None:
    """Aiokafka raises its own error for a denied topic, and reads what is allowed."""
    topic, secret = make_topic(kafka_cluster), make_topic(kafka_cluster)
    proxy = run_guarded(run_proxy, tmp_path, kafka_cluster, topic, addressing)

    async def run() -> None:
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=proxy.address)
        await producer.start()
        await producer.send_and_wait(topic, b"x", partition=0)
        with pytest.raises(AioDenied):
            await producer.send_and_wait(secret, b"x", partition=0)
        await producer.stop()
        consumer = aiokafka.AIOKafkaConsumer(
            topic, bootstrap_servers=proxy.address, group_id=f"ok-{new_name()}", auto_offset_reset="earliest"
        )
        await consumer.start()
        assert (await consumer.getone()).topic == topic
        await consumer.stop()

    asyncio.run(asyncio.wait_for(run(), 2 * SECONDS))


@each_addressing
def test_java_is_denied(kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, addressing: str) -> None:
    """Java's own exceptions name the topic and the group that are denied, hidden topics are in no list.

    What is allowed works, alone and in groups of both kinds.
    """
    topic, secret = make_topic(kafka_cluster), make_topic(kafka_cluster)
    proxy = run_guarded(run_proxy, tmp_path, kafka_cluster, topic, addressing)
    group, stranger = f"ok-{new_name()}", "other"
    source = str(Path(clients.__file__).with_name("AccessRules.java"))
    told = kafka_cluster.tools.check(source, proxy.address, topic, secret, group, stranger, timeout_seconds=120)
    topic_denied, group_denied = f"TopicAuthorizationException [{secret}]", f"GroupAuthorizationException {stranger}"
    # In a group of the new kind the coordinator may be the first to refuse a topic, and its answer names none.
    named = told.replace(f"consumer {secret}: TopicAuthorizationException []", f"consumer {secret}: {topic_denied}")
    assert named.splitlines() == [
        f"produce {topic}: 3",
        f"produce {secret}: {topic_denied}",
        f"topics: [{topic}]",
        f"describe {topic}: {PARTITIONS}",
        f"describe {secret}: TopicAuthorizationException []",  # as Java's own admin client makes it
        *(
            line
            for protocol in ("classic", "consumer")
            for line in (
                f"{protocol} {topic}: 3",
                f"{protocol} {secret}: {topic_denied}",
                f"{protocol} {stranger}: {group_denied}",
            )
        ),
    ]


def test_what_one_may_see(kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path) -> None:
    """An admin client sees the topics it may describe and no others, and may make none."""
    topic, secret = make_topic(kafka_cluster), make_topic(kafka_cluster)
    proxy = run_guarded(run_proxy, tmp_path, kafka_cluster, topic, "ports")
    admin = AdminClient({"bootstrap.servers": proxy.address, "log_level": 0})
    assert set(admin.list_topics(timeout=SECONDS).topics) == {topic}
    assert admin.list_topics(secret, timeout=SECONDS).topics[secret].error.code() == 29
    (future,) = admin.create_topics([NewTopic(new_name(), 1, 1)]).values()
    with pytest.raises(ck.KafkaException) as caught:
        future.result(SECONDS)
    assert caught.value.args[0].code() == ck.KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert any(what.startswith("CreateTopics topic") for what in _denied(proxy))


def _denied(proxy: ProxyProcess) -> dict[str, int]:
    (listener,) = tally(proxy)["listeners"].values()
    found: dict[str, int] = listener["denied"]
    return found
