"""What newer releases no longer take, against Kafka's facts."""

import doctest
import json
from pathlib import Path

import pytest

from kproxy.wire import dropped
from kproxy.wire.dropped import FIRST_VERSIONS

FACTS = [fact for fact in json.loads((Path(__file__).parent / "kafka_apis.json").read_text()) if fact["client_facing"]]


def test_the_example() -> None:
    """The module's example is so."""
    assert doctest.testmod(dropped).failed == 0


@pytest.mark.parametrize(("release", "as_in"), [("4.0", "4.0"), ("4.1", "4.1"), ("4.1", "4.2")])
def test_what_a_release_dropped(release: str, as_in: str) -> None:
    """What is listed is each API of 3.9 whose lowest version is a higher one there, and no other."""
    raised = {
        fact["name"]: fact["versions"][as_in][0]
        for fact in FACTS
        if "3.9" in fact["versions"] and fact["versions"][as_in][0] > fact["versions"]["3.9"][0]
    }
    assert FIRST_VERSIONS[release] == raised
