"""Counters of several workers made one: what grows is added up, over workers that have ended, too.

A tally is what a worker sends: numbers, lists of them, and mappings of names to either, however deep::

    >>> join([{"bytes_in": 5, "closed": {"idle": 1}}, {"bytes_in": 7, "closed": {"idle": 2, "drained": 1}}])
    {'bytes_in': 12, 'closed': {'idle': 3, 'drained': 1}}
    >>> join([{"opened": 5, "lag": [1, 0]}, {"opened": 7, "lag": [0, 2]}])
    {'opened': 12, 'lag': [1, 2]}
    >>> ended({"opened": 5, "connections": 2})
    {'opened': 5}
"""

from collections.abc import Iterable, Mapping
from heapq import nlargest, nsmallest
from typing import Any

from kproxy.core.limits import TOP_KEYS

PRESENT = frozenset({"connections", "in_flight", "keys", "principals", "waiting", "windows"})
"""What is at the moment, and ends with the worker; all else has happened, and stays."""

SHARED = frozenset({"remaining", "resets_in"})
"""Of a window that all workers have in common: who tells least has heard of it last."""

Tally = Mapping[str, Any]


def join(tallies: Iterable[Tally]) -> dict[str, Any]:
    """Add tallies up."""
    joined: dict[str, Any] = {}
    for tally in tallies:
        _add(joined, tally)
    _shorten(joined)
    return joined


def ended(tally: Tally) -> dict[str, Any]:
    """Return what stays of the tally of a worker that is no more."""
    return {
        name: ended(value) if isinstance(value, Mapping) else value
        for name, value in tally.items()
        if name not in PRESENT
    }


def _add(joined: dict[str, Any], tally: Tally) -> None:
    for name, value in tally.items():
        if isinstance(value, Mapping):
            _add(joined.setdefault(name, {}), value)
        elif name in SHARED:
            joined[name] = min(joined.get(name, value), value)
        elif isinstance(value, list):
            before = joined.get(name, [0] * len(value))
            joined[name] = [one + other for one, other in zip(before, value, strict=True)]
        else:
            joined[name] = joined.get(name, 0) + value


def _shorten(joined: dict[str, Any]) -> None:
    """Keep of each limit as many keys as one worker tells."""
    for limit in joined.get("limits", {}).values():
        if "top" in limit:
            top = nlargest(TOP_KEYS, limit["top"].items(), key=lambda entry: entry[1])
            limit["top"] = {key: round(seconds, 3) for key, seconds in top}
        if "windows" in limit:
            fullest = nsmallest(TOP_KEYS, limit["windows"].items(), key=lambda entry: entry[1]["remaining"])
            limit["windows"] = dict(fullest)
