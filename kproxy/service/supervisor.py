"""The supervisor process: it owns the listening sockets, starts the workers, replaces one that died, and ends them.

No traffic passes here, so nothing here can delay traffic. A replaced worker takes the sockets over as they are: no
client is refused in between, and only the connections of the one that died are lost. Signals: SIGTERM and SIGINT drain,
a second one stops at once; SIGUSR1 logs the counters, those of all workers joined.
"""

import asyncio
import os
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
import structlog

from kproxy.config.model import Config
from kproxy.errors import KproxyError
from kproxy.net.tasks import Tasks
from kproxy.net.turns import ABSENT
from kproxy.observe import log
from kproxy.service import build, loop, memory, tallies
from kproxy.service.channel import Message
from kproxy.service.desk import Desk
from kproxy.service.leasing import Bank
from kproxy.service.post import Post
from kproxy.service.worker import Order

if TYPE_CHECKING:
    from kproxy.service.admin import AdminServer

_log = structlog.get_logger(__name__)

FAILURES_MAX = 5
"""When a worker dies so often in a row without ever having served, and no other serves, it is given up."""

ECHO_SECONDS = 0.1
"""A second signal to stop so soon after the first is its echo: uvloop can deliver one twice when another arrives at the
same moment, such as a SIGUSR1 before it (seen with uvloop 0.23 in one of three tries)."""

TALLY_SECONDS = 1.0
"""How long a worker may take to tell its counters; those that it told last stand for it otherwise."""


def run(config: Config, *, log_format: log.LogFormat, log_level: log.LogLevel) -> int:
    """Serve until asked to stop; return the exit code: 0 stopped cleanly, 1 failed."""
    raise_descriptor_limit()
    return loop.run(_serve(Order(config, log_format, log_level)))


async def _serve(order: Order) -> int:
    return await Supervisor(order).run()


