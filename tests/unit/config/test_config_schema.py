"""The JSON Schema is what an editor needs."""

import json
import re
from typing import Any

from kproxy.config.model import Config, Listener
from kproxy.config.schema import schema


def test_the_schema_knows_every_key_and_explains_it() -> None:
    """Each key of the model is there with a text; unknown ones are refused; no name of Python's shows."""
    text = json.dumps(schema())
    assert not re.search(r'"title": "(?!kproxy configuration)|Config|Cluster"|Listener"|HostPort', text)
    assert set(schema()["properties"]) == set(Config.model_fields)
    listener = schema()["$defs"]["listener"]
    assert set(listener["properties"]) == set(Listener.model_fields)
    assert listener["required"] == ["bind"]
    for model in (schema(), *schema()["$defs"].values()):
        assert model["additionalProperties"] is False
        assert all(field["description"] for field in model["properties"].values())


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
