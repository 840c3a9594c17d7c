"""What an operator sees of real clients before a real Kafka: requests in a topic, counters, and who is there."""

import json
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import pytest
from clients.admin import Admin
from clients.aio import Aio
from clients.confluent import Confluent
from clients.fixtures import LOGIN, PARTITIONS
from clients.kafkapython import KafkaPython
from clients.library import Library
from clients.limited import RunProxy
from clients.limitedtraffic import make_topic
from clients.logged import run_logged
from clients.records import new_name
from clients.traffic import Traffic
from prometheus_client.parser import text_string_to_metric_families

from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.waiting import wait_until

LIBRARIES: tuple[Library, ...] = (Confluent(), Aio(), KafkaPython())
SOFTWARE = {"confluent-kafka-python", "kafka-python"}
"""What the libraries call themselves; aiokafka says nothing."""

LOGGED = ("Produce", "JoinGroup", "OffsetCommit")


def asked(admin: Admin) -> Counter[str]:
    """Return how many requests of each API that is logged were counted."""
    counts: Counter[str] = Counter()
    for family in text_string_to_metric_families(admin.get("/metrics").body):
        for sample in family.samples:
            if sample.name == "kproxy_requests_total" and sample.labels["api"] in LOGGED:
                counts[sample.labels["api"]] += int(sample.value)
    return counts


class Reader:
    """Reads a topic that grows, past the proxy."""

    def __init__(self, cluster: KafkaCluster, topic: str) -> None:
        self._consumer = ck.Consumer(
            {"bootstrap.servers": cluster.plain_bootstrap, "group.id": new_name(), "log_level": 0}
        )
        self._consumer.assign([ck.TopicPartition(topic, at, ck.OFFSET_BEGINNING) for at in range(PARTITIONS)])
        self.entries: list[dict[str, Any]] = []

    def counts(self) -> Counter[str]:
        """Return how many entries there are by now of each API that is counted."""
        for message in self._consumer.consume(10_000, 0.2):
            assert message.error() is None
            self.entries.append(json.loads(message.value()))
        return Counter(entry["api"] for entry in self.entries if entry["api"] in LOGGED)

    def close(self) -> None:
        """End."""
        self._consumer.close()


@pytest.mark.timeout(240)  # three libraries, beside brokers that take the machine
def test_the_log_and_the_counters_agree(run_proxy: RunProxy, tmp_path: Path, kafka_cluster: KafkaCluster) -> None:
    """Each request of each library, at two workers, is counted, and is one record of a topic, written with a login.

    Meanwhile each library's producer and consumer are told of as clients; one that is closed comes back.
    """
    log_topic, admin = make_topic(kafka_cluster), Admin()
    topics = {make_topic(kafka_cluster) for _ in LIBRARIES}
    proxy = run_logged(
        run_proxy,
        tmp_path,
        kafka_cluster.sasl_bootstrap,
        {
            "to": "kafka",
            "topic": log_topic,
            "bootstrap": kafka_cluster.sasl_bootstrap.split(","),
            "sasl": {"mechanism": "PLAIN", "username": LOGIN[0], "password": LOGIN[1]},
            "match": {"apis": [*LOGGED, "Fetch"]},
        },
        login=LOGIN,
        admin={"bind": admin.address},
        metrics={"latency": True},
        workers=2,
    )
    with ExitStack() as stack:
        traffics = [
            stack.enter_context(Traffic(library, proxy.address, topic, PARTITIONS, 100))
            for library, topic in zip(LIBRARIES, sorted(topics), strict=True)
        ]
        for traffic in traffics:
            traffic.wait_read(100)
        clients = admin.get("/clients").json["clients"]
        assert {client["software"] for client in clients} >= SOFTWARE
        busy = next(client for client in clients if "Produce" in client["apis"])
        assert admin.post(f"/clients/{busy['id']}/close").status == 200
        for traffic in traffics:
            traffic.wait_read(100)
        assert busy["id"] not in {client["id"] for client in admin.get("/clients").json["clients"]}
    for traffic in traffics:
        traffic.check_stored(kafka_cluster.plain_bootstrap)
    with closing(Reader(kafka_cluster, log_topic)) as reader:
        expected = asked(admin)
        assert all(expected[api] >= len(LIBRARIES) for api in LOGGED)
        wait_until(lambda: reader.counts() >= expected, 20, lambda: f"{expected}, and there are {reader.counts()}")
        time.sleep(1)
        assert reader.counts() == asked(admin) == expected
    produced = [entry for entry in reader.entries if (entry["api"], entry["answered_by"]) == ("Produce", "broker")]
    assert {entry["broker"] for entry in produced} == {1, 2, 3}
    assert {entry["software"] for entry in produced} >= SOFTWARE
    by_id = {entry["topic"] for entry in reader.entries if entry["topic_id"]}
    assert by_id - {None} <= topics
    assert by_id & topics, "a topic that was named by its id is told by its name"
    for entry in produced:
        assert (entry["listener"], entry["principal"]) == ("public", "User:ANONYMOUS")
        assert 0 <= entry["upstream_ms"] <= entry["latency_ms"]
