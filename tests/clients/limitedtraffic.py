"""How fast clients are that come under limits, and whether a group of theirs holds together."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import confluent_kafka as ck

from clients.aio import Aio
from clients.confluent import Confluent
from clients.fixtures import LOGIN, PARTITIONS
from clients.kafkapython import KafkaPython
from clients.library import Library, consume, produce
from clients.limited import RunProxy, limit_tally, requests, run_limited, tally
from clients.records import Record, assert_exact, ends, make_records, new_name
from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.proxy import ProxyProcess
from kproxy.testing.waiting import wait_until

MIB = 1024 * 1024
RATE = 2 * MIB
RECORD_BYTES = 4096
BATCH_GAP_SECONDS = 0.004

FETCH_BYTES = 256 * 1024

READERS: tuple[Library, ...] = (
    Confluent(fetch_max_bytes=FETCH_BYTES, fetch_message_max_bytes=FETCH_BYTES, message_max_bytes=FETCH_BYTES),
    Aio(fetch_max_bytes=FETCH_BYTES, max_partition_fetch_bytes=FETCH_BYTES),
    KafkaPython(fetch_max_bytes=FETCH_BYTES, max_partition_fetch_bytes=FETCH_BYTES),
)
"""Consumers that ask for so little at a time that a rate can be seen."""

HARD = [
    {"name": "requests", "leaky_bucket": {"rate": 1}, "key": ["client_ip"]},
    {"name": "bytes", "leaky_bucket": {"rate": "20KiB", "unit": "bytes_out"}, "key": ["client_ip"]},
]
"""Limits that leave a group of three next to nothing."""


def make_topic(cluster: KafkaCluster) -> str:
    """Make a topic, past the proxy."""
    name = new_name()
    cluster.make_topic(name, PARTITIONS)
    return name


def produce_rate(library: Library, proxy: ProxyProcess, topic: str, seconds: float) -> float:
    """Send what RATE lets through in so many seconds; return how many bytes a second passed, as the proxy counts them.

    Fails unless every record arrived once.
    """
    records = make_records(int(seconds * RATE / RECORD_BYTES), PARTITIONS, RECORD_BYTES)
    times: list[float] = []
    failed: list[Exception] = []

    def acked(_: Record, error: Exception | None) -> None:
        times.append(time.monotonic())
        if error is not None:
            failed.append(error)

    with library.producer(proxy.address) as producer:
        for record in (*records, *ends(PARTITIONS)):
            producer.send(topic, record, acked)
        producer.flush()
        wait_until(lambda: len(times) == len(records) + PARTITIONS, 10, "all acknowledgements")
    assert not failed
    per_record = wire_bytes(proxy, "bytes_in") / len(times)
    assert_exact(records, consume(library, proxy.address, topic, PARTITIONS))
    return steady_rate(times) * per_record


def wire_bytes(proxy: ProxyProcess, which: str) -> int:
    """Return a proxy's bytes_in or bytes_out: a few percent more than there is in records."""
    return sum(int(listener[which]) for listener in tally(proxy)["listeners"].values())


def steady_rate(times: list[float]) -> float:
    """Return records a second, of such as came at these times, in batches, without the first second.

    The pause behind a batch is for that one: so it is measured from the beginning of a batch to that of the last.
    """
    begins = [at for at in range(1, len(times)) if times[at] - times[at - 1] > BATCH_GAP_SECONDS]
    first, last = next(at for at in begins if times[at] > times[0] + 1), begins[-1]
    return (last - first) / (times[last] - times[first])


def consume_rate(library: Library, cluster: KafkaCluster, proxy: ProxyProcess, seconds: float) -> float:
    """Read what RATE lets through in so many seconds; return how many bytes a second passed.

    ``library`` is one of READERS, which ask for 256 KiB a Fetch.
    """
    topic = make_topic(cluster)
    records = make_records(int(seconds * RATE / RECORD_BYTES), 1, RECORD_BYTES)
    produce(Confluent(), cluster.plain_bootstrap, topic, records)
    times: list[float] = []
    member = library.member(proxy.address, topic, 1)
    member.on_record = lambda _: times.append(time.monotonic())
    with member:
        member.wait(lambda: len(times) >= len(records), "every record", 3 * seconds + 20)
    assert_exact(records, member.records)
    return steady_rate(times) * wire_bytes(proxy, "bytes_out") / len(times)


