"""Connections to brokers that have just been logged in to, to see whether a client may: for that client's next dial.

With ``passthrough`` a client's own login is tried at a broker. Its first request follows within milliseconds, mostly,
and takes the same connection, instead of a second one that must be logged in to again::

    spares.keep(opened, 1)                      # logged in by Plain("alice", "wonder"); nothing was asked of it since
    spares.take(1, Plain("alice", "wonder"))    # (opened, 1), once; None: there is none for those

Who takes one gives the same user and password, so that it is never another principal's. One that nobody takes is closed
within seconds: what stands open longer than that is in the books of the brokers without serving anybody.
"""

import asyncio
from dataclasses import dataclass, replace

from kproxy.core.sasl import Mechanism
from kproxy.net.link import RENEW_AT, Opened

KEEP_SECONDS = 5.0
"""Until a client that is in has asked something; Java's asks for ApiVersions and metadata at once."""

SPARES_MAX = 1000
"""As many as may be on their way in (unauthenticated_max); beyond it the oldest is closed."""


@dataclass(eq=False, slots=True)
class _Spare:
    node_id: int
    opened: Opened
    since: float


class Spares:
    """Those of one listener. ``close`` them last."""

    def __init__(self, spares_max: int = SPARES_MAX) -> None:
        """Keep ``spares_max`` of them at once."""
        self._spares_max = spares_max
        self._spares: dict[_Spare, asyncio.TimerHandle] = {}  # the oldest first, and when it is given up

    def __len__(self) -> int:
        return len(self._spares)

    def keep(self, opened: Opened, node_id: int) -> None:
        """Keep a connection for a moment, the first part of its session at most."""
        loop = asyncio.get_running_loop()
        seconds = KEEP_SECONDS
        if opened.session_lifetime_ms:
            seconds = min(seconds, opened.session_lifetime_ms / 1000 * (1 - RENEW_AT))
        spare = _Spare(node_id, opened, loop.time())
        self._spares[spare] = loop.call_later(seconds, self._drop, spare)
        if len(self._spares) > self._spares_max:
            self._drop(next(iter(self._spares)))

    def take(self, node_id: int | None, mechanism: Mechanism | None) -> tuple[Opened, int] | None:
        """Return a connection to a broker (None: any) by the same login, as good as one dialled now, and its broker."""
        for spare in self._spares:
            if node_id in (None, spare.node_id) and spare.opened.mechanism == mechanism:
                break
        else:
            return None
        conversation = spare.opened.conversation
        if conversation.closed.done() or conversation.transport.is_closing() or not conversation.quiet:
            self._drop(spare)
            return None
        self._forget(spare)
        opened, lifetime_ms = spare.opened, spare.opened.session_lifetime_ms
        if lifetime_ms:
            passed_ms = int((asyncio.get_running_loop().time() - spare.since) * 1000)
            opened = replace(opened, session_lifetime_ms=max(lifetime_ms - passed_ms, 1))
        return opened, spare.node_id

    def close(self) -> None:
        """Close them all."""
        for spare in list(self._spares):
            self._drop(spare)

    def _drop(self, spare: _Spare) -> None:
        self._forget(spare)
        spare.opened.conversation.close()

    def _forget(self, spare: _Spare) -> None:
        self._spares.pop(spare).cancel()
