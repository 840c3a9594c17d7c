"""Real clients that may not come in: what each is told, by its error or by its logger, and none of them hangs."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator

import pytest
from clients.doorstage import DoorStage
from clients.security import LIBRARIES, Security

from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.waiting import wait_until

GIVE_UP_SECONDS = 20
"""By then every client has said that it cannot get in; most say so at once."""

BOOTSTRAP_MS = 1500
"""How long kafka-python tries; above the longest delay of a refused login."""

_LOGGER = "librdkafka"


@pytest.fixture(scope="module")
def stage(embedded_cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorStage]:
    """One for all tests of this file; in the end nothing that it has written holds a secret."""
    made = DoorStage(tmp_path_factory.mktemp("doors"), embedded_cluster.bootstrap)
    made.start()
    yield made
    made.finish()


def confluent(security: Security, address: str) -> str:
    """Ask with librdkafka; return its errors."""
    from confluent_kafka import KafkaError, Producer

    told: list[str] = []

    def heard(error: KafkaError) -> None:
        told.append(f"{error.name()}: {error.str()}")

    settings = {"bootstrap.servers": address, "error_cb": heard, **security.confluent()}
    producer = Producer(settings, logger=logging.getLogger(_LOGGER))

    def last() -> bool:
        producer.poll(0.05)
        return any("_ALL_BROKERS_DOWN" in line for line in told)

    wait_until(last, GIVE_UP_SECONDS, lambda: f"librdkafka, which said {told}")
    producer.close()
    return "\n".join(told)


def kafka_python(security: Security, address: str) -> str:
    """Ask with kafka-python; return its error."""
    from clients.kafkapython import error_of
    from kafka import KafkaProducer

    settings = {"bootstrap_timeout_ms": BOOTSTRAP_MS} | security.kafka_python()
    return error_of(KafkaProducer, bootstrap_servers=address, **settings)


def aio(security: Security, address: str) -> str:
    """Ask with aiokafka; return its error."""
    from aiokafka import AIOKafkaProducer
    from aiokafka.errors import KafkaError

    async def attempt() -> str:
        producer = AIOKafkaProducer(bootstrap_servers=address, **security.aio())
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                await producer.start()
        except KafkaError as error:
            return repr(error)
        finally:
            await producer.stop()
        return ""

    return asyncio.run(attempt())


ASK: dict[str, Callable[[Security, str], str]] = dict(zip(LIBRARIES, (confluent, aio, kafka_python), strict=True))

CASES: dict[str, tuple[str, Callable[[DoorStage], Security], tuple[str, str, str], str]] = {
    "a wrong password by PLAIN": (
        "login",
        lambda stage: stage.user(mechanism="PLAIN", wrong=True),
        ("_AUTHENTICATION: .*Authentication failed", "SaslAuthenticationFailed: Authentication failed", "disconnected"),
        "login refused",
    ),
    "a wrong password by SCRAM-SHA-512": (
        "login",
        lambda stage: stage.user(wrong=True),
        ("_AUTHENTICATION: .*Authentication failed", "SaslAuthenticationFailed: Authentication failed", "disconnected"),
        "login refused",
    ),
    "a mechanism that is not offered": (
        "plain-only",
        lambda stage: stage.user(mechanism="SCRAM-SHA-256"),
        ("_AUTHENTICATION: .*Unsupported SASL mechanism", "UnsupportedSaslMechanism", "disconnected"),
        "login refused",
    ),
    "no login": (
        "login",
        lambda stage: Security(stage.ca_file),
        ("Disconnected", "closed", "disconnected"),
        "login required",
    ),
    "no TLS": (
        "login",
        lambda _: Security(None, None, "SCRAM-SHA-512", "alice", "unused-0b1"),
        ("Disconnected|SSL listener", "closed", "disconnected"),
        "tls handshake failed",
    ),
    "an authority that it does not know": (
        "login",
        lambda stage: Security(stage.wrong_ca_file, None, "PLAIN", "alice", "unused-0b1"),
        ("_(SSL|TRANSPORT): .*certificate verify failed", "CERTIFICATE_VERIFY_FAILED", "CERTIFICATE_VERIFY_FAILED"),
        "tls handshake failed",
    ),
    "our certificate has expired": (
        "expired",
        lambda stage: Security(stage.ca_file),
        ("_(SSL|TRANSPORT): .*certificate verify failed", "certificate has expired", "certificate has expired"),
        "tls handshake failed",
    ),
    "no certificate where one is required": (
        "certificate",
        lambda stage: stage.certificate(None),
        ("_TRANSPORT: .*alert certificate required", "closed", "alert certificate required"),
        "tls handshake failed",
    ),
    "a certificate that has expired": (
        "certificate",
        lambda stage: stage.certificate(stage.expired_alice),
        ("_TRANSPORT: .*alert certificate expired", "closed", "alert certificate expired"),
        "tls handshake failed",
    ),
}
"""What a client tries -> where, with what, what each library says of it, and the cause in our log."""


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", CASES)
def test_who_may_not_come_in_is_told(
    stage: DoorStage, library: str, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each client ends with an error, and says, there or in its log, as much of the reason as it was told."""
    caplog.set_level(logging.INFO, _LOGGER)
    listener, security, words, cause = CASES[case]
    before = stage.turned_away(listener, cause)
    error = ASK[library](security(stage), stage.address(listener))
    assert error
    said = "\n".join([error, *(record.getMessage() for record in caplog.records)])
    assert re.search(words[LIBRARIES.index(library)], said), said
    wait_until(lambda: stage.turned_away(listener, cause) > before, 10, f"{cause!r} to be counted")
