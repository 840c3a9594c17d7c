"""Sending clients elsewhere as a listener drains (KIP-1102), those that know how to go.

A client whose connections all end knows only the addresses that it was told, ours, and tries those: Java's consumer for
minutes. One that is told REBOOTSTRAP_REQUIRED takes what its ``bootstrap.servers`` names instead. That is said in a
Metadata answer, on whichever of its connections it asks, and it drops all that it has open then, answered or not. So::

    listener -> client   the connection that it uses least ends, which makes it ask; all the others go on
    client -> listener   Metadata, on any of them
    listener -> client   the others end, each after its last answer; then REBOOTSTRAP_REQUIRED, and that one ends, too

A client is who has the same address, principal, client id and software (KIP-511); of two that are alike one may be
missed, and its connections end as all do. So do those of one that has not asked in time.
"""

from collections import defaultdict
from collections.abc import Iterable

from kproxy.net.relay import ClientSide

ASK_SECONDS = 5.0
"""How long a client has to ask. Java's does within its ``retry.backoff.ms``, 0.1 to 1 s."""


class Farewell:
    """One drain's. Drain who does not ``stay``; tell of who has ``asked`` and ``ended``; ``hurry`` when time is up."""

    def __init__(self, clients: Iterable[ClientSide]) -> None:
        """Choose whom to let stay for a while."""
        self.staying: set[ClientSide] = set()
        self._companies: dict[ClientSide, set[ClientSide]] = {}  # its client's, itself included, until they end
        by_client = defaultdict(set)
        for client in clients:
            exchange = client.exchange
            by_client[client.host, client.identity.principal, exchange.client_id, exchange.software].add(client)
        for company in by_client.values():
            if len(company) > 1 and any(each.exchange.may_leave for each in company):
                self._companies |= dict.fromkeys(company, company)
                self.staying |= company - {min(company, key=lambda client: (client.busy, client.exchange.asked))}
        for client in self.staying:
            client.exchange.send_away()

    def asked(self, client: ClientSide) -> None:
        """Its exchange ``leaves``: the client is told to go as soon as nothing else of its is open."""
        if client not in self.staying:
            return
        for other in self._companies[client] - {client}:
            if other in self.staying:
                self.staying.discard(other)
                other.drain()
        self._part(client)

    def ended(self, client: ClientSide) -> None:
        """A connection is no more: where its client has closed it, too, all that it was owed has been read."""
        company = self._companies.pop(client, None)
        if company is None:
            return
        company.discard(client)
        self.staying.discard(client)
        for other in list(company):
            self._part(other)

    def _part(self, client: ClientSide) -> None:
        """Let go a client that has asked, if this is all that it has."""
        if client in self.staying and client.exchange.leaves and len(self._companies[client]) == 1:
            self.staying.discard(client)
            client.part()

    def hurry(self) -> None:
        """Wait for nobody any longer."""
        while self.staying:
            client = self.staying.pop()
            if client.exchange.leaves:
                client.part()
            else:
                client.drain()
