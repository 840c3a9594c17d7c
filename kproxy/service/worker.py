"""The worker process: clusters, listeners and all traffic. Started by the supervisor, never by hand.

The first ones are forked from it (see firstborn), those that replace one are started anew. It gets its listening
sockets over the channel, and ends when it is told to drain, when it is told to stop, or when the supervisor is gone.
"""

import asyncio
import os
import secrets
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import structlog

from kproxy.config.model import Config
from kproxy.errors import KproxyError
from kproxy.net import tls
from kproxy.net.tasks import Tasks
from kproxy.net.turns import Turns
from kproxy.observe import log
from kproxy.service import loop
from kproxy.service.channel import Channel, Message
from kproxy.service.fellows import Fellows
from kproxy.service.memory import shared, unpacked
from kproxy.service.serving import Made, Serving
from kproxy.service.status import Status
from kproxy.service.stopping import tell_left

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What the supervisor tells a worker when it starts it."""

    config: Config
    log_format: log.LogFormat
    log_level: log.LogLevel
    number: int = 0
    """Which of the workers it is."""
    counts: int | None = None
    """The descriptor of all workers' counts of connections; None: it is the only worker."""
    decoy_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """What unknown users are told by, where a users file has no key: one for a run, as a worker's own would show in
    another's answer that there is no such user. The supervisor makes it with its first order."""

    @property
    def mute(self) -> bool:
        """Nothing but the request log goes to standard output, where that is wanted there."""
        request_log = self.config.request_log
        return request_log is None or request_log.to != "stdout"

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a worker must inherit for it."""
        return () if self.counts is None else (self.counts,)


class Worker:
    """One process that serves clients, and its end of the channel to the supervisor."""

    def __init__(self, order: Order, sock: socket.socket) -> None:
        """Prepare to serve; ``sock`` is the worker's end of the channel."""
        self._turns = None if order.counts is None else Turns(shared(order.counts), order.number)
        self._sock = sock
        self._channel: Channel
        self._sockets: dict[int, asyncio.Future[socket.socket]] = {}  # that were asked for
        self._numbers = count()
        self._serving = serving = Serving(order.config, self._socket, self._turns, order.decoy_key)
        serving.on_forgotten = lambda name, node_id: self._channel.send({"release": name, "node_id": node_id})
        serving.on_opened = lambda name, address: self._channel.send({"opened": [name, address]})
        self._made: Made | None = None  # and not applied yet
        self._preparing: asyncio.Task[None] | None = None
        self._status = Status(serving.links, serving.listeners, lambda: serving.limiting.limits, serving.logged)
        self._tasks = Tasks()
        self._drain = asyncio.Event()
        self._away = True  # nobody serves here after the drain
        self._fellows: Fellows | None = None
        if self._turns is not None:
            self._fellows = Fellows(order.number, order.config.workers, self._send)

    async def run(self) -> int:
        """Serve until told to end; return the process's exit code."""
        serving = self._serving
        self._channel = Channel(self._sock, self._heard)
        self._channel.closed.add_done_callback(lambda _: self._drain.set())
        running = asyncio.get_running_loop()
        running.add_signal_handler(signal.SIGTERM, self._drain.set)
        try:
            await serving.start()
        except KproxyError as error:
            self._channel.send({"failed": str(error)})
            await self._drain.wait()
            return 1
        serving.limiting.start(self._channel.send, self._tasks)
        if serving.config.admin is not None:
            self._tasks.spawn("loop lag", self._status.sample_lag())
        start = self._tasks.spawn("start", self._start())
        await self._drain.wait()
        start.cancel()
        if self._turns is not None:
            self._turns.quit()
        telling = self._tasks.spawn("left", tell_left(serving.left, lambda left: self._channel.send({"left": left})))
        await serving.drain(away=self._away, fellows=self._fellows)
        if self._fellows is not None:
            await self._fellows.close()
        telling.cancel()
        self._channel.send({"left": (0, 0)})
        serving.limiting.close()
        self._channel.send({"tally": self._tally()})
        await serving.close()
        await self._tasks.close()
        return 0

    def _send(self, message: Message) -> None:
        self._channel.send(message)

    async def _start(self) -> None:
        """Open every listener once its cluster has answered; tell the supervisor when all are open."""
        try:
            await self._serving.open()
        except (OSError, KproxyError) as error:
            self._channel.send({"failed": str(error)})
            return
        if self._turns is not None:
            self._turns.join()
        self._channel.send({"ready": self._serving.addresses()})

    async def _socket(self, listener: str, node_id: int | None, port: int) -> socket.socket:
        """Have the supervisor bind a port, or hand over the one it has for that listener and broker."""
        number = next(self._numbers)
        future: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._sockets[number] = future
        self._channel.send({"socket": number, "listener": listener, "node_id": node_id, "port": port})
        return await future

    @staticmethod
    def _got_socket(future: "asyncio.Future[socket.socket]", message: Message, descriptors: list[int]) -> None:
        if future.done():  # its listener is no more
            for descriptor in descriptors:
                os.close(descriptor)
        elif descriptors:
            future.set_result(socket.socket(fileno=descriptors[0]))
        else:
            future.set_exception(OSError(message["error"]))

    def _tally(self) -> dict[str, Any]:
        return {"cpu_seconds": time.process_time()} | self._serving.tally()

    # A change of the configuration (see turnover).

    async def _prepare(self, number: int, config: Config) -> None:
        try:
            self._made = await self._serving.prepare(config)
        except KproxyError as error:
            self._channel.send({"prepared": number, "error": str(error)})
        else:
            self._channel.send({"prepared": number})

    def _apply(self, number: int) -> None:
        assert self._made is not None  # noqa: S101  the supervisor has asked whether it is there
        made, self._made = self._made, None
        if made.config.admin is not None and self._serving.config.admin is None:
            self._tasks.spawn("loop lag", self._status.sample_lag())
        self._serving.apply(made)
        self._channel.send({"applied": number, "listeners": self._serving.addresses()})

    async def _forget(self) -> None:
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.wait((self._preparing,))
        made, self._made = self._made, None
        if made is not None:
            await self._serving.forget(made)

    def _heard(self, message: Message, descriptors: list[int]) -> None:
        if "leases" in message:
            self._serving.limiting.heard(message)
        elif "socket" in message:
            self._got_socket(self._sockets.pop(message["socket"]), message, descriptors)
        elif "prepare" in message:
            config = unpacked(descriptors[0]).config
            self._preparing = self._tasks.spawn("prepare", self._prepare(message["prepare"], config))
        elif "apply" in message:
            self._apply(message["apply"])
        elif "forget" in message:
            self._tasks.spawn("forget", self._forget())
        elif "look" in message:
            self._serving.look_at_files()
        elif "drain" in message:
            self._away = message["drain"]["away"]
            self._drain.set()
        elif "farewell" in message:
            if self._fellows is not None:
                self._fellows.heard(message)
        elif "status" in message:
            self._tasks.spawn("status", self._status.answer(message, self._channel.send))
        elif "tally" in message:
            self._channel.send({"tally": self._tally()})


def serve(order: Order, sock: socket.socket) -> int:
    """Be a worker, with its end of the channel; return the process's exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the supervisor, which tells us
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):  # the supervisor's, sent to all of kproxy
        signal.signal(number, signal.SIG_IGN)
    log.configure(order.log_format, order.log_level)
    tls.ignore_unreadable_names()
    with suppress(KeyboardInterrupt):
        return loop.run(_serve(order, sock))
    return 1


def main() -> int:
    """Run a worker as a program: its order is on standard input, the descriptor of its channel the only argument."""
    order: Order = unpacked(os.dup(sys.stdin.fileno()))
    sys.stdin.close()
    return serve(order, socket.socket(fileno=int(sys.argv[1])))


async def _serve(order: Order, sock: socket.socket) -> int:
    return await Worker(order, sock).run()


if __name__ == "__main__":
    sys.exit(main())
