"""Traffic that goes on while a test disturbs the brokers or the proxy, and what came of it.

A producer sends at a steady rate and a consumer group of one reads; in the end nothing that was acknowledged may be
missing, nothing may have come twice, and the longest silence tells how long the client took to recover::

    with Traffic(library, proxy.address, topic, partitions=4) as traffic:
        traffic.wait_read(1000)
        cluster.broker(2).kill()
        traffic.wait_read(1000)
    traffic.check()
"""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

import confluent_kafka

from clients.library import Library, Member, consume
from clients.records import Record, assert_exact, ends, make_records, new_name
from kproxy.testing.waiting import wait_until

TICK_SECONDS = 0.01

HIGH_WATERMARK_SECONDS = 10
"""How long a broker that has just become a leader may take to see that its followers have what it has."""


class Stream:
    """A producer that sends at a steady rate from ``with`` on, until it is told to stop, or the test has failed.

    Args:
        library: The client library.
        address: Where it bootstraps from.
        topic: A topic that nobody else writes to.
        partitions: How many it has.
        per_second: How many records to send in a second.

    Attributes:
        sent: What was handed to the library.
        acked: What was acknowledged.
        failed: What was not, and never will be, with the reason.
        ack_times: When a record of each partition was acknowledged, as time.monotonic() tells it.
    """

    def __init__(self, library: Library, address: str, topic: str, partitions: int, per_second: int = 500) -> None:
        self.sent: list[Record] = []
        self.acked: list[Record] = []
        self.failed: list[tuple[Record, Exception]] = []
        self.ack_times: dict[int, list[float]] = {at: [] for at in range(partitions)}
        self._topic = topic
        self._partitions = partitions
        self._per_tick = max(1, round(per_second * TICK_SECONDS))
        self._producer = library.producer(address)
        self._stopping = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._send, name=f"stream-{topic}", daemon=True)

    def _send(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            for record in make_records(self._per_tick, self._partitions, first=len(self.sent)):
                self.sent.append(record)
                self._producer.send(self._topic, record, self._acked)

    def _acked(self, record: Record, error: Exception | None) -> None:
        if error is None:
            self.acked.append(record)
            self.ack_times[record.partition].append(time.monotonic())
        else:
            self.failed.append((record, error))

    def __enter__(self) -> Self:
        """Begin to send."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what was not stopped: what was not acknowledged by now may never be."""
        if not self._stopped:
            self.halt()
            self._producer.abandon()

    def wait_acked(self, more: int, timeout_seconds: float = 30) -> None:
        """Wait for so many more acknowledgements than there are now."""
        wanted = len(self.acked) + more
        wait_until(lambda: len(self.acked) >= wanted, timeout_seconds, lambda: f"{wanted - len(self.acked)} more")

    def halt(self) -> None:
        """Send no more, without waiting for what was sent."""
        self._stopping.set()
        self._thread.join(30)

    def stop(self) -> None:
        """Send no more but the END of each partition, and wait for all acknowledgements."""
        self.halt()
        for record in ends(self._partitions):
            self._producer.send(self._topic, record, lambda *_: None)
        self._producer.close()
        self._stopped = True
        wait_until(lambda: len(self.acked) + len(self.failed) == len(self.sent), 30, "all acknowledgements")


@contextmanager
def streams(
    libraries: Sequence[Library], address: str, topics: Sequence[str], partitions: int
) -> Iterator[list[Stream]]:
    """Have each library send 200 records a second to a topic of its own, until each Stream is told to stop."""
    with ExitStack() as stack:
        pairs = zip(libraries, topics, strict=True)
        yield [stack.enter_context(Stream(library, address, topic, partitions, 200)) for library, topic in pairs]


class Traffic:
    """A Stream, and a consumer group of one that reads it, from ``with`` to its end; arguments as a Stream's."""

    def __init__(self, library: Library, address: str, topic: str, partitions: int, per_second: int = 500) -> None:
        self._library = library
        self._topic = topic
        self._partitions = partitions
        self._read_times: dict[int, list[float]] = {at: [] for at in range(partitions)}
        self.stream = Stream(library, address, topic, partitions, per_second)
        self.member: Member = library.member(address, topic, partitions, group=new_name("group"))
        self.member.on_record = self._was_read

    def _was_read(self, record: Record) -> None:
        self._read_times[record.partition].append(time.monotonic())

    @property
    def sent(self) -> list[Record]:
        """What was handed to the library."""
        return self.stream.sent

    @property
    def read(self) -> list[Record]:
        """What the consumer was given, in that order."""
        return self.member.records

    def wait_read(self, more: int, timeout_seconds: float = 60) -> None:
        """Wait until so many more records than now have been acknowledged and read."""
        acked, read = len(self.stream.acked) + more, len(self.read) + more

        def both() -> bool:
            return len(self.stream.acked) >= acked and len(self.read) >= read

        self.member.wait(both, f"{more} more records ({len(self.stream.failed)} failed)", timeout_seconds)

    def __enter__(self) -> Self:
        """Begin to send and to read."""
        with ExitStack() as stack:
            stack.enter_context(self.member)
            stack.enter_context(self.stream)
            self._running = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send no more, and wait until all has been acknowledged and read; where the test has failed only end."""
        with self._running:
            if kind is None:
                self.stream.stop()
                self.member.wait_ended()

    def check(self) -> None:
        """Fail unless all that was sent was acknowledged, and read exactly once and in order."""
        self._check_acked()
        assert_exact(self.sent, self.read)

    def check_nothing_lost(self) -> None:
        """Fail unless all that was sent was acknowledged and read; a group may read again what it had not committed."""
        self._check_acked()
        assert_exact(self.sent, dict.fromkeys(self.read))

    def _check_acked(self) -> None:
        failed = self.stream.failed
        assert not failed, f"{len(failed)} of {len(self.sent)} failed: {failed[:3]!r}"

    def check_stored(self, address: str) -> None:
        """Fail unless the topic holds exactly what was sent, once and in order: idempotence has held.

        Args:
            address: Of the brokers themselves, without a login.
        """
        counts = Counter(record.partition for record in self.sent)
        expected = {at: counts[at] + 1 for at in range(self._partitions)}  # END, too
        told = end_offsets(address, self._topic, self._partitions)
        deadline = time.monotonic() + HIGH_WATERMARK_SECONDS
        while any(told[at] < expected[at] for at in expected) and time.monotonic() < deadline:
            print(f"the log's high watermark lags: {told} of {expected}")  # noqa: T201 - to know how often
            time.sleep(0.1)
            told = end_offsets(address, self._topic, self._partitions)
        assert told == expected, "the log itself holds more or less"
        assert_exact(self.sent, consume(self._library, address, self._topic, self._partitions))

    def silence_seconds(self, since: float) -> tuple[float, float]:
        """Return the longest times without an acknowledgement, and without a record read, in any one partition.

        Args:
            since: A time.monotonic() of before the disturbance; what had ended by then does not count.
        """
        return _longest(self.stream.ack_times, since), _longest(self._read_times, since)


def end_offsets(address: str, topic: str, partitions: int) -> dict[int, int]:
    """Return the offset behind the last record of each partition."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": address, "group.id": "none", "log_level": 0})
    try:
        asked = [confluent_kafka.TopicPartition(topic, at) for at in range(partitions)]
        return {part.partition: consumer.get_watermark_offsets(part, 10)[1] for part in asked}
    finally:
        consumer.close()


def _longest(times: dict[int, list[float]], since: float) -> float:
    pairs = (pair for one in times.values() for pair in itertools.pairwise(one))
    return max((later - earlier for earlier, later in pairs if later > since), default=0.0)
