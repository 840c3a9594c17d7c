"""One of two kproxies behind a load balancer drains while producers of three libraries send all the time."""

import signal
from contextlib import ExitStack
from pathlib import Path

from clients.aio import Aio
from clients.confluent import Confluent
from clients.kafkapython import KafkaPython
from clients.library import Library, consume
from clients.records import assert_exact, new_name
from clients.traffic import Stream

from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import ConfiguredProxy
from kproxy.testing.tap import Tap
from kproxy.testing.waiting import wait_until

LIBRARIES: tuple[Library, ...] = (Confluent(), Aio(), KafkaPython())

PARTITIONS = 4

CONFIG = """
clusters: {{main: {{bootstrap: [{bootstrap}]}}}}
listeners: {{public: {{bind: "127.0.0.1:{port}", advertise: "{address}", addressing: single}}}}
drain_grace: 1s
"""


def test_a_drain_behind_a_load_balancer(
    tmp_path: Path, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...]
) -> None:
    """New connections go to the other one from the signal on; no send fails, nothing is lost or there twice."""
    first, second = free_port_block(1), free_port_block(1)
    with Tap(free_port_block(1), first, forbidden=needles) as balancer:
        proxies = []
        for number, port in enumerate((first, second)):
            folder = tmp_path / str(number)
            folder.mkdir()
            path = folder / "kproxy.yaml"
            bootstrap = embedded_cluster.bootstrap
            path.write_text(CONFIG.format(bootstrap=bootstrap, port=port, address=balancer.address), encoding="utf-8")
            proxy = ConfiguredProxy(folder, path, balancer.address, "--log-format", "json")
            proxy.start()
            proxies.append(proxy)
        leaving, staying = proxies
        topics = [new_name() for _ in LIBRARIES]
        with ExitStack() as stack:
            streams = [
                stack.enter_context(Stream(library, balancer.address, topic, PARTITIONS, 200))
                for library, topic in zip(LIBRARIES, topics, strict=True)
            ]
            for stream in streams:
                stream.wait_acked(100)
            leaving.signal(signal.SIGTERM)
            wait_until(lambda: "not ready" in leaving.log.read_text("utf-8"), 10, "it to be no longer ready")
            balancer.target_port = second
            leaving.finish()
            for stream in streams:
                stream.wait_acked(100)
                stream.stop()
        for stream, library, topic in zip(streams, LIBRARIES, topics, strict=True):
            assert stream.failed == [], library.name
            stored = consume(Confluent(), balancer.address, topic, PARTITIONS)
            # kafka-python drops an answer that it reads together with the connection's end, and sends again; the mock,
            # unlike Kafka, does not look at an idempotent producer's sequences.
            assert_exact(stream.sent, dict.fromkeys(stored) if library.name == "kafka-python" else stored)
        staying.finish()
        assert balancer.leaks == []
