"""The configuration as plain values that may be shown, and sent back: every option there is, and no secret.

What is shown is written as in a file, defaults included, so that it is read as the same configuration. A secret is told
by its kind of value, so that one which somebody adds tomorrow is masked as well. One that stands in the configuration
itself cannot be sent back: its mask is refused, wherever it comes from (values.parse_secret)::

    dial_timeout: 1500ms                {"dial_timeout": "1500ms"}
    password: {env: KAFKA_PASSWORD}     {"password": {"env": "KAFKA_PASSWORD"}}
    password: hunter2                   {"password": "***"}
"""

from typing import Any

from pydantic import BaseModel


def masked(part: BaseModel) -> dict[str, Any]:
    """Return a part of the configuration as JSON has it."""
    return part.model_dump(mode="json")
