"""Limits with every client library, for as long as it takes to be sure, and what one client's excess costs another.

The rows of benchmarks/RESULTS.md are printed (pytest -rP).
"""

import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from clients import each_addressing, hammer
from clients.aio import Aio
from clients.confluent import Confluent
from clients.fixtures import LOGIN, PARTITIONS
from clients.inflight import InFlight, produce_side_by_side
from clients.kafkapython import KafkaPython
from clients.library import Library, consume
from clients.limited import RunProxy, limit_tally, run_limited
from clients.limitedtraffic import (
    HARD,
    RATE,
    READERS,
    consume_rate,
    feeding,
    group_rebalances,
    make_topic,
    produce_rate,
    request_rate,
    window_of_two,
    wire_bytes,
)
from clients.records import assert_exact, new_name
from clients.traffic import Stream
from confluent_kafka import Producer

from kproxy.testing.java import Tool
from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.processes import GuardedProcess
from kproxy.testing.waiting import wait_until

LIBRARIES: tuple[Library, ...] = (Confluent(), Aio(), KafkaPython())
each_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda one: one.name)

SECONDS = 20
GROUP_SECONDS = 60
TURNS, LATENCIES, WARM_UP = 6, 250, 20
PER_SECOND = 40

REQUESTS = 20
PRODUCERS, SLOTS, SLOT_SECONDS = 10, 3, 10


@each_addressing
@each_library
@pytest.mark.timeout(300)
def test_bytes_in(
    kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, library: Library, addressing: str
) -> None:
    """A producer held at 2 MiB a second is that fast, within 5 % over 20 s, and every record arrives once."""
    limit = {"name": "in", "leaky_bucket": {"rate": RATE, "unit": "bytes_in"}, "key": ["client_ip"]}
    proxy = run_limited(run_proxy, tmp_path, kafka_cluster.sasl_bootstrap, limit, addressing=addressing, login=LOGIN)
    rate = produce_rate(library, proxy, make_topic(kafka_cluster), SECONDS)
    print(f"| {library.name} | {addressing} | bytes_in | {rate / RATE:.3f} |")  # noqa: T201
    assert rate == pytest.approx(RATE, rel=0.05)


@each_addressing
@pytest.mark.parametrize("library", READERS, ids=lambda one: one.name)
@pytest.mark.timeout(300)
def test_bytes_out(
    kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, library: Library, addressing: str
) -> None:
    """A consumer held at 2 MiB a second is that fast, within 5 % over 20 s, and reads every record."""
    limit = {"name": "out", "leaky_bucket": {"rate": RATE, "unit": "bytes_out"}, "key": ["client_ip"]}
    proxy = run_limited(run_proxy, tmp_path, kafka_cluster.sasl_bootstrap, limit, addressing=addressing, login=LOGIN)
    rate = consume_rate(library, kafka_cluster, proxy, SECONDS)
    print(f"| {library.name} | {addressing} | bytes_out | {rate / RATE:.3f} |")  # noqa: T201
    assert rate == pytest.approx(RATE, rel=0.05)


@each_addressing
@each_library
@pytest.mark.timeout(300)
def test_requests(
    kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, library: Library, addressing: str
) -> None:
    """A producer held at 20 Produce requests a second is that fast, within 5 % over 20 s, and every record arrives."""
    limit = {"name": "calm", "leaky_bucket": {"rate": REQUESTS}, "match": {"apis": ["Produce"]}}
    proxy = run_limited(run_proxy, tmp_path, kafka_cluster.sasl_bootstrap, limit, addressing=addressing, login=LOGIN)
    topic = make_topic(kafka_cluster)
    with Stream(library, proxy.address, topic, PARTITIONS, per_second=200) as stream:
        rate = request_rate(proxy, "Produce", SECONDS)
        stream.stop()
    print(f"| {library.name} | {addressing} | requests | {rate / REQUESTS:.3f} |")  # noqa: T201
    assert stream.failed == []
    assert_exact(stream.sent, consume(library, kafka_cluster.plain_bootstrap, topic, PARTITIONS))
    assert rate == pytest.approx(REQUESTS, rel=0.05)


@each_addressing
@pytest.mark.timeout(300)
def test_java_requests(kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, addressing: str) -> None:
    """So is Kafka's own, which has up to five of them in flight with each broker."""
    limit = {"name": "calm", "leaky_bucket": {"rate": REQUESTS}, "match": {"apis": ["Produce"]}}
    proxy = run_limited(run_proxy, tmp_path, kafka_cluster.sasl_bootstrap, limit, addressing=addressing, login=LOGIN)
    target = ("--bootstrap-server", proxy.address, "--topic", make_topic(kafka_cluster))
    # More than it will have sent, with a record in each batch and a batch for each of up to four partitions a request.
    sizes = ("--num-records", str(4 * 600 * REQUESTS), "--record-size", "100", "--throughput", "-1")
    with (tmp_path / "output").open("wb") as output:
        small = ("--command-property", "batch.size=1")
        program = kafka_cluster.tools.popen(Tool.PRODUCER_PERFORMANCE, *target, *sizes, *small, stdout=output)
    rate = request_rate(proxy, "Produce", SECONDS)
    assert program.process.poll() is None
    program.kill()
    print(f"| Java, ProducerPerformance | {addressing} | requests | {rate / REQUESTS:.3f} |")  # noqa: T201
    assert rate == pytest.approx(REQUESTS, rel=0.05)


