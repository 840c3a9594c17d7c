"""``kproxy top``: who is doing what, live, from the admin API of a kproxy that runs.

::

    $ kproxy top --admin 127.0.0.1:9090 --api-key-file key

``q`` or Ctrl-C ends it. With ``--once`` it looks twice, a second apart, prints the rates between the two, and ends: for
scripts, and where there is no terminal.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click

from kproxy.cli.adminclient import AdminClient, read_key
from kproxy.errors import KproxyError


@click.command()
@click.option("--admin", metavar="HOST:PORT|PATH", default="127.0.0.1:9090", show_default=True, help="The admin API.")
@click.option(
    "--api-key-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File with the API's key; also KPROXY_ADMIN_KEY itself.",
)
@click.option("--once", is_flag=True, help="Print rates over one second, and end.")
def top(admin: str, api_key_file: Path | None, once: bool) -> int:
    """Show rates, clients, limits and brokers of a kproxy that runs; q ends it."""
    if find_spec("rich") is None:
        raise KproxyError("top needs rich: pip install 'kproxy[top]'")
    client = AdminClient(admin, read_key(api_key_file))
    try:
        import_module("kproxy.cli.topscreen").show(client, once=once)  # what it needs is there only now
    finally:
        client.close()
    return 0
