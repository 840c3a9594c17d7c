"""What workers tell one another as they drain: hands, shown in pieces, and whom was asked and has ended."""

import asyncio
import time

import pytest

from kproxy.net.farewell import Share
from kproxy.service import fellows
from kproxy.service.channel import MESSAGE_BYTES_MAX, Message
from kproxy.service.fellows import ENTRIES_MAX, Fellows


class House:
    """Some workers, and a supervisor that hands on."""

    def __init__(self, workers: int) -> None:
        self.sent: list[Message] = []
        self.workers = [
            Fellows(number, workers, lambda message, number=number: self.hand_on(number, message))  # type: ignore[misc]
            for number in range(workers)
        ]

    def hand_on(self, number: int, message: Message) -> None:
        """Tell the others, later, as a channel does."""
        self.sent.append(message)
        for other in self.workers:
            if other.number != number:
                asyncio.get_running_loop().call_soon(other.heard, message | {"from": number})


def hand(worker: int, many: int) -> dict[str, Share]:
    """Return what a worker may have."""
    return {f"{worker:08x}{at:08x}": Share(1 + at % 3, at % 2 == 0, busy=False, asked=at) for at in range(many)}


async def test_all_see_all() -> None:
    """Each gets the hands of all others, however many clients there are; no message is large."""
    house = House(3)
    mine = [hand(0, 0), hand(1, 3), hand(2, 2 * ENTRIES_MAX + 1)]
    seen = await asyncio.gather(*(worker.hands(mine[worker.number]) for worker in house.workers))
    for number, found in enumerate(seen):
        assert found == {other: mine[other] for other in range(3) if other != number and mine[other]}
    assert len(house.sent) == 1 + 1 + 3
    assert all(len(repr(message)) < MESSAGE_BYTES_MAX / 3 for message in house.sent)


async def test_one_that_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for any longer than is bearable; what the others have shown counts."""
    monkeypatch.setattr(fellows, "HANDS_SECONDS", 0.1)
    house = House(3)
    began = time.monotonic()
    first, second = await asyncio.gather(*(worker.hands(hand(worker.number, 1)) for worker in house.workers[:2]))
    assert (first, second) == ({1: hand(1, 1)}, {0: hand(0, 1)})
    assert time.monotonic() - began < 1


async def test_what_is_told() -> None:
    """What comes at once is told in few messages, and all of it before ``close`` returns."""
    house = House(2)
    heard: list[tuple[str, int, str]] = []
    house.workers[1].on_asked = lambda number, name: heard.append(("asked", number, name))
    house.workers[1].on_ended = lambda number, name: heard.append(("ended", number, name))
    names = [str(at) for at in range(ENTRIES_MAX + 10)]
    for name in names:
        house.workers[0].ended(name)
    house.workers[0].asked("other")
    await house.workers[0].close()
    await asyncio.sleep(0)
    ended = [("ended", 0, name) for name in names]
    assert heard == [*ended[: ENTRIES_MAX + 1], ("asked", 0, "other"), *ended[ENTRIES_MAX + 1 :]]
    assert len(house.sent) == 3
    await house.workers[1].close()
