"""A whole cluster replaced by another at other addresses, while clients send: its bootstrap is changed hot."""

import signal
from contextlib import ExitStack
from pathlib import Path

import confluent_kafka
import pytest
from clients.aio import Aio
from clients.confluent import Confluent
from clients.fixtures import LOGIN
from clients.kafkapython import KafkaPython
from clients.library import Library
from clients.records import END, Record, assert_exact, new_name
from clients.traffic import Stream
from confluent_kafka.admin import AdminClient, NewTopic

from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import ConfiguredProxy
from kproxy.testing.waiting import wait_until

LIBRARIES: tuple[Library, ...] = (Confluent(), Aio(), KafkaPython())

PARTITIONS = 4

CONFIG = """
clusters: {{main: {{bootstrap: [{bootstrap}], sasl: {{username: {user}, password: {password}}}}}}}
listeners: {{public: {{bind: "127.0.0.1:{port}", addressing: {addressing}}}}}
"""


def stored(cluster: KafkaCluster, topic: str) -> list[Record]:
    """Return what a topic holds, in the order of each partition."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": cluster.plain_bootstrap, "group.id": "none", "log_level": 0}
    )
    parts = [confluent_kafka.TopicPartition(topic, at, 0) for at in range(PARTITIONS)]
    many = sum(consumer.get_watermark_offsets(part, 20)[1] for part in parts)
    consumer.assign(parts)
    found: list[Record] = []
    while len(found) < many:
        for message in consumer.consume(many - len(found), 10):
            assert message.error() is None
            found.append(Record(message.partition(), message.key(), message.value()))
    consumer.close()
    return [record for record in found if record.value != END]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("addressing", ["ports", "single"])
def test_another_cluster(tmp_path: Path, addressing: str) -> None:
    """No send fails; each record is in the old cluster or in the new one, once, and the new one has what came last."""
    with KafkaCluster(tmp_path / "old", 1) as old, KafkaCluster(tmp_path / "new", 1) as new:
        topics = [new_name() for _ in LIBRARIES]
        for cluster in (old, new):
            admin = AdminClient({"bootstrap.servers": cluster.plain_bootstrap})
            for made in admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics]).values():
                made.result(30)
        port, path = free_port_block(4), tmp_path / "kproxy.yaml"

        def write(cluster: KafkaCluster) -> None:
            text = CONFIG.format(
                bootstrap=cluster.sasl_bootstrap, user=LOGIN[0], password=LOGIN[1], port=port, addressing=addressing
            )
            path.write_text(text, encoding="utf-8")

        write(old)
        path.chmod(0o600)
        proxy = ConfiguredProxy(tmp_path, path, f"127.0.0.1:{port}", "--log-format", "json")
        proxy.start()
        with ExitStack() as stack:
            streams = [
                stack.enter_context(Stream(library, proxy.address, topic, PARTITIONS, 200))
                for library, topic in zip(LIBRARIES, topics, strict=True)
            ]
            for stream in streams:
                stream.wait_acked(500)
            write(new)
            proxy.signal(signal.SIGHUP)
            wait_until(lambda: "it is another cluster now" in proxy.log.read_text("utf-8"), 30, "the new cluster")
            for stream in streams:
                stream.wait_acked(500)
                stream.stop()
        proxy.finish()
        for stream, library, topic in zip(streams, LIBRARIES, topics, strict=True):
            before, after = stored(old, topic), stored(new, topic)
            print(library.name, len(stream.sent), len(stream.failed), len(before), len(after))  # noqa: T201
            assert stream.failed == [], library.name
            assert after
            assert_exact(stream.sent, before + after)
