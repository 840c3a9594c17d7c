"""A plain TCP relay in front of a proxy that reads along: no byte sent to a client may name a broker.

It stands on ports at a fixed distance from the proxy's, which the proxy advertises::

    client -> 127.0.0.1:L      (Tap) -> 127.0.0.1:P          bootstrap
    client -> 127.0.0.1:L+1+N  (Tap) -> 127.0.0.1:P+1+N      broker N

    with Tap(listen_port=L, target_port=P, ports=5) as tap:
        ...                                  # kproxy run --listen 127.0.0.1:P --advertise 127.0.0.1:L
    assert tap.leaks == []

Brokers of the tests advertise 127.0.1.N, the proxy 127.0.0.1: so "127.0.1." is what must never be seen. A half-close
is passed on as one, a reset as a reset, and a slow reader stops the other side: at most one chunk per direction is
held. Where the proxy refuses a connection, the client sees one that is reset at once. Never here: any knowledge of
Kafka.
"""

import contextlib
import errno
import selectors
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

CHUNK_BYTES = 256 * 1024
LEAKS_MAX = 100
"""So many are kept: one is enough to fail a test."""

_NO_EVENT = 0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


@dataclass(frozen=True)
class Leak:
    """Forbidden bytes that were sent to a client: on which port, how far into its stream, and what stood around."""

    port: int
    offset: int
    context: bytes


class _Scanner:
    """Looks for forbidden bytes in one stream, across the borders of its chunks."""

    def __init__(self, tap: "Tap", port: int) -> None:
        self._tap = tap
        self._port = port
        self._tail = b""
        self._seen_bytes = 0

    def feed(self, chunk: bytes) -> None:
        overlap = self._tap.overlap_bytes
        # The end of the last chunk is looked at again, too short by one to hold a whole forbidden string.
        border = self._tail + chunk[:overlap]
        for text in self._tap.forbidden:
            self._find(text, border, self._seen_bytes - len(self._tail), len(self._tail))
            self._find(text, chunk, self._seen_bytes, None)
        self._tail = (self._tail + chunk[-overlap:])[-overlap:] if overlap else b""
        self._seen_bytes += len(chunk)

    def _find(self, text: bytes, data: bytes, offset: int, must_cross: int | None) -> None:
        at = data.find(text)
        while at >= 0:
            crosses = must_cross is None or at < must_cross < at + len(text)
            if crosses and len(self._tap.leaks) < LEAKS_MAX:
                self._tap.leaks.append(Leak(self._port, offset + at, data[max(0, at - 48) : at + 64]))
            at = data.find(text, at + 1)


class _End:
    """One socket of a pair, and what is to be sent on it."""

    def __init__(self, connection: socket.socket, number: int, *, connecting: bool = False) -> None:
        self.socket = connection
        self.number = number  # of the pair
        self.connecting = connecting
        self.pending = memoryview(b"")
        self.read_ended = False
        self.write_ended = False
        self.events = _NO_EVENT
        self.peer: _End = self
        self.scanner: _Scanner | None = None  # of what is read here


