"""``kproxy demo``: a cluster, the proxy before it and clients at work, to look at in seconds.

Nothing here is staged: the cluster is librdkafka's mock with three brokers, the proxy is ``kproxy run`` in a process
of its own (in the second act another one with a limit), the clients are ordinary ones that know the proxy's address
only, and each figure was measured::

    $ kproxy demo --once
    ...
                what the clients were told   what there is
     broker 1   127.0.0.1:13795              127.0.0.1:40277
     broker 2   127.0.0.1:13796              127.0.0.1:43667
"""

from importlib import import_module
from importlib.util import find_spec

import click

from kproxy.errors import KproxyError

NEEDED = {"confluent-kafka": "confluent_kafka", "rich": "rich"}
"""What the extra "demo" brings: the distribution's name, the module's."""


@click.command()
@click.option("--once", is_flag=True, help="End after both acts instead of serving until Ctrl-C.")
def demo(once: bool) -> int:
    """Show kproxy at work: three Kafka brokers, 10,000 records through it, and a greedy client held by a limit."""
    missing = [name for name, module in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise KproxyError(f"the demo needs {' and '.join(missing)}: pip install 'kproxy[demo]'")
    stage = import_module("kproxy.cli.stage")  # what it needs is there only now
    code: int = stage.perform(once=once)
    return code
