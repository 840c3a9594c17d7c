"""kproxy is replaced by another kproxy, twice, while producers of three libraries send all the time."""

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from clients.aio import Aio
from clients.confluent import Confluent
from clients.kafkapython import KafkaPython
from clients.library import Library, consume
from clients.records import assert_exact, new_name
from clients.traffic import Stream
from clients.upgrades import following, upgrade

from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.proxy import ProxyProcess

RunProxy = Callable[..., ProxyProcess]

LIBRARIES: tuple[Library, ...] = (Confluent(), Aio(), KafkaPython())

PARTITIONS = 4


@pytest.mark.parametrize(
    ("addressing", "workers"), [("ports", "2"), pytest.param("single", "1", marks=pytest.mark.matrix)]
)
def test_two_upgrades_under_traffic(
    run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...], addressing: str, workers: str
) -> None:
    """Not one send fails, and nothing is lost.

    kafka-python drops an answer that it reads together with the connection's end, and sends again; the mock, unlike
    Kafka, does not look at an idempotent producer's sequences. That nothing is there twice is for a real one to show.
    """
    proxy = run_proxy(
        embedded_cluster.bootstrap, "--workers", workers, addressing=addressing, forbidden=needles, node_id_max=3
    )
    topics = [new_name() for _ in LIBRARIES]
    with following(proxy):
        with ExitStack() as stack:
            streams = [
                stack.enter_context(Stream(library, proxy.address, topic, PARTITIONS, 200))
                for library, topic in zip(LIBRARIES, topics, strict=True)
            ]
            for _ in range(2):
                for stream in streams:
                    stream.wait_acked(100)
                upgrade(proxy)
            for stream in streams:
                stream.wait_acked(100)
                stream.stop()
        for stream, library, topic in zip(streams, LIBRARIES, topics, strict=True):
            assert stream.failed == [], library.name
            stored = consume(Confluent(), proxy.address, topic, PARTITIONS)
            assert_exact(stream.sent, dict.fromkeys(stored))
        proxy.finish()
