"""Every client library, in every addressing, while each broker in turn is stopped and killed: nothing lost, soon back.

The same library runs beside it with a direct connection, through the same accidents, so that what is measured is what
the proxy adds. The rows of benchmarks/RESULTS.md are printed (pytest -rP).
"""

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from clients import each_addressing
from clients.aio import Aio
from clients.confluent import Confluent
from clients.fixtures import LOGIN, PARTITIONS
from clients.kafkapython import KafkaPython
from clients.library import Library
from clients.limited import tally
from clients.records import new_name
from clients.traffic import Traffic
from clients.transactions import Transactions
from clients.verifiable import Verifiable

from kproxy.core.causes import Cause
from kproxy.testing.java import CURRENT, OLD, JavaTools, Tool, kafka_jars
from kproxy.testing.kafka import KafkaCluster
from kproxy.testing.proxy import ProxyProcess

RunProxy = Callable[..., ProxyProcess]

LIBRARIES: tuple[Library, ...] = (Confluent(), Aio(), KafkaPython())
each_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda one: one.name)

BACK_SECONDS = 60

# kafka-python leaves sockets behind that it could not connect; they are told as warnings when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def make_topic(cluster: KafkaCluster) -> str:
    """Make a topic on all brokers that takes writes while two of them run."""
    name = new_name()
    cluster.make_topic(name, PARTITIONS, min_insync_replicas="2")
    return name


@each_addressing
@each_library
@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.timeout(600)
def test_each_broker_in_turn(
    faulty_kafka: KafkaCluster, run_proxy: RunProxy, library: Library, addressing: str, how: str
) -> None:
    """No acknowledged record is lost, none stored twice; the median recovery is within max(2 x, + 3 s) of direct."""
    proxy = run_proxy(faulty_kafka.sasl_bootstrap, login=LOGIN, addressing=addressing)
    silences: dict[str, list[tuple[float, float]]] = {"proxy": [], "direct": []}
    with (
        Traffic(library, proxy.address, make_topic(faulty_kafka), PARTITIONS, per_second=200) as through,
        Traffic(library, faulty_kafka.plain_bootstrap, make_topic(faulty_kafka), PARTITIONS, per_second=200) as direct,
    ):
        for node in (1, 2, 3):
            for traffic in (through, direct):
                traffic.wait_read(200, BACK_SECONDS)
            since = time.monotonic()
            broker = faulty_kafka.broker(node)
            if how == "kill":
                broker.kill()
            else:
                broker.stop()
            for traffic in (through, direct):
                traffic.wait_read(2000, BACK_SECONDS)
            silences["proxy"].append(through.silence_seconds(since))
            silences["direct"].append(direct.silence_seconds(since))
            faulty_kafka.heal()
    proxied, directly = (statistics.median(map(max, silences[where])) for where in ("proxy", "direct"))
    told = ", ".join(
        f"{where} {[f'{acks:.1f}/{reads:.1f}' for acks, reads in found]}" for where, found in silences.items()
    )
    counts = f"{len(through.sent)} | {proxy.tap.connections.total()}"
    row = f"| {library.name} | {addressing} | {how} | {directly:.1f} | {proxied:.1f} | {counts} | {told} |"
    print(row)  # noqa: T201 - of the table in benchmarks/RESULTS.md
    direct.check_nothing_lost()
    direct.check_stored(faulty_kafka.plain_bootstrap)
    through.check_nothing_lost()
    through.check_stored(faulty_kafka.plain_bootstrap)
    assert proxied <= max(2 * directly, directly + 3), told


def offers_changed(proxy: ProxyProcess) -> int:
    """Return how many connections were closed as what they had been offered holds no more."""
    return sum(one["closed"].get(Cause.OFFER_CHANGED, 0) for one in tally(proxy)["listeners"].values())


@each_addressing
@pytest.mark.timeout(600)
def test_a_rolling_upgrade(
    require_kafka: None,  # noqa: ARG001 - a condition
    tmp_path: Path,
    run_proxy: RunProxy,
    addressing: str,
) -> None:
    """Upgraded from 3.9 to 4.3, brokers and then features, under groups and transactions of all, nothing is lost."""
    with (
        KafkaCluster(tmp_path / "kafka", version=OLD, properties={"broker.session.timeout.ms": "3000"}) as cluster,
        ExitStack() as stack,
    ):
        proxy = run_proxy(cluster.sasl_bootstrap, login=LOGIN, addressing=addressing)
        traffics = [
            stack.enter_context(Traffic(library, proxy.address, make_topic(cluster), PARTITIONS, per_second=100))
            for library in LIBRARIES
        ]
        transactions = [
            stack.enter_context(Transactions(library, proxy.address, make_topic(cluster), PARTITIONS))
            for library in LIBRARIES
        ]
        tools = JavaTools(kafka_jars(CURRENT))
        java = stack.enter_context(Verifiable(tools, proxy.address, make_topic(cluster), tmp_path))
        for traffic in traffics:
            traffic.wait_read(200, BACK_SECONDS)
        for broker in cluster.brokers:
            broker.stop()
            broker.start(version=CURRENT)
            cluster.wait_all_in_metadata()
            for traffic in traffics:
                traffic.wait_read(300, BACK_SECONDS)
            for one in transactions:
                one.wait_committed(10, BACK_SECONDS)
            java.wait_read(300, BACK_SECONDS)
        closed = offers_changed(proxy)
        tools.run(Tool.FEATURES, "--bootstrap-server", proxy.address, "upgrade", "--release-version", CURRENT[:3])
        (tmp_path / "newest").mkdir()
        newest = stack.enter_context(
            Verifiable(tools, proxy.address, make_topic(cluster), tmp_path / "newest", protocol="consumer")
        )
        for traffic in traffics:
            traffic.wait_read(300, BACK_SECONDS)
        for one in transactions:
            one.wait_committed(10, BACK_SECONDS)
        for program in (java, newest):
            program.wait_read(300, BACK_SECONDS)
            program.finish()
            program.check(cluster.plain_bootstrap)
        stack.close()
        print(f"closed as the features changed: {offers_changed(proxy) - closed} of {proxy.tap.connections.total()}")  # noqa: T201
        for traffic in traffics:
            traffic.check_nothing_lost()
            traffic.check_stored(cluster.plain_bootstrap)
        for library, one in zip(LIBRARIES, transactions, strict=True):
            one.check(cluster.plain_bootstrap)
            print(f"{library.name}: {one.committed} committed, sent again after {one.aborted}")  # noqa: T201 - a figure
