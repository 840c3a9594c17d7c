"""The supervisor's side of what workers tell (see status): questions, answers, and what is known of all of them.

A worker that does not answer in time is left out of an answer, and its counters stay what they were: whoever asks
never waits for a worker that hangs, and no worker is asked more than it answers::

    desk.attach(pid, channel)                        a worker has started
    desk.heard(message, descriptors)                 it has answered
    answers = await desk.ask("health")               {pid: {"open": {...}, "clusters": {...}}}
    desk.detach(pid)                                 it has ended
"""

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

from kproxy.service.channel import Message
from kproxy.service.tallies import ended, join

ANSWER_SECONDS = 2.0
"""How long a worker may take; Kubernetes gives a probe one second by default, Prometheus a scrape ten."""

QUESTIONS_MAX = 4
"""How many questions a worker may leave unanswered: a channel that is full ends, and its worker with it."""

ANSWER_BYTES_MAX = 256 * 1024 * 1024
"""100,000 clients of 600 bytes are 60 MB."""

Document = dict[str, Any]
Send = Callable[[Message], None]


class _Place:
    """One worker, as seen from here."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.free = asyncio.Semaphore(QUESTIONS_MAX)
        self.asked: set[int] = set()
        self.counters: Document = {}


class Desk:
    """See the module."""

    def __init__(self, answer_seconds: float = ANSWER_SECONDS) -> None:
        """Begin without workers."""
        self._answer_seconds = answer_seconds
        self._places: dict[int, _Place] = {}
        self._past: Document = {}
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Document | None]] = {}
        self._flights: dict[tuple[str, ...], asyncio.Future[dict[int, Document]]] = {}
        self.started = 0
        """How many workers have been started so far."""

    @property
    def pids(self) -> list[int]:
        """The workers that there are."""
        return list(self._places)

    def attach(self, pid: int, send: Send) -> None:
        """A worker has started; it is told things by ``send``."""
        self.started += 1
        self._places[pid] = _Place(send)

    def detach(self, pid: int) -> None:
        """A worker has ended; what it had counted when it was last asked stays."""
        place = self._places.pop(pid, None)
        if place is None:
            return
        self._past = join((self._past, ended(place.counters)))
        for number in place.asked:
            if (future := self._waiting.pop(number, None)) is not None and not future.done():
                future.set_result(None)

    def heard(self, message: Message, descriptors: list[int]) -> bool:
        """Take a worker's answer, and the descriptors with it; False: the message is none."""
        if "status" not in message:
            return False
        number = message["status"]
        answer: Document | None = message
        for descriptor in descriptors:
            answer = _read(descriptor)
        for place in self._places.values():
            if number in place.asked:
                place.asked.discard(number)
                place.free.release()
        future = self._waiting.pop(number, None)
        if future is not None and not future.done():
            future.set_result(None if "error" in message else answer)
        return True

    async def ask(self, *parts: str) -> dict[int, Document]:
        """Ask every worker; return the answers that came, by pid. Who asks the same meanwhile gets the same answers."""
        flight = self._flights.get(parts)
        if flight is None:
            flight = asyncio.ensure_future(self._ask_all(parts))  # noqa: TID251  kept here until it is done
            self._flights[parts] = flight
            flight.add_done_callback(lambda _: self._flights.pop(parts, None))
        return await asyncio.shield(flight)

    async def _ask_all(self, parts: tuple[str, ...]) -> dict[int, Document]:
        pids = list(self._places)
        answers = await asyncio.gather(*(self.tell(pid, {"parts": list(parts)}) for pid in pids))
        found = {pid: answer for pid, answer in zip(pids, answers, strict=True) if answer is not None}
        for pid, answer in found.items():
            if "counters" in answer and pid in self._places:
                self._places[pid].counters = answer["counters"]
        return found

    async def tell(self, pid: int, message: Message) -> Document | None:
        """Tell one worker something; return its answer, None where there is none in time."""
        place = self._places.get(pid)
        if place is None:
            return None
        number = next(self._numbers)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._answer_seconds):
                await place.free.acquire()
                if self._places.get(pid) is not place:
                    return None
                place.asked.add(number)
                future: asyncio.Future[Document | None] = asyncio.get_running_loop().create_future()
                self._waiting[number] = future
                place.send({"status": number} | message)
                try:
                    return await future
                finally:
                    self._waiting.pop(number, None)
        return None

    def counters(self) -> Document:
        """Return the counters of all workers, as far as they are known, and of those that were."""
        return join((self._past, *(place.counters for place in self._places.values())))


def _read(descriptor: int) -> Document | None:
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(file.fileno()).st_size > ANSWER_BYTES_MAX:
            return None
        file.seek(0)
        document: Document = json.load(file)
        return document
