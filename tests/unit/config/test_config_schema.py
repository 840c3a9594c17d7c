"""The JSON Schema is what an editor needs."""

import json
import re
from typing import Any

from kproxy.config.base import Model
from kproxy.config.limits import KINDS, LeakyBucket, Limit, Match
from kproxy.config.model import Cluster, Config, Listener
from kproxy.config.oauth import ClientOauth, UpstreamOauth
from kproxy.config.sasl import ClientSasl, Sasl
from kproxy.config.schema import schema
from kproxy.config.tls import ClusterTls, ListenerTls

DOORS: tuple[type[Model], ...] = (Cluster, ListenerTls, ClusterTls, ClientSasl, Sasl, ClientOauth, UpstreamOauth)


def test_the_schema_knows_every_key_and_explains_it() -> None:
    """Each key of the model is there with a text; unknown ones are refused; no name of Python's shows."""
    text = json.dumps(schema())
    # Kafka has a DescribeCluster and DescribeConfigs, so only whole names tell.
    names = "Config|Cluster|Listener|Sasl|Limit|LeakyBucket|FixedWindow|Concurrency|Connections|Match|HostPort"
    names += "".join(f"|{model.__name__}" for model in DOORS)
    assert not re.search(rf'"title": "(?!kproxy configuration)|["/]({names})"', text)
    assert set(schema()["properties"]) == set(Config.model_fields)
    listener = schema()["$defs"]["listener"]
    assert set(listener["properties"]) == set(Listener.model_fields)
    assert listener["required"] == ["bind"]
    models: tuple[type[Model], ...] = (Limit, LeakyBucket, Match, *DOORS)
    for model in models:
        name = re.sub("(?<=[a-z])(?=[A-Z])", "_", model.__name__).lower()
        assert set(schema()["$defs"][name]["properties"]) == set(model.model_fields)
    for part in (schema(), *schema()["$defs"].values()):
        assert part["additionalProperties"] is False
        assert all(field["description"] for field in part["properties"].values())


def test_the_schema_knows_what_belongs_together() -> None:
    """A limit is of one kind, connections have a bound or a rate, and an API is one of Kafka's that can be limited."""
    parts = schema()["$defs"]
    assert [kind["required"] for kind in parts["limit"]["oneOf"]] == [[kind] for kind in KINDS]
    assert parts["connections"]["anyOf"] == [{"required": ["max"]}, {"required": ["rate"]}]
    assert parts["connections"]["dependentRequired"] == {"burst": ["rate"]}
    apis, _null = parts["match"]["properties"]["apis"]["anyOf"]
    assert "Produce" in apis["items"]["enum"]
    assert "ApiVersions" not in apis["items"]["enum"]
    assert apis["minItems"] == 1


def test_every_reference_leads_somewhere_and_every_default_is_written_as_a_user_would() -> None:
    """References resolve, and a default such as 30s matches its own pattern."""
    document = schema()

    def walk(part: Any) -> None:
        if isinstance(part, list):
            for item in part:
                walk(item)
        elif isinstance(part, dict):
            if reference := part.get("$ref"):
                assert reference.removeprefix("#/$defs/") in document["$defs"]
            if "pattern" in part and "default" in part:
                assert re.search(part["pattern"], part["default"])
            for item in part.values():
                walk(item)

    walk(document)
    assert document["$defs"]["cluster"]["properties"]["dial_timeout"]["default"] == "5s"
