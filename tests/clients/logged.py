"""The program with a request log, and what stands in it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clients.limited import RunProxy
from kproxy.testing.proxy import ProxyProcess
from kproxy.testing.waiting import wait_until

Entry = dict[str, Any]


def run_logged(
    run_proxy: RunProxy, folder: Path, bootstrap: str, log: Mapping[str, object], **more: object
) -> ProxyProcess:
    """Start a proxy with a request log, written as in the configuration.

    ``more``: sections of the configuration beside it where they are lists or mappings, else ProxyProcess's own.
    """
    names = ("admin", "workers", "limits", "metrics", "clusters", "drain_timeout")
    sections = {name: more.pop(name) for name in names if name in more}
    path = folder / "logged.yaml"
    path.write_text(json.dumps({"request_log": {"linger": "50ms", **log}, **sections}), encoding="utf-8")
    return run_proxy(bootstrap, "--config", str(path), **more)


def entries(path: Path) -> list[Entry]:
    """Read a log that is a file; a line that is not whole yet is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()]


def wait_for(path: Path, meant: Callable[[Entry], bool], seconds: float = 10) -> Entry:
    """Wait until there is such an entry, and return the first."""
    wait_until(lambda: any(map(meant, entries(path))), seconds, lambda: f"such an entry in {entries(path)}")
    return next(filter(meant, entries(path)))
