"""aiokafka in the tests' shape: its event loop runs in a thread of its own."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from clients.library import HEARTBEAT_MS, SESSION_MS, Acked, Member, Producer
from clients.records import Record

T = TypeVar("T")

NOTHING: Mapping[str, Any] = MappingProxyType({})

CALL_SECONDS = 60
RECORD_BYTES_MAX = 8 * 1024 * 1024


class AioProducer(Producer):
    """See Producer."""

    def __init__(
        self, address: str, compression: str, transactional_id: str | None, more: Mapping[str, Any] = NOTHING
    ) -> None:
        self._more = more
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aiokafka", daemon=True)
        self._thread.start()
        try:
            self._producer = self._call(self._start(address, compression, transactional_id))
        except BaseException:
            self._end()
            raise

    async def _start(self, address: str, compression: str, transactional_id: str | None) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=address,
            acks="all",
            enable_idempotence=True,
            compression_type=None if compression == "none" else compression,
            transactional_id=transactional_id,
            max_request_size=RECORD_BYTES_MAX,
            linger_ms=5,
            **self._more,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        self._queue: asyncio.Queue[tuple[str, Record, Acked]] = asyncio.Queue()
        self._sender = self._loop.create_task(self._send_queued(producer), name="sender")
        return producer

    async def _send_queued(self, producer: AIOKafkaProducer) -> None:
        """Send one record after the other, so that they keep their order while the producer's buffer is full."""
        while True:
            topic, record, acked = await self._queue.get()
            try:
                future = await producer.send(topic, record.value, record.key, record.partition)
            except KafkaError as error:
                acked(record, error)
            else:
                future.add_done_callback(partial(_tell, record, acked))
            self._queue.task_done()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_SECONDS)

    def send(self, topic: str, record: Record, acked: Acked) -> None:
        """See Producer."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (topic, record, acked))

    def flush(self) -> None:
        """See Producer."""
        self._call(self._after_the_queue(self._producer.flush))

    def begin(self) -> None:
        """See Producer."""
        self._call(self._producer.begin_transaction())

    def commit(self) -> None:
        """See Producer."""
        self._call(self._after_the_queue(self._producer.commit_transaction))

    def abort(self) -> None:
        """See Producer."""
        self._call(self._after_the_queue(self._producer.abort_transaction))

    async def _after_the_queue(self, call: Callable[[], Awaitable[None]]) -> None:
        await self._queue.join()
        await call()

    def close(self) -> None:
        """See Producer."""
        try:
            self._call(self._stop())
        finally:
            self._end()

    def abandon(self) -> None:
        """See Producer."""
        try:
            self._call(self._break_off())
        finally:
            self._end()

    async def _break_off(self) -> None:
        self._sender.cancel()
        self._producer._sender.sender_task.cancel()
        await self._producer.stop()

    async def _stop(self) -> None:
        try:
            await self._after_the_queue(self._producer.flush)
        finally:
            self._sender.cancel()
            await self._producer.stop()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def _tell(record: Record, acked: Acked, done: "asyncio.Future[Any]") -> None:
    error = done.exception()
    acked(record, error if error is None or isinstance(error, Exception) else RuntimeError(repr(error)))


class AioMember(Member):
    """See Member."""

    def _consume(self) -> None:
        asyncio.run(self._poll())

    async def _poll(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.address,
            group_id=self.group,
            auto_offset_reset="earliest",
            isolation_level=self.isolation,
            fetch_max_wait_ms=100,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            **self.settings,
        )
        try:
            await consumer.start()
            if self.group is None:
                consumer.assign([TopicPartition(self.topic, at) for at in self.partitions])
            else:
                consumer.subscribe([self.topic])
            while not self._stopping.is_set():
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    for record in records:
                        self._take(record.partition, record.key, record.value)
                self.assignment = frozenset(part.partition for part in consumer.assignment())
        finally:
            await consumer.stop()


class Aio:
    """See Library; ``settings``: more of its own."""

    name = "aiokafka"
    codecs = ("none", "gzip")

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def producer(self, address: str, *, compression: str = "none", transactional_id: str | None = None) -> AioProducer:
        """See Library."""
        return AioProducer(address, compression, transactional_id, self._settings)

    def member(
        self, address: str, topic: str, partitions: int, *, group: str | None = None, read_committed: bool = False
    ) -> AioMember:
        """See Library."""
        more = self._settings
        return AioMember(address, topic, partitions, group=group, read_committed=read_committed, settings=more)
