"""Logins at odd moments: what is read although reads are paused, and a refusal that has no place any more."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kproxy.core.acceptor import Accepted, Challenge, Identity, Refused, Work
from kproxy.core.causes import Cause
from kproxy.core.clientlogin import Proven, Terms
from kproxy.core.exchange import OWN_ANSWERS_MAX, Exchange, Front
from kproxy.core.offer import make_offer
from kproxy.core.tally import Tally
from kproxy.errors import Malformed, ProtocolError
from kproxy.net.entry import Entry
from kproxy.net.relay import ClientSide
from kproxy.net.session import Session
from kproxy.net.tasks import Tasks
from kproxy.net.threshold import Guest, Threshold
from kproxy.wire import frames
from kproxy.wire.apiversions import ApiVersionsAnswer
from kproxy.wire.handshake import sasl_authenticate_request, sasl_handshake_request

OFFER = make_offer([ApiVersionsAnswer(ranges={1: (4, 15), 18: (0, 4)})])
CHOICE = frames.request(17, 1, 1, "c", sasl_handshake_request("PLAIN"))
TOKEN = frames.request(36, 2, 2, "c", sasl_authenticate_request(2, b"me"))


class Mechanism:
    """Lets in, or not, after some work."""

    name = "PLAIN"

    def __init__(self, found: Accepted | Challenge | Refused) -> None:
        self.runs = 0
        self._found = found

    def session(self) -> "Mechanism":
        """See ServerMechanism."""
        return self

    def respond(self, _token: bytes) -> Work:
        """See ServerSession."""
        return Work(self._run)

    def _run(self) -> Accepted | Challenge | Refused:
        self.runs += 1
        return self._found


class Transport:
    """What a Threshold asks of its transport."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = asyncio.Event()

    def get_extra_info(self, _name: str) -> None:
        """It is no socket."""

    def write(self, data: bytes) -> None:
        """Keep what the client is told."""
        self.written += data

    def close(self) -> None:
        """Note that it is over."""
        self.closed.set()

    abort = close

    def is_closing(self) -> bool:
        """Whether it is over."""
        return self.closed.is_set()

    def pause_reading(self) -> None:
        """Too late."""

    resume_reading = pause_reading


def entry_for(mechanism: Mechanism, tasks: Tasks) -> Entry:
    """Make a listener's entry with one mechanism."""
    return Entry("out", Front(OFFER, Tally(), asks_login=True), tasks, terms=Terms({"PLAIN": mechanism}, lambda: 0.0))


async def test_what_comes_although_reads_are_paused() -> None:
    """Bytes behind a token that is worked on, or refused, have it neither worked on nor refused a second time."""
    tasks, transport, mechanism = Tasks(), Transport(), Mechanism(Refused("wrong password"))
    entry = entry_for(mechanism, tasks)
    loop = asyncio.get_running_loop()
    threshold = Threshold(
        entry, Guest("10.0.0.1", 1), lambda _guest: pytest.fail("let in"), loop.time() + 60, lambda: None
    )
    threshold.connection_made(cast("asyncio.Transport", transport))
    threshold.data_received(CHOICE + TOKEN)
    for _ in range(5):
        threshold.data_received(b"more")
    async with asyncio.timeout(30):
        while not entry.tally.logins:  # noqa: ASYNC110  what threads do is seen by looking
            await asyncio.sleep(0.01)
        for _ in range(5):
            threshold.data_received(b"more")
        await transport.closed.wait()
    threshold.connection_lost(None)
    await tasks.close()
    assert mechanism.runs == 1
    assert entry.tally.logins == {("PLAIN", False): 1}
    assert entry.penalty.failures("10.0.0.1") == 1
    assert entry.tally.turned_away == {Cause.LOGIN_REFUSED: 1}
    assert b"Authentication failed" in transport.written


class Client:
    """What a Session asks of its ClientSide."""

    host = "10.0.0.1"

    def __init__(self, exchange: Exchange, entry: Entry) -> None:
        self.exchange = exchange
        self.shared = SimpleNamespace(entry=entry)
        self.transport = Transport()
        self.broke: asyncio.Future[ProtocolError] = asyncio.get_running_loop().create_future()

    def pause(self, _reason: int) -> None:
        """Nothing is read here."""

    def client_broke_protocol(self, error: ProtocolError, _data: bytes) -> None:
        """Keep why it ends."""
        self.broke.set_result(error)

    def __getattr__(self, name: str) -> Any:
        return pytest.fail(f"{name} is not expected")


async def test_a_refusal_that_has_no_place() -> None:
    """A client whose refusal would be one answer too many to keep is ended for that, not left as it is."""
    tasks = Tasks()
    entry = entry_for(Mechanism(Refused("wrong password")), tasks)
    exchange = Exchange(entry.front, lambda _node, host, port: (host, port))
    client = Client(exchange, entry)
    session = Session(cast("ClientSide", client), Proven(Identity("User:alice"), "SCRAM-SHA-512", 0))
    flood = frames.request(18, 0, 3, "c", b"") * OWN_ANSWERS_MAX
    exchange.from_client(frames.request(1, 11, 1, "c", bytes(40)) + flood + CHOICE)
    assert exchange.login is not None
    session.attend(exchange.login)  # by another mechanism than before
    async with asyncio.timeout(30):
        assert isinstance(await client.broke, Malformed)
    session.leave()
    await tasks.close()
