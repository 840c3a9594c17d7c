"""Connections that were made by another configuration come under the one of today, or end.

Most only look at other limits, rules and logs from their next request on. One that would not be let in today, or would
be made otherwise, ends: at its next idle moment, which no client takes for an error; where it has none, nothing more is
taken from it and it ends after its last answer; and where that does not come, it is cut off::

    0 s   idle: ends at once; at work: when it owes nothing and waits for nothing
    5 s   takes no more requests; ends after the last answer
    35 s  ends

Never here: what is configured, or who would be let in (see relay).
"""

import asyncio
from collections.abc import Sequence

from kproxy.core.causes import Cause
from kproxy.net.relay import ClientSide

SLICE = 100
"""How many connections are told between two turns of the loop: about a millisecond."""

AGAIN_SECONDS, AGAIN_SECONDS_MAX = 0.02, 0.5
"""How soon one is told again that was in the midst of something: it renews its login, or looks for its broker."""

HOLD_SECONDS = 5.0
"""How long a connection may look for an idle moment. Most have one at once: a client that waits for its answers."""

CUT_SECONDS = 35.0


async def follow(clients: Sequence[ClientSide]) -> None:
    """Return when all of them are under what is configured, or gone."""
    loop = asyncio.get_running_loop()
    hold_at, cut_at = loop.time() + HOLD_SECONDS, loop.time() + CUT_SECONDS
    waiting: list[ClientSide] = []
    for begin in range(0, len(clients), SLICE):
        for client in clients[begin : begin + SLICE]:
            if not client.gone:
                client.watch_changed()
                if not client.configuration_changed():
                    waiting.append(client)
        await asyncio.sleep(0)
    pause = AGAIN_SECONDS
    while waiting:
        await asyncio.sleep(pause)
        pause = min(pause * 2, AGAIN_SECONDS_MAX)
        now = loop.time()
        for client in waiting:
            if client.outdated and now >= cut_at:
                client.end(Cause.CONFIGURATION_CHANGED)
            elif client.outdated and now >= hold_at:
                client.drain(Cause.CONFIGURATION_CHANGED)
        if now >= hold_at:
            hold_at = cut_at
        waiting = [client for client in waiting if not client.gone and not client.configuration_changed()]
