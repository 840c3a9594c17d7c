"""A flood of connections that never get in, beside a producer on a real Kafka: what it costs those who are in.

The row of benchmarks/RESULTS.md is printed (pytest -rP).
"""

import resource
import statistics
from pathlib import Path

import pytest
from clients.besieged import SENT, Place, times
from clients.fixtures import LOGIN
from clients.flood import Flood
from clients.limitedtraffic import make_topic
from clients.proc import resident_bytes, worker_of

from kproxy.testing.kafka import KafkaCluster

TURNS = 5

EACH = 667
"""Of connections that say nothing, half a ClientHello, half a frame: 2,000 in all, which come again when closed."""


@pytest.mark.timeout(300)
def test_a_flood_beside_a_producer(kafka_cluster: KafkaCluster, tmp_path: Path) -> None:
    """While 2,000 come and never get in, a producer's p99 is at most twice what it is without them.

    By turns with and without, so that the machine's moods fall on both; the middle one of the turns counts.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    place = Place(tmp_path, kafka_cluster.sasl_bootstrap, LOGIN)
    topic = make_topic(kafka_cluster)
    place.proxy.start()
    try:
        producer = place.producer()
        times(producer, topic)  # everybody is connected, and Java has warmed up
        before, most = resident_bytes(worker_of(place.proxy.pid)), 0
        alone, beside = [], []
        for _ in range(TURNS):
            alone.append(times(producer, topic))
            with Flood(place.tls_port, place.plain_port, each=EACH):
                beside.append(times(producer, topic))
                most = max(most, resident_bytes(worker_of(place.proxy.pid)))
        producer.close()
    finally:
        place.proxy.finish()
    p50, p99 = (
        [statistics.median(took[SENT * part // 100 - 1] for took in turns) * 1000 for turns in (alone, beside)]
        for part in (50, 99)
    )
    print(  # noqa: T201
        f"| {p50[0]:.1f} and {p50[1]:.1f} ms | {p99[0]:.1f} and {p99[1]:.1f} ms | {p99[1] / p99[0]:.2f}"
        f" | {(most - before) / 2**20:.0f} MiB |"
    )
    assert p99[1] <= 2 * p99[0]
