"""The supervisor process: it owns the listening sockets, starts the workers, replaces one that died, and ends them.

No traffic passes here, so nothing here can delay traffic. A replaced worker takes the sockets over as they are: no
client is refused in between, and only the connections of the one that died are lost. Signals: SIGTERM and SIGINT drain,
a second one stops at once; SIGUSR1 logs the counters, those of all workers joined; SIGHUP reads the file again;
SIGUSR2 has another process take over (see succession).
"""

import asyncio
import errno
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click
import structlog

from kproxy.config.admin import Admin
from kproxy.config.diff import Plan
from kproxy.config.model import Config
from kproxy.config.values import HostPort
from kproxy.errors import KproxyError
from kproxy.net.tasks import Tasks
from kproxy.net.turns import ABSENT
from kproxy.observe import log
from kproxy.service import build, inherit, loop, memory, tallies, worker
from kproxy.service.channel import Message
from kproxy.service.desk import Desk
from kproxy.service.firstborn import Child, fork
from kproxy.service.inherit import Given, Inherited
from kproxy.service.leasing import Bank
from kproxy.service.post import Post
from kproxy.service.reloads import Origin, Reloads
from kproxy.service.stopping import Stopping
from kproxy.service.succession import Succession
from kproxy.service.turnover import AdminTurn, Rebinding, Turnover
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


def run(config: Config, *, origin: Origin, log_format: log.LogFormat, log_level: log.LogLevel) -> int:
    """Serve until asked to stop; return the exit code: 0 stopped cleanly, 1 failed.

    ``origin``: where the configuration came from, and further ones do.
    """
    inherited = inherit.take_over(config)
    raise_descriptor_limit()
    counts = memory.make_counts(config.workers) if config.workers > 1 else None
    order = Order(config, log_format, log_level, counts=counts)
    orders = [replace(order, number=number) for number in range(config.workers)]
    first = [fork(partial(worker.serve, one), one.descriptors, mute=one.mute) for one in orders]
    return loop.run(_serve(order, origin, inherited, first))


async def _serve(order: Order, origin: Origin, inherited: Inherited, first: Sequence[Child]) -> int:
    return await Supervisor(order, origin, inherited, first).run()


