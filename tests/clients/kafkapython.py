"""kafka-python in the tests' shape."""

import gc
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from clients.library import HEARTBEAT_MS, SESSION_MS, Acked, Member, Producer
from clients.records import Record

NOTHING: Mapping[str, Any] = MappingProxyType({})

FLUSH_SECONDS = 60
RECORD_BYTES_MAX = 8 * 1024 * 1024


class KafkaPythonProducer(Producer):
    """See Producer."""

    def __init__(
        self, address: str, compression: str, transactional_id: str | None, more: Mapping[str, Any] = NOTHING
    ) -> None:
        self._producer = KafkaProducer(
            bootstrap_servers=address,
            acks="all",
            enable_idempotence=True,
            compression_type=None if compression == "none" else compression,
            transactional_id=transactional_id,
            max_request_size=RECORD_BYTES_MAX,
            linger_ms=5,
            **more,
        )
        if transactional_id is not None:
            self._producer.init_transactions()

    def send(self, topic: str, record: Record, acked: Acked) -> None:
        """See Producer."""
        future = self._producer.send(topic, record.value, record.key, partition=record.partition)
        future.add_callback(lambda _: acked(record, None))
        future.add_errback(lambda error: acked(record, error))

    def flush(self) -> None:
        """See Producer."""
        self._producer.flush(timeout=FLUSH_SECONDS)

    def begin(self) -> None:
        """See Producer."""
        self._producer.begin_transaction()

    def commit(self) -> None:
        """See Producer."""
        self._producer.commit_transaction()

    def abort(self) -> None:
        """See Producer."""
        self._producer.abort_transaction()

    def close(self) -> None:
        """See Producer."""
        try:
            self.flush()
        finally:
            self._producer.close()

    def abandon(self) -> None:
        """See Producer."""
        self._producer._sender.force_close()
        self._producer._sender.join(10)
        self._producer.close()


class KafkaPythonMember(Member):
    """See Member."""

    def _consume(self) -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=self.address,
            group_id=self.group,
            auto_offset_reset="earliest",
            isolation_level=self.isolation,
            fetch_max_wait_ms=100,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            consumer_timeout_ms=100,
            **self.settings,
        )
        try:
            if self.group is None:
                consumer.assign([TopicPartition(self.topic, at) for at in self.partitions])
            else:
                consumer.subscribe([self.topic])
                # Who leads a group and learns of its topic only then joins again; a poll that is over meanwhile makes
                # kafka-python 3.0.12 forget that it does, for good. So it is to know the topic first.
                consumer.partitions_for_topic(self.topic)
            while not self._stopping.is_set():
                for records in consumer.poll(100).values():
                    for record in records:
                        self._take(record.partition, record.key, record.value)
                self.assignment = frozenset(part.partition for part in consumer.assignment())
        finally:
            consumer.close()


class KafkaPython:
    """See Library; ``settings``: more of its own."""

    name = "kafka-python"
    codecs = ("none", "gzip")

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def producer(
        self, address: str, *, compression: str = "none", transactional_id: str | None = None
    ) -> KafkaPythonProducer:
        """See Library."""
        return KafkaPythonProducer(address, compression, transactional_id, self._settings)

    def member(
        self, address: str, topic: str, partitions: int, *, group: str | None = None, read_committed: bool = False
    ) -> KafkaPythonMember:
        """See Library."""
        more = self._settings
        return KafkaPythonMember(address, topic, partitions, group=group, read_committed=read_committed, settings=more)


def error_of(kind: Callable[..., Any], **settings: Any) -> str:
    """Make a client of some kind; return the error that it ends with, "" where there is none.

    One that cannot be made leaves its thread and sockets behind (3.0.12), and each failed handshake a socket: all that
    is ended here.
    """
    told, made = "", list[Any]()

    def network(**more: Any) -> Any:
        made.append(kind.DEFAULT_CONFIG["kafka_client"](**more))  # type: ignore[attr-defined]
        return made[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            kind(kafka_client=network, **settings).close()
        except KafkaError as error:
            told = repr(error)
        made.pop().close()
        gc.collect()
    return told
