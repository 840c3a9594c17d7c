"""Counters of several workers made one; those of workers that have ended are kept, so that no sum ever goes down.

Counters are mappings of names to numbers, to lists of them, or to mappings::

    >>> join([{"opened": 5, "lag": [1, 0]}, {"opened": 7, "lag": [0, 2]}])
    {'opened': 12, 'lag': [1, 2]}
    >>> ended({"opened": 5, "connections": 2})
    {'opened': 5}
"""

from collections.abc import Iterable, Mapping
from typing import Any

PRESENT = frozenset({"connections", "principals", "keys", "waiting"})
"""What is at the moment, and ends with its worker."""


def join(several: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add counters up."""
    joined: dict[str, Any] = {}
    for counters in several:
        _add(joined, counters)
    return joined


def ended(counters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stays of the counters of a worker that is no more."""
    return {
        name: ended(value) if isinstance(value, Mapping) else value
        for name, value in counters.items()
        if name not in PRESENT
    }


def _add(joined: dict[str, Any], counters: Mapping[str, Any]) -> None:
    for name, value in counters.items():
        if isinstance(value, Mapping):
            _add(joined.setdefault(name, {}), value)
        elif isinstance(value, list):
            before = joined.get(name, [0] * len(value))
            joined[name] = [one + other for one, other in zip(before, value, strict=True)]
        else:
            joined[name] = joined.get(name, 0) + value
