"""A worker's way to the others as all of them drain: what each has of which client, and how those are sent elsewhere.

The supervisor hands a worker's word on to all others::

    worker      {"farewell": {"hand": {name: [2, true, false, 17]}, "last": true}}     see farewell.Share
    worker      {"farewell": {"asked": [name], "ended": [name, name]}}
    supervisor  {"farewell": {...}, "from": 1}

Little is sent at a time, for a channel that is full is given up.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from kproxy.net.farewell import Share
from kproxy.service.channel import Message

HANDS_SECONDS = 1.0
"""How long the others have to show theirs; they begin within milliseconds."""

ENTRIES_MAX = 500
"""Entries of one message, about 20 KiB."""

PAUSE_SECONDS = 0.02
"""From one message to the next."""


class Fellows:
    """See farewell.Fellows. ``heard`` takes what has "farewell" in it, also before the drain."""

    def __init__(self, number: int, workers: int, send: Callable[[Message], None]) -> None:
        """Be one of so many ``workers``; ``send`` reaches the supervisor."""
        self.number = number
        self.on_asked: Callable[[int, str], None] = lambda _number, _name: None
        self.on_ended: Callable[[int, str], None] = lambda _number, _name: None
        self._others = workers - 1
        self._send = send
        self._hands: defaultdict[int, dict[str, Share]] = defaultdict(dict)
        self._shown: set[int] = set()
        self._all_shown = asyncio.Event()
        self._waiting: list[tuple[str, str]] = []
        self._idle = asyncio.Event()
        self._idle.set()

    async def hands(self, mine: dict[str, Share]) -> dict[int, dict[str, Share]]:
        """See farewell.Fellows."""
        with suppress(TimeoutError):
            async with asyncio.timeout(HANDS_SECONDS):
                entries = list(mine.items())
                while len(entries) > ENTRIES_MAX:
                    self._send({"farewell": {"hand": dict(entries[:ENTRIES_MAX])}})
                    del entries[:ENTRIES_MAX]
                    await asyncio.sleep(PAUSE_SECONDS)
                self._send({"farewell": {"hand": dict(entries), "last": True}})
                await self._all_shown.wait()
        return self._hands

    def asked(self, name: str) -> None:
        """See farewell.Fellows."""
        self._tell("asked", name)

    def ended(self, name: str) -> None:
        """See farewell.Fellows."""
        self._tell("ended", name)

    async def close(self) -> None:
        """Wait until all has been told."""
        await self._idle.wait()

    def heard(self, message: Message) -> None:
        """Take what another worker has said."""
        number, told = message["from"], message["farewell"]
        for name, share in told.get("hand", {}).items():
            self._hands[number][name] = Share(*share)
        if "last" in told:
            self._shown.add(number)
            if len(self._shown) == self._others:
                self._all_shown.set()
        for name in told.get("asked", ()):
            self.on_asked(number, name)
        for name in told.get("ended", ()):
            self.on_ended(number, name)

    def _tell(self, what: str, name: str) -> None:
        self._waiting.append((what, name))
        if self._idle.is_set():
            self._flush()

    def _flush(self) -> None:
        now, self._waiting = self._waiting[:ENTRIES_MAX], self._waiting[ENTRIES_MAX:]
        if not now:
            self._idle.set()
        else:
            self._idle.clear()
            told = defaultdict(list)
            for what, name in now:
                told[what].append(name)
            self._send({"farewell": told})
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._flush)
