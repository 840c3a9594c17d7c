"""The configuration as plain values that may be shown: every option there is, and no secret.

A secret is told by its kind of value, so that one which somebody adds tomorrow is masked as well::

    password: {env: KAFKA_PASSWORD}     {"env": "KAFKA_PASSWORD"}
    password: hunter2                   "***"
"""

from typing import Any

from pydantic import BaseModel

from kproxy.config.values import Secret

MASK = "***"


def masked(value: object) -> Any:  # noqa: ANN401 - JSON is anything
    """Return a part of the configuration as JSON has it; durations are seconds, sizes bytes."""
    match value:
        case Secret():
            kind, _, where = value.source.partition(" ")
            return {kind: where} if kind in {"env", "file"} else MASK
        case BaseModel():
            return {name: masked(getattr(value, name)) for name in type(value).model_fields}
        case dict():
            return {str(key): masked(item) for key, item in value.items()}
        case tuple() if hasattr(value, "_fields"):  # an address
            return str(value)
        case tuple() | list() | set() | frozenset():
            return [masked(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)
