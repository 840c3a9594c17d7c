"""Real clients through every door of the program: what goes in comes out.

OAUTHBEARER has a file of its own, Java's clients are before a real Kafka (tests/kafka), and who may not come in is in
test_embedded_refusals.
"""

import contextlib
import socket
from collections.abc import Iterator

import pytest
from clients.doorstage import DoorStage
from clients.library import Library, consume, produce
from clients.limited import tally
from clients.records import assert_exact, make_records, new_name
from clients.security import LIBRARIES
from clients.strangers import client_hello

from kproxy.core.causes import Cause
from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.waiting import wait_until

PARTITIONS = 4
"""The mock makes topics with so many."""

each_library = pytest.mark.parametrize("library", LIBRARIES)


@pytest.fixture(scope="module")
def stage(embedded_cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorStage]:
    """One for all tests of this file; in the end nothing that it has written holds a secret."""
    made = DoorStage(tmp_path_factory.mktemp("doors"), embedded_cluster.bootstrap)
    made.start()
    yield made
    made.finish()


def there_and_back(library: Library, address: str, count: int = 500, value_bytes: int = 100) -> None:
    """Send records, and read them again."""
    topic, records = new_name(), make_records(count, PARTITIONS, value_bytes=value_bytes)
    produce(library, address, topic, records, partitions=PARTITIONS)
    assert_exact(records, consume(library, address, topic, PARTITIONS))


@each_library
@pytest.mark.parametrize("listener", ["login", "login-single"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_tls_and_a_password(stage: DoorStage, listener: str, library: str, mechanism: str) -> None:
    """With each mechanism that there is for passwords, records come out as they went in."""
    there_and_back(stage.user("alice", mechanism).library(library), stage.address(listener))


@each_library
@pytest.mark.parametrize("listener", ["certificate", "certificate-single"])
def test_a_certificate(stage: DoorStage, listener: str, library: str) -> None:
    """With a certificate of its own a client needs nothing else."""
    there_and_back(stage.certificate(stage.alice).library(library), stage.address(listener))


@each_library
def test_names(stage: DoorStage, library: str) -> None:
    """With one TLS port and a name per broker, records come out as they went in, by each broker's name."""
    there_and_back(stage.user().library(library), stage.address("names"))


def test_big_records(stage: DoorStage) -> None:
    """Records of a megabyte go through TLS, whole."""
    there_and_back(stage.user().library("confluent-kafka"), stage.address("login"), 20, 1_000_000)


def test_a_name_that_is_no_ascii(stage: DoorStage) -> None:
    """A ClientHello that Python cannot read costs its connection, one line of the log, and no traceback."""
    port = int(stage.address("names").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(client_hello("kafka.test").replace(b"kafka.test", b"kafka\xff\xfe\xfdst"))
        with contextlib.suppress(ConnectionError):
            while client.recv(4096):
                pass
    name = str(Cause.UNKNOWN_SERVER_NAME)
    wait_until(lambda: tally(stage.proxy)["listeners"]["names"]["turned_away"].get(name), 10, "its end")
    assert "Traceback" not in stage.proxy.log.read_text(encoding="utf-8")
