"""What a doctor says: findings, and the worst of them.

::

    >>> found = [Finding(Level.OK, "connect", "in 1 ms"), Finding(Level.FAIL, "login", "refused", "see the password")]
    >>> worst(found)
    <Level.FAIL: 'fail'>
"""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """How good or bad it is, worst last."""

    OK = "ok"
    SKIP = "skip"
    """Not looked at; the text says why."""
    WARN = "warn"
    """It works, and will not for everybody or not for ever."""
    FAIL = "fail"


class Finding(NamedTuple):
    """One step: what was found, and what to do about it."""

    level: Level
    step: str
    text: str
    remedy: str = ""
    place: str = ""
    """What was walked, as in "kafka.example.com:9092" or "cluster main"."""


Report = Callable[[Finding], None]
"""Takes each finding as it is found."""


def ok(step: str, text: str) -> Finding:
    """Return a good one."""
    return Finding(Level.OK, step, text)


def skip(step: str, text: str, remedy: str = "") -> Finding:
    """Return one that says that nothing was looked at."""
    return Finding(Level.SKIP, step, text, remedy)


def warn(step: str, text: str, remedy: str) -> Finding:
    """Return a warning."""
    return Finding(Level.WARN, step, text, remedy)


def fail(step: str, text: str, remedy: str) -> Finding:
    """Return a failure."""
    return Finding(Level.FAIL, step, text, remedy)


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level; ok where there is nothing."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
