"""Which of several processes accepts the next connection, where all of them listen on the same socket.

Left to the kernel, the process that went to sleep last is woken first (epoll's exclusive wake-ups are last in, first
out), so that few long-lived connections end up in one process; with a socket per process (SO_REUSEPORT) they are spread
by a hash, which is even for thousands only, and what waits in a dead process's queue is reset. So each process tells
the others in shared memory how many connections it has, and accepts while none has fewer::

    counts   [3, 2, 2]      0 looks away; 1 and 2 race for the next connection, and the kernel says who has it
    counts   [3, 3, 2]      only 2 accepts
    counts   [3, 3, -]      2 is gone, or drains: 0 and 1 race

Measured with 2, 3 and 4 processes, and 10, 16 and 100 connections that stay, one by one or all at once: none has more
than one connection above another.

Each writes its own count and nobody else's, so there is no lock. A process whose turn it is not looks again every
LOOK_SECONDS while the connection waits. When nothing has moved for LOOKS_MAX looks, whoever has its turn is stuck, and
the connection is taken all the same.

Never here: what becomes of a connection.
"""

import asyncio
import errno
import select
import socket
from collections.abc import Callable
from typing import Any

import structlog

_log = structlog.get_logger(__name__)

ABSENT = -1
"""The count of a process that accepts nothing."""

LOOK_SECONDS = 0.002
LOOKS_MAX = 10
"""A connection is held for 20 ms by a process that is stuck: far below any client's timeout, and longer than a read
of the largest kind takes."""

ACCEPTS_PER_WAKE = 8
"""How many connections are accepted before others get their turn. What TLS needs is made for each at once, 0.2 ms of
it, so that asyncio's whole backlog would be a pause for those who are in."""

EXHAUSTED_SECONDS = 1.0
"""How long nothing is accepted when the system has no descriptor or memory left, as in asyncio."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


Arrived = Callable[[socket.socket, tuple[Any, ...]], None]
"""Gets a connection, non-blocking, and the address it comes from."""


class Turns:
    """One process's part in it. Call ``accepted`` once for each connection, and ``ended`` once when it is no more."""

    def __init__(self, counts: memoryview | list[int], number: int) -> None:
        """Take part with ``number``, the place of its own count in ``counts``, once ``join`` is called."""
        self._counts = counts
        self._number = number
        self._mine = 0
        self._joined = False

    def join(self) -> None:
        """Accept from now on."""
        self._joined = True
        self._counts[self._number] = self._mine

    def quit(self) -> None:
        """Accept no more; the others need not wait for this one."""
        self._joined = False
        self._counts[self._number] = ABSENT

    def may_accept(self) -> bool:
        """Whether nobody has fewer connections."""
        mine = self._mine
        return all(count >= mine or count == ABSENT for count in self._counts)

    def accepted(self) -> None:
        """Count one connection more."""
        self._mine += 1
        if self._joined:
            self._counts[self._number] = self._mine

    def ended(self) -> None:
        """Count one connection less."""
        self._mine -= 1
        if self._joined:
            self._counts[self._number] = self._mine

    def seen(self) -> tuple[int, ...]:
        """Return all counts: as long as they do not change, nobody has accepted anything."""
        return tuple(self._counts)


class Acceptor:
    """Accepts from one listening socket, in turn with others. ``open`` it once, ``close`` it once."""

    def __init__(self, sock: socket.socket, arrived: Arrived, name: str, turns: Turns | None = None) -> None:
        """Prepare to hand each connection, non-blocking, to ``arrived``; the socket is its own from now on."""
        self._sock = sock
        self._arrived = arrived
        self._name = name
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.TimerHandle | None = None
        self._looks = 0
        self._seen: tuple[int, ...] = ()

    def open(self, backlog: int) -> None:
        """Begin to accept."""
        self._sock.setblocking(False)
        self._sock.listen(backlog)
        self._listen()

    def resize(self, backlog: int) -> None:
        """Have so many connections wait to be accepted."""
        self._sock.listen(backlog)

    def close(self) -> None:
        """Accept no more."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        else:
            self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _listen(self) -> None:
        self._again = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        if self._again is None:
            self._loop.remove_reader(self._sock.fileno())
        self._again = self._loop.call_later(seconds, then)

    def _accept(self) -> None:
        turns = self._turns
        for _ in range(ACCEPTS_PER_WAKE):
            if turns is not None and not turns.may_accept():
                self._looks = 0
                self._seen = turns.seen()
                self._pause(LOOK_SECONDS, self._look)
                return
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Accept a connection; False: there is none, or there can be none."""
        try:
            conn, address = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            _log.error("no connection can be accepted for a moment", listener=self._name, error=error.strerror)
            self._pause(EXHAUSTED_SECONDS, self._listen)
            return False
        conn.setblocking(False)
        if self._turns is not None:
            self._turns.accepted()
        self._arrived(conn, address)
        return True

    def _look(self) -> None:
        """Another has its turn: look whether the connection is still there."""
        turns = self._turns
        assert turns is not None  # noqa: S101  or nobody would look
        seen = turns.seen()
        self._looks = self._looks + 1 if seen == self._seen else 0
        self._seen = seen
        waiting = select.poll()  # select() itself knows no descriptor above 1023
        waiting.register(self._sock, select.POLLIN)
        if turns.may_accept() or not waiting.poll(0):
            self._listen()
        elif self._looks >= LOOKS_MAX:
            self._listen()
            self._accept_one()
        else:
            self._pause(LOOK_SECONDS, self._look)
