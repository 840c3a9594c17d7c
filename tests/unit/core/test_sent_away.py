"""A client is sent to its bootstrap servers (KIP-1102): what goes on before, what is told, and what is kept back."""

from itertools import product
from typing import Any

import pytest
from conversations import OFFER, advertise
from guarded_stage import EVERYTHING, allow
from metered_stage import fetch, fetched

from kproxy.core.access import Access, Operation, Permissions
from kproxy.core.directory import Directory
from kproxy.core.exchange import Front
from kproxy.core.kinds import exchange_class
from kproxy.core.limits import Client, Concurrency, Limits, Rule
from kproxy.core.tally import Tally
from kproxy.wire import frames
from kproxy.wire.apis import ApiKey
from kproxy.wire.cluster import metadata_request, rebootstrap_response
from kproxy.wire.primitives import INT32

NOTHING = INT32.pack(0) + b"\x01\x00" + INT32.pack(-1) + b"\x01"
"""A Metadata answer v10 and later that names no broker and no topic, up to what v13 has more."""


def metadata(number: int, version: int = 13) -> bytes:
    """Write a request for the brokers."""
    return frames.request(ApiKey.METADATA, version, number, "c", metadata_request(version))


def told(number: int) -> bytes:
    """Return the broker's answer to that, v13."""
    return frames.response(number, ApiKey.METADATA, 13, NOTHING + bytes(3))


def sent_away(number: int) -> bytes:
    """Return what a client that is to leave is told instead."""
    return frames.response(number, ApiKey.METADATA, 13, rebootstrap_response())


class Stage:
    """What two connections of one kind share: slots for two requests that a broker has yet to answer."""

    def __init__(self, *, routed: bool = False, guarded: bool = False, limited: bool = False) -> None:
        self._kind = exchange_class(routed=routed, guarded=guarded, limited=limited, observed=False)
        self._is = (routed, guarded, limited)
        self._front = Front(OFFER, Tally())
        self._limits = Limits([Rule("slots", Concurrency(2, 9, True))])

    def connect(self) -> Any:
        """Make a connection; where it is routed, broker 1 is reached."""
        routed, guarded, limited = self._is
        exchange = self._kind(self._front, advertise, *([Directory()] if routed else []))
        client = Client("public", "10.0.0.1", "User:alice", "")
        if guarded:
            permissions = Permissions(Access((EVERYTHING, allow("*", Operation.READ))), "User:alice", frozenset())
            exchange.guard(permissions, lambda: None)
        if limited:
            exchange.meter(self._limits, client, lambda: 1000.0, lambda: None)
        if routed:
            exchange.reached(1)
        return exchange


@pytest.mark.parametrize(("routed", "guarded", "limited"), list(product((False, True), repeat=3)))
def test_a_client_leaves(*, routed: bool, guarded: bool, limited: bool) -> None:
    """All goes on until it asks for Metadata; that is answered in its place, and nothing behind it goes on."""
    exchange = Stage(routed=routed, guarded=guarded, limited=limited).connect()
    assert exchange.from_client(metadata(1)) == metadata(1)
    assert not exchange.may_leave
    assert exchange.from_broker(told(1)) == told(1)
    assert exchange.may_leave
    exchange.send_away()
    assert not exchange.leaves
    assert exchange.from_client(fetch(2)) == fetch(2)
    assert exchange.from_client(metadata(3) + fetch(4)) == b""
    assert exchange.leaves
    assert exchange.replies == [b""]
    exchange.part()
    assert exchange.replies == [b""]
    assert exchange.from_broker(fetched(2)) == fetched(2) + sent_away(3)
    assert exchange.from_client(fetch(5)) == b""
    assert exchange.outstanding == 0


@pytest.mark.parametrize(("routed", "guarded"), list(product((False, True), repeat=2)))
def test_it_holds_no_slot(*, routed: bool, guarded: bool) -> None:
    """What kproxy answers by itself leaves the slot that it took to others."""
    stage = Stage(routed=routed, guarded=guarded, limited=True)
    leaving, other = stage.connect(), stage.connect()
    leaving.send_away()
    assert leaving.from_client(fetch(1)) == fetch(1)
    assert leaving.from_client(metadata(2)) == b""
    assert leaving.leaves
    assert other.from_client(fetch(1)) == fetch(1)
    assert other.from_client(fetch(2)) == b""  # there are two


@pytest.mark.parametrize("routed", [False, True])
def test_at_once_where_nothing_is_owed(*, routed: bool) -> None:
    """A connection that is owed nothing is answered when it is told to be, and no sooner."""
    exchange = Stage(routed=routed).connect()
    exchange.send_away()
    assert exchange.from_client(metadata(1)) == b""
    assert (exchange.leaves, exchange.replies) == (True, [b""])
    exchange.part()
    assert b"".join(exchange.replies) == sent_away(1)


@pytest.mark.parametrize("routed", [False, True])
def test_older_versions_have_no_place_for_it(*, routed: bool) -> None:
    """A client that asks in an older version is answered as ever, and is none that may leave."""
    exchange = Stage(routed=routed).connect()
    exchange.send_away()
    assert exchange.from_client(metadata(1, 12)) == metadata(1, 12)
    exchange.from_broker(frames.response(1, ApiKey.METADATA, 12, NOTHING + b"\x00"))
    assert not exchange.may_leave
    assert not exchange.leaves


def test_where_it_is_not_offered() -> None:
    """Old brokers have no such version: there is nothing to say."""
    exchange = Stage().connect()
    exchange.introduced(OFFER.without((), {int(ApiKey.METADATA): 12}))
    exchange.send_away()
    assert exchange.from_client(metadata(1, 12)) == metadata(1, 12)