def raise_descriptor_limit() -> None:
    """Take as many file descriptors as the system lets us; two are needed per client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # an unlimited hard limit may be above what the kernel takes
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _log.info("file descriptors", limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0], clients_about=hard // 2)


class Supervisor:
    """One running kproxy."""

    def __init__(self, order: Order) -> None:
        """Prepare to run what ``order`` says."""
        self._config = order.config
        self._order = order
        self._hosts = build.bind_hosts(order.config)
        self._sockets: dict[tuple[str, int | None], socket.socket] = {}
        self._users: dict[tuple[str, int | None], set[int]] = {}  # the workers that have asked for them
        self._desk = Desk()
        self._posts = [Post(number, self._heard, self._desk) for number in range(order.config.workers)]
        self._counts = memory.make_counts(len(self._posts)) if len(self._posts) > 1 else None
        self._bank: Bank | None = None
        self._tasks = Tasks()
        self._past: dict[str, Any] = {}  # the counters of workers that have ended
        self._told: dict[int, asyncio.Event] = {}
        self._failed: str | None = None
        self._announced = False
        self._stops = 0
        self._stopped_at = 0.0
        self._admin: AdminServer | None = None

    async def run(self) -> int:
        """Keep the workers running until told to stop; return the exit code."""
        running = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            running.add_signal_handler(number, self._asked_to_stop)
        running.add_signal_handler(signal.SIGUSR1, self._asked_for_tally)
        limits = build.limits(self._config)
        if limits is not None and len(self._posts) > 1:
            self._bank = Bank(limits.limits, lambda number, message: self._posts[number].send(message))
        try:
            self._open_admin()
        except KproxyError as error:
            click.echo(f"kproxy: {error}", err=True)
            return 1
        try:
            codes = await asyncio.gather(*(post.keep(self._order_for(post), self._died) for post in self._posts))
        finally:
            self._close_sockets()
            await self._tasks.close()
            if self._admin is not None:
                await self._admin.close()
            if self._bank is not None:
                self._bank.close()
            if self._counts is not None:
                os.close(self._counts)
        if tally := tallies.join([self._past, *(post.tally for post in self._posts)]):
            _log.info("tally", **tally)
        if self._failed is not None:
            click.echo(f"kproxy: {self._failed}", err=True)
            return 1
        return 0 if not any(codes) or self._stops > 1 else 1

    def _open_admin(self) -> None:
        """Serve the admin API, where there is to be one. Raises KproxyError."""
        admin = self._order.config.admin
        if admin is None:
            return
        api, server = import_module("kproxy.service.api"), import_module("kproxy.service.admin")
        house = api.House(
            config=lambda: self._order.config,
            desk=self._desk,
            draining=lambda: self._stops > 0,
            drain=lambda: None if self._stops else self._asked_to_stop(),
            pid=os.getpid(),
        )
        self._admin = server.AdminServer(admin, house, bound_socket)
        self._admin.open()

    async def tally(self) -> dict[str, Any]:
        """Return the counters of all workers, joined, as they are now."""
        await asyncio.gather(*(self._fresh_tally(post) for post in self._posts))
        return tallies.join([self._past, *(post.tally for post in self._posts)])

    async def _fresh_tally(self, post: Post) -> None:
        told = self._told.setdefault(post.number, asyncio.Event())
        post.send({"tally": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(TALLY_SECONDS if post.served else 0):
                await told.wait()
        told.clear()

    def _order_for(self, post: Post) -> Callable[[], Order]:
        return lambda: replace(self._order, number=post.number, counts=self._counts)

    def _died(self, post: Post, code: int) -> None:
        """A worker has ended by itself."""
        if self._counts is not None:
            memory.shared(self._counts)[post.number] = ABSENT
        if self._bank is not None:
            self._bank.forget(post.number)
        self._past = tallies.join([self._past, tallies.ended(post.tally)])
        post.tally = {}
        for users in self._users.values():
            users.discard(post.number)
        if self._failed is not None:
            return
        _log.error("worker died; starting another", exit_code=code, **self._which(post))
        if post.failures >= FAILURES_MAX and not any(other.served for other in self._posts):
            self._fail(f"the worker died {post.failures} times before it could serve; see its log")

    def _which(self, post: Post) -> dict[str, int]:
        return {"worker": post.number} if len(self._posts) > 1 else {}

    def _fail(self, why: str) -> None:
        """Give up, all of it."""
        if self._failed is None:
            self._failed = why
        for post in self._posts:
            post.kill()

    def _asked_to_stop(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._stops and now - self._stopped_at < ECHO_SECONDS:
            return
        self._stopped_at = now
        self._stops += 1
        if self._stops == 1:
            _log.info("draining", timeout_seconds=self._config.drain_timeout)
            self._close_sockets()
            for post in self._posts:
                post.drain()
        else:
            _log.info("stopping at once")
            for post in self._posts:
                post.kill()

    def _asked_for_tally(self) -> None:
        """Have the workers send their counters now; they are logged as at the end."""
        self._tasks.spawn("tally", self._log_tally())

    async def _log_tally(self) -> None:
        _log.info("tally", **await self.tally())

    def _heard(self, post: Post, message: Message, descriptors: list[int]) -> None:
        if self._desk.heard(message, descriptors):
            return
        for descriptor in descriptors:  # workers send no others
            os.close(descriptor)
        if "leases" in message:
            if self._bank is not None:
                self._bank.heard(post.number, message)
        elif "socket" in message:
            self._hand_over(post, message)
        elif "release" in message:
            self._release(post, (message["release"], message["node_id"]))
        elif "ready" in message:
            post.served = True
            self._announce(message["ready"])
        elif "failed" in message:
            self._fail(message["failed"])
        elif "tally" in message:
            post.tally = message["tally"]
            self._told.setdefault(post.number, asyncio.Event()).set()

    def _announce(self, listeners: list[tuple[str, str]]) -> None:
        """Say where clients are to connect, once all workers serve for the first time."""
        if not self._announced and all(post.served for post in self._posts):
            self._announced = True
            for name, address in listeners:
                click.echo(f"{name}: clients connect to {address}")

    def _hand_over(self, post: Post, message: Message) -> None:
        answer: dict[str, Any] = {"socket": message["socket"]}
        name, node_id = message["listener"], message["node_id"]
        sock = self._sockets.get((name, node_id))
        if sock is None:
            host, port = self._hosts[name], message["port"]
            try:
                sock = bound_socket(host, port)
            except OSError as error:
                reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
                whose = "" if node_id is None else f" for broker {node_id}"
                post.send(answer | {"error": f"listener {name}: {host}:{port}{whose}: {reason}"})
                return
            self._sockets[name, node_id] = sock
        self._users.setdefault((name, node_id), set()).add(post.number)
        post.send(answer, (sock.fileno(),))

    def _release(self, post: Post, place: tuple[str, int | None]) -> None:
        """A worker needs a port no more; the port is given back when none of them does."""
        users = self._users.get(place, set())
        users.discard(post.number)
        if not users and place in self._sockets:
            self._sockets.pop(place).close()

    def _close_sockets(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a TCP socket bound to host and port, not listening yet. Raises OSError where it can't be had."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
