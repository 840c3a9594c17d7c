"""What the models of the configuration have in common: frozen, and refusing what they do not know.

A model built on this reads a default as it reads what a user writes, so that the two look alike::

    class Cluster(Model):
        dial_timeout: Duration = written("5s")

Never here: an option.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# A name becomes a metric's label and a word in log lines.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
# Strict: "no" in quotes, or a 1, must not become a truth value.
Switch = Annotated[bool, Field(strict=True)]


class Model(BaseModel):
    """A part of the configuration, frozen once it is made."""

    model_config = ConfigDict(
        frozen=True,
        defer_build=True,  # a worker gets a configuration that has been checked, and needs no validators
        extra="forbid",
        hide_input_in_errors=True,  # an input may be a password
        use_attribute_docstrings=True,
        validate_default=True,  # so that defaults stand here, and in the schema, as a user writes them
    )


def written(text: str) -> Any:  # noqa: ANN401 - pydantic turns the text into the field's own type
    """Give a default as a user would write it."""
    return Field(default=text)