@each_addressing
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.timeout(300)
def test_requests_in_flight(
    kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, workers: int, addressing: str
) -> None:
    """Ten connections of one client id never have more than three requests with the brokers; each has its turns.

    At first with ``dry_run``: there must be something to hold. Two workers hold it together.
    """
    behind = run_proxy(kafka_cluster.sasl_bootstrap, login=LOGIN)
    topic = make_topic(kafka_cluster)
    most = {}
    for dry_run in (True, False):
        limit = {"name": "slots", "concurrency": {"max": SLOTS}, "key": ["client_id"], "dry_run": dry_run}
        folder = tmp_path / f"dry-{dry_run}"
        folder.mkdir()
        proxy = run_limited(run_proxy, folder, behind.address, limit, addressing=addressing, workers=workers)
        behind.tap.on_chunk = flying = InFlight()
        acked, longest = produce_side_by_side(proxy.address, topic, PRODUCERS, "batch", SLOT_SECONDS)
        behind.tap.on_chunk = None
        most[dry_run] = flying.most
        print(  # noqa: T201
            f"| {addressing} | {workers} | {'no limit' if dry_run else SLOTS} | {flying.most} | {flying.count:,}"
            f" | {min(acked):,} to {max(acked):,} | {longest * 1000:.0f} ms |"
        )
        assert flying.connections == PRODUCERS
    assert most[True] > SLOTS
    assert most[False] == SLOTS
    assert min(acked) > max(acked) / 2
    assert longest < SLOT_SECONDS / 2
    assert limit_tally(proxy, "slots")["delayed"] > 0


@each_addressing
@pytest.mark.parametrize("on_exceed", ["delay", "close"])
@pytest.mark.timeout(300)
def test_a_window_of_two_in_a_minute(
    kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, on_exceed: str, addressing: str
) -> None:
    """Of three Produce requests two pass; the third waits for the next minute, or its connection ends until then."""
    acked = window_of_two(run_proxy, tmp_path, kafka_cluster, on_exceed, seconds=60, count=3, addressing=addressing)
    print(f"| {addressing} | {on_exceed} | {', '.join(f'{at:.1f} s' for at in acked)} |")  # noqa: T201