class Tap:
    """The relay: a thread of its own from ``start`` to ``stop``.

    Args:
        listen_port: What clients connect to; the first of a block.
        target_port: Where the proxy listens; the first of a block of the same size.
        ports: The size of the block: 2 + the highest node id with ``addressing: ports``, 1 with ``single``.
        host: Of both sides.
        forbidden: What no client may be sent.

    Attributes:
        leaks: What was found, at most 100; must be empty at the end.
        connections: Listen port -> connections accepted.
        bytes_to_clients, bytes_to_proxy: What was read from each side for the other.
        on_chunk: Told of every chunk before it goes on, in the tap's thread: the connection's number, whether the
            client sent it, and the bytes.
    """

    def __init__(
        self,
        listen_port: int,
        target_port: int,
        ports: int = 1,
        host: str = "127.0.0.1",
        forbidden: Sequence[bytes] = (b"127.0.1.",),
    ) -> None:
        self.listen_port = listen_port
        self.target_port = target_port
        self.ports = ports
        self.host = host
        self.forbidden = tuple(forbidden)
        self.overlap_bytes = max((len(text) - 1 for text in self.forbidden), default=0)
        self.leaks: list[Leak] = []
        self.connections: Counter[int] = Counter()
        self.bytes_to_clients = 0
        self.bytes_to_proxy = 0
        self.on_chunk: Callable[[int, bool, bytes], None] | None = None
        self._selector = selectors.DefaultSelector()
        self._ends: set[_End] = set()
        self._listeners: list[socket.socket] = []
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wake_read, self._wake_write = socket.socketpair()
        self._running = False
        self._thread = threading.Thread(target=self._run, name=f"tap-{listen_port}", daemon=True)

    @property
    def address(self) -> str:
        """What clients bootstrap from, as host:port."""
        return f"{self.host}:{self.listen_port}"

    def start(self) -> Self:
        """Listen on all ports, and relay from now on.

        Raises:
            OSError: a port is taken.
        """
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        try:
            for distance in range(self.ports):
                address = (self.host, self.listen_port + distance)
                listener = socket.create_server(address, backlog=1024)
                listener.setblocking(False)
                self._listeners.append(listener)
                self._selector.register(listener, selectors.EVENT_READ, distance)
        except OSError:
            self._close_all()
            raise
        self._running = True
        self._thread.start()
        return self

    def stop(self) -> None:
        """Reset what is open, stop listening, and end the thread. May be called twice."""
        if self._running:
            self._order(self._end)
            self._thread.join(10)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    @property
    def open_connections(self) -> int:
        """How many clients are connected now."""
        return self._order(lambda: len(self._ends) // 2)

    def cut(self) -> int:
        """Reset every connection on both sides, as a firewall that lost its state; return how many there were."""

        def reset_all() -> int:
            ends = list(self._ends)
            for end in ends:
                if end in self._ends:
                    self._reset(end)
            return len(ends) // 2

        return self._order(reset_all)

    def _order(self, work: Callable[[], T]) -> T:
        """Let the thread do something, and return its result."""
        done: Future[T] = Future()
        self._orders.put(lambda: done.set_result(work()))
        self._wake_write.send(b"\0")
        return done.result(10)

    def _end(self) -> None:
        self._running = False

    def _run(self) -> None:
        while self._running:
            for key, events in self._selector.select():
                if key.fileobj is self._wake_read:
                    for _ in self._wake_read.recv(4096):
                        self._orders.get()()
                elif isinstance(key.data, int):
                    self._accept(key.data)
                elif key.data in self._ends:  # not reset by what came before it in this round
                    self._serve(key.data, events)
        self._close_all()

    def _close_all(self) -> None:
        for end in list(self._ends):
            if end in self._ends:
                self._reset(end)
        for listener in self._listeners:
            listener.close()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def _accept(self, distance: int) -> None:
        try:
            accepted, _ = self._listeners[distance].accept()
        except OSError:  # the client has gone again
            return
        port = self.listen_port + distance
        self.connections[port] += 1
        number = self.connections.total()
        client, proxy = _End(accepted, number), _End(socket.socket(), number, connecting=True)
        client.peer, proxy.peer = proxy, client
        proxy.scanner = _Scanner(self, port)
        for end in (client, proxy):
            end.socket.setblocking(False)
            end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ends.add(end)
        if proxy.socket.connect_ex((self.host, self.target_port + distance)) in (0, errno.EINPROGRESS):
            self._watch(proxy)
        else:
            self._reset(client)

    def _watch(self, end: _End) -> None:
        """Ask for what can be done on a socket: reading only while its peer has nothing left to send."""
        events = _NO_EVENT
        if end.connecting or end.pending:
            events |= selectors.EVENT_WRITE
        if not (end.connecting or end.peer.connecting or end.read_ended or end.peer.pending):
            events |= selectors.EVENT_READ
        if events == end.events:
            return
        if events == _NO_EVENT:
            self._selector.unregister(end.socket)
        elif end.events == _NO_EVENT:
            self._selector.register(end.socket, events, end)
        else:
            self._selector.modify(end.socket, events, end)
        end.events = events

    def _serve(self, end: _End, events: int) -> None:
        try:
            if end.connecting:
                if error := end.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise ConnectionError(error)
                end.connecting = False
            elif events & selectors.EVENT_WRITE:
                self._send(end)
            if events & selectors.EVENT_READ and not end.peer.pending:
                self._read(end)
        except BlockingIOError:
            pass
        except OSError:
            self._reset(end)
            return
        self._finish_writing(end)
        self._finish_writing(end.peer)
        if end.write_ended and end.peer.write_ended:
            self._close(end)
        else:
            self._watch(end)
            self._watch(end.peer)

    def _read(self, end: _End) -> None:
        data = end.socket.recv(CHUNK_BYTES)
        if not data:
            end.read_ended = True
            return
        if end.scanner is not None:
            end.scanner.feed(data)
            self.bytes_to_clients += len(data)
        else:
            self.bytes_to_proxy += len(data)
        if self.on_chunk is not None:
            self.on_chunk(end.number, end.scanner is None, data)
        end.peer.pending = memoryview(data)
        self._send(end.peer)

    def _send(self, end: _End) -> None:
        try:
            end.pending = end.pending[end.socket.send(end.pending) :]
        except BlockingIOError:
            pass
        except OSError:  # it takes no more, but may have sent something before: its own read will tell
            end.pending = memoryview(b"")

    def _finish_writing(self, end: _End) -> None:
        if end.peer.read_ended and not end.pending and not end.write_ended:
            end.write_ended = True
            with contextlib.suppress(OSError):  # it may be gone: its own read will tell
                end.socket.shutdown(socket.SHUT_WR)

    def _reset(self, end: _End) -> None:
        for one in (end, end.peer):
            one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._close(end)

    def _close(self, end: _End) -> None:
        for one in (end, end.peer):
            if one.events != _NO_EVENT:
                self._selector.unregister(one.socket)
                one.events = _NO_EVENT
            self._ends.discard(one)
            one.socket.close()
