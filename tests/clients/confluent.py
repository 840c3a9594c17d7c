"""confluent-kafka (librdkafka) in the tests' shape."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import confluent_kafka as ck

from clients.library import HEARTBEAT_MS, SESSION_MS, Acked, Member, Producer
from clients.records import Record

NOTHING: Mapping[str, Any] = MappingProxyType({})

FLUSH_SECONDS = 60
RECORD_BYTES_MAX = 8 * 1024 * 1024
BATCH_BYTES = 64 * 1024
"""Requests of a usual size, so that a rate can be seen in a few seconds; librdkafka's default is a megabyte."""


class ConfluentProducer(Producer):
    """See Producer."""

    def __init__(
        self, address: str, compression: str, transactional_id: str | None, more: Mapping[str, Any] = NOTHING
    ) -> None:
        settings: dict[str, Any] = {
            "bootstrap.servers": address,
            "enable.idempotence": True,
            "compression.type": compression,
            "message.max.bytes": RECORD_BYTES_MAX,
            "batch.size": BATCH_BYTES,
            "linger.ms": 5,
            "log_level": 0,
            **more,
        }
        if transactional_id is not None:
            settings["transactional.id"] = transactional_id
        self._producer = ck.Producer(settings)
        if transactional_id is not None:
            self._producer.init_transactions(30)

    def send(self, topic: str, record: Record, acked: Acked) -> None:
        """See Producer."""

        def delivered(error: ck.KafkaError | None, _: ck.Message) -> None:
            acked(record, None if error is None else ck.KafkaException(error))

        while True:
            try:
                self._producer.produce(topic, record.value, record.key, record.partition, on_delivery=delivered)
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def poll(self) -> None:
        """Let callbacks be called."""
        self._producer.poll(0)

    def flush(self) -> None:
        """See Producer."""
        left = self._producer.flush(FLUSH_SECONDS)
        assert left == 0, f"{left} records were not acknowledged"

    def begin(self) -> None:
        """See Producer."""
        self._producer.begin_transaction()

    def commit(self) -> None:
        """See Producer."""
        self._producer.commit_transaction(30)

    def abort(self) -> None:
        """See Producer."""
        self._producer.abort_transaction(30)

    def close(self) -> None:
        """See Producer."""
        self.flush()
        self._producer.close()

    def abandon(self) -> None:
        """See Producer."""
        self._producer.purge()
        self._producer.close()


class ConfluentMember(Member):
    """See Member."""

    def _consume(self) -> None:
        settings: dict[str, Any] = {
            "bootstrap.servers": self.address,
            "group.id": self.group or "none",
            "auto.offset.reset": "earliest",
            "isolation.level": self.isolation,
            "fetch.wait.max.ms": 100,
            "log_level": 0,
            **self.settings,
        }
        if settings.get("group.protocol") != "consumer":  # there they are the broker's (KIP-848), and refused here
            settings = {"session.timeout.ms": SESSION_MS, "heartbeat.interval.ms": HEARTBEAT_MS, **settings}
        consumer = ck.Consumer(settings)
        try:
            if self.group is None:
                consumer.assign([ck.TopicPartition(self.topic, at, ck.OFFSET_BEGINNING) for at in self.partitions])
            else:
                consumer.subscribe([self.topic])
            while not self._stopping.is_set():
                for message in consumer.consume(500, 0.1):
                    if (error := message.error()) is None:
                        self._take(message.partition(), message.key(), message.value())
                    elif error.code() != ck.KafkaError.UNKNOWN_TOPIC_OR_PART and not error.retriable():
                        raise ck.KafkaException(error)
                self.assignment = frozenset(part.partition for part in consumer.assignment())
        finally:
            consumer.close()


class Confluent:
    """See Library; ``settings``: more of its own, by their names with _ for the dots."""

    name = "confluent-kafka"
    codecs = ("none", "gzip", "snappy", "lz4", "zstd")

    def __init__(self, **settings: Any) -> None:
        self._settings = {key.replace("_", "."): value for key, value in settings.items()}

    def producer(
        self, address: str, *, compression: str = "none", transactional_id: str | None = None
    ) -> ConfluentProducer:
        """See Library."""
        return ConfluentProducer(address, compression, transactional_id, self._settings)

    def member(
        self, address: str, topic: str, partitions: int, *, group: str | None = None, read_committed: bool = False
    ) -> ConfluentMember:
        """See Library."""
        more = self._settings
        return ConfluentMember(address, topic, partitions, group=group, read_committed=read_committed, settings=more)
