"""What the supervisor and a worker say to each other: small JSON messages over a socket pair, with sockets attached.

SOCK_SEQPACKET keeps the bounds of messages, and SCM_RIGHTS carries a listening socket along with one::

    worker      {"socket": 1, "listener": "public", "node_id": 2, "port": 9095}
    supervisor  {"socket": 1}  + file descriptor           or {"socket": 1, "error": "address already in use"}
    worker      {"ready": [["public", "kafka.example.com:9092"]]}
    supervisor  {"drain": {"away": true}}                  away: nobody serves here afterwards
    worker      {"tally": {...}}
    both        {"leases": [...]}                          see leasing
    both        {"farewell": {...}}                        see fellows
"""

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

MESSAGE_BYTES_MAX = 128 * 1024
"""The kernel's default send buffer holds one of this size."""

SEND_BUFFER_BYTES = 256 * 1024
"""The kernel doubles it, if net.core.wmem_max lets it (by default 208 KiB): room for some messages of the largest."""

Message = dict[str, Any]


class Channel:
    """One end of the pair, on the running loop."""

    def __init__(self, sock: socket.socket, on_message: Callable[[Message, list[int]], None]) -> None:
        """Begin to listen; ``on_message`` gets each message and the descriptors with it, which are then its own."""
        self._sock = sock
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._on_message = on_message
        self.closed = asyncio.get_running_loop().create_future()
        """Done when the other side is gone."""
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message; a peer that is gone, or takes none, is noticed by ``closed``."""
        data = json.dumps(message).encode()
        try:
            if descriptors:
                socket.send_fds(self._sock, [data], descriptors)
            else:
                self._sock.send(data)
        except OSError:  # the other side is gone, or is so far behind that it might as well be
            self.close()

    def _readable(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, MESSAGE_BYTES_MAX, 4)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self.close()
            return
        self._on_message(json.loads(data), descriptors)

    def close(self) -> None:
        """End it from this side."""
        if self.closed.done():
            return
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()
        self.closed.set_result(None)
