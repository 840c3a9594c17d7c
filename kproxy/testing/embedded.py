"""A Kafka cluster inside this process, for tests and demos that have nothing but pip: librdkafka's mock.

It knows produce, fetch, groups (classic and KIP-848), idempotence and transactions, no SASL and no ACLs; messages
live in memory as long as the cluster. Its brokers advertise 127.0.0.1, so a leaked address must be told by its port::

    with EmbeddedCluster(3) as cluster:
        cluster.bootstrap            # '127.0.0.1:40001,127.0.0.1:40002,127.0.0.1:40003'
        cluster.brokers[1]           # '127.0.0.1:40001'
"""

from types import TracebackType
from typing import Any, Self

METADATA_SECONDS = 10


class EmbeddedCluster:
    """The mock cluster: there from the first line on, until ``close``.

    Args:
        brokers: How many; their ids are 1 and up.

    Attributes:
        brokers: Node id -> "host:port".
    """

    def __init__(self, brokers: int = 3) -> None:
        from confluent_kafka import Producer  # noqa: PLC0415 - an extra of its own; the rest of this room works without

        # The cluster lives inside this client, which itself is used for nothing else.
        self._owner: Any = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": brokers, "log_level": 3})
        known = self._owner.list_topics(timeout=METADATA_SECONDS).brokers
        self.brokers: dict[int, str] = {node: f"{broker.host}:{broker.port}" for node, broker in sorted(known.items())}

    @property
    def bootstrap(self) -> str:
        """The addresses of all brokers, comma between."""
        return ",".join(self.brokers.values())

    def close(self) -> None:
        """End the cluster and drop its messages. May be called twice."""
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    def __enter__(self) -> Self:
        """Return itself: it runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
