"""The program with limits, and what its counters say."""

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kproxy.testing.proxy import ProxyProcess
from kproxy.testing.waiting import wait_until

RunProxy = Callable[..., ProxyProcess]
"""See the fixture run_proxy."""


def run_limited(
    run_proxy: RunProxy,
    folder: Path,
    bootstrap: str,
    *limits: Mapping[str, object],
    workers: int = 1,
    **settings: object,
) -> ProxyProcess:
    """Start a proxy whose clients come under limits, written as in the configuration; ``settings``: ProxyProcess's."""
    path = folder / "limits.yaml"
    path.write_text(json.dumps({"limits": limits, "workers": workers}), encoding="utf-8")
    return run_proxy(bootstrap, "--config", str(path), **settings)


def tally(proxy: ProxyProcess) -> dict[str, Any]:
    """Return the program's counters as they are now."""
    before = len(_tallies(proxy))
    proxy.signal(signal.SIGUSR1)
    wait_until(lambda: len(_tallies(proxy)) > before, 10, "the counters in the log")
    return _tallies(proxy)[-1]


def limit_tally(proxy: ProxyProcess, name: str) -> dict[str, Any]:
    """Return the counters of one limit."""
    found: dict[str, Any] = tally(proxy)["limits"][name]
    return found


def requests(proxy: ProxyProcess, api: str) -> int:
    """Return how many requests of an API there have been."""
    listeners = tally(proxy)["listeners"].values()
    return sum(int(listener["requests"].get(api, 0)) for listener in listeners)


def events(proxy: ProxyProcess, text: str) -> list[dict[str, Any]]:
    """Return the log lines that say this."""
    whole = proxy.log.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return [event for event in map(json.loads, whole) if event["event"] == text]


def _tallies(proxy: ProxyProcess) -> list[dict[str, Any]]:
    return events(proxy, "tally")
