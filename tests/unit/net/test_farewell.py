"""Whom a drain lets stay, and when a client is told to go, where its connections are several workers'."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from kproxy.net.farewell import Farewell, Share
from kproxy.net.relay import ClientSide


class FakeClient:
    """One connection, as a farewell sees it."""

    def __init__(self, *, knows: bool = False, busy: bool = False, asked: int = 1, client_id: bytes = b"c") -> None:
        self.shared = SimpleNamespace(name="l")
        self.host = "10.0.0.1"
        self.identity = SimpleNamespace(principal="User:a")
        self.busy = busy
        self.away = False
        self.exchange: Any = SimpleNamespace(
            client_id=client_id, software=None, may_leave=knows, asked=asked, leaves=False, send_away=self._send_away
        )
        self.did: list[str] = []

    def _send_away(self) -> None:
        self.away = True

    def drain(self) -> None:
        """Note it."""
        self.did.append("drain")

    def part(self) -> None:
        """Note it."""
        self.did.append("part")


class FakeFellows:
    """One of two workers; what it says the other hears at once."""

    def __init__(self, number: int, hands: dict[int, dict[str, Share]]) -> None:
        self.number = number
        self.on_asked: Callable[[int, str], None]
        self.on_ended: Callable[[int, str], None]
        self.other: FakeFellows
        self._hands = hands
        self._shown = asyncio.Event()

    async def hands(self, mine: dict[str, Share]) -> dict[int, dict[str, Share]]:
        """See farewell.Fellows."""
        self._hands[self.number] = mine
        self._shown.set()
        await self.other._shown.wait()
        return {number: hand for number, hand in self._hands.items() if number != self.number}

    def asked(self, name: str) -> None:
        """See farewell.Fellows."""
        self.other.on_asked(self.number, name)

    def ended(self, name: str) -> None:
        """See farewell.Fellows."""
        self.other.on_ended(self.number, name)


class House:
    """Two workers that drain at once."""

    def __init__(self, *of_each: tuple[FakeClient, ...]) -> None:
        hands: dict[int, dict[str, Share]] = {}
        both = [FakeFellows(number, hands) for number in range(2)]
        both[0].other, both[1].other = both[1], both[0]
        self.farewells = [Farewell(fellows) for fellows in both]
        for farewell, clients in zip(self.farewells, of_each, strict=True):
            farewell.add(cast("tuple[ClientSide, ...]", clients))

    async def begin(self, seconds: float = 60.0) -> tuple[set[FakeClient], set[FakeClient]]:
        """Begin both; return who stays at each."""
        await asyncio.gather(*(farewell.begin(seconds) for farewell in self.farewells))
        first, second = (cast("set[FakeClient]", set(farewell.staying)) for farewell in self.farewells)
        return first, second

    def asks(self, worker: int, client: FakeClient) -> None:
        """The client has asked for Metadata on this connection."""
        client.exchange.leaves = True
        self.farewells[worker].asked(cast("ClientSide", client))

    def ends(self, worker: int, client: FakeClient) -> None:
        """The connection is no more."""
        self.farewells[worker].ended(cast("ClientSide", client))


async def test_one_at_each() -> None:
    """The less used one ends, wherever it is; on the other, which never asked for Metadata before, it is told."""
    here, there = FakeClient(knows=True, asked=9), FakeClient(asked=10)
    house = House((here,), (there,))
    assert await house.begin() == (set(), {there})
    assert there.away
    house.ends(0, here)
    house.asks(1, there)
    assert (here.did, there.did) == ([], ["part"])


async def test_what_it_is_owed_elsewhere_comes_first() -> None:
    """Asked at one worker, the others let its connections end, and only then it is told."""
    unused, asks = FakeClient(asked=0), FakeClient(knows=True)
    busy, idle = FakeClient(busy=True), FakeClient(asked=7)
    stranger = FakeClient(client_id=b"other")
    house = House((unused, asks), (busy, idle, stranger))
    assert await house.begin() == ({asks}, {busy, idle})
    house.asks(0, asks)
    assert (busy.did, idle.did, asks.did) == (["drain"], ["drain"], [])
    house.ends(0, unused)
    house.ends(1, idle)
    house.ends(1, stranger)
    assert asks.did == []
    house.ends(1, busy)
    assert asks.did == ["part"]


async def test_asked_at_both_at_once() -> None:
    """One tells it, and the other's ends."""
    unused, first, second = FakeClient(asked=0), FakeClient(knows=True), FakeClient(knows=True)
    house = House((unused, first), (second,))
    await house.begin()
    first.exchange.leaves = second.exchange.leaves = True  # neither has heard of the other yet
    house.asks(1, second)
    house.asks(0, first)
    house.ends(0, unused)
    house.ends(1, second)
    assert (first.did, second.did) == (["part"], ["drain"])


async def test_ended_while_hands_are_shown() -> None:
    """A connection that ends meanwhile is not waited for."""
    unused, asks, gone = FakeClient(asked=0), FakeClient(knows=True), FakeClient(busy=True)
    house = House((unused, asks), (gone,))
    begun = asyncio.gather(*(farewell.begin(60.0) for farewell in house.farewells))
    await asyncio.sleep(0)
    house.ends(1, gone)
    await begun
    assert not house.farewells[1].staying
    house.ends(0, unused)
    house.asks(0, asks)
    assert asks.did == ["part"]


async def test_asked_while_hands_are_shown() -> None:
    """Who has asked elsewhere before this worker has chosen stays here no longer than all."""
    here, there = FakeClient(knows=True), FakeClient(knows=True)
    house = House((here,), (there,))
    begun = asyncio.gather(*(farewell.begin(60.0) for farewell in house.farewells))
    await asyncio.sleep(0)
    house.asks(0, here)  # not yet staying: nothing
    name = next(iter(house.farewells[0]._by_name))
    house.farewells[0]._asked_elsewhere(1, name)
    house.farewells[0]._asked_elsewhere(1, "of nobody here")
    house.farewells[0]._ended_elsewhere(1, "of nobody here")
    await begun
    assert not house.farewells[0].staying
    assert here.did == []


async def test_nobody_stays_for_nothing() -> None:
    """Who has one connection in all, or does not know how to go, ends at once."""
    assert await House((FakeClient(knows=True),), ()).begin() == (set(), set())
    assert await House((FakeClient(), FakeClient()), (FakeClient(),)).begin() == (set(), set())


async def test_a_worker_that_says_nothing_more() -> None:
    """Who has asked is told after a while all the same, and who has not ends."""
    unused, asks, there = FakeClient(asked=0), FakeClient(knows=True), FakeClient()
    house = House((unused, asks), (there,))
    await house.begin(0.05)
    house.asks(0, asks)
    assert asks.did == []
    await asyncio.sleep(0.2)
    assert (asks.did, there.did) == (["part"], ["drain"])
