"""The configuration's JSON Schema, for editors: completion, hover texts and red lines as one types.

It is made of the model, so that the two cannot differ; it shows what a user writes (``30s``), never Python's names or
values. An editor picks it up from a line in the file::

    # yaml-language-server: $schema=kproxy.schema.json
"""

import re
from typing import Any

from kproxy.config.model import Config


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, as editors read it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kproxy configuration",
        **_plain(Config.model_json_schema(mode="validation")),
    }


def _plain(part: Any) -> Any:  # noqa: ANN401 - JSON is anything
    """Drop the titles that pydantic makes of Python's names, and write the definitions' names as keys are written."""
    if isinstance(part, list):
        return [_plain(item) for item in part]
    if not isinstance(part, dict):
        return _as_key(part) if isinstance(part, str) and part.startswith("#/$defs/") else part
    plain = {key: _plain(value) for key, value in part.items() if not (key == "title" and isinstance(value, str))}
    if "$defs" in plain:
        plain["$defs"] = {_as_key(name): definition for name, definition in plain["$defs"].items()}
    return plain


def _as_key(name: str) -> str:
    """Write ``LeakyBucket`` as ``leaky_bucket``, alone or at the end of a reference."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
