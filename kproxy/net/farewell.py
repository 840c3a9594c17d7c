"""Sending clients elsewhere as listeners drain (KIP-1102), those that know how to go.

A client whose connections all end knows only the addresses that it was told, ours, and tries those: Java's consumer for
minutes. One that is told REBOOTSTRAP_REQUIRED takes what its ``bootstrap.servers`` names instead. That is said in a
Metadata answer, on whichever of its connections it asks, and it drops all that it has open then, answered or not. So::

    listener -> client   the connection that it uses least ends, which makes it ask; all the others go on
    client -> listener   Metadata, on any of them
    listener -> client   the others end, each after its last answer; then REBOOTSTRAP_REQUIRED, and that one ends, too

A client is who has the same listener, address, principal, client id and software (KIP-511); of two that are alike one
may be missed, and its connections end as all do. So do those of one that has not asked in time.

Its connections may be several workers'. Each shows the others a hand, what it has of whom, so that all come to the same
choice; who is asked tells them, and they tell when they have none of that client's left (see Fellows).
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple, Protocol

from kproxy.net.relay import ClientSide

ASK_SECONDS = 5.0
"""How long a client has to ask. Java's does within its ``retry.backoff.ms``, 0.1 to 1 s."""


class Share(NamedTuple):
    """What one worker has of a client."""

    connections: int
    knows: bool
    """It has asked for Metadata in a version that can send it away."""
    busy: bool
    """Of the connection that it uses least: that it is owed an answer there, and how much it has asked for."""
    asked: int


class Fellows(Protocol):
    """The other workers, which drain at the same time. A client's name is a digest of what it is known by."""

    number: int
    """Which of the workers this is."""
    on_asked: Callable[[int, str], None]
    """Is told that a client has asked at another worker."""
    on_ended: Callable[[int, str], None]
    """Is told that another worker has none of a client's connections left."""

    async def hands(self, mine: dict[str, Share]) -> dict[int, dict[str, Share]]:
        """Show them what there is here; return what each of them has, as far as they show it in time."""

    def asked(self, name: str) -> None:
        """Tell them that a client has asked here."""

    def ended(self, name: str) -> None:
        """Tell them that none of a client's connections is left here."""


@dataclass(slots=True, eq=False)
class _Company:
    """The connections of one client."""

    name: str
    clients: set[ClientSide] = field(default_factory=set)
    elsewhere: set[int] = field(default_factory=set)
    """Workers that have some of it, too."""
    empty: set[int] = field(default_factory=set)
    """Workers that have none of it left."""
    left: bool = False
    """It has asked at another worker."""


class Farewell:
    """One drain's. ``add`` whom it concerns, ``begin`` it, and drain at once who is not ``staying`` then.

    Tell of who has ``asked`` and ``ended``.
    """

    def __init__(self, fellows: Fellows | None = None) -> None:
        """Begin with nobody; ``fellows``: the other workers, None: clients have no connections there."""
        self.staying: set[ClientSide] = set()
        self._fellows = fellows
        self._by_name: dict[str, _Company] = {}
        self._by_client: dict[ClientSide, _Company] = {}  # until it ends
        if fellows is not None:
            fellows.on_asked, fellows.on_ended = self._asked_elsewhere, self._ended_elsewhere

    def add(self, clients: Iterable[ClientSide]) -> None:
        """Have these among those that may be sent away."""
        for client in clients:
            name = _name(client)
            company = self._by_client[client] = self._by_name.setdefault(name, _Company(name))
            company.clients.add(client)

    async def begin(self, ask_seconds: float) -> None:
        """Choose whom to let stay for a while, of whom ``ask_seconds`` later nobody does."""
        hands: dict[int, dict[str, Share]] = {}
        if self._fellows is not None:
            hands = await self._fellows.hands({company.name: _share(company) for company in self._by_name.values()})
        for company in self._by_name.values():
            shares = {number: hand[company.name] for number, hand in hands.items() if company.name in hand}
            company.elsewhere = shares.keys() - company.empty
            if company.clients and not company.left:
                self._choose(company, shares)
        for client in self.staying:
            client.exchange.send_away()
        if self.staying:
            asyncio.get_running_loop().call_later(ask_seconds, self._hurry)

    def _choose(self, company: _Company, shares: dict[int, Share]) -> None:
        """Let all stay but the one that is used least, here or elsewhere; or nobody."""
        mine = _share(company)
        all_of_it = (mine, *shares.values())
        if not any(share.knows for share in all_of_it) or sum(share.connections for share in all_of_it) == 1:
            return
        self.staying |= company.clients
        me = 0 if self._fellows is None else self._fellows.number
        if all((mine.busy, mine.asked, me) < (share.busy, share.asked, number) for number, share in shares.items()):
            self.staying.discard(_least_used(company))

    def asked(self, client: ClientSide) -> None:
        """Its exchange ``leaves``: the client is told to go as soon as nothing else of its is open."""
        if client not in self.staying:
            return
        company = self._by_client[client]
        self._drain(company.clients - {client})
        if self._fellows is not None:
            self._fellows.asked(company.name)
        self._part(company)

    def ended(self, client: ClientSide) -> None:
        """A connection is no more: where its client has closed it, too, all that it was owed has been read."""
        company = self._by_client.pop(client, None)
        if company is None:
            return
        company.clients.discard(client)
        self.staying.discard(client)
        if self._fellows is not None and not company.clients:
            self._fellows.ended(company.name)
        self._part(company)

    def _asked_elsewhere(self, number: int, name: str) -> None:
        company = self._by_name.get(name)
        assert self._fellows is not None  # noqa: S101  who else calls
        if company is None or (self._fellows.number < number and self._leaving(company) is not None):
            return  # of two workers that were asked at once, one tells it
        company.left = True
        self._drain(company.clients)

    def _ended_elsewhere(self, number: int, name: str) -> None:
        company = self._by_name.get(name)
        if company is not None:
            company.empty.add(number)
            company.elsewhere.discard(number)
            self._part(company)

    def _leaving(self, company: _Company) -> ClientSide | None:
        """Return the connection on which the client has asked, and waits for what it is told."""
        return next((client for client in company.clients & self.staying if client.exchange.leaves), None)

    def _part(self, company: _Company) -> None:
        """Let go a client that has asked, if this is all that it has."""
        client = self._leaving(company)
        if client is not None and len(company.clients) == 1 and not company.elsewhere:
            self.staying.discard(client)
            client.part()

    def _drain(self, clients: set[ClientSide]) -> None:
        for client in clients & self.staying:
            self.staying.discard(client)
            client.drain()

    def _hurry(self) -> None:
        """Wait for nobody any longer."""
        while self.staying:
            client = self.staying.pop()
            if client.exchange.leaves:
                client.part()
            else:
                client.drain()


def _name(client: ClientSide) -> str:
    known_by = (client.shared.name, client.host, client.identity.principal, client.exchange.client_id)
    return blake2b(repr((known_by, client.exchange.software)).encode(), digest_size=8).hexdigest()


def _use(client: ClientSide) -> tuple[bool, int]:
    return client.busy, client.exchange.asked


def _least_used(company: _Company) -> ClientSide:
    return min(company.clients, key=_use)


def _share(company: _Company) -> Share:
    knows = any(client.exchange.may_leave for client in company.clients)
    return Share(len(company.clients), knows, *_use(_least_used(company)))
