"""Records whose way through Kafka can be checked exactly.

A record carries its partition, so that the order in which it must come back is known; behind the last one of a test
an END goes to each partition: who has read it has read all, and whatever came twice came before it::

    >>> [(record.partition, record.key, record.value) for record in make_records(3, partitions=2)]
    [(0, b'key-0', b'0'), (1, b'key-1', b'1'), (0, b'key-2', b'2')]
"""

import uuid
from collections.abc import Iterable, Sequence
from typing import NamedTuple

END = b"end of the test's records"

KEYS = 17


class Record(NamedTuple):
    """A record in its partition."""

    partition: int
    key: bytes
    value: bytes


def make_records(count: int, partitions: int, value_bytes: int = 0, first: int = 0) -> list[Record]:
    """Return records whose values are their numbers, from ``first`` on, filled up to ``value_bytes``."""
    numbers = range(first, first + count)
    return [Record(i % partitions, b"key-%d" % (i % KEYS), b"%d" % i + _filling(i, value_bytes)) for i in numbers]


def _filling(number: int, value_bytes: int) -> bytes:
    """Return bytes that neither repeat from record to record nor compress to nothing."""
    seed = b" %d" % (number * 2654435761 % (1 << 32))
    return (seed * (value_bytes // len(seed) + 1))[: max(0, value_bytes - len(b"%d" % number))]


def ends(partitions: int) -> list[Record]:
    """Return the last record of each partition."""
    return [Record(partition, b"end", END) for partition in range(partitions)]


def new_name(what: str = "topic") -> str:
    """Return a name that no other test has."""
    return f"{what}-{uuid.uuid4().hex[:10]}"


def assert_exact(sent: Iterable[Record], received: Iterable[Record]) -> None:
    """Fail unless each partition's records came exactly once, with their keys, in the order they were sent in."""
    sent_in, received_in = _by_partition(sent), _by_partition(received)
    assert sent_in.keys() == received_in.keys()
    for partition, expected in sent_in.items():
        found = received_in[partition]
        if found != expected:
            raise AssertionError(f"partition {partition}: {_difference(expected, found)}")


def _by_partition(records: Iterable[Record]) -> dict[int, list[Record]]:
    split: dict[int, list[Record]] = {}
    for record in records:
        split.setdefault(record.partition, []).append(record)
    return split


def _difference(expected: Sequence[Record], found: Sequence[Record]) -> str:
    """Say in a line how two lists differ, however big their records are."""
    missing, surplus = set(expected) - set(found), set(found) - set(expected)
    pairs = enumerate(zip(expected, found, strict=False))
    first = next((at for at, (one, other) in pairs if one != other), min(len(expected), len(found)))
    return (
        f"sent {len(expected)}, received {len(found)} ({len(found) - len(set(found))} of them again); "
        f"missing {len(missing)}, never sent {len(surplus)}; first difference at {first}"
    )
