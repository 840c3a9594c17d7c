"""A flood of connections that never get in, in a process of its own: it takes no time from what is measured beside it.

::

    with Flood(tls_port, plain_port, each=300) as flood:       # returns when all of them are open
        ...
        flood.opened
"""

import multiprocessing
import selectors
import socket
import time
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from types import TracebackType
from typing import Self

from clients.strangers import CLIENT_HELLO
from kproxy.testing.waiting import wait_until

HALF_A_FRAME = bytes.fromhex("00000100 0011 0001 00000001")
"""Of a SaslHandshake that announces 256 bytes."""

AGAIN_SECONDS = 0.5
"""So long after it was closed a connection comes again, as those of a botnet do."""

OPEN_SECONDS = 60


class Flood:
    """Connections that say nothing, half a ClientHello, or half a frame, ``each`` of them so many.

    Args:
        tls_port: Where TLS is spoken.
        plain_port: Where it is not.
        each: How many of each kind.
    """

    def __init__(self, tls_port: int, plain_port: int, each: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._count = each * 3
        self._opened: Synchronized[int] = context.Value("q", 0)
        self._over: Event = context.Event()
        kinds = [(tls_port, b""), (tls_port, CLIENT_HELLO), (plain_port, HALF_A_FRAME)] * each
        self._process = context.Process(target=_run, args=(kinds, self._opened, self._over), daemon=True)

    @property
    def opened(self) -> int:
        """How many connections have been opened so far, those that came again included."""
        return int(self._opened.value)

    def __enter__(self) -> Self:
        """Begin, and wait until all are open."""
        self._process.start()
        wait_until(lambda: self.opened >= self._count, OPEN_SECONDS, lambda: f"{self.opened} of {self._count}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; the process must have run until now."""
        alive = self._process.is_alive()
        self._over.set()
        self._process.join(30)
        assert alive, "the flood has ended by itself"


def _run(kinds: list[tuple[int, bytes]], opened: "Synchronized[int]", over: Event) -> None:
    selector = selectors.DefaultSelector()
    waiting = [(0.0, kind) for kind in kinds]
    while not over.is_set():
        now = time.monotonic()
        due = [kind for when, kind in waiting if when <= now]
        waiting = [(when, kind) for when, kind in waiting if when > now]
        for kind in due:
            port, said = kind
            try:
                sock = socket.create_connection(("127.0.0.1", port), timeout=10)
                sock.sendall(said)
            except OSError:
                waiting.append((now + AGAIN_SECONDS, kind))
                continue
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, kind)
            opened.value += 1
        for key, _ in selector.select(0.05):
            sock = key.fileobj  # type: ignore[assignment]  # a socket was registered
            try:
                if sock.recv(4096):
                    continue
            except OSError:
                pass
            selector.unregister(sock)
            sock.close()
            waiting.append((time.monotonic() + AGAIN_SECONDS, key.data))
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]  # the same
    selector.close()
