"""What a worker hears from its supervisor, of sockets that nobody waits for any more."""

import asyncio
import os
import socket

import pytest

from kproxy.service.worker import Worker


async def test_a_socket_that_nobody_waits_for() -> None:
    """The socket of a listener that is gone meanwhile is closed, and disturbs nobody; others get theirs, or why not."""
    gone: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
    gone.cancel()
    ours, theirs = socket.socketpair()
    descriptor = os.dup(ours.fileno())
    Worker._got_socket(gone, {"socket": 0}, [descriptor])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    Worker._got_socket(gone, {"socket": 1, "error": "address already in use"}, [])
    waits: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
    Worker._got_socket(waits, {"socket": 2}, [ours.detach()])
    with await waits, theirs:
        pass
    refused: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
    Worker._got_socket(refused, {"socket": 3, "error": "address already in use"}, [])
    with pytest.raises(OSError, match="already in use"):
        await refused