def raise_descriptor_limit() -> None:
    """Take as many file descriptors as the system lets us; two are needed per client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # an unlimited hard limit may be above what the kernel takes
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _log.info("file descriptors", limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0], clients_about=hard // 2)


class Supervisor:
    """One running kproxy."""

    def __init__(
        self,
        order: Order,
        origin: Origin | None = None,
        inherited: Inherited | None = None,
        first: Sequence[Child] = (),
    ) -> None:
        """Prepare to run what ``order`` says; ``origin``: where its configuration came from.

        ``inherited``: the listening sockets that are there already. ``first``: the first workers, one for each place.
        """
        self._config = order.config
        self._order = order
        self._hosts = build.bind_hosts(order.config)
        self._sockets: dict[tuple[str, int | None], socket.socket] = {}
        self._users: dict[tuple[str, int | None], set[int]] = {}  # the workers that have asked for them
        self._desk = Desk()
        self._posts = [
            Post(number, self._heard, self._desk, child)
            for number, child in zip_longest(range(order.config.workers), first)
        ]
        self._counts = order.counts
        self._bank: Bank | None = None
        self._tasks = Tasks()
        self._past: dict[str, Any] = {}  # the counters of workers that have ended
        self._told: dict[int, asyncio.Event] = {}
        self._failed: str | None = None
        self._announced = False
        self._leaving: list[AdminServer] = []  # the admin API's, at places that are no more its own
        self._told_addresses: dict[str, str] = {}
        self._stops = 0
        self._stopped_at = 0.0
        self._stopping = Stopping(self._drain)
        self._admin: AdminServer | None = None
        self._reloads = Reloads(origin or Origin(), lambda: self._order.config, self._change, self._look)
        self._turnover = Turnover(self._posts, lambda post, config: replace(self._order_for(post)(), config=config))
        self._succession = Succession(inherited or Inherited(), self._handed_on, self._reloads.still, self._followed)

    async def run(self) -> int:
        """Keep the workers running until told to stop; return the exit code."""
        running = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            running.add_signal_handler(number, self._asked_to_stop)
        running.add_signal_handler(signal.SIGUSR1, self._asked_for_tally)
        running.add_signal_handler(signal.SIGHUP, self._asked_to_reload)
        running.add_signal_handler(signal.SIGUSR2, self._succession.asked)
        self._keep_leases()
        try:
            if self._config.admin is not None:
                self._admin = self._make_admin(self._config.admin)
                if not self._succession.follows:  # until we serve, probes are for who does
                    self._admin.open()
        except KproxyError as error:
            click.echo(f"kproxy: {error}", err=True)
            return 1
        self._tasks.spawn("configuration file", self._reloads.watch())
        try:
            codes = await asyncio.gather(*(post.keep(self._order_for(post), self._died) for post in self._posts))
        finally:
            self._close_sockets()
            await self._succession.close()
            await self._tasks.close()
            if self._admin is not None:
                await self._admin.close()
            if self._bank is not None:
                self._bank.close()
            if self._counts is not None:
                os.close(self._counts)
        if self._stops == 1:
            self._stopping.over()
        if tally := self._joined():
            _log.info("tally", **tally)
        if self._failed is not None:
            click.echo(f"kproxy: {self._failed}", err=True)
            return 1
        return 0 if not any(codes) or self._stops > 1 else 1

    def _keep_leases(self) -> None:
        """Keep those of the limits that there are, where several workers hold them together."""
        limits = build.limits(self._config)
        if self._bank is not None:
            self._bank.change(() if limits is None else limits.limits)
        elif limits is not None and len(self._posts) > 1:
            self._bank = Bank(limits.limits, lambda number, message: self._posts[number].send(message))

    def _make_admin(self, admin: Admin) -> "AdminServer":
        api, server = import_module("kproxy.service.api"), import_module("kproxy.service.admin")
        house = api.House(
            config=lambda: self._order.config,
            desk=self._desk,
            draining=lambda: self._stops > 0,
            drain=lambda: None if self._stops else self._asked_to_stop(),
            pid=os.getpid(),
            reloads=self._reloads,
        )
        taken = partial(self._succession.take, name=inherit.ADMIN)
        now = [] if self._admin is None or self._admin.socket is None else [self._admin.socket]
        bound = partial(bound_socket, beside=(*self._succession.left, *now))
        made: AdminServer = server.AdminServer(admin, house, bound, taken, self._succession.keeps)
        return made

    def _bound(self, host: str, port: int, beside: Iterable[socket.socket] = (), *, name: str = "") -> socket.socket:
        taken = self._succession.take(HostPort(host, port), name)
        return bound_socket(host, port, (*self._succession.left, *beside)) if taken is None else taken

    def _handed_on(self) -> list[Given]:
        given = [Given(sock, name, kept=False) for (name, _), sock in self._sockets.items()]
        if self._admin is not None and self._admin.socket is not None:
            given.append(Given(self._admin.socket, inherit.ADMIN, kept=False))
        return given

    async def _followed(self) -> None:
        """Another process serves: leave it what comes from now on, and end."""
        # Without a grace: there is no load balancer to wait for, as the same addresses are served.
        if self._admin is not None:  # before the drain, so that no probe is told of it
            await self._admin.leave()
        if not self._stops:
            self._stop(grace_seconds=0.0)

    async def _change(self, config: Config, plan: Plan) -> None:
        """Carry a plan out. Raises KproxyError where it is refused."""
        _log.info("changing the configuration", plan=plan.lines())
        self._may_change()
        try:
            listeners = await self._turn(config)
        finally:
            # Not before, as the answer to who asked for the change may have to go out there.
            for server in self._leaving:
                self._tasks.spawn("admin API", server.close())
            self._leaving.clear()
        for name, address in listeners:
            self._tell_address(name, address)

    async def _turn(self, config: Config) -> list[tuple[str, str]]:
        return await self._turnover.change(
            config,
            (
                lambda: Rebinding(self._sockets, self._users, self._config, config, self._bound),
                lambda: AdminTurn(self._admin, config.admin, self._make_admin, self._admin_turned),
                lambda: _Commit(lambda: self._changed(config)),
            ),
            self._may_change,
        )

    def _look(self) -> None:
        """Have certificates and users looked at now."""
        for post in self._posts:
            post.send({"look": True})

    def _may_change(self) -> None:
        if self._stops or self._failed is not None:
            raise KproxyError("kproxy is about to stop; its configuration stays as it is")

    def _changed(self, config: Config) -> None:
        """From here on everything is made by another configuration."""
        self._config = config
        self._order = replace(self._order, config=config)
        self._hosts = build.bind_hosts(config)
        self._told_addresses = {n: a for n, a in self._told_addresses.items() if n in config.listeners}
        self._keep_leases()

    def _admin_turned(self, server: "AdminServer | None", old: "AdminServer | None") -> None:
        self._admin = server
        if old is not None:
            self._leaving.append(old)

    def _asked_to_reload(self) -> None:
        self._tasks.spawn("reload", self._reloads.reload("SIGHUP"))

    def _joined(self) -> dict[str, Any]:
        """Return the counters of all workers, as they told them last."""
        joined = tallies.join([self._past, *(post.tally for post in self._posts)])
        counts = self._reloads.counts()
        return joined | ({"reloads": counts} if counts["succeeded"] or counts["refused"] else {})

    async def tally(self) -> dict[str, Any]:
        """Return the counters of all workers, joined, as they are now."""
        await asyncio.gather(*(self._fresh_tally(post) for post in self._posts))
        return self._joined()

    async def _fresh_tally(self, post: Post) -> None:
        told = self._told.setdefault(post.number, asyncio.Event())
        post.send({"tally": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(TALLY_SECONDS if post.served else 0):
                await told.wait()
        told.clear()

    def _order_for(self, post: Post) -> Callable[[], Order]:
        return lambda: replace(self._order, number=post.number)

    def _died(self, post: Post, code: int) -> None:
        """A worker has ended by itself, or is to be replaced."""
        self._turnover.lost(post)
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
            self._succession.failed(why)
        for post in self._posts:
            post.kill()

    def _asked_to_stop(self) -> None:
        self._stop(grace_seconds=(self._config.drain_grace or 0.0) if self._announced else 0.0)

    def _stop(self, grace_seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        if self._stops and now - self._stopped_at < ECHO_SECONDS:
            return
        self._stopped_at = now
        self._stops += 1
        if self._stops == 1:
            self._succession.stopping()
            self._tasks.spawn("stop", self._stopping.run(grace_seconds, self._config.drain_timeout))
        else:
            _log.info("stopping at once")
            for post in self._posts:
                post.kill()

    def _drain(self) -> None:
        self._close_sockets()
        for post in self._posts:
            post.drain(away=not self._succession.succeeded)

    def _asked_for_tally(self) -> None:
        """Have the workers send their counters now; they are logged as at the end."""
        self._tasks.spawn("tally", self._log_tally())

    async def _log_tally(self) -> None:
        _log.info("tally", **await self.tally())

    def _heard(self, post: Post, message: Message, descriptors: list[int]) -> None:
        if self._desk.heard(message, descriptors) or self._turnover.heard(post, message):
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
        elif "farewell" in message:
            for other in self._posts:
                if other is not post:
                    other.send(message | {"from": post.number})
        elif "left" in message:
            self._stopping.heard(post.number, tuple(message["left"]))
        elif "opened" in message:
            self._tell_address(*message["opened"])
        elif "failed" in message:
            if not self._stops:  # it ends anyway, and the others finish what they have
                self._fail(message["failed"])
        elif "tally" in message:
            post.tally = message["tally"]
            self._told.setdefault(post.number, asyncio.Event()).set()

    def _announce(self, listeners: list[tuple[str, str]]) -> None:
        """Say where clients are to connect, once all workers serve for the first time."""
        if self._announced or self._failed is not None or not all(post.served for post in self._posts):
            return
        try:
            if self._admin is not None and self._admin.socket is None:
                self._admin.open()
        except KproxyError as error:
            self._fail(str(error))
            return
        self._announced = True
        for name, address in listeners:
            self._tell_address(name, address)
        self._succession.ready()

    def _tell_address(self, name: str, address: str) -> None:
        """Say where clients are to connect, unless it was said."""
        if self._told_addresses.get(name) != address:
            self._told_addresses[name] = address
            click.echo(f"{name}: clients connect to {address}")

    def _hand_over(self, post: Post, message: Message) -> None:
        if self._stopping.began_at is not None:  # it waits for nothing; and the port may be another process's by now
            return
        answer: dict[str, Any] = {"socket": message["socket"]}
        name, node_id = message["listener"], message["node_id"]
        sock = self._sockets.get((name, node_id))
        if sock is None:
            host, port = self._hosts[name], message["port"]
            try:
                sock = self._bound(host, port, name=name)
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


class _Commit:
    """What is done when all are ready."""

    def __init__(self, commit: Callable[[], None]) -> None:
        self.commit = commit

    def undo(self) -> None:
        """Nothing has been done."""


def bound_socket(host: str, port: int, beside: Iterable[socket.socket] = ()) -> socket.socket:
    """Return a TCP socket bound to host and port. Raises OSError where it can't be had.

    ``beside``: sockets of ours, soon to be closed, which are no obstacle where they have the port at another host.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        try:
            sock.bind(address)
        except OSError as error:
            obstacles = [one for one in beside if one.family == family and one.getsockname()[1] == port]
            if error.errno != errno.EADDRINUSE or not obstacles:
                raise
            with _sharing(sock, *obstacles):
                sock.bind(address)
                sock.listen()  # at which Linux asks again
    except OSError:
        sock.close()
        raise
    return sock


@contextmanager
def _sharing(*sockets: socket.socket) -> Iterator[None]:
    """Have sockets share a port with one another, but only so long with any others."""
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
    try:
        yield
    finally:
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, False)
