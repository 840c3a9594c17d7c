"""Kept connections: as many as may be, for as long as may be, each for one taker with the same login."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kproxy.core.sasl import Plain
from kproxy.net.link import Opened
from kproxy.net.spares import Spares

ALICE, BOB = Plain("alice", "wonder"), Plain("bob", "builder")


class Connection:
    """What is asked of a Conversation; a real one needs a broker (see tests/faults)."""

    def __init__(self) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self.quiet = True
        self.transport = SimpleNamespace(is_closing=self.closed.done)

    def close(self) -> None:
        """Close it."""
        self.closed.set_result(None)


def opened(mechanism: Plain = ALICE, lifetime_ms: int = 0) -> Opened:
    """Make a connection that is logged in."""
    return Opened(cast("Any", Connection()), lifetime_ms, 2, mechanism, ("k", 1), None)


async def test_for_the_same_login_and_broker() -> None:
    """It is for whoever gives the same user and password, and that broker or any, and once."""
    spares, one = Spares(), opened()
    spares.keep(one, 1)
    assert spares.take(2, ALICE) is None
    assert spares.take(1, BOB) is None
    assert spares.take(1, Plain("alice", "other")) is None
    assert spares.take(1, ALICE) == (one, 1)
    assert spares.take(1, ALICE) is None
    spares.keep(one, 1)
    assert spares.take(None, ALICE) == (one, 1)
    assert not one.conversation.closed.done()


async def test_no_more_than_may_be() -> None:
    """Beyond the bound the oldest is closed."""
    spares, kept = Spares(3), [opened() for _ in range(5)]
    for each in kept:
        spares.keep(each, 1)
    assert [each.conversation.closed.done() for each in kept] == [True, True, False, False, False]
    assert len(spares) == 3
    spares.close()
    assert all(each.conversation.closed.done() for each in kept)
    assert len(spares) == 0


@pytest.mark.parametrize("how", ["closed", "not quiet"])
async def test_one_that_is_no_good(how: str) -> None:
    """One that has ended, or on which a broker speaks unasked, is nobody's."""
    spares, one = Spares(), opened()
    spares.keep(one, 1)
    if how == "closed":
        one.conversation.closed.set_result(None)
        cast("Any", one.conversation).close = lambda: None
    else:
        cast("Any", one.conversation).quiet = False
    assert spares.take(1, ALICE) is None
    assert len(spares) == 0
    assert one.conversation.closed.done()


async def test_the_first_part_of_a_session() -> None:
    """What is left of a session is told to the taker; it is closed before the session would have to be renewed."""
    spares, long, one = Spares(), opened(lifetime_ms=100_000), opened(lifetime_ms=200)
    spares.keep(long, 1)
    await asyncio.sleep(0.05)
    taken = spares.take(1, ALICE)
    assert taken is not None
    assert 95_000 < taken[0].session_lifetime_ms <= 99_951
    spares.keep(one, 1)
    async with asyncio.timeout(5):
        await one.conversation.closed
    assert len(spares) == 0
