"""The shape that every client library is brought into: a Producer, a Member of a consumer group, and what they do.

A Member polls in a thread of its own, for a group of several must be polled side by side. What goes wrong in it is
raised where the test waits for it.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from clients.records import END, Record, ends
from kproxy.testing.waiting import wait_until

Acked = Callable[[Record, Exception | None], None]
"""Told of each record once it is acknowledged, or has failed for good. Called in a thread of the library's."""

CONSUME_SECONDS = 40

SESSION_MS, HEARTBEAT_MS = 6_000, 500
"""The shortest session that brokers take (group.min.session.timeout.ms); heartbeats that soon tell of a rebalance."""


class Producer(ABC):
    """An idempotent producer with acks=all, transactional if it was given an id."""

    @abstractmethod
    def send(self, topic: str, record: Record, acked: Acked) -> None:
        """Hand over one record; blocks while the library's buffer is full."""

    @abstractmethod
    def flush(self) -> None:
        """Wait until all that was handed over is acknowledged, or has failed."""

    @abstractmethod
    def begin(self) -> None:
        """Begin a transaction."""

    @abstractmethod
    def commit(self) -> None:
        """Commit it."""

    @abstractmethod
    def abort(self) -> None:
        """Abort it."""

    @abstractmethod
    def close(self) -> None:
        """Flush, and end."""

    @abstractmethod
    def abandon(self) -> None:
        """End, whatever becomes of what was not acknowledged: a test has failed, and the others go on."""

    def __enter__(self) -> Self:
        """Return itself: it is connected."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        if kind is None:
            self.close()
        else:
            self.abandon()


class Member(ABC):
    """Reads one topic from its beginning on, polling from ``start`` to ``stop``.

    Args:
        address: Where to bootstrap from.
        topic: The topic.
        partitions: How many it has.
        group: The consumer group that it is a member of; None: of none, it takes all partitions.
        read_committed: Leave out what was aborted.
        settings: More of the library's own.

    Attributes:
        records: What it was given, in that order; the ENDs of partitions apart.
        ended: The partitions whose END it has read.
        assignment: The partitions that are its own now.
    """

    def __init__(
        self,
        address: str,
        topic: str,
        partitions: int,
        *,
        group: str | None = None,
        read_committed: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = dict(settings or {})
        self.address = address
        self.topic = topic
        self.partitions = range(partitions)
        self.group = group
        self.isolation = "read_committed" if read_committed else "read_uncommitted"
        self.records: list[Record] = []
        self.ended: set[int] = set()
        self.assignment: frozenset[int] = frozenset()
        self.on_record: Callable[[Record], None] | None = None
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"reader-{topic}", daemon=True)

    @abstractmethod
    def _consume(self) -> None:
        """Poll until ``_stopping`` is set, with ``_take`` for each record and ``assignment`` kept; then close."""

    def _take(self, partition: int, key: bytes | None, value: bytes | None) -> None:
        if value == END:
            self.ended.add(partition)
            return
        record = Record(partition, key or b"", value or b"")
        self.records.append(record)
        if self.on_record is not None:
            self.on_record(record)

    def _run(self) -> None:
        try:
            self._consume()
        except BaseException as error:  # noqa: BLE001 - raised by wait and stop, where the test sees it
            self._error = error

    def start(self) -> Self:
        """Begin to poll."""
        self._thread.start()
        return self

    def wait(self, condition: Callable[[], bool], what: str, timeout_seconds: float = CONSUME_SECONDS) -> None:
        """Wait for something that it does.

        Raises:
            TimeoutError: it did not come about.
            Exception: what went wrong in its thread.
        """

        def met() -> bool:
            self._raise()
            return condition()

        def seen() -> str:
            return f"{what}: {len(self.records)} records, ended {self.ended}, assigned {set(self.assignment)}"

        wait_until(met, timeout_seconds, seen)

    def wait_ended(self, timeout_seconds: float = CONSUME_SECONDS) -> None:
        """Wait until it has read each partition to its END."""
        self.wait(lambda: self.ended >= set(self.partitions), "the last record of each partition", timeout_seconds)

    def stop(self) -> None:
        """Leave the group, and end the thread. Raises what went wrong in it."""
        self._stopping.set()
        self._thread.join(30)
        self._raise()
        if self._thread.is_alive():
            raise TimeoutError(f"a consumer of {self.topic} did not close within 30 s")

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


class Library(Protocol):
    """One client library."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def codecs(self) -> tuple[str, ...]:
        """The compressions it can do as pip installs it."""

    def producer(self, address: str, *, compression: str = "none", transactional_id: str | None = None) -> Producer:
        """Connect a producer."""

    def member(
        self, address: str, topic: str, partitions: int, *, group: str | None = None, read_committed: bool = False
    ) -> Member:
        """Make a reader, not started yet; arguments as for Member."""


def send_all(producer: Producer, topic: str, records: Iterable[Record]) -> Callable[[], None]:
    """Send records; return what waits for their acknowledgements, once the producer has been told to send them all.

    Raises:
        AssertionError: (the returned function) one has failed.
    """
    results: list[Exception | None] = []
    sent = 0
    for record in records:
        sent += 1
        producer.send(topic, record, lambda _, error: results.append(error))

    def check() -> None:
        wait_until(lambda: len(results) == sent, 10, lambda: f"{sent - len(results)} acknowledgements")
        failures = [error for error in results if error is not None]
        assert not failures, f"{len(failures)} of {sent} records failed: {failures[:3]!r}"

    return check


def produce(
    library: Library,
    address: str,
    topic: str,
    records: Iterable[Record],
    *,
    partitions: int = 0,
    compression: str = "none",
) -> None:
    """Send records, with END behind them in each of ``partitions``, and wait until all are acknowledged."""
    with library.producer(address, compression=compression) as producer:
        check = send_all(producer, topic, [*records, *ends(partitions)])
    check()


def consume(
    library: Library,
    address: str,
    topic: str,
    partitions: int,
    *,
    group: str | None = None,
    read_committed: bool = False,
) -> list[Record]:
    """Read a topic from its beginning to the END of each partition; arguments as for Member."""
    with library.member(address, topic, partitions, group=group, read_committed=read_committed) as member:
        member.wait_ended()
    return member.records
