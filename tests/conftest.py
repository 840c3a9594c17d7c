"""What all tests share: the clusters, the proxy as a program, and the markers that follow from the folder."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.kafka import KafkaCluster, missing_reason
from kproxy.testing.proxy import ProxyProcess

TESTS = Path(__file__).parent

pytest_plugins = ["clients.fixtures"]

RunProxy = Callable[..., ProxyProcess]
"""Starts a proxy: the arguments of ProxyProcess but for the folder."""


def pytest_configure(config: pytest.Config) -> None:
    """Let kafka-python, and nobody else, read its schemas with a deprecated call of importlib.resources."""
    for text, module in (("read_text", r"kafka\.protocol\."), ("open_text", r"importlib\.resources\.")):
        config.addinivalue_line("filterwarnings", f"ignore:{text} is deprecated:DeprecationWarning:{module}")


settings.register_profile("lean", max_examples=10)
"""For the coverage of a room, which the examples that are written down give; the whole run has all the others."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test by the folder it lives in, so that none can be forgotten.

    With several processes (-n) unit tests run in any of them. The others, which start programs and clusters and measure
    time, run folder by folder, those of one folder one after the other.
    """
    for item in items:
        folder = item.path.relative_to(TESTS.parent).parts[:-1][-1]
        if folder in ("kafka", "matrix"):
            item.add_marker(folder)
        if (TESTS / "unit") not in item.path.parents:
            item.add_marker(pytest.mark.xdist_group(folder))


@pytest.fixture(scope="session")
def require_kafka() -> None:
    """Skip, loudly, where a real Kafka cannot run; fail there with KPROXY_REQUIRE_KAFKA=1, as in CI."""
    if reason := missing_reason():
        if os.environ.get("KPROXY_REQUIRE_KAFKA") == "1":
            pytest.fail(f"a real Kafka is required (KPROXY_REQUIRE_KAFKA=1): {reason}", pytrace=False)
        pytest.skip(f"NOT TESTED AGAINST A REAL KAFKA: {reason}")


@pytest.fixture(scope="session")
def kafka_cluster(require_kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:  # noqa: ARG001 - a condition
    """Three brokers of Apache Kafka with SASL, one cluster for the whole run: leave its brokers alone."""
    properties = {"broker.session.timeout.ms": "3000"}
    with KafkaCluster(tmp_path_factory.mktemp("kafka"), properties=properties) as cluster:
        yield cluster


@pytest.fixture
def faulty_kafka(kafka_cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    """The same cluster for a test that stops, kills or pauses its brokers; afterwards all of them run again."""
    yield kafka_cluster
    kafka_cluster.heal()


@pytest.fixture(scope="session")
def embedded_cluster() -> Iterator[EmbeddedCluster]:
    """Three brokers inside this process, without SASL, one cluster for the whole run."""
    with EmbeddedCluster(3) as cluster:
        yield cluster


@pytest.fixture
def run_proxy(tmp_path: Path) -> Iterator[RunProxy]:
    """Start `kproxy run` behind a Tap, as often as needed; every run must end cleanly and leak nothing."""
    started: list[ProxyProcess] = []

    def run(*arguments: str, **settings: object) -> ProxyProcess:
        proxy = ProxyProcess(tmp_path, *arguments, **settings)  # type: ignore[arg-type]  # ProxyProcess's own
        started.append(proxy)
        proxy.start()
        return proxy

    yield run
    errors = []
    for proxy in started:
        try:
            proxy.finish()
        except Exception as error:  # noqa: BLE001 - all are told below, after every proxy has ended
            errors.append(error)
    if errors:
        raise ExceptionGroup("runs of kproxy", errors)
