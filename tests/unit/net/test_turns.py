"""Several acceptors on one listening socket, as several processes have them, here on one loop."""

import asyncio
import errno
import socket
from types import TracebackType
from typing import Any, Self

import pytest
import structlog
from clients.gateway import on_uvloop

from kproxy.net import turns
from kproxy.net.turns import ABSENT, Acceptor, Arrived, Turns


class Stage:
    """One listening socket, and who accepts from it.

    Attributes:
        counts: What they tell each other.
        accepted: Who has accepted each connection, in order.
        turns: Theirs, by number.
        acceptors: Those that have been opened, by number.
    """

    def __init__(self, many: int, *numbers: int) -> None:
        self.counts = [ABSENT] * many
        self.accepted: list[int] = []
        self.turns = [Turns(self.counts, number) for number in range(many)]
        self.acceptors: dict[int, Acceptor] = {}
        self._numbers = numbers
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._more = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Let some of them accept."""
        for number in self._numbers:
            self.acceptors[number] = Acceptor(self.listening(), self._arrived(number), "public", self.turns[number])
            self.acceptors[number].open(100)
            self.turns[number].join()
        return self

    def listening(self) -> socket.socket:
        """Return the listening socket as one of them has it."""
        return self._listening.dup()

    def _arrived(self, number: int) -> Arrived:
        def arrived(conn: socket.socket, _address: object) -> None:
            assert not conn.getblocking()
            self._sockets.append(conn)
            self.accepted.append(number)
            self._more.set()

        return arrived

    def connect(self) -> None:
        """Be a client."""
        self._sockets.append(socket.create_connection(self._listening.getsockname()))

    async def until_accepted(self, many: int) -> None:
        """Wait until so many connections have been accepted."""
        async with asyncio.timeout(10):
            while len(self.accepted) < many:
                self._more.clear()
                await self._more.wait()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all."""
        for acceptor in self.acceptors.values():
            acceptor.close()
        for sock in (*self._sockets, self._listening):
            sock.close()


@pytest.mark.parametrize("many", [10, 16, 100])
@on_uvloop
async def test_connections_are_spread_evenly(many: int) -> None:
    """However many connections come, and however fast, no process has two more than another at any time."""
    async with Stage(3, 0, 1, 2) as stage:
        for number in range(many):
            stage.connect()
            if number % 4 == 0:
                await asyncio.sleep(0)
            assert max(stage.counts) - min(stage.counts) <= 1
        await stage.until_accepted(many)
        assert sorted(stage.counts) == sorted(many // 3 + (number < many % 3) for number in range(3))


@on_uvloop
async def test_what_has_ended_makes_room() -> None:
    """Who has lost connections gets the next ones."""
    async with Stage(3, 0, 1, 2) as stage:
        for _ in range(9):
            stage.connect()
        await stage.until_accepted(9)
        for _ in range(3):
            stage.turns[1].ended()
        for _ in range(3):
            stage.connect()
        await stage.until_accepted(12)
        assert stage.accepted[9:] == [1, 1, 1]


@on_uvloop
async def test_who_is_gone_is_not_waited_for() -> None:
    """A process that has not begun to accept, or has stopped, takes no turn."""
    async with Stage(3, 0, 1) as stage:
        stage.turns[1].quit()
        stage.acceptors.pop(1).close()
        for _ in range(5):
            stage.connect()
        await stage.until_accepted(5)
        assert stage.accepted == [0] * 5
        stage.turns[1].accepted()
        stage.turns[1].ended()
        assert stage.counts == [5, ABSENT, ABSENT]


@on_uvloop
async def test_who_is_stuck_is_not_waited_for_long() -> None:
    """When the one whose turn it is does not accept, another does, after a moment, each time."""
    async with Stage(2, 0) as stage:
        stage.counts[1] = 0  # it has joined, and does nothing
        for _ in range(3):
            stage.connect()
        await stage.until_accepted(3)
        assert stage.accepted == [0] * 3
        assert stage.counts == [3, 0]


@on_uvloop
async def test_a_pause_ends_with_the_acceptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is closed while it leaves its turn to another accepts nothing any more."""
    asked = asyncio.Event()
    async with Stage(2, 0) as stage:
        stage.turns[0].accepted()
        stage.counts[1] = 0

        def seen() -> tuple[int, ...]:
            asked.set()
            return ()

        monkeypatch.setattr(stage.turns[0], "seen", seen)
        stage.connect()
        async with asyncio.timeout(10):
            await asked.wait()
        stage.acceptors.pop(0).close()
        await asyncio.sleep(turns.LOOK_SECONDS * (turns.LOOKS_MAX + 3))
        assert stage.accepted == []


class Exhausted(socket.socket):
    """A listening socket of a process that has no descriptor left, the first time."""

    full = True

    def accept(self) -> tuple[socket.socket, Any]:
        """See socket.

        Raises:
            OSError: there is no descriptor left.
        """
        if self.full:
            self.full = False
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@on_uvloop
async def test_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system has no descriptor left it is told, and connections wait until there is one."""
    monkeypatch.setattr(turns, "EXHAUSTED_SECONDS", 0.02)
    async with Stage(1) as stage:
        sock = Exhausted(fileno=stage.listening().detach())
        stage.acceptors[0] = Acceptor(sock, stage._arrived(0), "public")
        stage.acceptors[0].open(100)
        stage.connect()
        with structlog.testing.capture_logs() as logs:
            await stage.until_accepted(1)
        assert [(line["event"], line["error"]) for line in logs] == [
            ("no connection can be accepted for a moment", "Too many open files")
        ]


@on_uvloop
async def test_a_listening_socket_that_is_broken() -> None:
    """What cannot be mended by waiting is an error, which nobody hides."""
    async with Stage(1) as stage:
        sock = socket.socket()
        sock.setblocking(False)
        broken = Acceptor(sock, stage._arrived(0), "public")
        with pytest.raises(OSError, match="Invalid argument"):
            broken._accept()
        sock.close()
