"""``kproxy schema``: the configuration file's JSON Schema, for editors.

::

    $ kproxy schema > kproxy.schema.json
    # in kproxy.yaml:  # yaml-language-server: $schema=kproxy.schema.json
"""

import json

import click

from kproxy.config.schema import schema as json_schema


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    click.echo(json.dumps(json_schema(), indent=2))
