"""The worker process: clusters, listeners and all traffic. Started by the supervisor, never by hand.

It gets its order on standard input, its listening sockets over the channel, and ends when it is told to drain,
when it is told to stop, or when the supervisor is gone.
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
from typing import Any

import structlog

from kproxy.config.model import Config
from kproxy.core.observed import Watch
from kproxy.core.view import Change
from kproxy.errors import KproxyError
from kproxy.net import tls
from kproxy.net.link import ClusterLink
from kproxy.net.listeners import Listener
from kproxy.net.tasks import Tasks
from kproxy.net.turns import Turns
from kproxy.observe import log
from kproxy.observe.requestlog import RequestLog
from kproxy.service import build, loop
from kproxy.service.channel import Channel, Message
from kproxy.service.doors import Doors
from kproxy.service.limiting import Limiting
from kproxy.service.memory import shared, unpacked
from kproxy.service.status import Status

_log = structlog.get_logger(__name__)

SETTLE_SECONDS = 5.0
"""How long the first offer waits for brokers that are in the cluster's Metadata but do not answer."""


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
    def descriptors(self) -> tuple[int, ...]:
        """What a worker must inherit for it."""
        return () if self.counts is None else (self.counts,)


class Worker:
    """All that serves clients in one process."""

    def __init__(self, order: Order, sock: socket.socket) -> None:
        """Prepare to serve; ``sock`` is the worker's end of the channel."""
        self._config = config = order.config
        self._next: Config | None = None  # prepared, and not applied yet
        self._turns = None if order.counts is None else Turns(shared(order.counts), order.number)
        self._sock = sock
        self._channel: Channel
        self._sockets: dict[int, asyncio.Future[socket.socket]] = {}
        self._links: dict[str, ClusterLink] = {}
        self._listeners: dict[str, Listener] = {}
        self._doors = Doors(config, order.decoy_key)
        self._request_log: RequestLog | None = None
        self._watches: list[Watch] = []
        self._limiting = Limiting(config, together=order.counts is not None)
        self._status = Status(self._links, self._listeners, lambda: self._limiting.limits)
        self._tasks = Tasks()
        self._drain = asyncio.Event()

    async def run(self) -> int:
        """Serve until told to end; return the process's exit code."""
        self._channel = Channel(self._sock, self._heard)
        self._channel.closed.add_done_callback(lambda _: self._drain.set())
        running = asyncio.get_running_loop()
        running.add_signal_handler(signal.SIGTERM, self._drain.set)
        await self._doors.start(self._tasks)
        try:
            self._request_log = build.request_log(self._config)
        except KproxyError as error:
            self._channel.send({"failed": str(error)})
            await self._drain.wait()
            return 1
        self._limiting.start(self._channel.send, self._tasks)
        for name, cluster in self._config.clusters.items():
            of_cluster = build.cluster_settings(name, cluster, self._doors)
            self._links[name] = ClusterLink(of_cluster, lambda change, name=name: self._changed(name, change))  # type: ignore[misc]
            self._links[name].start()
        for name, listener in self._config.listeners.items():
            link = self._links[listener.cluster]
            settings = build.listener_settings(name, listener, self._doors, self._config.workers)
            watch = build.watch(self._config, name, self._request_log)
            if watch is not None:
                self._watches.append(watch)
            executor = self._doors.executor
            looked_into = build.looking_in(self._config)
            self._listeners[name] = Listener(
                settings,
                link,
                self._socket,
                self._limiting.limits,
                executor=executor,
                watch=watch,
                turns=self._turns,
                **looked_into,
            )
        if self._config.admin is not None:
            self._tasks.spawn("loop lag", self._status.sample_lag())
        start = self._tasks.spawn("start", self._start())
        await self._drain.wait()
        start.cancel()
        if self._turns is not None:
            self._turns.quit()
        drains = (listener.drain(self._config.drain_timeout) for listener in self._listeners.values())
        await asyncio.gather(*drains)
        if self._request_log is not None:
            await self._request_log.close()
        self._limiting.close()
        self._channel.send({"tally": self._tally()})
        for served in self._listeners.values():
            await served.close()
        for link in self._links.values():
            await link.close()
        await self._tasks.close()
        return 0

    async def _start(self) -> None:
        """Open every listener once its cluster has answered; tell the supervisor when all are open."""
        try:
            for name, listener in self._listeners.items():
                link = self._links[self._config.listeners[name].cluster]
                await link.ready.wait()
                await link.settle(SETTLE_SECONDS)
                await listener.open()
        except (OSError, KproxyError) as error:
            self._channel.send({"failed": str(error)})
            return
        if self._turns is not None:
            self._turns.join()
        self._channel.send({"ready": [[name, listener.address] for name, listener in self._listeners.items()]})

    def _changed(self, cluster: str, change: Change) -> None:
        for name, listener in self._listeners.items():
            if self._config.listeners[name].cluster == cluster:
                listener.cluster_changed(change)
                for node_id in change.forgotten:
                    self._channel.send({"release": name, "node_id": node_id})

    async def _socket(self, listener: str, node_id: int | None, port: int) -> socket.socket:
        """Have the supervisor bind a port, or hand over the one it has for that listener and broker."""
        number = len(self._sockets)
        future: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._sockets[number] = future
        self._channel.send({"socket": number, "listener": listener, "node_id": node_id, "port": port})
        return await future

    def _tally(self) -> dict[str, Any]:
        now = asyncio.get_running_loop().time()
        at_work = self._limiting.limits
        limits = {} if at_work is None else {"limits": at_work.snapshot(now)}
        log_counts: dict[str, Any] = {}
        if self._request_log is not None:
            missed = sum(watch.missed for watch in self._watches)
            log_counts["request_log"] = self._request_log.snapshot() | {"missed": missed}
        return (
            {
                "cpu_seconds": time.process_time(),
                "listeners": {name: listener.snapshot() for name, listener in self._listeners.items()},
            }
            | limits
            | log_counts
        )

    def _apply(self, number: int) -> None:
        """Go on by the configuration that was prepared; all else that differs is looked up when it is needed."""
        assert self._next is not None  # noqa: S101  the supervisor has asked whether it is there
        before, self._config, self._next = self._config, self._next, None
        if self._config.limits != before.limits:
            self._limiting.change(self._config)
            for listener in self._listeners.values():
                listener.limits_changed(self._limiting.limits)
        self._channel.send({"applied": number, "listeners": self._addresses()})

    def _addresses(self) -> list[tuple[str, str]]:
        return [(name, listener.address) for name, listener in self._listeners.items() if listener.is_open]

    def _heard(self, message: Message, descriptors: list[int]) -> None:
        if "leases" in message:
            self._limiting.heard(message)
        elif "socket" in message:
            future = self._sockets[message["socket"]]
            if descriptors:
                future.set_result(socket.socket(fileno=descriptors[0]))
            else:
                future.set_exception(OSError(message["error"]))
        elif "prepare" in message:
            self._next = unpacked(descriptors[0]).config
            self._channel.send({"prepared": message["prepare"]})
        elif "apply" in message:
            self._apply(message["apply"])
        elif "forget" in message:
            self._next = None
        elif "drain" in message:
            self._drain.set()
        elif "status" in message:
            self._tasks.spawn("status", self._status.answer(message, self._channel.send))
        elif "tally" in message:
            self._channel.send({"tally": self._tally()})


def main() -> int:
    """Run a worker; its end of the channel is the descriptor named by the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the supervisor, which tells us
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):  # the supervisor's, sent to all of kproxy
        signal.signal(number, signal.SIG_IGN)
    order: Order = unpacked(os.dup(sys.stdin.fileno()))
    sys.stdin.close()
    log.configure(order.log_format, order.log_level)
    tls.ignore_unreadable_names()
    sock = socket.socket(fileno=int(sys.argv[1]))
    with suppress(KeyboardInterrupt):
        return loop.run(_serve(order, sock))
    return 1


async def _serve(order: Order, sock: socket.socket) -> int:
    return await Worker(order, sock).run()


if __name__ == "__main__":
    sys.exit(main())