@each_addressing
@pytest.mark.timeout(300)
def test_java(kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, addressing: str) -> None:
    """Kafka's own clients, which pause by themselves, are as fast as they may be, within 5 % over 20 s."""
    limits = [
        {"name": unit, "leaky_bucket": {"rate": RATE, "unit": unit}, "match": {"apis": [api]}}
        for unit, api in (("bytes_in", "Produce"), ("bytes_out", "Fetch"))
    ]
    bootstrap = kafka_cluster.sasl_bootstrap
    proxy = run_limited(run_proxy, tmp_path, bootstrap, *limits, addressing=addressing, login=LOGIN)
    topic, count = make_topic(kafka_cluster), str((SECONDS + 8) * RATE // 1024)
    target = ("--bootstrap-server", proxy.address, "--topic", topic, "--num-records", count)
    sizes = ("--record-size", "1024", "--throughput", "-1")
    reading = ("--timeout", "60000", "--fetch-size", "262144")
    for tool, more, which in (
        (Tool.PRODUCER_PERFORMANCE, sizes, "bytes_in"),
        (Tool.CONSUMER_PERFORMANCE, reading, "bytes_out"),
    ):
        with (tmp_path / which).open("wb") as output:
            program = kafka_cluster.tools.popen(tool, *target, *more, stdout=output)
        start = wire_bytes(proxy, which)
        wait_until(lambda: wire_bytes(proxy, which) > start + 3 * RATE, 60, "a steady rate")  # noqa: B023
        began, before = time.monotonic(), wire_bytes(proxy, which)
        time.sleep(SECONDS)
        rate = (wire_bytes(proxy, which) - before) / (time.monotonic() - began)
        print(f"| Java, {tool.rpartition('.')[2]} | {addressing} | {which} | {rate / RATE:.3f} |")  # noqa: T201
        assert program.process.wait(60) == 0
        program.close()
        assert rate == pytest.approx(RATE, rel=0.05)


@each_addressing
@each_library
@pytest.mark.timeout(300)
def test_a_group_does_not_rebalance(
    kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, library: Library, addressing: str
) -> None:
    """Three members that are throttled hard for 60 s read on, slowly, and nobody joins anew."""
    rebalances, read = group_rebalances(
        run_proxy, tmp_path, kafka_cluster, library, seconds=GROUP_SECONDS, addressing=addressing
    )
    print(f"| {library.name} | {addressing} | three for 60 s | {rebalances} rebalances | {read} records |")  # noqa: T201
    assert rebalances == 0
    assert read > 0


@each_addressing
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.timeout(300)
def test_a_java_group_does_not_rebalance(
    kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, protocol: str, addressing: str
) -> None:
    """Neither do three of Kafka's own consumers, in a classic group and in one of KIP-848."""
    proxy = run_limited(run_proxy, tmp_path, kafka_cluster.sasl_bootstrap, *HARD, addressing=addressing, login=LOGIN)
    topic, group = make_topic(kafka_cluster), new_name("group")
    target = ("--bootstrap-server", proxy.address, "--topic", topic, "--group-id", group)
    outputs = [tmp_path / f"member-{number}" for number in range(3)]
    members = []

    def told(path: Path, name: str) -> int:
        return path.read_text(encoding="utf-8").count(f'"name":"{name}"')

    def owned(path: Path) -> set[int]:
        partitions: set[int] = set()
        for line in path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines():
            if '"name":"partitions_' in line:
                event = json.loads(line)
                named = {each["partition"] for each in event["partitions"]}
                partitions = partitions | named if event["name"] == "partitions_assigned" else partitions - named
        return partitions

    with feeding(Confluent(), kafka_cluster, topic):
        for path in outputs:
            with path.open("wb") as output:
                wanted = ("--group-protocol", protocol, "--session-timeout", "6000")
                more = wanted if protocol == "classic" else wanted[:2]
                members.append(kafka_cluster.tools.popen(Tool.VERIFIABLE_CONSUMER, *target, *more, stdout=output))
            wait_until(partial(told, path, "partitions_assigned"), 90, "partitions")
        # The last one's coming moves partitions of the others, in a KIP-848 group by several heartbeats, 5 s apart.
        wait_until(lambda: all(map(owned, outputs)), 60, lambda: f"each to have partitions: {[*map(owned, outputs)]}")
        time.sleep(10)
        moves = sum(told(path, f"partitions_{what}") for path in outputs for what in ("assigned", "revoked"))
        read = sum(told(path, "records_consumed") for path in outputs)
        time.sleep(GROUP_SECONDS)
        moved = sum(told(path, f"partitions_{what}") for path in outputs for what in ("assigned", "revoked")) - moves
        more_read = sum(told(path, "records_consumed") for path in outputs) - read
    for member in members:
        member.kill()  # its close waits for answers, and would take as long as a consumer may (30 s)
    print(f"| Java, {protocol} | {addressing} | three for 60 s | {moved} rebalances | {more_read} batches |")  # noqa: T201
    assert moved == 0
    assert more_read > 0
    assert limit_tally(proxy, "bytes")["throttled"] + limit_tally(proxy, "requests")["throttled"] > 0


@each_addressing
@pytest.mark.timeout(300)
def test_a_polite_client_keeps_its_latency(
    kafka_cluster: KafkaCluster, run_proxy: RunProxy, tmp_path: Path, addressing: str
) -> None:
    """While one client tries ten times what it may, another's p99 is at most 1.5 times what it is alone.

    By turns alone and beside the greedy one, so that the machine's moods fall on both.
    """
    limit = {"name": "fair", "leaky_bucket": {"rate": 50, "burst": 10}, "key": ["client_id"]}
    proxy = run_limited(run_proxy, tmp_path, kafka_cluster.sasl_bootstrap, limit, addressing=addressing, login=LOGIN)
    topic = make_topic(kafka_cluster)
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(TURNS):
        alone += _latencies(proxy.address, topic)
        greedy = GuardedProcess([sys.executable, hammer.__file__, proxy.address, topic])
        beside += _latencies(proxy.address, topic)
        greedy.kill()
    assert limit_tally(proxy, "fair")["top"]["greedy"] > TURNS * LATENCIES / PER_SECOND / 2
    p50, p99 = ([statistics.quantiles(found, n=100)[at] * 1000 for found in (alone, beside)] for at in (49, 98))
    print(  # noqa: T201
        f"| {addressing} | p50 alone {p50[0]:.1f} ms, beside {p50[1]:.1f} ms"
        f" | p99 alone {p99[0]:.1f} ms, beside {p99[1]:.1f} ms |"
    )
    assert p99[1] <= 1.5 * p99[0]


def _latencies(address: str, topic: str) -> list[float]:
    """Send one record after the other, some a second; return how long each took to be acknowledged."""
    settings = {"bootstrap.servers": address, "client.id": "polite", "linger.ms": 0, "log_level": 0}
    producer = Producer(settings)
    found = []
    for number in range(LATENCIES + WARM_UP):
        began = time.monotonic()
        producer.produce(topic, b"%d" % number, partition=0)
        assert producer.flush(30) == 0
        found.append(time.monotonic() - began)
        time.sleep(max(1 / PER_SECOND - found[-1], 0))
    producer.close()
    return found[WARM_UP:]
