"""The screen of ``kproxy top``: samples of the admin API, taken every other second, until q or Ctrl-C.

Never here: what a sample looks like, which is ``topview``'s.
"""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from kproxy.cli.adminclient import AdminClient
from kproxy.cli.topview import Sample, view
from kproxy.errors import KproxyError

INTERVAL_SECONDS = 2.0
ONCE_SECONDS = 1.0
ONCE_ROWS_MIN = 50
"""What is printed once may be scrolled through."""

PAGES_MAX = 3
"""How many pages of 1,000 clients are looked at; the busiest of those are shown."""


def show(client: AdminClient, *, once: bool) -> None:
    """Show what the API tells, until somebody ends it. Raises KproxyError, UsageError."""
    console = Console()
    if not once and not console.is_terminal:
        raise click.UsageError("the output is no terminal; give --once")
    before = look(client)
    if once:
        time.sleep(ONCE_SECONDS)
        console.print(view(before, look(client), console.width, max(console.height, ONCE_ROWS_MIN)))
    else:
        _watch(client, console, before)


def look(client: AdminClient) -> Sample:
    """Take a sample. Raises KproxyError."""
    status = client.get("/status")
    clients = []
    path = "/clients"
    total = 0
    for _ in range(PAGES_MAX):
        page = client.get(path)
        clients += page["clients"]
        total = page["total"]
        if page["next"] is None:
            break
        path = f"/clients?after={quote(page['next'])}"
    return Sample(time.monotonic(), status, clients, total)


def _watch(client: AdminClient, console: Console, before: Sample) -> None:
    """Show samples until q or Ctrl-C; where the API is gone, say so, and try again."""
    with _keys() as waits, Live(console=console, screen=True, auto_refresh=False) as live:
        live.update(Text("looking ..."), refresh=True)
        shown: Sample | None = None
        try:
            while not waits(INTERVAL_SECONDS if shown else ONCE_SECONDS):
                try:
                    after = look(client)
                except KproxyError as error:
                    told = Text(str(error), "bold red")
                    lines = len(told.wrap(console, console.width))
                    seen = [view(before, shown, console.width, console.height - lines)] if shown else []
                    live.update(Group(told, *seen), refresh=True)
                    continue
                live.update(view(before, after, console.width, console.height), refresh=True)
                before, shown = after, after
        except KeyboardInterrupt:
            return


class _Waits:
    """Waits for a key."""

    def __init__(self, keys: bool) -> None:
        self._keys = keys

    def __call__(self, seconds: float) -> bool:
        """Wait for so long; True: q was pressed meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not self._keys:
                time.sleep(left)
            elif select.select([sys.stdin], [], [], left)[0]:
                keys = os.read(sys.stdin.fileno(), 64)  # stdin's own buffer would hide what select looks for
                if b"q" in keys.lower():
                    return True
                self._keys = keys != b""  # the terminal is gone
        return False


@contextmanager
def _keys() -> Iterator[_Waits]:
    """Have single keys, without Enter and not shown, where there is a keyboard."""
    if not sys.stdin.isatty():
        yield _Waits(keys=False)
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    try:
        yield _Waits(keys=True)
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
