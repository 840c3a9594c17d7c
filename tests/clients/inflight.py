"""How many Produce requests are in flight behind a proxy, as a Tap between it and the next one sees them.

kproxy itself is what the proxy takes for its brokers, so that a Tap stands on every way it has to them::

    behind = run_proxy(cluster.sasl_bootstrap)
    behind.tap.on_chunk = flying = InFlight()
    proxy = run_proxy(behind.address, ...)
    ...
    assert flying.most <= 3

A request is in flight here from its head to its answer's, which is within the time that it is so in the proxy: it is
never counted too early, or for too long. acks=0, which nobody answers, must not be used.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from clients.confluent import Confluent
from clients.records import Record
from kproxy.wire.apis import ApiKey

_SIZE_BYTES, _KEY_BYTES = 4, 2


class _Frames:
    """Cuts one direction of a connection into frames, and tells the head of each as soon as it is there."""

    def __init__(self, head_bytes: int) -> None:
        self._head_bytes = head_bytes
        self._head = b""
        self._body_bytes = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            skipped = min(self._body_bytes, len(data))
            self._body_bytes -= skipped
            wanted = skipped + self._head_bytes - len(self._head)
            self._head += data[skipped:wanted]
            data = data[wanted:]
            if len(self._head) == self._head_bytes:
                yield self._head
                self._body_bytes = int.from_bytes(self._head[:_SIZE_BYTES]) + _SIZE_BYTES - self._head_bytes
                self._head = b""


class _Connection:
    def __init__(self) -> None:
        self.requests = _Frames(_SIZE_BYTES + _KEY_BYTES)
        self.answers = _Frames(_SIZE_BYTES)
        self.asked = deque[bool]()  # whether each was a Produce
        self.produced = False


class InFlight:
    """Listens to a Tap (``on_chunk``).

    Attributes:
        most: How many there were at once at most.
        count: How many there were.
    """

    def __init__(self) -> None:
        self.most = 0
        self.count = 0
        self._now = 0
        self._connections: dict[int, _Connection] = {}

    @property
    def connections(self) -> int:
        """How many connections have carried a Produce."""
        return sum(each.produced for each in self._connections.values())

    def __call__(self, number: int, from_client: bool, data: bytes) -> None:
        """Count what begins, or ends, in a chunk."""
        connection = self._connections.setdefault(number, _Connection())
        if not from_client:
            for _ in connection.answers.feed(data):
                self._now -= connection.asked.popleft()
            return
        for head in connection.requests.feed(data):
            produce = int.from_bytes(head[_SIZE_BYTES:]) == ApiKey.PRODUCE
            connection.asked.append(produce)
            connection.produced |= produce
            self._now += produce
            self.count += produce
            self.most = max(self.most, self._now)


def produce_side_by_side(
    address: str, topic: str, clients: int, client_id: str, seconds: float
) -> tuple[list[int], float]:
    """Let several producers of one client id send to one partition, as much as each can.

    Returns how many records each got acknowledged, and the longest that anyone waited for an acknowledgement.
    """
    barrier = Barrier(clients)
    library = Confluent(client_id=client_id, linger_ms=0)

    def one(_: int) -> tuple[int, float]:
        count, longest, last = 0, 0.0, 0.0
        failed: list[Exception] = []

        def acked(_: Record, error: Exception | None) -> None:
            nonlocal count, longest, last
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            count += 1
            if error is not None:
                failed.append(error)

        with library.producer(address) as producer:
            producer.send(topic, Record(0, b"", b"first"), acked)
            producer.flush()  # it is connected
            barrier.wait(60)
            count, longest, last = 0, 0.0, time.monotonic()
            ends = last + seconds
            while time.monotonic() < ends:
                for _ in range(5):
                    producer.send(topic, Record(0, b"", bytes(1000)), acked)
                producer.flush()
        assert not failed
        return count, longest

    with ThreadPoolExecutor(clients) as pool:
        done = list(pool.map(one, range(clients)))
    return [count for count, _ in done], max(longest for _, longest in done)
