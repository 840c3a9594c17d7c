"""Logins that end while traffic goes on: with session_lifetime real clients log in anew, and lose nothing.

aiokafka (0.14) does not know KIP-368: kproxy closes it at its next request, as a broker does, and it connects again.
"""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from clients.confluent import Confluent
from clients.doorstage import DoorStage
from clients.kafkapython import KafkaPython
from clients.library import Library
from clients.limited import tally
from clients.records import Record, assert_exact, ends, make_records, new_name
from clients.security import LIBRARIES

from kproxy.core.causes import Cause
from kproxy.testing.embedded import EmbeddedCluster
from kproxy.testing.waiting import wait_until

PARTITIONS = 4
"""The mock makes topics with so many."""

LIFETIME_SECONDS = 3
TRAFFIC_SECONDS = 10
GAP_SECONDS = 0.02

USERS = dict(zip(LIBRARIES, ("alice", "bob", "carol"), strict=True))

MECHANISMS = {Confluent.name: "SCRAM-SHA-512"}
"""For the others PLAIN: they derive keys in Python, on all connections at once, and a busy machine makes that late."""


@pytest.fixture(scope="module")
def stage(embedded_cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorStage]:
    """One for all tests of this file; in the end nothing that it has written holds a secret."""
    lifetime = f"{LIFETIME_SECONDS}s"
    made = DoorStage(tmp_path_factory.mktemp("doors"), embedded_cluster.bootstrap, session_lifetime=lifetime)
    made.start()
    yield made
    made.finish()


class Traffic(threading.Thread):
    """One library that sends and reads for a while; ``finish`` raises what went wrong."""

    def __init__(self, library: Library, address: str) -> None:
        super().__init__(daemon=True)
        self._library = library
        self._address = address
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Send and read."""
        try:
            self._send_and_read()
        except BaseException as error:  # noqa: BLE001 - raised by finish, where the test sees it
            self._error = error

    def _send_and_read(self) -> None:
        topic = new_name()
        failed: list[Exception] = []

        def acked(_: Record, error: Exception | None) -> None:
            if error is not None:
                failed.append(error)

        records = make_records(int(TRAFFIC_SECONDS / GAP_SECONDS), PARTITIONS)
        with self._library.producer(self._address) as producer:
            for record in records[:PARTITIONS]:  # the mock makes the topic, before anybody reads it
                producer.send(topic, record, acked)
            producer.flush()
            with self._library.member(self._address, topic, PARTITIONS) as member:
                for record in records[PARTITIONS:]:
                    producer.send(topic, record, acked)
                    time.sleep(GAP_SECONDS)
                for record in ends(PARTITIONS):
                    producer.send(topic, record, acked)
                producer.flush()
                member.wait_ended()
        assert failed == []
        assert_exact(records, member.records)

    def finish(self) -> None:
        """Wait for its end. Raises what went wrong."""
        self.join(60)
        assert not self.is_alive()
        if self._error is not None:
            raise self._error


KNOW_KIP_368 = (Confluent.name, KafkaPython.name)


@pytest.mark.parametrize(("theirs", "other"), [("login", "login-single"), ("login-single", "login")])
def test_sessions_of_three_seconds(stage: DoorStage, theirs: str, other: str) -> None:
    """Nobody loses a record; those who know KIP-368 keep their connections, and log in anew on each."""
    before = {listener: counts(stage, listener) for listener in (theirs, other)}
    traffic = [
        Traffic(
            stage.user(user, MECHANISMS.get(library, "PLAIN")).library(library),
            stage.address(theirs if library in KNOW_KIP_368 else other),
        )
        for library, user in USERS.items()
    ]
    for one in traffic:
        one.finish()
    after = {listener: counts(stage, listener) for listener in (theirs, other)}
    kept, lost = (grown(before[listener], after[listener]) for listener in (theirs, other))
    assert kept["expired"] == 0
    assert kept["logins"] > 2 * kept["opened"]
    assert lost["expired"] > 0
    assert kept["refused"] == lost["refused"] == 0


def counts(stage: DoorStage, listener: str) -> dict[str, int]:
    """Return what a listener has counted, once all of its connections have ended."""
    found: dict[str, Any] = {}

    def quiet() -> bool:
        found.update(tally(stage.proxy)["listeners"][listener])
        return bool(found["connections"] == 0)

    wait_until(quiet, 20, lambda: f"the end of {found.get('connections')} connections")
    return {
        "opened": found["opened"],
        "expired": found["closed"].get(str(Cause.SESSION_EXPIRED), 0),
        "logins": sum(found["logins"].values()),
        "refused": sum(found["logins_refused"].values()) + sum(found["turned_away"].values()),
    }


def grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return what has come to be counted in between."""
    return {key: after[key] - before[key] for key in after}
