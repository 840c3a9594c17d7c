"""The API table against Kafka's facts, and against the schemas that kio and kafka-python carry."""

import json
from pathlib import Path
from typing import Any

import pytest
from oracles import KIO, ORACLES, KafkaPython, Kio

from kproxy.errors import Unsupported
from kproxy.wire.apis import APIS, BROKER_ONLY, ApiKey, is_flexible, response_header_flexible

#: Keys, names, first flexible versions, and versions by release, computed from Kafka's message schemas of 3.9 to 4.2.
FACTS = json.loads((Path(__file__).parent / "kafka_apis.json").read_text())
CLIENT_FACING = [fact for fact in FACTS if fact["client_facing"]]

#: Where kproxy's highest version is not that of Kafka 4.2: see the comments of the table.
OTHER_MAX = {ApiKey.FETCH: 15, ApiKey.DESCRIBE_LOG_DIRS: 5}


def test_every_api_is_either_for_clients_or_not() -> None:
    """Every API that Kafka 3.9 to 4.2 has is in exactly one of the two tables, under Kafka's name."""
    assert {key: api.name for key, api in APIS.items()} == {fact["key"]: fact["name"] for fact in CLIENT_FACING}
    assert {fact["key"]: fact["name"] for fact in FACTS if not fact["client_facing"]} == BROKER_ONLY
    assert {key.value for key in ApiKey} == APIS.keys()


@pytest.mark.parametrize("fact", CLIENT_FACING, ids=lambda fact: fact["name"])
def test_versions(fact: dict[str, Any]) -> None:
    """A version that any release has is understood, unless the table says why not."""
    key = ApiKey(fact["key"])
    api = APIS[key]
    assert api.key == key
    assert api.name.upper() == key.name.replace("_", "")
    assert api.flexible_from == fact["flexible_from"]
    assert api.min_version == min(low for low, _ in fact["versions"].values())
    assert api.max_version == OTHER_MAX.get(key, max(high for _, high in fact["versions"].values()))


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)
def test_flexible_as_the_oracles_say(oracle: Kio | KafkaPython) -> None:
    """For every version that another codec knows, both agree on whether its body is flexible."""
    seen = 0
    for key, api in APIS.items():
        for version in oracle.versions(key):
            if api.min_version <= version <= api.max_version:
                assert is_flexible(key, version) == oracle.is_flexible(key, version), (api.name, version)
                seen += 1
    assert seen > 150


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)
def test_versions_as_the_oracles_say(oracle: Kio | KafkaPython) -> None:
    """The table knows no version that the newer codec does not, and lacks none that both codecs have."""
    for key, api in APIS.items():
        known = oracle.versions(key)
        if not known or key in OTHER_MAX:
            continue
        assert known[-1] <= api.max_version, api.name
        if oracle is KIO:
            assert known[-1] == api.max_version, api.name


def test_headers_as_kio_says() -> None:
    """Request and response headers have tagged fields exactly where kio's schemas say so."""
    for key, api in APIS.items():
        for version in KIO.versions(key):
            if version <= api.max_version:
                request, response = (KIO.header_is_flexible(key, version, kind) for kind in ("request", "response"))
                assert is_flexible(key, version) == request, (api.name, version)
                assert response_header_flexible(key, version) == response, (api.name, version)


def test_an_api_versions_request_of_the_future_is_flexible() -> None:
    """An ApiVersions request of any version from 3 on has header v2, its answer never header v1."""
    assert is_flexible(ApiKey.API_VERSIONS, 0x7FFF)
    assert not is_flexible(ApiKey.SASL_HANDSHAKE, 0x7FFF)
    assert not response_header_flexible(ApiKey.API_VERSIONS, 4)


@pytest.mark.parametrize("key", [-1, 4, 27, 93, 0x7FFF])
def test_an_unknown_key(key: int) -> None:
    """A key that was never offered is Unsupported, wherever it turns up."""
    for function in (is_flexible, response_header_flexible):
        with pytest.raises(Unsupported):
            function(key, 0)
