"""Start, stop and accidents of the program while real clients are at work."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

from clients import each_addressing
from clients.confluent import Confluent
from clients.library import consume, produce
from clients.proc import worker_of
from clients.records import assert_exact, new_name
from clients.traffic import Stream

from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.ports import free_port_block
from kproxy.testing.proxy import ProxyProcess
from kproxy.wire import primitives as p

RunProxy = Callable[..., ProxyProcess]

PARTITIONS = 4

HALF_A_REQUEST = p.INT32.pack(1000) + bytes.fromhex("0003 0001 00000001 0004") + b"half"
"""A Metadata v1 request of 1,000 bytes, of which there are 14."""


@each_addressing
def test_a_killed_worker_is_replaced(
    run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...], addressing: str
) -> None:
    """A worker that is killed under traffic is replaced, and nothing is lost.

    What was under way may be there twice: the mock, unlike Kafka, does not look at an idempotent producer's sequences.
    """
    proxy, topic = run_proxy(embedded_cluster.bootstrap, addressing=addressing, forbidden=needles), new_name()
    with Stream(Confluent(), proxy.address, topic, PARTITIONS) as stream:
        stream.wait_acked(500)
        worker = worker_of(proxy.pid)
        os.kill(worker, signal.SIGKILL)
        assert worker_of(proxy.pid, but=worker)
        stream.wait_acked(500)
        stream.stop()
    assert stream.failed == []
    assert_exact(stream.sent, dict.fromkeys(consume(Confluent(), proxy.address, topic, PARTITIONS)))
    assert "worker died" in proxy.log.read_text(encoding="utf-8")


@each_addressing
def test_a_stop_under_traffic(
    run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...], addressing: str
) -> None:
    """SIGTERM under traffic ends the program within seconds with exit code 0; what was acknowledged is in Kafka."""
    proxy, topic = run_proxy(embedded_cluster.bootstrap, addressing=addressing, forbidden=needles), new_name()
    with Stream(Confluent(), proxy.address, topic, PARTITIONS) as stream:
        stream.wait_acked(500)
        began = time.monotonic()
        proxy.finish()
        assert time.monotonic() - began < 5
        stream.halt()
        assert stream.failed == []
    produce(Confluent(), embedded_cluster.bootstrap, topic, [], partitions=PARTITIONS)
    stored = consume(Confluent(), embedded_cluster.bootstrap, topic, PARTITIONS)
    assert len(stored) == len(set(stored))
    assert set(stream.acked) <= set(stored) <= set(stream.sent)


@each_addressing
def test_a_client_that_vanishes_mid_frame(
    run_proxy: RunProxy, embedded_cluster: EmbeddedCluster, needles: tuple[bytes, ...], addressing: str
) -> None:
    """Clients that go in the middle of a request, orderly or by reset, disturb nobody."""
    proxy, topic = run_proxy(embedded_cluster.bootstrap, addressing=addressing, forbidden=needles), new_name()
    with Stream(Confluent(), proxy.address, topic, PARTITIONS) as stream:
        for reset in (False, True) * 10:
            with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
                connection.sendall(HALF_A_REQUEST)
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.wait_acked(500)
        stream.stop()
    assert_exact(stream.sent, consume(Confluent(), proxy.address, topic, PARTITIONS))


def test_a_port_in_use(embedded_cluster: EmbeddedCluster) -> None:
    """A port that is taken ends the program with exit code 1 and one line that names it."""
    port = free_port_block(5)
    address = f"127.0.0.1:{port}"
    with socket.create_server(("127.0.0.1", port)):
        command = [sys.executable, "-m", "kproxy", "run", "--log-format", "json"]
        arguments = ["--listen", address, "--bootstrap", embedded_cluster.bootstrap]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=20, check=False)
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, done.stdout, len(said)) == (1, "", 1)
    assert said[0].startswith("kproxy: ")
    assert f"{address}: address already in use" in said[0]
