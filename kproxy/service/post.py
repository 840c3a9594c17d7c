"""The place of one worker: its process, its channel, and a new process when the one before has died.

A worker that dies is replaced after a pause, which grows as long as none has served::

    post = Post(0, command, heard)
    code = await post.keep()        until ``drain`` or ``kill`` was called and the worker has ended
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import structlog

from kproxy.service import memory
from kproxy.service.channel import Channel, Message
from kproxy.service.desk import Desk
from kproxy.service.firstborn import BEGIN, Child
from kproxy.service.worker import Order

_log = structlog.get_logger(__name__)

RESTART_SECONDS = 0.1
RESTART_SECONDS_MAX = 5.0

KILL_AFTER_SECONDS = 5.0
"""What a worker may take beyond its drain before it is killed."""


class Post:
    """See the module. ``keep`` it manned once; ``drain`` it, or ``kill`` its worker, to end that."""

    def __init__(
        self, number: int, heard: Callable[["Post", Message, list[int]], None], desk: Desk, first: Child | None = None
    ) -> None:
        """Prepare the post; ``heard`` gets what its worker says, ``desk`` whom it may ask.

        ``first``: the first worker, which is there already; None: it is started as all others are.
        """
        self._first = first
        self.number = number
        self._desk = desk
        self.served = False
        """The worker of the moment has told that it can serve."""
        self.failures = 0
        """How many workers have died in a row without having served."""
        self.tally: dict[str, Any] = {}
        """The last one that the worker of the moment has sent."""
        self.channel: Channel | None = None
        self.process: subprocess.Popen[bytes] | Child | None = None
        self._heard = heard
        self._ending = asyncio.Event()
        self._replacing = False
        self._waiter = ThreadPoolExecutor(1)  # the loop's own has too few threads for many workers

    async def keep(self, order: Callable[[], Order], died: Callable[["Post", int], None]) -> int:
        """Keep a worker running until told to end; return the exit code of the last one.

        Each worker gets what ``order`` returns when it starts; ``died`` is called when one has ended by itself.
        """
        pause = RESTART_SECONDS
        while True:
            self.served = False
            self.tally = {}
            code = await self._run_worker(order)
            served = self.served
            self.served = False
            replacing, self._replacing = self._replacing, False
            if replacing and not self._ending.is_set():
                died(self, code)
                continue
            if not self._ending.is_set():
                self.failures = 0 if served else self.failures + 1
                pause = RESTART_SECONDS if served else min(pause * 2, RESTART_SECONDS_MAX)
                died(self, code)
            if self._ending.is_set():
                return code
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._ending.wait()
                    return 0

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Tell the worker something, if there is one."""
        if self.channel is not None:
            self.channel.send(message, descriptors)

    def drain(self, *, away: bool) -> None:
        """Have the worker end what is in flight, and end; start no other. ``away``: nobody serves here afterwards."""
        if not self._ending.is_set():
            self._ending.set()
            self.send({"drain": {"away": away}})

    def replace(self) -> None:
        """End the worker at once, and start another without a pause: it would serve by an order that is no more."""
        if not self._ending.is_set() and self.process is not None and self.process.returncode is None:
            self._replacing = True
            self.process.kill()

    def kill(self) -> None:
        """End the worker at once; start no other."""
        self._ending.set()
        if self.process is not None and self.process.returncode is None:
            self.process.kill()

    async def _run_worker(self, order_now: Callable[[], Order]) -> int:
        ours = self._start(order_now())
        assert self.process is not None  # noqa: S101  it has just been started
        self.channel = Channel(ours, lambda message, descriptors: self._heard(self, message, descriptors))
        self._desk.attach(self.process.pid, self.channel.send)
        if self._ending.is_set():
            self.channel.send({"drain": {"away": True}})
        exited = asyncio.get_running_loop().run_in_executor(self._waiter, self.process.wait)
        code = await self._wait_for(exited, lambda: _drain_seconds(order_now()) + KILL_AFTER_SECONDS)
        await self._hear_the_rest()
        self._desk.detach(self.process.pid)
        self.channel.close()
        self.channel = None
        return code

    def _start(self, order: Order) -> socket.socket:
        """Start a worker; return our end of its channel."""
        first, self._first = self._first, None
        if first is not None:
            self.process = first
            first.sock.send(BEGIN)
            return first.sock
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, os.fdopen(memory.packed(order), "rb") as packed:
            self.process = subprocess.Popen(  # noqa: S603  our own program; it returns at once
                [sys.executable, "-m", "kproxy.service.worker", str(theirs.fileno())],
                stdin=packed,
                stdout=subprocess.DEVNULL if order.mute else None,
                pass_fds=(theirs.fileno(), *order.descriptors),
            )
        return ours

    async def _hear_the_rest(self) -> None:
        """What a worker said last, such as its tally, is still in the channel when its process has ended."""
        assert self.channel is not None  # noqa: S101  it had one
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self.channel.closed

    async def _wait_for(self, exited: asyncio.Future[int], limit_seconds: Callable[[], float]) -> int:
        await asyncio.wait(
            (exited, ending := asyncio.ensure_future(self._ending.wait())),  # noqa: TID251  awaited here
            return_when=asyncio.FIRST_COMPLETED,
        )
        ending.cancel()
        if not exited.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_seconds()):
                    await asyncio.shield(exited)
            if not exited.done() and self.process is not None:
                _log.error("worker does not end; killing it", worker=self.number)
                self.process.kill()
        return await exited


def _drain_seconds(order: Order) -> float:
    """Return what a worker may take to drain, as the configuration is by then."""
    log = order.config.request_log
    return order.config.drain_timeout + (log.flush_timeout if log else 0.0)
