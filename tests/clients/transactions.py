"""Transactions that go on while a test disturbs the brokers, and whether each came through whole, once and in order.

A producer commits one small transaction after the other; what could not be committed is aborted and sent again, as
every transactional application does::

    with Transactions(library, proxy.address, topic, partitions=4) as transactions:
        transactions.wait_committed(20)
        cluster.broker(2).stop()
        transactions.wait_committed(20)
    transactions.check(cluster.plain_bootstrap)
"""

import threading
from types import TracebackType
from typing import Self

from clients.library import Library, consume
from clients.records import Record, assert_exact, ends, make_records, new_name
from kproxy.testing.waiting import wait_until

BATCH = 20
PAUSE_SECONDS = 0.05


class Transactions:
    """One transactional producer, from ``with`` to its end.

    Args:
        library: The client library.
        address: Where it bootstraps from.
        topic: A topic that nobody else writes to.
        partitions: How many it has.

    Attributes:
        records: What was committed.
        committed: How many transactions that were.
        aborted: What transactions that failed, and were sent again, failed with.
    """

    def __init__(self, library: Library, address: str, topic: str, partitions: int) -> None:
        self.records: list[Record] = []
        self.committed = 0
        self.aborted: list[Exception] = []
        self._library = library
        self._topic = topic
        self._partitions = partitions
        self._producer = library.producer(address, transactional_id=new_name("transactional"))
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"transactions-{topic}", daemon=True)

    def _run(self) -> None:
        try:
            while not self._stopping.wait(PAUSE_SECONDS):
                self._commit(make_records(BATCH, self._partitions, first=len(self.records)))
            self._commit(ends(self._partitions))
            self._producer.close()
        except BaseException as error:  # noqa: BLE001 - raised where the test waits
            self._error = error

    def _commit(self, records: list[Record]) -> None:
        """Commit some records, as often as it takes; an abort that fails ends it all: the producer would be lost."""
        while True:
            self._producer.begin()
            try:
                for record in records:
                    self._producer.send(self._topic, record, lambda *_: None)
                self._producer.commit()
            except Exception as error:  # noqa: BLE001 - each library has its own; kept, and tried again
                self.aborted.append(error)
                self._producer.abort()
            else:
                self.records += records
                self.committed += 1
                return

    def wait_committed(self, more: int, timeout_seconds: float = 60) -> None:
        """Wait for so many more transactions than there are now."""
        wanted = self.committed + more

        def reached() -> bool:
            if self._error is not None:
                raise self._error
            return self.committed >= wanted

        wait_until(reached, timeout_seconds, lambda: f"{wanted - self.committed} more transactions: {self.aborted[:3]}")

    def start(self) -> Self:
        """Begin to commit."""
        self._thread.start()
        return self

    def finish(self) -> None:
        """Commit the END of each partition, and close."""
        self._stopping.set()
        self._thread.join(60)
        if self._error is not None:
            raise self._error
        assert not self._thread.is_alive(), "the last transaction did not come to its end within 60 s"

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish; where the test has failed anyway, only stop."""
        if kind is None:
            self.finish()
        else:
            self._stopping.set()
            self._thread.join(60)

    def check(self, address: str) -> None:
        """Fail unless a reader of what is committed reads exactly that, once and in order; ``address``: brokers'."""
        read = consume(self._library, address, self._topic, self._partitions, read_committed=True)
        assert_exact(self.records[: -self._partitions], read)
