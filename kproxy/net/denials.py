"""What the operator reads of denials: each once in a while, and of all together no more than can be read.

Names are the clients' own, so that without the second bound whoever makes up names would fill the disk::

    denied by access rules   principal=User:alice operation=write resource=topic name=orders api=Produce repeated=12
"""

import asyncio
from collections.abc import Callable

import structlog

from kproxy.core.access import Denial
from kproxy.core.suppressor import Suppressor

_log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 10.0
"""How often the same is told, as with other complaints (see suppressor)."""

TOLD_MAX = 100
"""How many lines an interval has, so that a day of a flood takes less than a GiB."""


class DenialLog:
    """Call it with each denial of one listener."""

    def __init__(self, listener: str, now: Callable[[], float] | None = None) -> None:
        """Tell of a listener, by name; ``now``: the loop's time, in seconds."""
        self._listener = listener
        self._now = now
        self._quiet = Suppressor(INTERVAL_SECONDS)
        self._since = float("-inf")
        self._told = 0
        self._untold = 0

    def __call__(self, denial: Denial) -> None:
        """Log it, or count it towards the next line."""
        now = asyncio.get_running_loop().time() if self._now is None else self._now()
        if now - self._since >= INTERVAL_SECONDS:
            self._since = now
            self._told = 0
        if self._told >= TOLD_MAX:
            self._untold += 1
            return
        left_out = self._quiet.tell((denial.principal, denial.operation, denial.resource, denial.name), now)
        if left_out is None:
            return
        self._told += 1
        fields = {"repeated": left_out} if left_out else {}
        if self._untold:
            fields["others"] = self._untold
            self._untold = 0
        _log.warning(
            "would be denied (dry run)" if denial.dry_run else "denied by access rules",
            listener=self._listener,
            principal=denial.principal,
            operation=str(denial.operation),
            resource=str(denial.resource),
            name=denial.name,
            api=denial.api,
            **fields,
        )