def request_rate(proxy: ProxyProcess, api: str, seconds: float) -> float:
    """Return how many requests of an API a second pass, from a few seconds after the first on."""
    began = requests(proxy, api)
    wait_until(lambda: requests(proxy, api) > began, 60, "a first request")
    time.sleep(3)
    before, since = requests(proxy, api), time.monotonic()
    time.sleep(seconds)
    return (requests(proxy, api) - before) / (time.monotonic() - since)


def window_of_two(
    run_proxy: RunProxy,
    folder: Path,
    cluster: KafkaCluster,
    on_exceed: str,
    *,
    seconds: int,
    count: int,
    addressing: str = "ports",
) -> list[float]:
    """Send so many records, one after the other, where two Produce requests may pass in so many seconds.

    Returns when each was acknowledged. Fails unless all are stored once, and each came when its window was there.
    """
    window = {"name": "two", "fixed_window": {"count": 2, "window": f"{seconds}s"}, "match": {"apis": ["Produce"]}}
    limit = window | {"on_exceed": on_exceed, "max_wait": "90s"}
    proxy = run_limited(run_proxy, folder, cluster.sasl_bootstrap, limit, addressing=addressing, login=LOGIN)
    topic, records = make_topic(cluster), make_records(count, 1)
    # By default librdkafka waits for 60 s, which is to the second what the longest of these windows takes.
    settings = {"bootstrap.servers": proxy.address, "linger.ms": 0, "log_level": 0, "socket.timeout.ms": 100_000}
    producer = ck.Producer(settings)
    acked: list[float] = []
    began = time.monotonic()  # the window does a little later, before the first is acknowledged
    for record in records:
        producer.produce(topic, record.value, record.key, 0, on_delivery=lambda *_: acked.append(time.monotonic()))
        assert producer.flush(100) == 0
    producer.close()
    # In which window each is; with throttle the third is served, and told to wait.
    windows = [max(at - (on_exceed == "throttle"), 0) // 2 for at in range(count)]
    for at, window_number in zip(acked, windows, strict=True):
        assert at - began >= seconds * window_number, acked
        if on_exceed != "close":  # where librdkafka comes back again and again, at its own pace
            assert at - acked[0] < seconds * window_number + 2, acked
    with Confluent().member(cluster.plain_bootstrap, topic, PARTITIONS) as read:
        read.wait(lambda: len(read.records) >= count, "all records")
    assert_exact(records, read.records)
    closed = limit_tally(proxy, "two")["closed"]
    assert closed >= windows[-1] if on_exceed == "close" else closed == 0
    return [at - began for at in acked]


def group_rebalances(
    run_proxy: RunProxy,
    folder: Path,
    cluster: KafkaCluster,
    library: Library,
    *,
    seconds: float,
    addressing: str = "ports",
) -> tuple[int, int]:
    """Throttle a group of three hard for so many seconds.

    Returns how many members joined anew, and how many records they read meanwhile.
    """
    proxy = run_limited(run_proxy, folder, cluster.sasl_bootstrap, *HARD, addressing=addressing, login=LOGIN)
    topic, group = make_topic(cluster), new_name("group")
    with ExitStack() as stack:
        members = [stack.enter_context(library.member(proxy.address, topic, PARTITIONS, group=group)) for _ in range(3)]
        wait_until(lambda: all(one.assignment for one in members), 90, "every member to have partitions")
        with feeding(library, cluster, topic):
            before, read = requests(proxy, "JoinGroup"), sum(len(one.records) for one in members)
            time.sleep(seconds)
            joins, more = requests(proxy, "JoinGroup") - before, sum(len(one.records) for one in members) - read
    return joins, more


@contextmanager
def feeding(library: Library, cluster: KafkaCluster, topic: str) -> Iterator[None]:
    """Write 100 records a second to a topic, past the proxy."""
    stopping = threading.Event()

    def feed() -> None:
        number = 0
        while not stopping.wait(0.5):
            produce(library, cluster.plain_bootstrap, topic, make_records(50, PARTITIONS, 1000, first=number))
            number += 50

    feeder = threading.Thread(target=feed, name="feeder", daemon=True)
    feeder.start()
    try:
        yield
    finally:
        stopping.set()
        feeder.join(60)
