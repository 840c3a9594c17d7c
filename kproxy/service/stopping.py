"""The end of a run, in order: not ready, a grace in which all goes on, the drain, and what the log tells of it.

A load balancer sends clients as long as its probes succeed, so GET /readyz fails first, and kproxy goes on to serve for
``drain_grace``. Then workers drain; each tells how many connections it has left, and how many of them are owed an
answer, and the log has the sum, now and then::

    stopping: not ready from now on, and serving on     grace_seconds=15
    draining                                            timeout_seconds=30
    still draining                                      connections=7 busy=2 seconds=2.0
    drained                                             seconds=3.2

Never here: a connection.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

_log = structlog.get_logger(__name__)

TELL_SECONDS = 2.0
"""How often the log tells how far a drain has come."""

LEFT_SECONDS = 0.5
"""How often a worker tells what it has left."""


@dataclass(slots=True)
class Stopping:
    """One run's end. ``run`` it once; ``heard`` takes what workers tell."""

    drain: Callable[[], None]
    """Has all workers drain."""
    left: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By worker: connections, and those of them that are owed an answer."""
    began_at: float | None = None
    """When the drain began, in the loop's time; None: it has not."""

    async def run(self, grace_seconds: float, timeout_seconds: float) -> None:
        """Serve on, then drain; tell the log how far it is until this is cancelled, as all workers have ended."""
        if grace_seconds:
            _log.info("stopping: not ready from now on, and serving on", grace_seconds=grace_seconds)
            await asyncio.sleep(grace_seconds)
        _log.info("draining", timeout_seconds=timeout_seconds)
        self.began_at = asyncio.get_running_loop().time()
        self.drain()
        while True:
            await asyncio.sleep(TELL_SECONDS)
            connections, busy = (sum(many) for many in zip((0, 0), *self.left.values(), strict=True))
            _log.info("still draining", connections=connections, busy=busy, seconds=self._seconds(self.began_at))

    def over(self) -> None:
        """All workers have ended by themselves."""
        if self.began_at is not None:
            _log.info("drained", seconds=self._seconds(self.began_at))

    @staticmethod
    def _seconds(since: float) -> float:
        return round(asyncio.get_running_loop().time() - since, 1)

    def heard(self, worker: int, left: tuple[int, int]) -> None:
        """A worker has so many connections left, and so many of them busy."""
        self.left[worker] = left


async def tell_left(left: Callable[[], tuple[int, int]], send: Callable[[tuple[int, int]], None]) -> None:
    """Tell for ever, now and then, what a worker has left."""
    with suppress(asyncio.CancelledError):
        while True:
            send(left())
            await asyncio.sleep(LEFT_SECONDS)
